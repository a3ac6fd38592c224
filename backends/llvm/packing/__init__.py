"""Packed weights: where each of them lies in the arena, and where it comes from."""
