"""Narrow tables: the rows of an embedding in bfloat16, or as bytes with a scale per row."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rnnc.backends.products import ProductFormat, Rounded, rounded

if TYPE_CHECKING:
    from rnnc.backends.arrays import Array

__all__ = ["NarrowTable", "stored_arrays"]

ROWS_AT_ONCE = 4096
"""The rows that are rounded at once, so that what rounding needs besides stays small."""


class NarrowTable:
    """A table of float32 (N, W), of which `table[numbers]` looks up rows as a float table would.

    A row is to it what an output is to a matrix: in int8 it has a scale of its own, rows that are whole multiples of a
    step are kept exactly, and a row that holds NaN or an infinity is NaN.

    format: "bfloat16" or "int8". codes: uint16 or int8 (N, W). scales: float32 (N,), or None.
    """

    def __init__(self, table: Array, form: ProductFormat) -> None:
        assert form.weights is not None
        self.format = form.weights
        parts = [rounded(table[n : n + ROWS_AT_ONCE].T, form) for n in range(0, len(table), ROWS_AT_ONCE)]
        self.codes = np.ascontiguousarray(np.concatenate([part.codes.T for part in parts]))
        self.scales = None if parts[0].scales is None else np.concatenate([_scales(part) for part in parts])

    @property
    def arrays(self) -> tuple[Array, ...]:
        """All that is stored, C-contiguous, as generated code reads it."""
        return (self.codes,) if self.scales is None else (self.codes, self.scales)

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, W)."""
        return self.codes.shape

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, numbers: Array) -> Array:
        """The rows of these numbers, float32."""
        codes = np.asarray(self.codes[numbers])
        if self.scales is None:
            return (codes.astype(np.uint32) << 16).view(np.float32)
        with np.errstate(all="ignore"):  # a scale may be NaN
            return np.asarray(codes.astype(np.float32) * self.scales[numbers][..., None])

    def widened(self) -> Array:
        """The whole table, as it is looked up."""
        return self[np.arange(len(self))]


def stored_arrays(table: Array | NarrowTable) -> tuple[Array, ...]:
    """What is stored of a table: its numbers, or those of a narrow one and their scales."""
    return table.arrays if isinstance(table, NarrowTable) else (table,)


def _scales(part: Rounded) -> Array:
    assert part.scales is not None
    return part.scales
