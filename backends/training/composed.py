"""A training step made of three compiled parts (masks, gradients, update), joined by an array library.

    masks -> loss and gradients -> sums of table rows -> norm (the host waits for the device) -> update

Parameters, slots and gradients stay on the device from step to step. `fetch` copies them to the host. If the device is
the host, nothing is copied.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rnnc.backends import fresh
from rnnc.backends.training.noise import Noise
from rnnc.backends.training.protocol import (
    LOOKED_UP,
    SEED,
    TABLE_GRADIENT,
    Change,
    Draw,
    Memory,
    Report,
    Update,
    Work,
    clipping,
    usable,
)
from rnnc.backends.training.sparse import SparseRows, counted, grouped
from rnnc.backends.whole import whole
from rnnc.ir.names import CLIPPING, LOSS, SLOPE, UPDATED, gradient

if TYPE_CHECKING:
    from rnnc.backends.base import Bound, Code

Array = NDArray[Any]


class ArrayDevice(Protocol):
    """The device of a code's arrays. xp: the module of the arrays. on_host: True if they are NumPy's."""

    xp: Any
    on_host: bool

    def to_device(self, array: Any) -> Any:
        """A NumPy array, copied to the device if needed."""

    def to_host(self, array: Any) -> Any:
        """An array of the device as a NumPy array. The host waits for its value."""


class Host:
    """See `ArrayDevice`: the host itself, with NumPy's arrays."""

    xp: Any = np
    on_host = True

    def to_device(self, array: Any) -> Any:
        return array

    def to_host(self, array: Any) -> Any:
        return array


