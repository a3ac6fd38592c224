"""The llvm backend: a Program becomes native code for this machine's CPU.

Reading order, after `rnnc.backends.planning` (a step scheduled into phases): target (instruction sets), tile (register
tiles), phase (code of one phase), outer (sums over rows), driver (code that runs a plan), packing and packers
(weights), library and jit (LLVM); then entry and runner (calls of a bound model), function (calls of a derivative),
parallel and crew (threads), and trainer and team (a training step).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rnnc.backends.llvm.executable import LlvmExecutable, compile

if TYPE_CHECKING:
    from rnnc.backends.llvm.function import LlvmFunction
    from rnnc.backends.llvm.noise import LlvmNoise
    from rnnc.backends.llvm.update import LlvmUpdate
    from rnnc.ir.computation import Computation
    from rnnc.ir.graph import Graph

__all__ = ["LlvmExecutable", "compile", "compile_function", "compile_noise", "compile_update"]


def compile_function(computation: Computation, *, threads: int | None = None) -> LlvmFunction:
    """Compiles a computation; what only derivatives need is imported with the first one."""
    from rnnc.backends.llvm import function

    return function.compile_function(computation, threads=threads)


def compile_update(graph: Graph) -> LlvmUpdate:
    """Compiles the equations of an optimiser."""
    from rnnc.backends.llvm import update

    return update.compile_update(graph)


def compile_noise(dtype: str) -> LlvmNoise:
    """Compiles the masks of dropout and zoneout."""
    from rnnc.backends.llvm import noise

    return noise.compile_noise(dtype)
