"""Packed weights: where each of them lies, and where it comes from."""
