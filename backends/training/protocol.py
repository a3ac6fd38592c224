"""The protocol of a training step, for any backend: its data, the arrays that it changes, and its report."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from rnnc.backends.training.noise import Noise, Where
from rnnc.backends.training.sparse import Groups, SparseRows
from rnnc.ir.names import LOSS, UPDATED, X, gradient

if TYPE_CHECKING:
    from rnnc.backends.base import Code

Array = NDArray[Any]

LOOKED_UP, TABLE_GRADIENT = X, gradient(X)
"""The input that rows of the table become, and the output of its gradient."""
SEED = gradient(LOSS)
"""The input that scales the loss whose gradients are computed."""
EPSILON = 1e-6
"""Added to the norm before a gradient is clipped, as torch.nn.utils.clip_grad_norm_ does."""


@dataclass(frozen=True)
class Memory:
    """The arrays that a training changes in place, and their layout.

    flat: "p" and each slot of the optimiser -> (S,), aligned: all parameters, the dense ones first.
    dense: the number of elements before the table. places: name of a parameter -> its first element and its shape.
    table: the name of the parameter (V, N) of which a batch reads only some rows, or None.
    trained: names of the parameters that have a gradient. The gradients of the others are zeros.
    padding: the number of the row of the table that never changes, or None.
    constants: the inputs that are the same in every call.
    updates: the number of updates made, (1,) int64. It changes with the parameters, so that an interrupt comes before
        both changes or after both.
    """

    flat: dict[str, Array]
    dense: int
    places: Mapping[str, tuple[int, tuple[int, ...]]]
    table: str | None
    trained: frozenset[str]
    padding: int | None
    constants: Mapping[str, Array]
    updates: Array = field(default_factory=lambda: np.zeros(1, np.int64))

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of every array."""
        return self.flat[UPDATED].dtype

    def views(self, flat: Array) -> dict[str, Array]:
        """Views of the dense parameters in an array of at least `dense` elements, by name."""
        found = {name: place for name, place in self.places.items() if name != self.table}
        return {name: flat[first : first + math.prod(shape)].reshape(shape) for name, (first, shape) in found.items()}

    def tables(self) -> dict[str, Array]:
        """The table (V, N) of "p" and of each slot, by name; empty if there is no table."""
        if self.table is None:
            return {}
        first, shape = self.places[self.table]
        return {name: flat[first : first + math.prod(shape)].reshape(shape) for name, flat in self.flat.items()}


@dataclass(frozen=True)
class Draw:
    """A mask to be drawn: low with probability p, else high; see `Noise.fill`.

    shape: (steps, rows, units). fixed: there is one step, which holds for all steps of the batch. timed: True if the
    input that takes the mask has steps.
    """

    shape: tuple[int, int, int]
    where: Where
    p: float
    low: float
    high: float
    fixed: bool
    timed: bool


@dataclass(frozen=True)
class Work:
    """One batch: the data of one call.

    inputs: all inputs but parameters, constants, masks and rows of the table. outputs: arrays for the outputs wanted
    besides the loss and the gradients. lengths: see `rnnc.backends.base.Bound.start`.
    seed: the factor of the loss whose gradients are computed. numbers: (T, B), the numbers of the table's rows, if
    there is a table.
    """

    steps: int
    batch: int
    lengths: Array | None
    inputs: Mapping[str, Array]
    seed: float
    masks: Mapping[str, Draw] = field(default_factory=dict)
    outputs: Mapping[str, Array] = field(default_factory=dict)
    numbers: Array | None = None


@dataclass(frozen=True)
class Change:
    """The settings of an update. scalars: the numbers of its equations, without "scale".

    clip: the largest norm of all gradients together; larger gradients are scaled down. None = no limit.
    most: the largest norm, after clipping, from which an update is made. A run whose norm is larger, or whose norm or
    loss is not finite, changes nothing.
    """

    scalars: Mapping[str, float]
    clip: float | None
    most: float


class Report(NamedTuple):
    """The report of a run. loss: summed over the batch. norm: of all gradients so far, before clipping.

    changed: True if the parameters were changed.
    """

    loss: float
    norm: float
    changed: bool


class Trainer(Protocol):
    """A compiled training step. Threads must not call it at the same time.

    A step is made completely or not at all, also if a signal handler raises: parameters, slots and `Memory.updates`
    change together.
    """

    @property
    def gradient(self) -> Array:
        """The gradients so far, (dense,), laid out like the parameters."""

    def run(self, work: Work, *, first: bool, change: Change | None) -> Report:
        """Computes the gradients of a batch, and makes the update if `change` is given and they are `usable`.

        first: the gradients replace those of earlier runs. Otherwise they are added to them.
        """

    def fetch(self) -> None:
        """Brings the arrays of `Memory.flat` up to date. The next run uses what is written to them meanwhile.

        A trainer that works on these arrays themselves has nothing to do.
        """

    def rows(self) -> SparseRows:
        """The gradient of the table so far. Raises AssertionError if there is no table."""

    def explain(self) -> str:
        """A text that says how a step is computed."""


class Update(Protocol):
    """The compiled equations of an optimiser. Threads may call it at the same time on different arrays.

    The graph of an update has no time, and its batch size is the length of the vectors
    (`rnnc.optimizers.update_graph`).
    """

    def run(self, arrays: Mapping[str, Array], scalars: Mapping[str, float]) -> None:
        """Updates arrays in place.

        arrays: name -> (N,), contiguous, aligned, in the graph's dtype, for every input of shape (B,). Those that are
        also outputs are overwritten. No two may overlap. scalars: name -> number, for every input of shape (1,).
        """

    def run_rows(self, tables: Mapping[str, Array], values: Array, rows: Array, scalars: Mapping[str, float]) -> None:
        """Updates some rows of tables (V, N). rows: their numbers, each once. values: their gradients, (rows, N)."""

    def sum_rows(self, gradients: Array, groups: Groups) -> Array:
        """The sum of the rows of gradients (R, N) in each group, (groups, N)."""

    def trainer(self, code: Code, noise: Noise, memory: Memory) -> Trainer:
        """A training step that ends with this update. The same backend must have compiled code and noise."""


def usable(change: Change, loss: float, norm: float) -> bool:
    """True if an update may be made from gradients of this norm. A norm that is NaN gives False."""
    return math.isfinite(loss) and norm * clipping(change.clip, norm) <= change.most


def clipping(clip: float | None, norm: float) -> float:
    """The factor that clips gradients of this norm."""
    return 1.0 if clip is None else min(1.0, clip / (norm + EPSILON))
