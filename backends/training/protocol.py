"""A step of a training, whatever the backend: what it is given, what it changes, and what it reports."""

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
"""What rows of the table become, and where their gradients come out."""
SEED = gradient(LOSS)
"""The factor of the loss whose gradients are wanted."""
EPSILON = 1e-6
"""Added to the norm before a gradient is clipped, as torch.nn.utils.clip_grad_norm_ does."""


@dataclass(frozen=True)
class Memory:
    """What a training changes. The arrays stay where they are.

    flat: "p" and each slot of the optimiser -> (S,), aligned: all parameters, the dense ones first.
    dense: how many elements come before the table. places: name of a parameter -> its first element and its shape.
    table: the name of the parameter (V, N) of which a batch reads some rows alone, or None.
    trained: names of the parameters that have a gradient; that of others is zeros.
    padding: the row of the table that never changes, or None.
    constants: inputs that are the same in every call.
    updates: how many updates there have been, (1,) int64. It changes with the parameters, so that an interrupt comes
        before both or after both.
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
        """Of all arrays."""
        return self.flat[UPDATED].dtype

    def views(self, flat: Array) -> dict[str, Array]:
        """The dense parameters in an array of at least `dense` elements, by name."""
        found = {name: place for name, place in self.places.items() if name != self.table}
        return {name: flat[first : first + math.prod(shape)].reshape(shape) for name, (first, shape) in found.items()}

    def tables(self) -> dict[str, Array]:
        """ "p" and each slot -> its table (V, N)."""
        if self.table is None:
            return {}
        first, shape = self.places[self.table]
        return {name: flat[first : first + math.prod(shape)].reshape(shape) for name, flat in self.flat.items()}


@dataclass(frozen=True)
class Draw:
    """A mask to be drawn: low with probability p, else high; see `Noise.fill`.

    shape: (steps, rows, units); one step that holds for all of them if `fixed`. timed: whether the input has steps.
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
    """One batch: what a function is called with.

    inputs: all but parameters, constants, masks and what is looked up. outputs: those wanted besides the loss and the
    gradients. lengths: see `rnnc.backends.base.Bound.start`.
    seed: the factor of the loss whose gradients are wanted. numbers: (T, B), the rows of the table that are looked up.
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
    """How parameters follow their gradients. scalars: the numbers of the update, all but "scale".

    clip: the largest norm of all gradients together; None = any.
    most: the largest norm, after clipping, that an update is made from. A run whose norm is larger, or whose norm or
    loss is no finite number, changes nothing.
    """

    scalars: Mapping[str, float]
    clip: float | None
    most: float


class Report(NamedTuple):
    """loss: summed over the batch. norm: of all gradients so far, before clipping.

    changed: whether the parameters were changed.
    """

    loss: float
    norm: float
    changed: bool


class Trainer(Protocol):
    """A compiled step of a training. Not to be called from several threads at once.

    A step is taken whole or not at all, whatever a signal handler raises: parameters, slots and `Memory.updates` change
    together.
    """

    @property
    def gradient(self) -> Array:
        """(dense,), the gradients so far, laid out like the parameters."""

    def run(self, work: Work, *, first: bool, change: Change | None) -> Report:
        """The gradients of a batch, and with a change an update by them, unless they are too large (`usable`).

        first: gradients start anew; otherwise they are added to those of the runs before.
        """

    def fetch(self) -> None:
        """Brings the arrays of `Memory.flat` up to date; what they are given before the next run counts.

        A trainer that works on them has nothing to do.
        """

    def rows(self) -> SparseRows:
        """The gradient of the table so far. Raises AssertionError if there is no table."""

    def explain(self) -> str:
        """How a step is carried out, for a reader."""


class Update(Protocol):
    """The compiled equations of an optimiser. May be called from many threads at once, on different arrays.

    The graph of an update has no time, and its batch size is the length of the vectors
    (`rnnc.optimizers.update_graph`).
    """

    def run(self, arrays: Mapping[str, Array], scalars: Mapping[str, float]) -> None:
        """Updates arrays in place.

        arrays: name -> (N,), contiguous, aligned, of the graph's dtype, for every input of shape (B,); those that are
        outputs, too, are overwritten. No two overlap. scalars: name -> number, for every input of shape (1,).
        """

    def run_rows(self, tables: Mapping[str, Array], values: Array, rows: Array, scalars: Mapping[str, float]) -> None:
        """Updates some rows of tables (V, N). values: (rows, N), the gradient of each; rows: which, each once."""

    def sum_rows(self, gradients: Array, groups: Groups) -> Array:
        """(groups, N): rows of gradients (R, N) added up, group by group."""

    def trainer(self, code: Code, noise: Noise, memory: Memory) -> Trainer:
        """A step of a training that ends with this update; all three were compiled by the same backend."""


def usable(change: Change, loss: float, norm: float) -> bool:
    """Whether an update may be made from a gradient of this norm. What is no number compares as False."""
    return math.isfinite(loss) and norm * clipping(change.clip, norm) <= change.most


def clipping(clip: float | None, norm: float) -> float:
    """The factor of a gradient of this norm."""
    return 1.0 if clip is None else min(1.0, clip / (norm + EPSILON))
