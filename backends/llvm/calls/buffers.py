"""Memory that calls reuse: a fresh allocation of this size costs a page fault per four kilobytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rnnc.backends import fresh
from rnnc.backends.llvm.asm.records import address

if TYPE_CHECKING:
    from rnnc.ir.ops import Array

ALIGNMENT = 64


class Pool:
    """Blocks of bytes. It may be used by many threads at once and by finalizers.

    It has no lock: each change is one operation of a dictionary, which is atomic.
    """

    def __init__(self, kept: int) -> None:
        """kept: the largest number of free blocks that are kept for the next call."""
        self._kept = kept
        self._free: dict[int, Array] = {}

    def take(self, size: int) -> Array:
        """A block of at least `size` bytes, uninitialised: the smallest free one that fits, or a new one."""
        for block in self._by_size():
            if block.size >= size and self._free.pop(id(block), None) is not None:
                fresh.spoiled(block[:size])
                return block
        return fresh.block(size)

    def give(self, blocks: list[Array]) -> None:
        """Takes blocks back. If there are too many, the smallest are freed."""
        for block in blocks:
            self._free[id(block)] = block
        for block in self._by_size()[: -self._kept]:
            self._free.pop(id(block), None)

    def _by_size(self) -> list[Array]:
        return sorted(list(self._free.values()), key=len)


def aligned_view(block: Array, count: int, dtype: np.dtype[np.generic]) -> Array:
    """`count` elements of a block that start at a cache line. The block needs ALIGNMENT bytes more than they take."""
    skip = -address(block) % ALIGNMENT
    return block[skip : skip + count * dtype.itemsize].view(dtype)
