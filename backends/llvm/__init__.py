"""The llvm backend: a Program becomes native code for this machine's CPU.

Reading order: target (instruction sets), planner and plan (a step scheduled into phases), tile (register tiles), phase (code of
one phase), driver (code that runs a plan), packing (weights, once, when bound), jit, runner (calls).
"""

from __future__ import annotations

from rnnc.backends.llvm.executable import LlvmExecutable, compile

__all__ = ["LlvmExecutable", "compile"]
