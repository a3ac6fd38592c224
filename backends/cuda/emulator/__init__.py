"""The emulator: it runs a translation unit of CUDA C on the CPU, so that kernels can be tested without a GPU.

`module` launches kernels, `source` translates CUDA C to C++, `toolchain` compiles it. `cuda_on_cpu.h` has the built-in
functions. `runtime.cpp` schedules the threads, on the stacks of `strand.h`. `context.h` is the interface of the two.
The emulator needs a C++ compiler (GCC or Clang) on Linux or another Unix.
"""

from __future__ import annotations

from rnnc.backends.cuda.emulator.errors import EmulatorError
from rnnc.backends.cuda.emulator.module import EmulatedModule
from rnnc.backends.cuda.emulator.toolchain import find_compiler

__all__ = ["EmulatorError", "EmulatedModule", "find_compiler"]
