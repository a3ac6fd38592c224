"""Matrix products of CuPy's arrays, by cuBLAS.

cuBLAS is column-major, so the row-major out = a @ b is out' = b' a', where the leading dimension is the distance
between rows. cuBLAS reads the factors 0 and 1 from the host's memory during the call, without a synchronisation.
Products of float32 are rounded to TF32 only if `operands` says so.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from typing import Any

import numpy as np

from rnnc.ir.errors import BackendError

TYPES = {
    "float32": (0, 68),
    "float64": (1, 70),
    "float16": (2, 68),
    "bfloat16": (14, 68),
    "tf32": (0, 77),
}
"""Format of operands -> its cudaDataType_t, and the cublasComputeType_t of products."""
_DEFAULT_ALGORITHM = -1
"""The cublasGemmAlgo_t with which cuBLAS chooses the algorithm."""
_FACTORS = {name: np.array([0, 1], name) for name in ("float32", "float64")}
"""The factors 0 and 1 in the dtype of the sums."""

Array = Any


def gemm(cupy: Any, out: Array, a: Array, b: Array, accumulate: bool, operands: str | None) -> None:
    """out = a @ b, or out += a @ b, queued on CuPy's current stream; see `Device.gemm`."""
    kind, compute = TYPES[operands or out.dtype.name]
    (b_flag, b_lead), (a_flag, a_lead), (_, lead) = _leading(b), _leading(a), _leading(out)
    zero, size = _FACTORS[out.dtype.name].ctypes.data, out.itemsize
    arguments = (
        cupy.cuda.get_cublas_handle(),
        *(b_flag, a_flag, out.shape[1], out.shape[0], a.shape[1]),
        zero + size,
        *(b.data.ptr, kind, b_lead, a.data.ptr, kind, a_lead),
        zero + size * accumulate,
        *(out.data.ptr, TYPES[out.dtype.name][0], lead, compute, _DEFAULT_ALGORITHM),
    )
    try:
        cupy.cuda.cublas.gemmEx(*arguments)
    except NotImplementedError:  # CuPy refuses calls of cuBLAS while its stream is captured, but cuBLAS allows them
        _gemm_in_capture(cupy, arguments)


def _leading(matrix: Array) -> tuple[int, int]:
    """(0, the distance between rows in elements), or if transposed (1, the distance between columns)."""
    item = matrix.itemsize
    if matrix.strides[1] == item or matrix.shape[1] == 1:
        return 0, max(matrix.strides[0] // item, matrix.shape[1])
    assert matrix.strides[0] == item or matrix.shape[0] == 1
    return 1, max(matrix.strides[1] // item, matrix.shape[0])


# ---- while a stream is captured


def _gemm_in_capture(cupy: Any, arguments: tuple[int, ...]) -> None:
    """The same call with the same handle, without CuPy. The workspace becomes memory of the graph."""
    blas = library(int(cupy.cuda.runtime.runtimeGetVersion()) // 1000)
    _check(blas.cublasSetStream_v2(arguments[0], cupy.cuda.get_current_stream().ptr), "cublasSetStream")
    _check(blas.cublasGemmEx(*arguments), "cublasGemmEx")


@functools.cache
def library(major: int) -> Any:
    """The cuBLAS library that CuPy has loaded, found by the name that it has in a major version of CUDA.

    Raises BackendError if it cannot be loaded.
    """
    name = f"cublas64_{major}.dll" if sys.platform == "win32" else f"libcublas.so.{major}"
    try:
        found: Any = ctypes.CDLL(name)
    except OSError as error:
        raise BackendError(f"backend 'cuda': {name}, which a call within a stream's capture needs: {error}") from None
    pointer, number = ctypes.c_void_p, ctypes.c_int
    operand = (pointer, number, number)
    found.cublasSetStream_v2.argtypes = (pointer, pointer)
    found.cublasGemmEx.argtypes = (
        *(pointer, number, number, number, number, number),
        *(pointer, *operand, *operand),
        *(pointer, *operand, number, number),
    )
    return found


def _check(status: int, what: str) -> None:
    if status:
        raise BackendError(
            f"backend 'cuda': {what} failed with cublasStatus_t {status} while the stream was captured; "
            "make the same call once before the capture"
        )
