"""A batch: padded sequences side by side, the argument of a training step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]
    Rows = NDArray[np.int64]


class Batch(NamedTuple):
    """Padded sequences side by side, time first. `Sequences.batch` makes them.

    x: integers (T, B) for an embedding, otherwise vectors (T, B, I) in the network's dtype.
    target: the targets as the loss encodes them, in the network's dtype: (T, B, W), or (B, W) after a readout.
    lengths: integers (B,), the number of steps of each row, or None if all rows have T steps.
    terms: the number of targets that count in the mean loss.
    row: the number of the batch's first row within its update. start: the number of its first step within its
        sequences. Random masks depend on both.

    The arrays may be changed later, so a batch is checked when it is used (`rnnc.train.check.Rules`), not when it is
    made.
    """

    x: Array
    target: Array
    lengths: Rows | None
    terms: int
    row: int = 0
    start: int = 0

    @property
    def sizes(self) -> tuple[int, int]:
        """(T, B): the number of steps and of rows."""
        return int(self.x.shape[0]), int(self.x.shape[1])


def inside(steps: int, lengths: Rows | None) -> NDArray[np.bool_] | None:
    """A mask (T, B), True at steps before the end of their row; None if `lengths` is None, as no row is padded."""
    return None if lengths is None else np.arange(steps)[:, None] < lengths[None, :]
