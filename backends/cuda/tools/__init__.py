"""What builds CUDA C without a GPU."""
