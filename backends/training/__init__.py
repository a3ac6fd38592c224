"""The step of a training, whatever the backend: what it is given, what it reports, and a step out of compiled parts."""
