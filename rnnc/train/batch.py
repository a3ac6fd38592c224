"""A batch: sequences side by side, as a training step takes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]
    Rows = NDArray[np.int64]


class Batch(NamedTuple):
    """Padded sequences, time first.

    x: integers (T, B), or (T, B, I). target: as the loss encodes it, (T, B, W), or (B, W) behind a readout.
    lengths: (B,), or None if all rows have T steps. terms: how many the mean loss of the batch has.
    row: the number of the first row in the batch of one update; start: the step its first step is of its sequences.

    Its arrays may change, so a batch is checked when it is used (`rnnc.train.check.Rules`), not when it is made.
    """

    x: Array
    target: Array
    lengths: Rows | None
    terms: int
    row: int = 0
    start: int = 0

    @property
    def sizes(self) -> tuple[int, int]:
        """(T, B)."""
        return int(self.x.shape[0]), int(self.x.shape[1])


def inside(steps: int, lengths: Rows | None) -> NDArray[np.bool_] | None:
    """(T, B): which steps are before the end of their row; None if all are."""
    return None if lengths is None else np.arange(steps)[:, None] < lengths[None, :]
