"""backend="cuda-emulated": the source that a GPU would run, run on the CPU.

It serves tests and the analysis of kernels without a GPU. It takes and returns NumPy arrays, is slow, and needs a C++
compiler. Shared memory and every new buffer start as NaN.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from rnnc.backends.cuda.compiled import CudaCode
from rnnc.backends.cuda.emit.kernel import Kernel
from rnnc.backends.cuda.emit.tensor_products import KINDS
from rnnc.backends.cuda.run.device import Array, LoadedUnit
from rnnc.backends.cuda.run.training import CudaNoise, CudaUpdate
from rnnc.backends.cuda.schedule.chip import EMULATED
from rnnc.ir.computation import Computation
from rnnc.ir.graph import Graph

__all__ = ["OPERANDS", "EmulatedDevice", "compile", "compile_noise", "compile_update"]


OPERANDS = tuple(KINDS)


def compile(computation: Computation, *, threads: int | None = None, operands: str | None = None) -> CudaCode:
    """The code of a computation. `threads` has no effect."""
    return CudaCode(computation, EMULATED, EmulatedDevice, operands)


def compile_update(graph: Graph) -> CudaUpdate:
    """The compiled equations of an optimiser."""
    return CudaUpdate(graph, EmulatedDevice)


def compile_noise(dtype: str) -> CudaNoise:
    """The compiled source of masks for dropout and zoneout."""
    return CudaNoise(dtype, EmulatedDevice)


class PoisonedNumpy:
    """NumPy with new arrays full of NaN, which reveals reads of elements that nobody wrote."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def empty(self, shape: Any, dtype: Any) -> Array:
        poison = np.nan if np.dtype(dtype).kind == "f" else np.iinfo(dtype).max
        return np.full(shape, poison, dtype)


class EmulatedDevice:
    """See `rnnc.backends.cuda.run.device.Device`: this process runs the threads.

    order: the order of threads and blocks, see `EmulatedModule.launch`.
    """

    chip = EMULATED
    on_host = True

    def __init__(self, order: int = 0) -> None:
        self.xp: Any = PoisonedNumpy()
        self.order = order

    def load(self, source: str, kernels: Sequence[Kernel]) -> LoadedUnit:
        return EmulatedUnit(source, self.order)

    def to_device(self, array: Array) -> Array:
        return array

    def to_host(self, array: Array) -> Array:
        return np.array(array)

    def settle(self) -> None:
        """Nothing is queued."""

    @contextmanager
    def streams(self, count: int) -> Iterator[EmulatedStreams]:
        yield EmulatedStreams()

    def narrow(self, array: Array, operands: str | None) -> Array:
        if operands is None:
            return array
        if operands == "float16":
            with np.errstate(over="ignore"):
                return array.astype(np.float16).astype(np.float32)
        return _rounded(array, 16 if operands == "bfloat16" else 13)

    def gemm(self, out: Array, a: Array, b: Array, accumulate: bool, operands: str | None) -> None:
        if accumulate:
            out += a @ b
        else:
            out[...] = a @ b

    def sum_rows(self, out: Array, a: Array, accumulate: bool) -> None:
        if accumulate:
            out += a.sum(axis=0)
        else:
            out[...] = a.sum(axis=0)


class EmulatedStreams:
    """See `rnnc.backends.cuda.run.device.Streams`. Work is done at once, in the order in which it is queued."""

    @contextmanager
    def use(self, number: int, after: int | None) -> Iterator[None]:
        """See `rnnc.backends.cuda.run.device.Streams.use`."""
        yield


def _rounded(array: Array, bits: int) -> Array:
    """float32 numbers rounded to nearest, without their last `bits` bits. Ties go to even, for tf32 away from zero."""
    words = np.ascontiguousarray(array, np.float32).view(np.uint32).astype(np.uint64)
    half = (1 << (bits - 1)) - (bits == 16)
    words += half + (words >> bits & 1 if bits == 16 else 0)
    words &= (1 << 32) - (1 << bits)
    return np.where(np.isfinite(array), words.astype(np.uint32).view(np.float32), array)


class EmulatedUnit:
    """See `rnnc.backends.cuda.run.device.LoadedUnit`: a shared library of the host."""

    def __init__(self, source: str, order: int) -> None:
        from rnnc.backends.cuda.emulator import EmulatedModule

        self._module = EmulatedModule(source)
        self._order = order

    def launch(
        self, kernel: Kernel, grid: tuple[int, int, int], arguments: Sequence[object], cooperative: bool = False
    ) -> None:
        self._module.launch(
            kernel.name,
            grid=grid,
            block=kernel.threads,
            shared=kernel.shared,
            arguments=list(arguments),
            cooperative=cooperative,
            order=self._order,
        )
