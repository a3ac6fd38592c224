"""Trainers: a whole step of a training, from a batch to changed parameters; here out of compiled parts and NumPy.

    masks -> loss and gradients (a compiled function) -> sums, norm, factor of clipping -> update (compiled equations)

A backend that can do better has a trainer of its own (`rnnc.backends.llvm.trainer`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from rnnc.backends import fresh
from rnnc.backends.noise import Noise, Where
from rnnc.backends.sparse import SparseRows, summed
from rnnc.backends.whole import whole
from rnnc.ir.names import LOSS, X, gradient

if TYPE_CHECKING:
    from rnnc.backends.base import Function
    from rnnc.backends.updates import Update

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
        return self.flat["p"].dtype

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
    gradients. Lengths are those of `rnnc.backends.base.Function.start`.
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


class ComposedTrainer:
    """A trainer of three compiled parts, with NumPy between them."""

    def __init__(self, function: Function, update: Update, noise: Noise, memory: Memory) -> None:
        self._function, self._update, self._noise, self._memory = function, update, noise, memory
        self.gradient = np.zeros(memory.dense, memory.dtype)
        self._part = np.zeros(memory.dense, memory.dtype)
        self._rows: list[SparseRows] = []

    def run(self, work: Work, *, first: bool, change: Change | None) -> Report:
        """See `Trainer.run`."""
        loss = self._gradients(work, first)
        rows = [self._joined()] if self._memory.table is not None else []
        norm = _norm([self.gradient, *(r.values.reshape(-1) for r in rows)])
        changed = change is not None and usable(change, loss, norm)
        if change is not None and changed:
            whole(lambda: self._apply(change, norm))
        return Report(loss, norm, changed)

    def fetch(self) -> None:
        """See `Trainer.fetch`."""

    def rows(self) -> SparseRows:
        """See `Trainer.rows`."""
        assert self._memory.table is not None
        return self._joined()

    def explain(self) -> str:
        """See `Trainer.explain`."""
        return "a step: the compiled function, the compiled update, and NumPy for what is between them\n"

    def _gradients(self, work: Work, first: bool) -> float:
        memory = self._memory
        inputs = {**memory.views(memory.flat["p"]), **memory.constants, **work.inputs}
        inputs |= {name: self._mask(draw, work.steps) for name, draw in work.masks.items()}
        inputs[SEED] = np.full(1, work.seed, memory.dtype)
        loss = fresh.empty(1, memory.dtype)
        outputs = {LOSS: loss, **work.outputs} | self._views(self.gradient if first else self._part)
        tables = memory.tables()
        if work.numbers is not None:
            inputs[LOOKED_UP] = tables["p"][work.numbers]
            looked_up = np.zeros_like(inputs[LOOKED_UP])
            outputs |= {TABLE_GRADIENT: looked_up} if memory.table in memory.trained else {}
        self._function.start(inputs, outputs, work.steps, work.batch, work.lengths)
        self._rows = [] if first else self._rows
        if not first:
            self.gradient += self._part
        if work.numbers is not None:
            found = SparseRows.of(work.numbers, looked_up, work.lengths, memory.padding)
            self._rows.append(found)
        return float(loss[0])

    def _views(self, flat: Array) -> dict[str, Array]:
        trained = self._memory.trained
        return {gradient(name): array for name, array in self._memory.views(flat).items() if name in trained}

    def _mask(self, draw: Draw, steps: int) -> Array:
        values = fresh.empty(draw.shape, self._memory.dtype)
        self._noise.fill(values, draw.where, draw.p, draw.low, draw.high)
        if not draw.timed:
            return np.asarray(values[0])
        return np.broadcast_to(values, (steps, *draw.shape[1:])) if draw.fixed else values

    def _joined(self) -> SparseRows:
        self._rows = [summed(self._rows)]
        return self._rows[0]

    def _apply(self, change: Change, norm: float) -> None:
        memory, scalars = self._memory, {"scale": clipping(change.clip, norm), **change.scalars}
        dense = {name: flat[: memory.dense] for name, flat in memory.flat.items()}
        self._update.run(dense | {"g": self.gradient}, scalars)
        if memory.table is not None and len(self._joined().rows):
            self._apply_to_rows(scalars)
        memory.updates[0] += 1

    def _apply_to_rows(self, scalars: Mapping[str, float]) -> None:
        memory = self._memory
        rows, values = self._joined()
        tables = memory.tables()
        taken = {name: table[rows] for name, table in tables.items()}
        self._update.run({n: a.reshape(-1) for n, a in taken.items()} | {"g": values.reshape(-1)}, scalars)
        for name, table in tables.items():
            table[rows] = taken[name]


def usable(change: Change, loss: float, norm: float) -> bool:
    """Whether an update may be made from a gradient of this norm. What is no number compares as False."""
    return math.isfinite(loss) and norm * clipping(change.clip, norm) <= change.most


def clipping(clip: float | None, norm: float) -> float:
    """The factor of a gradient of this norm."""
    return 1.0 if clip is None else min(1.0, clip / (norm + EPSILON))


def _norm(parts: list[Array]) -> float:
    """In double precision, so that a large gradient has a finite norm."""
    with np.errstate(over="ignore", invalid="ignore"):  # infinity, or NaN, is the answer then
        return math.sqrt(sum(float(np.square(part, dtype=np.float64).sum()) for part in parts))
