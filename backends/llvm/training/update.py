"""An optimiser's update by generated code."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from rnnc.backends.llvm.asm.records import address
from rnnc.backends.llvm.asm.target import Target, host
from rnnc.backends.llvm.kernels.updates import emit_update
from rnnc.backends.llvm.runtime import Linked, Runtime
from rnnc.backends.training.composed import ComposedTrainer
from rnnc.backends.training.protocol import Memory, Trainer
from rnnc.backends.training.sparse import HostRows
from rnnc.ir.graph import Graph
from rnnc.ir.ops import Array
from rnnc.ir.passes import optimize

if TYPE_CHECKING:
    from rnnc.backends.base import Code
    from rnnc.backends.training.noise import Noise


def compile_update(graph: Graph, target: Target | None = None) -> LlvmUpdate:
    """Compiles an update. Raises BackendError if it is not elementwise."""
    return LlvmUpdate(optimize(graph)[0], target or host())


class LlvmUpdate(HostRows):
    """See `rnnc.backends.training.protocol.Update`. vectors, numbers: the names of its arrays and scalars, in order."""

    def __init__(self, graph: Graph, target: Target) -> None:
        self._dtype = np.dtype(graph.dtype)
        module, self.vectors, self.numbers = emit_update(graph, target)
        self._linked = Linked(module, Runtime(graph.dtype, target))
        prototype = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p)
        self._function = prototype(self._linked.address("rnnc_update"))

    @property
    def apply_address(self) -> int:
        """The address of the function that each thread of a training step calls."""
        return self._linked.address("rnnc_apply")

    @property
    def apply_rows_address(self) -> int:
        """The address of the function that each thread calls for a table."""
        return self._linked.address("rnnc_apply_rows")

    def run(self, arrays: Mapping[str, Array], scalars: Mapping[str, float]) -> None:
        """See `Update.run`."""
        numbers = np.array([scalars[name] for name in self.numbers], self._dtype)
        pointers = (ctypes.c_void_p * len(self.vectors))(*(address(arrays[name]) for name in self.vectors))
        size = arrays[self.vectors[0]].size
        self._function(size, ctypes.addressof(pointers), address(numbers))

    def trainer(self, code: Code, noise: Noise, memory: Memory) -> Trainer:
        """See `Update.trainer`."""
        from rnnc.backends.llvm.code import LlvmCode
        from rnnc.backends.llvm.training.masks import LlvmNoise
        from rnnc.backends.llvm.training.trainer import LlvmTrainer

        assert isinstance(noise, LlvmNoise)
        if isinstance(code, LlvmCode) and code.only_sums:
            return LlvmTrainer(code, self, noise, memory)
        return ComposedTrainer(code, self, noise, memory)
