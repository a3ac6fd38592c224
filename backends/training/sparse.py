"""Sparse gradients of a table: those of the rows that a batch looks up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rnnc.ir.names import SLOPE

Array = NDArray[Any]


class SparseRows(NamedTuple):
    """The gradients of some rows. rows: their numbers, each once, ascending. values: the gradients, (rows, N)."""

    rows: Array
    values: Array


class Groups(NamedTuple):
    """The places of equal numbers: number `rows[g]` is at the places `order[starts[g] : starts[g + 1]]`."""

    rows: Array
    order: Array
    starts: Array


def counted(numbers: Array, lengths: Array | None, padding: int | None) -> Array:
    """The numbers of the rows that were looked up, (T * B * P,), with -1 where the gradient does not count.

    numbers: (T, B, P). Gradients of places past a row's length, and of the table's row `padding`, do not count.
    """
    found = np.array(numbers, np.int64)
    if lengths is not None:
        steps, _, positions = found.shape
        places = np.arange(steps * positions).reshape(steps, 1, positions)
        found[places >= np.asarray(lengths)[None, :, None]] = -1
    if padding is not None:
        found[found == padding] = -1
    return found.reshape(-1)


def grouped(numbers: Array) -> Groups:
    """The groups of equal numbers, ascending, with their places in order. Numbers below 0 are left out."""
    order = np.argsort(numbers, kind="stable")
    order = order[np.searchsorted(numbers[order], 0) :]
    rows, starts = np.unique(numbers[order], return_index=True)
    return Groups(rows, order, np.append(starts, len(order)))


class HostRows:
    """Sums and updates of rows with NumPy, the base of updates that run on arrays of the host."""

    def run(self, arrays: Mapping[str, Array], scalars: Mapping[str, float]) -> None:
        """See `rnnc.backends.training.protocol.Update.run`."""
        raise NotImplementedError

    def run_rows(self, tables: Mapping[str, Array], values: Array, rows: Array, scalars: Mapping[str, float]) -> None:
        """See `rnnc.backends.training.protocol.Update.run_rows`."""
        taken = {name: table[rows] for name, table in tables.items()}
        self.run({name: part.reshape(-1) for name, part in taken.items()} | {SLOPE: values.reshape(-1)}, scalars)
        for name, table in tables.items():
            table[rows] = taken[name]

    def sum_rows(self, gradients: Array, groups: Groups) -> Array:
        """See `rnnc.backends.training.protocol.Update.sum_rows`."""
        if not len(groups.rows):
            return np.empty((0, gradients.shape[-1]), gradients.dtype)
        return np.asarray(np.add.reduceat(gradients[groups.order], groups.starts[:-1], axis=0))
