"""Calls of generated code, from Python and from C, on one thread or several."""
