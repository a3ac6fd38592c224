"""The llvm backend: a computation becomes machine code for this machine's CPU.

code.py      Code: plan -> module -> machine code, and its texts
asm/         LLVM: a builder of text, records, functions of numbers, targets, compilation
kernels/     generated functions: phases, row sums, row copies, packers, noise, updates, the function of a plan
packing/     the arena of packed weights: where each weight lies, and where it comes from
runtime.py   the kernels that do not depend on a network, compiled once
calls/       from Python's arrays to generated functions: bound code, quick calls, shards, threads, buffers
training/    a training step as one call of machine code on each thread
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rnnc.backends.llvm.code import LlvmCode, compile
from rnnc.backends.products import WEIGHTS

if TYPE_CHECKING:
    from rnnc.backends.llvm.training.masks import LlvmNoise
    from rnnc.backends.llvm.training.update import LlvmUpdate
    from rnnc.ir.graph import Graph

__all__ = ["WEIGHTS", "LlvmCode", "compile", "compile_noise", "compile_update"]


def compile_update(graph: Graph) -> LlvmUpdate:
    """Compiles the equations of an optimiser. The modules that only training needs are imported here."""
    from rnnc.backends.llvm.training import update

    return update.compile_update(graph)


def compile_noise(dtype: str) -> LlvmNoise:
    """Compiles the masks of dropout and zoneout."""
    from rnnc.backends.llvm.training import masks

    return masks.compile_noise(dtype)
