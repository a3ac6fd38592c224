"""Shards of a batch: the rows that each thread runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from rnnc.ir.ops import Array


class Shard(NamedTuple):
    """`batch` rows from row `first` on. In a ragged batch, the rows that `order` lists, by falling length.

    rows: the first row of each step in packed buffers, and the number of all rows at the end, int64 (steps + 1,).
    lengths: the lengths of the rows, in the same order.
    """

    first: int
    batch: int
    steps: int
    rows: Array | None = None
    order: Array | None = None
    lengths: Array | None = None


def split_batch(steps: int, batch: int, lengths: Array | None, count: int) -> list[Shard]:
    """`count` shards with about the same work."""
    return _dense(steps, batch, count) if lengths is None else _ragged(lengths, count)


def _dense(steps: int, batch: int, count: int) -> list[Shard]:
    bounds = [batch * n // count for n in range(count + 1)]
    return [Shard(a, b - a, steps) for a, b in zip(bounds, bounds[1:], strict=False)]


def _ragged(lengths: Array, count: int) -> list[Shard]:
    """Shards of a ragged batch. The sequences, sorted by falling length, are dealt out in turn."""
    order = np.argsort(-lengths, kind="stable").astype(np.int64)
    dealt = [np.ascontiguousarray(order[n::count]) for n in range(count)]
    return [_sorted_shard(rows, lengths[rows]) for rows in dealt]


def _sorted_shard(order: Array, lengths: Array) -> Shard:
    steps = int(lengths[0])
    running = len(order) - np.searchsorted(lengths[::-1], np.arange(steps), side="right")
    rows = np.zeros(steps + 1, np.int64)
    np.cumsum(running, out=rows[1:])
    return Shard(0, len(order), steps, rows, order, np.ascontiguousarray(lengths))


def even(array: Array) -> Array:
    """The array (T, B, N), or a copy of it if its last axis is not contiguous or a stride is no whole element."""
    item = array.itemsize
    fits = array.strides[2] == item or array.shape[2] == 1
    fits = fits and array.strides[0] % item == 0 and array.strides[1] % item == 0
    return array if fits and array.flags.aligned else np.array(array, order="C")
