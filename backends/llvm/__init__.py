"""The llvm backend: a Program becomes native code for this machine's CPU.

Reading order: target (instruction sets), plan and planner (a step scheduled into phases), tile (register tiles), phase
(code of one phase), driver (code that runs a plan), packing (weights, once, when bound), jit, entry and runner (calls).
"""

from __future__ import annotations

from rnnc.backends.llvm.executable import LlvmExecutable, compile

__all__ = ["LlvmExecutable", "compile"]
