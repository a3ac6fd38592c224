"""CUDA C: kernels, and what they are made of."""
