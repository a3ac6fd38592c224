"""Memory that calls use again: a fresh allocation of this size costs a page fault every four kilobytes."""

from __future__ import annotations

import threading

import numpy as np

from rnnc.ir.ops import Array

KEPT = 8
"""Blocks that wait for the next call, at most."""
ALIGNMENT = 64


class Pool:
    """Blocks of bytes. May be used from many threads at once."""

    def __init__(self) -> None:
        self._free: list[Array] = []
        self._lock = threading.Lock()

    def take(self, size: int) -> Array:
        """A block of at least `size` bytes, not cleared: the smallest that is free, or a new one."""
        with self._lock:
            fitting = [n for n, block in enumerate(self._free) if block.size >= size]
            if fitting:
                return self._free.pop(min(fitting, key=lambda n: self._free[n].size))
        return np.empty(size, np.uint8)

    def give(self, blocks: list[Array]) -> None:
        """Takes blocks back; the smallest go if there are too many."""
        with self._lock:
            self._free = sorted([*self._free, *blocks], key=lambda block: block.size)[-KEPT:]


def aligned_view(block: Array, count: int, dtype: np.dtype[np.generic]) -> Array:
    """`count` elements of a block from a cache line on; the block needs ALIGNMENT bytes more than they take."""
    skip = -block.ctypes.data % ALIGNMENT
    return block[skip : skip + count * dtype.itemsize].view(dtype)
