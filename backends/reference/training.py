"""Masks and updates with NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnnc.backends.base import Code
from rnnc.backends.reference.interpreter import run_graph
from rnnc.backends.training.composed import ComposedTrainer
from rnnc.backends.training.noise import Noise, Where, bits16, threshold
from rnnc.backends.training.protocol import Memory
from rnnc.backends.training.sparse import HostRows
from rnnc.ir.graph import Graph
from rnnc.ir.names import UPDATED
from rnnc.ir.shape_rules import BATCH

Array = NDArray[Any]

CHUNK = 1 << 15
"""Elements per chunk of an update, few enough that intermediate values stay in the cache."""


def compile_noise(dtype: str) -> NumpyNoise:
    """The source of masks, computed with NumPy."""
    return NumpyNoise(dtype)


class NumpyNoise:
    """See `rnnc.backends.training.noise.Noise`."""

    def __init__(self, dtype: str) -> None:
        self._dtype = np.dtype(dtype)

    def fill(self, out: Array, where: Where, p: float, low: float, high: float) -> None:
        """See `Noise.fill`."""
        values = np.array([high, low], self._dtype)
        out[...] = values[(bits16(out.shape, where) < threshold(p)).view(np.uint8)]


def compile_update(graph: Graph) -> NumpyUpdate:
    """The update, to be interpreted with NumPy chunk by chunk."""
    return NumpyUpdate(graph)


class NumpyUpdate(HostRows):
    """See `rnnc.backends.training.protocol.Update`."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        inputs = [n for n in graph.nodes if n.op == "input"]
        self._vectors = tuple(n.attr("name") for n in inputs if n.shape == (BATCH,))
        self._numbers = tuple(n.attr("name") for n in inputs if n.shape != (BATCH,))

    def trainer(self, code: Code, noise: Noise, memory: Memory) -> ComposedTrainer:
        """See `rnnc.backends.training.protocol.Update.trainer`."""
        return ComposedTrainer(code, self, noise, memory)

    def run(self, arrays: Mapping[str, Array], scalars: Mapping[str, float]) -> None:
        """See `rnnc.backends.training.protocol.Update.run`."""
        numbers = {name: np.full(1, scalars[name], self._graph.dtype) for name in self._numbers}
        for start in range(0, arrays[UPDATED].size, CHUNK):
            part = {name: arrays[name][start : start + CHUNK] for name in self._vectors}
            for name, result in run_graph(self._graph, part | numbers).items():
                arrays[name][start : start + CHUNK] = result