class ComposedTrainer:
    """See `rnnc.backends.training.protocol.Trainer`. The device is needed from the first step on."""

    def __init__(
        self, code: Code, update: Update, noise: Noise, memory: Memory, device: Callable[[], ArrayDevice] = Host
    ) -> None:
        """device: returns the device of the arrays of code, update and noise. It is called at the first step."""
        self._code, self._update, self._noise, self._memory, self._find = code, update, noise, memory, device
        self._flat: dict[str, Array] = {}
        self._ahead = False
        self._looked_up: list[tuple[Array, Array]] = []  # numbers (R,), on the host, and gradients (R, N)

    @cached_property
    def _device(self) -> ArrayDevice:
        return self._find()

    @cached_property
    def _bound(self) -> Bound:
        """The code without bound parameters, because they are inputs of every call."""
        return self._code.bind({})

    @cached_property
    def _gradient(self) -> Array:
        return self._zeros()

    @cached_property
    def _part(self) -> Array:
        return self._zeros()

    def _zeros(self) -> Array:
        zeros: Array = self._device.xp.zeros(self._memory.dense, self._memory.dtype)
        return zeros

    @cached_property
    def _constants(self) -> dict[str, Array]:
        return {name: self._up(array) for name, array in self._memory.constants.items()}

    def _up(self, array: Any) -> Array:
        placed: Array = self._device.to_device(np.ascontiguousarray(array))
        return placed

    # ---- the host's arrays

    def fetch(self) -> None:
        """See `Trainer.fetch`. The next step copies the host's arrays to the device again."""
        if self._ahead and not self._device.on_host:
            for name, array in self._memory.flat.items():
                array[...] = self._device.to_host(self._flat[name])
        self._flat.clear()
        self._ahead = False

    @property
    def gradient(self) -> Array:
        """See `Trainer.gradient`."""
        found: Array = self._device.to_host(self._gradient)
        return found

    def rows(self) -> SparseRows:
        """See `Trainer.rows`."""
        rows, values = self._grouped()
        return SparseRows(rows, self._device.to_host(values))

    def explain(self) -> str:
        """See `Trainer.explain`."""
        return (
            "a step: the compiled loss and gradients, the compiled update, and an array library between them; "
            "parameters stay on the device; the host waits once, for the loss and the norm\n"
        )

    # ---- a step

    def run(self, work: Work, *, first: bool, change: Change | None) -> Report:
        """See `Trainer.run`."""
        if not self._flat:
            self._flat = {name: self._device.to_device(array) for name, array in self._memory.flat.items()}
        loss = self._gradients(work, first)
        sparse = self._grouped() if self._memory.table is not None else None
        loss_value, squares = self._report(loss, sparse)
        norm = math.sqrt(squares)
        changed = change is not None and usable(change, loss_value, norm)
        if change is not None and changed:
            whole(lambda: self._apply(change, norm, sparse))
        return Report(loss_value, norm, changed)

    def _gradients(self, work: Work, first: bool) -> Array:
        """The loss of the batch, (1,). Its gradients are added to those so far, or replace them if it is the first."""
        memory, xp = self._memory, self._device.xp
        inputs = {**memory.views(self._flat[UPDATED]), **self._constants}
        inputs |= {name: self._up(array) for name, array in work.inputs.items()}
        inputs |= {name: self._mask(draw, work.steps) for name, draw in work.masks.items()}
        inputs[SEED] = xp.full(1, work.seed, memory.dtype)
        loss: Array = fresh.empty(1, memory.dtype, xp)
        wanted = {name: self._wanted(array) for name, array in work.outputs.items()}
        outputs = {LOSS: loss, **wanted} | self._views(self._gradient if first else self._part)
        if work.numbers is not None:
            inputs[LOOKED_UP] = self._table(UPDATED)[self._up(work.numbers)]
            looked_up = xp.zeros(inputs[LOOKED_UP].shape, memory.dtype)
            outputs |= {TABLE_GRADIENT: looked_up} if memory.table in memory.trained else {}
        lengths = None if work.lengths is None else self._up(work.lengths)
        self._bound.start(inputs, outputs, work.steps, work.batch, lengths)
        for name, array in work.outputs.items():
            if wanted[name] is not array:
                array[...] = self._device.to_host(wanted[name])
        self._looked_up = [] if first else self._looked_up
        if not first:
            self._gradient += self._part
        if work.numbers is not None:
            numbers = counted(work.numbers, work.lengths, memory.padding)
            self._looked_up.append((numbers, looked_up.reshape(-1, looked_up.shape[-1])))
        return loss

    def _wanted(self, array: Array) -> Array:
        """The array on the device for an output that the host wants in `array`."""
        if self._device.on_host:
            return array
        made: Array = fresh.empty(array.shape, self._memory.dtype, self._device.xp)
        return made

    def _views(self, flat: Array) -> dict[str, Array]:
        trained = self._memory.trained
        return {gradient(name): array for name, array in self._memory.views(flat).items() if name in trained}

    def _mask(self, draw: Draw, steps: int) -> Array:
        xp = self._device.xp
        values: Array = fresh.empty(draw.shape, self._memory.dtype, xp)
        self._noise.fill(values, draw.where, draw.p, draw.low, draw.high)
        if not draw.timed:
            one: Array = values[0]
            return one
        every: Array = xp.broadcast_to(values, (steps, *draw.shape[1:])) if draw.fixed else values
        return every

    def _report(self, loss: Array, sparse: tuple[Array, Array] | None) -> tuple[float, float]:
        """The loss and the sum of squares of all gradients, in one transfer.

        They are computed in float64, in which squares of float32 do not overflow.
        """
        xp = self._device.xp
        parts = [self._gradient] if sparse is None else [self._gradient, sparse[1]]
        with np.errstate(over="ignore", invalid="ignore"):  # the result is then infinite or NaN
            squares = [xp.square(part.astype(np.float64)).sum() for part in parts]
            found = self._device.to_host(xp.stack([loss[0].astype(np.float64), *squares]))
            return float(found[0]), float(found[1:].sum())

    def _apply(self, change: Change, norm: float, sparse: tuple[Array, Array] | None) -> None:
        scalars = {CLIPPING: clipping(change.clip, norm), **change.scalars}
        dense = {name: flat[: self._memory.dense] for name, flat in self._flat.items()}
        self._update.run(dense | {SLOPE: self._gradient}, scalars)
        if sparse is not None and len(sparse[0]):
            self._update_rows(*sparse, scalars)
        self._ahead = True
        self._memory.updates[0] += 1

    # ---- the table

    def _table(self, name: str) -> Array:
        assert self._memory.table is not None
        first, shape = self._memory.places[self._memory.table]
        return self._flat[name][first : first + math.prod(shape)].reshape(shape)

    def _grouped(self) -> tuple[Array, Array]:
        """The numbers of the rows that were looked up, ascending, on the host; their gradients, on the device."""
        assert self._memory.table is not None
        groups = grouped(np.concatenate([numbers for numbers, _ in self._looked_up]))
        gradients = [gradients for _, gradients in self._looked_up]
        every = gradients[0] if len(gradients) == 1 else self._device.xp.concatenate(gradients)
        return groups.rows, self._update.sum_rows(every, groups)

    def _update_rows(self, rows: Array, values: Array, scalars: Mapping[str, float]) -> None:
        self._update.run_rows({name: self._table(name) for name in self._flat}, values, rows, scalars)
