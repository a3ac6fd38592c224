"""Trainers on a GPU: parameters, slots and gradients stay on the device from step to step.

    upload the batch -> masks -> loss and gradients -> sums of table rows -> norm (the host waits) -> update

The host waits once a step, for the loss and the norm. It sees the parameters when it asks for them (`fetch`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from rnnc.backends import fresh
from rnnc.backends.cuda.device import Array, Device, Unit, blocks_for
from rnnc.backends.cuda.elementwise import SUM_ROWS, UPDATE, sum_rows_kernel, update_kernel
from rnnc.backends.cuda.function import CudaFunction
from rnnc.backends.cuda.noise import CudaNoise
from rnnc.backends.cuda.prelude import PRELUDE
from rnnc.backends.sparse import SparseRows
from rnnc.backends.trainer import (
    LOOKED_UP,
    SEED,
    TABLE_GRADIENT,
    Change,
    Draw,
    Memory,
    Report,
    Work,
    clipping,
    usable,
)
from rnnc.backends.whole import whole
from rnnc.ir.graph import Graph
from rnnc.ir.names import LOSS, gradient
from rnnc.ir.ops import BATCH
from rnnc.ir.passes import optimize

LONGEST = 1 << 30
"""Elements of one launch of an update: they are counted with 32 bits."""


class CudaUpdate:
    """The equations of an optimiser for a GPU; see `rnnc.backends.updates.Update`. Arrays are the device's."""

    def __init__(self, graph: Graph, device: Callable[[], Device]) -> None:
        graph = optimize(graph)[0]
        inputs = [n for n in graph.nodes if n.op == "input"]
        self._vectors = tuple(n.attr("name") for n in inputs if n.shape == (BATCH,))
        self._numbers = tuple(n.attr("name") for n in inputs if n.shape != (BATCH,))
        self._dtype = np.dtype(graph.dtype)
        self._device = device
        kernels = (update_kernel(graph, self._vectors, self._numbers), sum_rows_kernel(graph.dtype))
        self._kernels = {kernel.name: kernel for kernel in kernels}

    @cached_property
    def _loaded(self) -> tuple[Device, Unit]:
        device = self._device()
        source = "\n".join([PRELUDE, *(kernel.text for kernel in self._kernels.values())])
        return device, device.load(source, list(self._kernels.values()))

    def run(self, arrays: Mapping[str, Array], scalars: Mapping[str, float]) -> None:
        """See `rnnc.backends.updates.Update.run`."""
        size = int(arrays[self._vectors[0]].size)
        for start in range(0, size, LONGEST):
            part = {name: arrays[name][start : start + LONGEST] for name in self._vectors}
            self._launch(part, scalars, min(LONGEST, size - start), None, 1)

    def run_rows(self, tables: Mapping[str, Array], values: Array, rows: Array, scalars: Mapping[str, float]) -> None:
        """Updates some rows (int32) of tables (V, N), given the gradient of each (rows, N)."""
        self._launch({**tables, "g": values}, scalars, int(values.size), rows, int(values.shape[-1]))

    def sum_rows(self, gradients: Array, order: Array, starts: Array, groups: int) -> Array:
        """(groups, N): rows of gradients (R, N) added up, group by group, in the order given (int32 arrays)."""
        device, unit = self._loaded
        width = int(gradients.shape[-1])
        result = fresh.empty((groups, width), self._dtype, device.xp)
        if groups:
            arguments = (gradients, result, order, starts, np.int32(width))
            unit.launch(self._kernels[SUM_ROWS], (groups, 1, 1), arguments)
        return result

    def _launch(
        self, arrays: Mapping[str, Array], scalars: Mapping[str, float], count: int, rows: Array | None, width: int
    ) -> None:
        if not count:
            return
        device, unit = self._loaded
        kernel = self._kernels[UPDATE]
        vectors = (arrays[name] for name in self._vectors)
        numbers = (self._dtype.type(scalars[name]) for name in self._numbers)
        grid = (blocks_for(device.chip, count, kernel.threads), 1, 1)
        unit.launch(kernel, grid, (np.int32(count), np.int32(width), rows, *vectors, *numbers))

    def trainer(self, function: Any, noise: Any, memory: Memory) -> CudaTrainer:
        """See `rnnc.backends.updates.Update.trainer`."""
        return CudaTrainer(function, self, noise, memory)


