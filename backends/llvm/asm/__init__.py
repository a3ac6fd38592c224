"""LLVM assembly: its builder, vector functions, targets, and the way to machine code. It knows nothing of plans."""
