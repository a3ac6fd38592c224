"""Updates: the equations of an optimiser, run in place over flat arrays; here with NumPy.

A graph of an update has no time, and its batch size is the length of the vectors (`rnnc.optimizers.update_graph`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rnnc.backends.interpreter import run_graph
from rnnc.backends.trainer import ComposedTrainer, Memory, Trainer
from rnnc.ir.graph import Graph
from rnnc.ir.ops import BATCH

if TYPE_CHECKING:
    from rnnc.backends.base import Function
    from rnnc.backends.noise import Noise

Array = NDArray[Any]

CHUNK = 1 << 15
"""Elements taken at once, so that what is computed in between stays in the cache."""


class Update(Protocol):
    """A compiled update. May be called from many threads at once, on different arrays."""

    def run(self, arrays: Mapping[str, Array], scalars: Mapping[str, float]) -> None:
        """Updates arrays in place.

        arrays: name -> (N,), contiguous, aligned, of the graph's dtype, for every input of shape (B,); those that are
        outputs, too, are overwritten. No two overlap. scalars: name -> number, for every input of shape (1,).
        """

    def trainer(self, function: Function, noise: Noise, memory: Memory) -> Trainer:
        """A step of a training that ends with this update; all three were compiled by the same backend."""


def compile_update(graph: Graph) -> NumpyUpdate:
    """The update interpreted with NumPy, chunk by chunk."""
    return NumpyUpdate(graph)


class NumpyUpdate:
    """An update and its interpreter."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        inputs = [n for n in graph.nodes if n.op == "input"]
        self._vectors = tuple(n.attr("name") for n in inputs if n.shape == (BATCH,))
        self._numbers = tuple(n.attr("name") for n in inputs if n.shape != (BATCH,))

    def trainer(self, function: Function, noise: Noise, memory: Memory) -> ComposedTrainer:
        """See `Update.trainer`."""
        return ComposedTrainer(function, self, noise, memory)

    def run(self, arrays: Mapping[str, Array], scalars: Mapping[str, float]) -> None:
        """See `Update.run`."""
        numbers = {name: np.full(1, scalars[name], self._graph.dtype) for name in self._numbers}
        for start in range(0, arrays["p"].size, CHUNK):
            part = {name: arrays[name][start : start + CHUNK] for name in self._vectors}
            for name, result in run_graph(self._graph, part | numbers).items():
                arrays[name][start : start + CHUNK] = result
