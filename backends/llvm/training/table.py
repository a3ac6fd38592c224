"""Memory of training steps: arrays that are reused, and the rows of an embedding's table that batches name."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from rnnc.backends import fresh
from rnnc.backends.training.protocol import Memory
from rnnc.backends.training.sparse import SparseRows
from rnnc.ir.names import UPDATED
from rnnc.ir.ops import Array


class ReusedArrays:
    """Arrays that are reused, and grow when they must, because a fresh array costs page faults."""

    def __init__(self) -> None:
        self._blocks: dict[str, Array] = {}

    def take(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], *, keep: bool = False) -> Array:
        """The array of this name, uninitialised. keep: if it must grow, it keeps its contents."""
        count = math.prod(shape)
        block = self._blocks.get(name)
        if block is None or block.size < count:
            larger = fresh.empty(max(count, 2 * block.size if block is not None else 0), dtype)
            if keep and block is not None:
                larger[: block.size] = block
            self._blocks[name] = block = larger
        return block[:count].reshape(shape)


class Table:
    """The rows of a table that the batches of an update name, and their gradients.

    arrays: the table (V, N) of "p" and of each slot, by name.
    """

    def __init__(self, memory: Memory, name: str) -> None:
        self.arrays = {array: memory.view(flat, name) for array, flat in memory.flat.items()}
        self.height, self.width = self.arrays[UPDATED].shape
        self.slots = np.zeros(self.height, np.int64)
        self.count = np.zeros(1, np.int64)
        self.space = ReusedArrays()
        self.values, self.rows, self.places = np.empty((0, self.width), memory.dtype), np.empty(0), np.empty(0)

    def make_room(self, count: int, first: bool) -> None:
        """Makes room for `count` rows of a batch, which may all be new."""
        most = count + (0 if first else int(self.count[0]))
        self.values = self.space.take("values", (most, self.width), self.values.dtype, keep=not first)
        # The numbers of the last step's rows are always kept, because forgetting these rows reads them.
        self.rows = self.space.take("rows", (most,), np.dtype(np.int64), keep=True)
        self.places = self.space.take("places", (count,), np.dtype(np.int64))

    def replace(self, given: SparseRows) -> None:
        """Takes other rows and their gradients. The next batch of a new update forgets them like its own."""
        self.slots[self.rows[: int(self.count[0])].astype(np.int64)] = 0
        self.make_room(len(given.rows), True)
        self.rows[: len(given.rows)], self.values[...] = given
        self.count[0] = len(given.rows)

    def rows_of(self) -> SparseRows:
        """Copies of the rows' numbers and gradients, sorted by number."""
        count = int(self.count[0])
        order = np.argsort(self.rows[:count])
        return SparseRows(self.rows[:count][order], self.values[:count][order])
