"""Carrying code out: arrays, launches, calls, and steps of a training."""
