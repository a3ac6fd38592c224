"""Memory that calls use again: a fresh allocation of this size costs a page fault every four kilobytes."""

from __future__ import annotations

import numpy as np

from rnnc.backends import fresh
from rnnc.ir.ops import Array

KEPT = 8
"""Blocks that wait for the next call, at most."""
ALIGNMENT = 64


class Pool:
    """Blocks of bytes. May be used from many threads at once, and by finalizers: it has no lock.

    Each change is one operation of a dictionary, which is done whole.
    """

    def __init__(self) -> None:
        self._free: dict[int, Array] = {}

    def take(self, size: int) -> Array:
        """A block of at least `size` bytes, not cleared: the smallest that is free, or a new one."""
        for block in self._by_size():
            if block.size >= size and self._free.pop(id(block), None) is not None:
                fresh.spoiled(block[:size])
                return block
        return fresh.block(size)

    def give(self, blocks: list[Array]) -> None:
        """Takes blocks back; the smallest go if there are too many."""
        for block in blocks:
            self._free[id(block)] = block
        for block in self._by_size()[:-KEPT]:
            self._free.pop(id(block), None)

    def _by_size(self) -> list[Array]:
        return sorted(list(self._free.values()), key=len)


def aligned_view(block: Array, count: int, dtype: np.dtype[np.generic]) -> Array:
    """`count` elements of a block from a cache line on; the block needs ALIGNMENT bytes more than they take."""
    skip = -block.ctypes.data % ALIGNMENT
    return block[skip : skip + count * dtype.itemsize].view(dtype)
