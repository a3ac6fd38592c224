"""Updates and masks on a GPU, for training steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property

import numpy as np

from rnnc.backends import fresh
from rnnc.backends.base import Code
from rnnc.backends.cuda.emit.elementwise import SUM_ROWS, UPDATE, noise_kernel, sum_rows_kernel, update_kernel
from rnnc.backends.cuda.emit.prelude import PRELUDE
from rnnc.backends.cuda.run.device import Array, Device, LoadedUnit, blocks_for
from rnnc.backends.training.composed import ComposedTrainer
from rnnc.backends.training.noise import BLOCK_NUMBERS, LOW, Noise, Where, key, threshold
from rnnc.backends.training.protocol import Memory
from rnnc.backends.training.sparse import Groups
from rnnc.ir.graph import Graph
from rnnc.ir.names import SLOPE
from rnnc.ir.passes import optimize
from rnnc.ir.shape_rules import BATCH

LONGEST = 1 << 30
"""The most elements per launch of an update, which counts them with 32 bits."""


class CudaUpdate:
    """An optimiser's equations for a GPU; see `rnnc.backends.training.protocol.Update`. Arrays are the device's."""

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
    def _loaded(self) -> tuple[Device, LoadedUnit]:
        device = self._device()
        source = "\n".join([PRELUDE, *(kernel.text for kernel in self._kernels.values())])
        return device, device.load(source, list(self._kernels.values()))

    def run(self, arrays: Mapping[str, Array], scalars: Mapping[str, float]) -> None:
        """See `rnnc.backends.training.protocol.Update.run`."""
        size = int(arrays[self._vectors[0]].size)
        for start in range(0, size, LONGEST):
            part = {name: arrays[name][start : start + LONGEST] for name in self._vectors}
            self._launch(part, scalars, min(LONGEST, size - start), None, 1)

    def run_rows(self, tables: Mapping[str, Array], values: Array, rows: Array, scalars: Mapping[str, float]) -> None:
        """See `rnnc.backends.training.protocol.Update.run_rows`. `rows` is on the host."""
        placed = self._loaded[0].to_device(rows.astype(np.int32))
        self._launch({**tables, SLOPE: values}, scalars, int(values.size), placed, int(values.shape[-1]))

    def sum_rows(self, gradients: Array, groups: Groups) -> Array:
        """See `rnnc.backends.training.protocol.Update.sum_rows`. `groups` is on the host."""
        device, unit = self._loaded
        count, width = len(groups.rows), int(gradients.shape[-1])
        result = fresh.empty((count, width), self._dtype, device.xp)
        if count:
            order, starts = (device.to_device(numbers.astype(np.int32)) for numbers in (groups.order, groups.starts))
            unit.launch(self._kernels[SUM_ROWS], (count, 1, 1), (gradients, result, order, starts, np.int32(width)))
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

    def trainer(self, code: Code, noise: Noise, memory: Memory) -> ComposedTrainer:
        """See `rnnc.backends.training.protocol.Update.trainer`."""
        return ComposedTrainer(code, self, noise, memory, lambda: self._loaded[0])


class CudaNoise:
    """Masks of one dtype; see `rnnc.backends.training.noise.Noise`. Arrays are the device's."""

    def __init__(self, dtype: str, device: Callable[[], Device]) -> None:
        self._dtype = np.dtype(dtype)
        self._device = device
        self._kernel = noise_kernel(dtype)

    @cached_property
    def _loaded(self) -> tuple[Device, LoadedUnit]:
        device = self._device()
        return device, device.load(self._kernel.text, [self._kernel])

    def fill(self, out: Array, where: Where, p: float, low: float, high: float) -> None:
        """See `rnnc.backends.training.noise.Noise.fill`."""
        device, unit = self._loaded
        steps, rows, units = out.shape
        count = steps * rows * -(-units // BLOCK_NUMBERS)
        if not count:
            return
        place = (where.number, where.step, where.row, where.update, *key(where.seed), threshold(p))
        words = (np.uint32(word & LOW) for word in place)
        sizes = (np.int32(steps), np.int32(rows), np.int32(units))
        grid = (blocks_for(device.chip, count, self._kernel.threads), 1, 1)
        unit.launch(self._kernel, grid, (out, *sizes, *words, self._dtype.type(low), self._dtype.type(high)))
