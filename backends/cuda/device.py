"""What code needs of a device: arrays, kernels, and a library's matrix products. On a GPU all of it is CuPy's."""

from __future__ import annotations

from collections.abc import Sequence
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

    def gemm(self, out: Array, a: Array, b: Array, accumulate: bool) -> None:
        """out = a @ b, or out += a @ b. Matrices with one contiguous axis each; out is C-contiguous along its last."""

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

    def gemm(self, out: Array, a: Array, b: Array, accumulate: bool) -> None:
        """By cuBLAS, which counts columns first: out' = b' a'. Rows may be farther apart than they are wide."""
        from cupy.cuda import cublas, device

        kind, compute = _CUBLAS_TYPES[a.dtype.name]
        one = np.array([1, int(accumulate)], "float64" if a.dtype.itemsize == 8 else "float32")
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


_CUBLAS_TYPES = {"float32": (0, 68), "float64": (1, 70), "float16": (2, 68)}
"""dtype -> cudaDataType_t, and the cublasComputeType_t of products of such numbers."""
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
