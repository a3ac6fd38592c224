"""Tools that compile CUDA C without a GPU."""
