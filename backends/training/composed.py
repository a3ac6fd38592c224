"""A training step made of three compiled parts (masks, gradients, update), joined by an array library.

    masks -> loss and gradients -> sums of table rows -> norm (the host waits for the device) -> update

Parameters, slots and gradients stay on the device from step to step. `fetch` copies them to the host. If the device is
the host, nothing is copied.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from rnnc.backends import fresh
from rnnc.backends.training.noise import Noise
from rnnc.backends.training.protocol import (
    Change,
    Draw,
    Gradients,
    LookUp,
    Memory,
    Report,
    Update,
    Work,
    clipping,
    usable,
)
from rnnc.backends.training.sparse import SparseRows, counted, grouped
from rnnc.backends.whole import whole
from rnnc.ir.names import CLIPPING, SLOPE, UPDATED, gradient, renewed

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


class NamedRows(NamedTuple):
    """Rows of a table that a batch looked up. numbers: (R,), on the host. gradients: (R, N), on the device."""

    numbers: Array
    gradients: Array


class ComposedTrainer:
    """See `rnnc.backends.training.protocol.Trainer`. The device is needed from the first step on."""

    def __init__(
        self, code: Code, update: Update, noise: Noise, memory: Memory, device: Callable[[], ArrayDevice] = Host
    ) -> None:
        """device: returns the device of the arrays of code, update and noise. It is called at the first step."""
        self._code, self._update, self._noise, self._memory, self._find = code, update, noise, memory, device
        self._flat: dict[str, Array] = {}
        self._ahead = False
        self._named: dict[str, list[NamedRows]] = {}  # by table
        self._renewed: dict[str, Array] = {}  # what the batches so far make of statistics

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

    def rows(self, table: str) -> SparseRows:
        """See `Trainer.rows`."""
        rows, values = self._grouped(table)
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
        self._place()
        losses = self._gradients(work, first)
        sparse = {table: self._grouped(table) for table in self._memory.sparse}
        found, squares = self._report(losses, sparse)
        norm = math.sqrt(squares)
        changed = change is not None and usable(change, sum(found), norm)
        if change is not None and changed:
            whole(lambda: self._apply(change, norm, sparse))
        return Report(found, norm, changed)

    def update(self, gradients: Gradients, change: Change) -> Report:
        """See `Trainer.update`."""
        self._place()
        self._gradient[...] = self._up(gradients.dense)
        norm = gradients.norm
        changed = usable(change, sum(gradients.losses), norm)
        if changed:
            sparse = {table: (rows, self._up(values)) for table, (rows, values) in gradients.rows.items()}
            whole(lambda: self._apply(change, norm, sparse))
        return Report(gradients.losses, norm, changed)

    def _place(self) -> None:
        """Puts the arrays that training changes on the device, unless they are there."""
        if not self._flat:
            self._flat = {name: self._device.to_device(array) for name, array in self._memory.flat.items()}

    def _gradients(self, work: Work, first: bool) -> list[Array]:
        """The losses of the batch, (1,). Its gradients are added to those so far, or replace them if it is `first`."""
        memory, xp = self._memory, self._device.xp
        inputs = {**memory.views(self._flat[UPDATED]), **self._constants, **({} if first else self._renewed)}
        inputs |= {name: self._up(array) for name, array in work.inputs.items()}
        inputs |= {name: self._mask(draw, work.steps) for name, draw in work.masks.items()}
        for name, seed in zip(memory.losses, work.seeds, strict=True):
            inputs[gradient(name)] = xp.full(1, seed, memory.dtype)
        inputs |= {r.rows: self._rows_of(r, work) for r in memory.look_ups}
        looked_up = {r.rows: xp.zeros(inputs[r.rows].shape, memory.dtype) for r in memory.look_ups}
        losses: dict[str, Array] = {name: fresh.empty(1, memory.dtype, xp) for name in memory.losses}
        wanted = {name: self._wanted(array) for name, array in work.outputs.items()}
        into = self._gradient if first else self._part
        outputs = losses | wanted | {gradient(name): memory.view(into, name) for name in memory.with_gradients}
        outputs |= {gradient(name): array for name, array in looked_up.items() if name in memory.gradients}
        new = {name: fresh.empty(memory.places[name][1], memory.dtype, xp) for name in memory.renewed}
        outputs |= {renewed(name): array for name, array in new.items()}
        lengths = None if work.lengths is None else self._up(work.lengths)
        self._bound.start(inputs, outputs, work.steps, work.batch, lengths)
        for name, array in work.outputs.items():
            if wanted[name] is not array:
                array[...] = self._device.to_host(wanted[name])
        self._renewed = new
        if not first:
            self._gradient += self._part
        self._note_rows(work, looked_up, first)
        return list(losses.values())

    def _wanted(self, array: Array) -> Array:
        """The array on the device for an output that the host wants in `array`."""
        if self._device.on_host:
            return array
        made: Array = fresh.empty(array.shape, self._memory.dtype, self._device.xp)
        return made

    def _mask(self, draw: Draw, steps: int) -> Array:
        xp = self._device.xp
        values: Array = fresh.empty(draw.shape, self._memory.dtype, xp)
        self._noise.fill(values, draw.where, draw.p, draw.low, draw.high)
        if not draw.timed:
            one: Array = values[0]
            return one
        every: Array = xp.broadcast_to(values, (steps, *draw.shape[1:])) if draw.fixed else values
        return every

    def _report(
        self, losses: list[Array], sparse: Mapping[str, tuple[Array, Array]]
    ) -> tuple[tuple[float, ...], float]:
        """The losses and the sum of squares of all gradients, in one transfer.

        They are computed in float64, in which squares of float32 do not overflow.
        """
        xp = self._device.xp
        parts = [self._gradient, *(values for _, values in sparse.values())]
        with np.errstate(over="ignore", invalid="ignore"):  # the result is then infinite or NaN
            squares = [xp.square(part.astype(np.float64)).sum() for part in parts]
            sums = [loss[0].astype(np.float64) for loss in losses]
            found = self._device.to_host(xp.stack([*sums, *squares]))
            return tuple(found[: len(sums)].tolist()), float(found[len(sums) :].sum())

    def _apply(self, change: Change, norm: float, sparse: Mapping[str, tuple[Array, Array]]) -> None:
        scalars = {CLIPPING: clipping(change.clip, norm), **change.scalars}
        dense = {name: flat[: self._memory.dense] for name, flat in self._flat.items()}
        self._update.run(dense | {SLOPE: self._gradient}, scalars)
        for table, (rows, values) in sparse.items():
            if len(rows):
                tables = {name: self._memory.view(flat, table) for name, flat in self._flat.items()}
                self._update.run_rows(tables, values, rows, scalars)
        for name, array in self._renewed.items():
            self._memory.view(self._flat[UPDATED], name)[...] = array
        self._ahead = True
        self._memory.updates[0] += 1

    # ---- tables

    def _rows_of(self, look_up: LookUp, work: Work) -> Array:
        """The rows that a batch looks up, side by side."""
        numbers = work.numbers[look_up.rows].numbers
        rows: Array = self._memory.view(self._flat[UPDATED], look_up.table)[self._up(numbers)]
        return rows.reshape(*rows.shape[:2], -1)

    def _note_rows(self, work: Work, gradients: Mapping[str, Array], first: bool) -> None:
        """Keeps the gradients of rows for their update, or adds them to those of a table that has dense ones."""
        memory = self._memory
        if first:
            self._named = {table: [] for table in memory.sparse}
        for look_up in memory.look_ups:
            given = work.numbers[look_up.rows]
            if look_up.table not in self._named and look_up not in memory.tied:
                continue
            width = memory.places[look_up.table][1][1]
            found = NamedRows(counted(*given, look_up.padding), gradients[look_up.rows].reshape(-1, width))
            if look_up.table in self._named:
                self._named[look_up.table].append(found)
            else:
                rows, values = self._sums([found])
                memory.view(self._gradient, look_up.table)[self._up(rows)] += values

    def _grouped(self, table: str) -> tuple[Array, Array]:
        """The numbers of the rows that were looked up, ascending, on the host; their gradients, on the device."""
        return self._sums(self._named[table])

    def _sums(self, named: list[NamedRows]) -> tuple[Array, Array]:
        groups = grouped(np.concatenate([numbers for numbers, _ in named]))
        gradients = [gradients for _, gradients in named]
        every = gradients[0] if len(gradients) == 1 else self._device.xp.concatenate(gradients)
        return groups.rows, self._update.sum_rows(every, groups)
