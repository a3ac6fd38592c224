"""Portable code: a bound network as object files for named machines, with entry points of a C interface."""
