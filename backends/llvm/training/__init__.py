"""A step of a training as one call of machine code on each thread."""
