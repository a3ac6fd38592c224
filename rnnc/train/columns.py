"""Checked sequences end to end, and batches of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rnnc.train.batch import Batch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]
    Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Track:
    """Arrays of several items end to end: item i has lengths[i] rows, from row offsets[i] on. lengths: int64 (N,)."""

    lengths: Rows

    @cached_property
    def offsets(self) -> Rows:
        """The first row of each item."""
        return np.cumsum(self.lengths) - self.lengths

    @cached_property
    def alike(self) -> bool:
        """Whether all items have as many rows."""
        return bool((self.lengths == self.lengths[0]).all())

    def owner(self, row: int) -> tuple[int, int]:
        """The item that a row is of, and the number of the row in it."""
        item = int(np.searchsorted(self.offsets + self.lengths, row, side="right"))
        return item, int(row - self.offsets[item])

    def places(self, rows: Rows) -> NDArray[np.int64]:
        """Where the rows of some items lie, side by side: (T, B). Padding is the row behind the last.

        rows: the numbers of the items, (B,).
        """
        lengths = self.lengths[rows]
        steps = np.arange(int(lengths.max()))[:, None]
        places: NDArray[np.int64] = steps + self.offsets[rows]
        places[steps >= lengths] = self.size
        return places

    @cached_property
    def size(self) -> int:
        """The number of rows of all items."""
        return int(self.lengths.sum())


class Columns(NamedTuple):
    """Checked items, by the name of the input or output: all items end to end, with a row of zeros behind the last,
    which is the padding of batches; or one row per item of what is one per sequence. The targets are as the loss
    encodes them.

    terms: how much each target counts in the mean loss: the loss's count, times the weight. weights: in the dtype of
    the network; empty if the items have none. lengths: int64 (N,), the steps of each item. input_tracks, output_tracks:
    of what is per step.
    """

    inputs: dict[str, Array]
    targets: dict[str, Array]
    terms: dict[str, Array]
    weights: dict[str, Array]
    lengths: Rows
    input_tracks: dict[str, Track]
    output_tracks: dict[str, Track]

    def batch(self, rows: Rows, first: int = 0) -> Batch:
        """A batch of some items, padded to the longest with zeros. rows: integers (B,). first: `Batch.row`."""
        lengths = self.lengths[rows]
        tracks = {id(track): track for track in (*self.input_tracks.values(), *self.output_tracks.values())}
        places = {key: track.places(rows) for key, track in tracks.items()}

        def gathered(values: dict[str, Array], tracks: dict[str, Track]) -> dict[str, Array]:
            where = {name: places[id(tracks[name])] if name in tracks else rows for name in values}
            return {name: array.take(where[name], axis=0) for name, array in values.items()}

        terms = gathered(self.terms, self.output_tracks)
        return Batch(
            gathered(self.inputs, self.input_tracks),
            gathered(self.targets, self.output_tracks),
            None if (lengths == lengths[0]).all() else lengths,
            {name: float(array.sum()) for name, array in terms.items()},
            gathered(self.weights, self.output_tracks),
            row=first,
        )

    def whole(self, first: int = 0) -> Batch:
        """A batch of all items, in their order."""
        if not all(track.alike for track in (*self.input_tracks.values(), *self.output_tracks.values())):
            return self.batch(np.arange(len(self.lengths)), first)

        def turned(values: dict[str, Array], tracks: dict[str, Track]) -> dict[str, Array]:
            return {
                name: _turned(array, tracks[name].lengths) if name in tracks else array
                for name, array in values.items()
            }

        return Batch(
            turned(self.inputs, self.input_tracks),
            turned(self.targets, self.output_tracks),
            None,
            {name: float(array.sum()) for name, array in self.terms.items()},
            turned(self.weights, self.output_tracks),
            row=first,
        )


def _turned(values: Array, lengths: Rows) -> Array:
    """Items of one length side by side: (B * T + 1, ...) -> (T, B, ...)."""
    apart = values[:-1].reshape(len(lengths), int(lengths[0]), *values.shape[1:])
    return np.ascontiguousarray(apart.swapaxes(0, 1))


def with_padding(values: Array) -> Array:
    """Items end to end, with a row of zeros behind them."""
    return np.concatenate([values, np.zeros((1, *values.shape[1:]), values.dtype)])
