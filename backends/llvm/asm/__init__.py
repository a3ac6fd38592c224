"""LLVM assembly: its builder, vector functions, targets, and the way to machine code. Knows nothing of plans."""
