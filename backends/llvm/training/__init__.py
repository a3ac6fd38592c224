"""A training step as one call of machine code per thread."""
