"""Masks of dropout and zoneout by generated code. `rnnc.backends.training.noise` defines the numbers."""

from __future__ import annotations

import ctypes
from functools import cache

from rnnc.backends.llvm.asm.target import Target, host
from rnnc.backends.llvm.kernels.noise import NOISE, filled
from rnnc.backends.llvm.runtime import Runtime
from rnnc.backends.training.noise import Where
from rnnc.ir.ops import Array


@cache
def compile_noise(dtype: str, target: Target | None = None) -> LlvmNoise:
    """Compiles the masks of a dtype."""
    return LlvmNoise(dtype, target or host())


class LlvmNoise:
    """See `rnnc.backends.training.noise.Noise`."""

    def __init__(self, dtype: str, target: Target) -> None:
        self.address = Runtime(dtype, target).address("rnnc_noise")
        self._function = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p)(self.address)

    def fill(self, out: Array, where: Where, p: float, low: float, high: float) -> None:
        """See `Noise.fill`."""
        given = NOISE.new(out=out, **filled(out.shape, where, p, low, high))
        self._function(given.address)
