"""Generation of CUDA C: kernels and their parts."""
