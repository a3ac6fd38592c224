"""Sparse gradients of a table with NumPy: only the rows a batch names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class SparseRows(NamedTuple):
    """rows: numbers, each once. values: (rows, N), the gradient of each."""

    rows: Array
    values: Array

    @staticmethod
    def of(numbers: Array, gradients: Array, lengths: Array | None, padding: int | None) -> SparseRows:
        """The gradient of a table of which `numbers` (T, B) were looked up, from that of what came out (T, B, N).

        Steps past a row's length, and the row `padding` of the table, are left out.
        """
        counted = np.ones(numbers.shape, bool)
        if lengths is not None:
            counted = np.arange(len(numbers))[:, None] < lengths[None, :]
        if padding is not None:
            counted &= numbers != padding
        return _grouped(numbers[counted], gradients[counted])


def summed(parts: Sequence[SparseRows]) -> SparseRows:
    """The sum of several gradients of one table."""
    if len(parts) == 1:
        return parts[0]
    return _grouped(np.concatenate([p.rows for p in parts]), np.concatenate([p.values for p in parts]))


def _grouped(numbers: Array, values: Array) -> SparseRows:
    """Values of equal numbers summed, in the order they come."""
    if not len(numbers):
        return SparseRows(numbers, values)
    order = np.argsort(numbers, kind="stable")
    ordered = numbers[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=ordered[0] - 1))
    return SparseRows(ordered[starts], np.add.reduceat(values[order], starts, axis=0))
