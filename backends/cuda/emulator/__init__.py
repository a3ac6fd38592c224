"""Runs a translation unit of CUDA C on the CPU, so that a kernel's numbers are checked without a GPU.

`module` launches kernels, `source` makes C++ of CUDA C, `toolchain` compiles. `cuda_on_cpu.h` gives the built-ins;
`runtime.cpp` schedules the threads, on the stacks of `strand.h`; `context.h` is what the two share. Needs a C++
compiler (GCC or Clang) on Linux or another Unix.
"""

from __future__ import annotations

from rnnc.backends.cuda.emulator.errors import EmulatorError
from rnnc.backends.cuda.emulator.module import EmulatedModule
from rnnc.backends.cuda.emulator.toolchain import find_compiler

__all__ = ["EmulatorError", "EmulatedModule", "find_compiler"]
