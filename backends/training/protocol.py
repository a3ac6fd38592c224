"""The protocol of a training step, for any backend: its data, the arrays that it changes, and its report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from rnnc.backends.training.noise import Noise, Where
from rnnc.backends.training.sparse import Groups, SparseRows
from rnnc.ir.names import UPDATED

if TYPE_CHECKING:
    from rnnc.backends.base import Code

Array = NDArray[Any]

EPSILON = 1e-6
"""Added to the norm before a gradient is clipped, as torch.nn.utils.clip_grad_norm_ does."""


class LookUp(NamedTuple):
    """A read of rows of a table.

    table: the name of the parameter (V, N). rows: the name of the input that its rows become, side by side,
    (steps, B, positions * N). padding: the number of the row whose gradients do not count, or None.
    """

    table: str
    rows: str
    padding: int | None


class Numbers(NamedTuple):
    """The numbers of the rows that a batch looks up.

    numbers: integers (steps, B, positions). lengths: (B,), how many of the steps * positions numbers of a row are
    there, or None: all.
    """

    numbers: Array
    lengths: Array | None


@dataclass(frozen=True)
class Memory:
    """The arrays that a training changes in place, and their layout.

    flat: "p" and each slot of the optimiser -> (S,), aligned: all parameters. First come those with dense gradients,
        then the tables of which an update changes some rows, then those that never change.
    dense: the number of elements of the first kind. places: name of a parameter -> its first element and its shape.
    losses: the names of the losses, outputs (1,). The input `gradient(loss)` scales one for the gradients.
    look_ups: the reads of rows of tables.
    tables: the names of the tables (V, N) of which nothing but rows is read. sparse: those of the second kind. A table
        that is also read as a matrix, such as one tied to an output layer, has a dense gradient.
    gradients: the names of the inputs whose gradients are computed. Those of other parameters are zeros.
    constants: the inputs that are the same in every call.
    renewed: the names of parameters without gradients that change by each batch: the output `renewed(name)` is what it
        makes of one. They change with the other parameters.
    updates: the number of updates made, (1,) int64. It changes with the parameters, so that an interrupt comes before
        both changes or after both.
    """

    flat: dict[str, Array]
    dense: int
    places: Mapping[str, tuple[int, tuple[int, ...]]]
    losses: tuple[str, ...]
    look_ups: tuple[LookUp, ...]
    tables: frozenset[str]
    sparse: tuple[str, ...]
    gradients: frozenset[str]
    constants: Mapping[str, Array]
    renewed: tuple[str, ...] = ()
    updates: Array = field(default_factory=lambda: np.zeros(1, np.int64))

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of every array."""
        return self.flat[UPDATED].dtype

    def view(self, flat: Array, name: str) -> Array:
        """A parameter in a flat array."""
        first, shape = self.places[name]
        return flat[first : first + math.prod(shape)].reshape(shape)

    def views(self, flat: Array) -> dict[str, Array]:
        """The parameters in a flat array that are inputs of the code, by name."""
        return {name: self.view(flat, name) for name in self.places if name not in self.tables}

    @property
    def with_gradients(self) -> list[str]:
        """The names of the parameters whose dense gradients are computed."""
        return [name for name in self.places if name in self.gradients]

    @property
    def tied(self) -> list[LookUp]:
        """The reads of tables that have dense gradients, to which those of their rows are added."""
        return [r for r in self.look_ups if self.places[r.table][0] < self.dense and r.rows in self.gradients]


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

    inputs: all inputs but parameters, constants, masks and rows of tables. outputs: arrays for the outputs wanted
    besides the losses and the gradients. lengths: see `rnnc.backends.base.Bound.start`.
    seeds: the factors of the losses, in the order of `Memory.losses`, for the gradients. numbers: those of each
    `Memory.look_ups`, by the name of its rows.
    """

    steps: int
    batch: int
    lengths: Array | None
    inputs: Mapping[str, Array]
    seeds: Sequence[float]
    masks: Mapping[str, Draw] = field(default_factory=dict)
    outputs: Mapping[str, Array] = field(default_factory=dict)
    numbers: Mapping[str, Numbers] = field(default_factory=dict)


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
    """The report of a run. losses: each summed over the batch. norm: of all gradients so far, before clipping.

    changed: True if the parameters were changed.
    """

    losses: tuple[float, ...]
    norm: float
    changed: bool


class Gradients(NamedTuple):
    """The losses and gradients of one update, which may come from several processes.

    losses: each summed over the batch. dense: (dense,), laid out like the parameters. rows: for each of
    `Memory.sparse`, those of the rows that are named.
    """

    losses: tuple[float, ...]
    dense: Array
    rows: Mapping[str, SparseRows]

    @property
    def norm(self) -> float:
        """The norm of all gradients together.

        The order of the sum is the same on every machine, so that processes clip by the same bits.
        """
        parts = [self.dense, *(rows.values.reshape(-1) for rows in self.rows.values())]
        with np.errstate(over="ignore", invalid="ignore"):  # the result is then infinite or NaN
            return math.sqrt(sum(_squares(part) for part in parts))


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

    def update(self, gradients: Gradients, change: Change) -> Report:
        """Makes the update of given gradients if they are `usable`. Those so far are then forgotten.

        A process that trains together with others calls it with the sums over all of them.
        """

    def fetch(self) -> None:
        """Brings the arrays of `Memory.flat` up to date. The next run uses what is written to them meanwhile.

        A trainer that works on these arrays themselves has nothing to do.
        """

    def rows(self, table: str) -> SparseRows:
        """The gradient so far of one of `Memory.sparse`."""

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


SQUARED = 1 << 15
"""The number of elements that are squared at a time, so that their float64 copies stay in the cache."""


def _squares(values: Array) -> float:
    """The sum of squares, in float64, in which squares of float32 do not overflow."""
    starts = range(0, values.size, SQUARED)
    return sum(float(np.square(values[i : i + SQUARED], dtype=np.float64).sum()) for i in starts)
