"""What code needs of a device: arrays, kernels, and a library's matrix products. On a GPU all of it is CuPy's."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from rnnc.backends.cuda.chip import Chip
from rnnc.backends.cuda.kernel import Kernel

DEFAULT_SHARED = 48 * 1024
"""Bytes of shared memory that a kernel gets without asking for more."""

Array = Any
"""A CuPy array, or a NumPy one where kernels are emulated."""


class Unit(Protocol):
    """A loaded translation unit."""

    def launch(
        self, kernel: Kernel, grid: tuple[int, int, int], arguments: Sequence[object], cooperative: bool = False
    ) -> None:
        """Launches on the caller's current stream. arguments: arrays, None (a null pointer), NumPy scalars."""


class Device(Protocol):
    """A device. xp: the array library, NumPy's interface."""

    xp: Any
    chip: Chip

    def load(self, source: str, kernels: Sequence[Kernel]) -> Unit:
        """Compiles and loads a translation unit."""

    def narrow(self, array: Array, operands: str | None) -> Array:
        """An array as `gemm` takes it: rounded to "float16", "bfloat16" or "tf32", or itself (None)."""

    def gemm(self, out: Array, a: Array, b: Array, accumulate: bool, operands: str | None) -> None:
        """out = a @ b, or out += a @ b, of what `narrow` gave; sums are of out's dtype.

        Matrices have one contiguous axis each; out's is the last.
        """

    def sum_rows(self, out: Array, a: Array, accumulate: bool) -> None:
        """out (N,) = the sum over the rows of a (R, N), or += ."""


class CupyDevice:
    """The current GPU, by CuPy. Made when parameters are bound or something is called, never before."""

    def __init__(self) -> None:
        from rnnc.backends.cuda.driver import require_gpu

        require_gpu()
        import cupy

        from rnnc.backends.cuda.chip import of_device

        self.xp = cupy
        self.chip = of_device()

    def load(self, source: str, kernels: Sequence[Kernel]) -> Unit:
        return CupyUnit(self.xp, source, kernels)

    def narrow(self, array: Array, operands: str | None) -> Array:
        if operands in (None, "tf32"):
            return array
        return array.astype("float16") if operands == "float16" else self._to_bfloat16(array)

    @cached_property
    def _to_bfloat16(self) -> Any:
        """CuPy has no such numbers: their bits."""
        return self.xp.ElementwiseKernel("float32 x", "uint16 y", _TO_BFLOAT16, "rnnc_to_bfloat16")

    def gemm(self, out: Array, a: Array, b: Array, accumulate: bool, operands: str | None) -> None:
        """By cuBLAS, which counts columns first: out' = b' a'. Rows may be farther apart than they are wide."""
        from cupy.cuda import cublas, device

        kind, compute = _CUBLAS_TYPES[operands or out.dtype.name]
        one = np.array([1, int(accumulate)], out.dtype.name)
        (b_flag, b_lead), (a_flag, a_lead), (_, lead) = map(_leading, (b, a, out))
        sizes = (out.shape[1], out.shape[0], a.shape[1])
        left, right = (b.data.ptr, kind, b_lead), (a.data.ptr, kind, a_lead)
        target = (out.data.ptr, _CUBLAS_TYPES[out.dtype.name][0], lead)
        alpha, beta = one.ctypes.data, one.ctypes.data + one.itemsize
        handle = device.get_cublas_handle()
        cublas.gemmEx(handle, b_flag, a_flag, *sizes, alpha, *left, *right, beta, *target, compute, _CUBLAS_DEFAULT)

    def sum_rows(self, out: Array, a: Array, accumulate: bool) -> None:
        if accumulate:
            out += a.sum(axis=0)
        else:
            a.sum(axis=0, out=out)


_CUBLAS_TYPES = {
    "float32": (0, 68),
    "float64": (1, 70),
    "float16": (2, 68),
    "bfloat16": (14, 68),
    "tf32": (0, 77),
}
"""Operands -> cudaDataType_t, and the cublasComputeType_t of their products."""
_TO_BFLOAT16 = "unsigned u = __float_as_uint(x); y = x != x ? 0x7fc0 : (u + 0x7fff + (u >> 16 & 1)) >> 16"
_CUBLAS_DEFAULT = -1
"""cublasGemmAlgo_t: cuBLAS chooses."""


def _leading(matrix: Array) -> tuple[int, int]:
    """0 and the elements between rows, or 1 (transposed) and those between columns."""
    item = matrix.itemsize
    if matrix.strides[1] == item or matrix.shape[1] == 1:
        return 0, max(matrix.strides[0] // item, matrix.shape[1])
    assert matrix.strides[0] == item or matrix.shape[0] == 1
    return 1, max(matrix.strides[1] // item, matrix.shape[0])


class CupyUnit:
    """The kernels of one source, as raw kernels; compiled when the first is launched, and kept on disk by CuPy."""

    def __init__(self, cupy: Any, source: str, kernels: Sequence[Kernel]) -> None:
        self._module = cupy.RawModule(code=source, options=("-std=c++17",))
        self._functions: dict[str, Any] = {}

    def launch(
        self, kernel: Kernel, grid: tuple[int, int, int], arguments: Sequence[object], cooperative: bool = False
    ) -> None:
        given = tuple(0 if argument is None else argument for argument in arguments)
        block = (kernel.threads, 1, 1)
        # The flag is one of a launch: a module that has it would launch all its kernels so.
        self._function(kernel).kernel(
            grid, block, given, shared_mem=kernel.shared, enable_cooperative_groups=cooperative
        )

    def _function(self, kernel: Kernel) -> Any:
        if kernel.name not in self._functions:
            function = self._module.get_function(kernel.name)
            if kernel.shared > DEFAULT_SHARED:
                function.max_dynamic_shared_size_bytes = kernel.shared
            self._functions[kernel.name] = function
        return self._functions[kernel.name]
