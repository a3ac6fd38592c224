"""Fuzzing: random cases of everything a user may hand to rnnc, for seconds or for hours (docs/fuzzing.md).

A subject (`calls`, `specs`, `cells`, `batches`, `cachedirs`, `names`) is a module with two functions. `draw` makes a
case of random choices: plain data, whose repr is Python. `check` runs the case and raises `Fault` if rnnc breaks a
promise. A case is a function of its subject and seed alone.

Reading order: source (choices), faults, shrinking, worker (the process that runs cases), campaign (the processes, and
what they found), writing (a case as a test); then agreement and the subjects.
"""