class CudaTrainer:
    """See `rnnc.backends.trainer.Trainer`."""

    def __init__(self, function: CudaFunction, update: CudaUpdate, noise: CudaNoise, memory: Memory) -> None:
        self._function, self._update, self._noise, self._memory = function, update, noise, memory
        self._flat: dict[str, Array] = {}
        self._ahead = False
        self._looked_up: list[tuple[Array, Array]] = []  # numbers (R,), on the host, and gradients (R, N)

    @property
    def _device(self) -> Device:
        return self._function.device

    @cached_property
    def _gradient(self) -> Array:
        return self._device.xp.zeros(self._memory.dense, self._memory.dtype)

    @cached_property
    def _part(self) -> Array:
        return self._device.xp.zeros(self._memory.dense, self._memory.dtype)

    @cached_property
    def _constants(self) -> dict[str, Array]:
        return {name: self._up(array) for name, array in self._memory.constants.items()}

    def _up(self, array: Any) -> Array:
        return self._device.to_device(np.ascontiguousarray(array))

    # ---- the host's arrays

    def fetch(self) -> None:
        """See `Trainer.fetch`: the next run takes the host's arrays again."""
        if self._ahead:
            for name, array in self._memory.flat.items():
                array[...] = self._device.to_host(self._flat[name])
        self._flat.clear()
        self._ahead = False

    @property
    def gradient(self) -> Any:
        """See `Trainer.gradient`."""
        return self._device.to_host(self._gradient)

    def rows(self) -> SparseRows:
        """See `Trainer.rows`."""
        rows, values = self._grouped()
        return SparseRows(rows, self._device.to_host(values))

    def explain(self) -> str:
        """See `Trainer.explain`."""
        return "a step: parameters stay on the device; the host waits once, for the loss and the norm\n"

    # ---- a step

    def run(self, work: Work, *, first: bool, change: Change | None) -> Report:
        """See `Trainer.run`."""
        if not self._flat:
            self._flat = {name: self._up(array) for name, array in self._memory.flat.items()}
        loss = self._gradients(work, first)
        sparse = self._grouped() if self._memory.table is not None else None
        loss_value, squares = self._report(loss, sparse)
        norm = math.sqrt(squares)
        changed = change is not None and usable(change, loss_value, norm)
        if change is not None and changed:
            whole(lambda: self._apply(change, norm, sparse))
        return Report(loss_value, norm, changed)

    def _gradients(self, work: Work, first: bool) -> Array:
        memory, xp = self._memory, self._device.xp
        inputs = {**memory.views(self._flat["p"]), **self._constants}
        inputs |= {name: self._up(array) for name, array in work.inputs.items()}
        inputs |= {name: self._mask(draw, work.steps) for name, draw in work.masks.items()}
        inputs[SEED] = xp.full(1, work.seed, memory.dtype)
        loss = fresh.empty(1, memory.dtype, xp)
        wanted = {name: fresh.empty(array.shape, memory.dtype, xp) for name, array in work.outputs.items()}
        outputs = {LOSS: loss, **wanted} | self._views(self._gradient if first else self._part)
        if work.numbers is not None:
            inputs[LOOKED_UP] = self._table("p")[self._up(work.numbers)]
            looked_up = xp.zeros(inputs[LOOKED_UP].shape, memory.dtype)
            outputs |= {TABLE_GRADIENT: looked_up} if memory.table in memory.trained else {}
        lengths = None if work.lengths is None else self._up(work.lengths)
        self._function.start(inputs, outputs, work.steps, work.batch, lengths)
        for name, array in work.outputs.items():
            array[...] = self._device.to_host(wanted[name])
        self._looked_up = [] if first else self._looked_up
        if not first:
            self._gradient += self._part
        if work.numbers is not None:
            self._looked_up.append((_counted(work, memory.padding), looked_up.reshape(-1, self._width)))
        return loss

    def _views(self, flat: Array) -> dict[str, Array]:
        trained = self._memory.trained
        return {gradient(name): array for name, array in self._memory.views(flat).items() if name in trained}

    def _mask(self, draw: Draw, steps: int) -> Array:
        xp = self._device.xp
        values = fresh.empty(draw.shape, self._memory.dtype, xp)
        self._noise.fill(values, draw.where, draw.p, draw.low, draw.high)
        if not draw.timed:
            return values[0]
        return xp.broadcast_to(values, (steps, *draw.shape[1:])) if draw.fixed else values

    def _report(self, loss: Array, sparse: tuple[Any, Array] | None) -> tuple[float, float]:
        """The loss, and the sum of squares of all gradients, in one transfer."""
        xp = self._device.xp
        parts = [self._gradient] if sparse is None else [self._gradient, sparse[1]]
        squares = [xp.square(part.astype(np.float64)).sum() for part in parts]
        found = self._device.to_host(xp.stack([loss[0].astype(np.float64), *squares]))
        return float(found[0]), float(found[1:].sum())

    def _apply(self, change: Change, norm: float, sparse: tuple[Any, Array] | None) -> None:
        scalars = {"scale": clipping(change.clip, norm), **change.scalars}
        dense = {name: flat[: self._memory.dense] for name, flat in self._flat.items()}
        self._update.run(dense | {"g": self._gradient}, scalars)
        if sparse is not None and len(sparse[0]):
            tables = {name: self._table(name) for name in self._flat}
            self._update.run_rows(tables, sparse[1], self._up(sparse[0].astype(np.int32)), scalars)
        self._ahead = True
        self._memory.updates[0] += 1

    # ---- the table

    def _table(self, name: str) -> Array:
        assert self._memory.table is not None
        first, shape = self._memory.places[self._memory.table]
        return self._flat[name][first : first + math.prod(shape)].reshape(shape)

    @property
    def _width(self) -> int:
        assert self._memory.table is not None
        return int(self._memory.places[self._memory.table][1][-1])

    def _grouped(self) -> tuple[Any, Array]:
        """Numbers of rows, rising, each once, on the host; and the gradient of each, on the device."""
        numbers = np.concatenate([numbers for numbers, _ in self._looked_up])
        gradients = [gradient for _, gradient in self._looked_up]
        every = gradients[0] if len(gradients) == 1 else self._device.xp.concatenate(gradients)
        order = np.argsort(numbers, kind="stable")
        order = order[np.searchsorted(numbers[order], 0) :]  # without those that do not count
        rows, starts = np.unique(numbers[order], return_index=True)
        starts = np.append(starts, len(order)).astype(np.int32)
        values = self._update.sum_rows(every, self._up(order.astype(np.int32)), self._up(starts), len(rows))
        return rows, values


def _counted(work: Work, padding: int | None) -> Any:
    """The number of each row that was looked up; -1 where its gradient does not count."""
    assert work.numbers is not None
    numbers = np.array(work.numbers, np.int64)
    if work.lengths is not None:
        numbers[np.arange(work.steps)[:, None] >= np.asarray(work.lengths)[None, :]] = -1
    if padding is not None:
        numbers[numbers == padding] = -1
    return numbers.reshape(-1)
