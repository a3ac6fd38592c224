"""A batch: padded sequences side by side, the argument of a training step."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rnnc.ir.errors import ArgumentError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]
    Rows = NDArray[np.int64]

UNWEIGHTED: Mapping[str, Any] = MappingProxyType({})


class Batch(NamedTuple):
    """Padded sequences side by side, time first. `Sequences.batch` makes them.

    inputs: name of an input -> vectors (T, B, I) in the network's dtype, or integers (T, B), which an embedding reads.
    targets: name of an output -> the targets as its loss encodes them, in the network's dtype: (T', B, W) with the
        output's own number of steps (`rnnc.Graph.output_lengths`), or (B, W) for an output that is one per sequence.
    lengths: integers (B,), the number of steps of each row, or None if all rows have T steps.
    terms: name of an output -> what its summed loss is divided by: the number of its targets that count, each times its
        weight.
    weights: name of an output -> factors >= 0 of its losses, (T', B) or (B,) in the network's dtype. Those of an output
        that is left out are 1.
    row: the number of the batch's first row within its update. start: the number of its first step within its
        sequences. Random masks depend on both.

    A `rnnc.Sequential` has the input "x" and the output "output". The arrays may be changed later, so a batch is
    checked when it is used (`rnnc.train.check.Rules`), not when it is made.
    """

    inputs: Mapping[str, Array]
    targets: Mapping[str, Array]
    lengths: Rows | None
    terms: Mapping[str, float]
    weights: Mapping[str, Array] = UNWEIGHTED
    row: int = 0
    start: int = 0

    @property
    def x(self) -> Array:
        """The array of the only input. Raises ArgumentError if there are several."""
        return _only("inputs", self.inputs)

    @property
    def target(self) -> Array:
        """The targets of the only output. Raises ArgumentError if there are several."""
        return _only("targets", self.targets)

    @property
    def sizes(self) -> tuple[int, int]:
        """(T, B): the number of steps and of rows."""
        steps, rows = [array for array in self.inputs.values() if is_timed(array)][0].shape[:2]
        return int(steps), int(rows)


def is_timed(values: Array) -> bool:
    """Whether an input has values at each step: all but vectors that hold for a whole sequence, (B, I), do."""
    return values.ndim == 3 or values.dtype.kind in "iu"


def inside(steps: int, lengths: Rows | None) -> NDArray[np.bool_] | None:
    """A mask (T, B), True at steps before the end of their row; None if `lengths` is None, as no row is padded."""
    return None if lengths is None else np.arange(steps)[:, None] < lengths[None, :]


def _only(field: str, arrays: Mapping[str, Array]) -> Array:
    if len(arrays) != 1:
        raise ArgumentError(f"batch.{field}: expected one array, got {', '.join(map(repr, arrays)) or 'none'}")
    return next(iter(arrays.values()))
