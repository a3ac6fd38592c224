"""cupy.cuda of tests/fake_cupy.py: attributes of a device, kernels, cuBLAS, streams and events.

What real hardware refuses is refused: launches that are too large, shared memory that was not asked for, matrices that
reach beyond their memory, cuBLAS by CuPy while a stream is captured.
"""

from __future__ import annotations

import ctypes
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnc.backends.cuda.emulator import EmulatedModule
from tests.fake_device import FakeArray

if TYPE_CHECKING:
    from tests.fake_cupy import FakeGpu

DEFAULT_SHARED = 48 * 1024
GRID = (2**31 - 1, 65535, 65535)
CUDA = 13000
"""The version CuPy was built for."""


@dataclass(frozen=True)
class Launch:
    """One launch of a raw kernel."""

    name: str
    grid: tuple[int, int, int]
    threads: int
    shared: int
    cooperative: bool
    waits: bool
    """Whether the kernel has a barrier over blocks."""


class DriverError(RuntimeError):
    """CUDADriverError."""


class FakeRuntime:
    def __init__(self, gpu: FakeGpu) -> None:
        self._gpu = gpu

    def getDevice(self) -> int:  # noqa: N802
        return self._gpu.current

    def getDeviceCount(self) -> int:  # noqa: N802
        return self._gpu.count

    def runtimeGetVersion(self) -> int:  # noqa: N802
        return CUDA

    def driverGetVersion(self) -> int:  # noqa: N802
        return CUDA

    def deviceSynchronize(self) -> None:  # noqa: N802
        self._gpu.waits.append("deviceSynchronize")

    def getDeviceProperties(self, number: int) -> dict[str, Any]:  # noqa: N802
        return {"name": self._gpu.chip.name.encode()}

    def deviceGetAttribute(self, attribute: int, number: int) -> int:  # noqa: N802
        chip = self._gpu.chip
        known = {16: chip.sms, 75: 8, 76: 0, 97: chip.shared_per_block}
        return int(known[attribute])


class FakeDriver:
    def __init__(self, gpu: FakeGpu) -> None:
        self._gpu = gpu

    def occupancyMaxActiveBlocksPerMultiprocessor(self, pointer: int, threads: int, shared: int) -> int:  # noqa: N802
        """As if every kernel took all registers with which one block still fits."""
        function = Function.known[pointer]
        assert function.device == self._gpu.current
        if shared > function.raw.limits.get(self._gpu.current, DEFAULT_SHARED):
            return 0
        chip = self._gpu.chip
        counts = (chip.registers_per_thread, 128, 64, 32)
        return next(filter(None, (chip.resident_blocks(threads, count, shared) for count in counts)), 0)


# ------------------------------------------------------------------------------------------ kernels


class RawModule:
    """cupy.RawModule: compiled when the first function is asked for."""

    def __init__(self, gpu: FakeGpu, *, code: str, options: tuple[str, ...] = ()) -> None:
        assert isinstance(options, tuple)
        self.gpu, self.code = gpu, code

    @cached_property
    def emulated(self) -> EmulatedModule:
        return EmulatedModule(self.code, shared_limit=self.gpu.chip.shared_per_block)

    def get_function(self, name: str) -> RawKernel:
        assert name in self.emulated.kernels
        return RawKernel(self, name)


class RawKernel:
    """cupy.RawKernel: a function, and its attributes, for each device."""

    def __init__(self, module: RawModule, name: str) -> None:
        self.module, self.name = module, name
        self.limits: dict[int, int] = {}
        self._functions: dict[int, Function] = {}

    @property
    def kernel(self) -> Function:
        gpu = self.module.gpu
        return self._functions.setdefault(gpu.current, Function(self, gpu.current))

    @property
    def max_dynamic_shared_size_bytes(self) -> int:
        return self.limits.get(self.module.gpu.current, DEFAULT_SHARED)

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, size: int) -> None:
        if size > self.module.gpu.chip.shared_per_block:
            raise DriverError("CUDA_ERROR_INVALID_VALUE")
        self.limits[self.module.gpu.current] = size


class Function:
    """cupy.cuda.Function, on one device."""

    known: dict[int, Function] = {}

    def __init__(self, raw: RawKernel, device: int) -> None:
        self.raw, self.device, self.ptr = raw, device, id(self)
        self.known[self.ptr] = self

    def __call__(
        self,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        args: Sequence[object],
        shared_mem: int = 0,
        stream: Any = None,
        enable_cooperative_groups: bool = False,
    ) -> None:
        gpu, code = self.raw.module.gpu, self.raw.module.code
        assert type(grid) is tuple and type(block) is tuple and type(args) is tuple
        assert self.device == gpu.current, "a function of another device"
        self._check(grid, block, shared_mem, enable_cooperative_groups)
        text = code[code.index(f" {self.raw.name}(") :].split('extern "C"')[0]
        launch = Launch(
            *(self.raw.name, (grid + (1, 1))[:3], math.prod(block), shared_mem),  # type: ignore[arg-type]
            *(enable_cooperative_groups, "rnnc_barrier(" in text),
        )
        gpu.launches.append(launch)
        gpu.stream.work()
        self.raw.module.emulated.launch(
            self.raw.name,
            grid,
            block,
            shared=shared_mem,
            arguments=[_passed(argument, gpu.current) for argument in args],
            cooperative=enable_cooperative_groups,
        )

    def _check(self, grid: tuple[int, ...], block: tuple[int, ...], shared: int, cooperative: bool) -> None:
        gpu = self.raw.module.gpu
        if any(not 0 < n <= most for n, most in zip(grid, GRID, strict=False)) or math.prod(block) > 1024:
            raise DriverError(f"CUDA_ERROR_INVALID_VALUE: grid {grid}, block {block}")
        if shared > self.raw.max_dynamic_shared_size_bytes:
            raise DriverError("CUDA_ERROR_INVALID_VALUE: shared memory")
        each = gpu.cupy.cuda.driver.occupancyMaxActiveBlocksPerMultiprocessor(self.ptr, math.prod(block), shared)
        if not each:
            raise DriverError("CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES")
        if cooperative and math.prod(grid) > each * gpu.chip.sms:
            raise DriverError("CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE")


def _passed(argument: object, device: int) -> object:
    """What the emulator is given. Only what CuPy passes as it is meant: no number without a size."""
    if isinstance(argument, FakeArray):
        assert argument.device.id == device, "memory of another device"
        return argument._host
    assert argument is None or isinstance(argument, np.generic), type(argument)
    return argument


# ------------------------------------------------------------------------------------------ cuBLAS

OPERANDS = {0: np.float32, 1: np.float64, 2: np.float16, 14: np.uint16}
"""cudaDataType_t."""
ALLOWED = {(0, 0, 68), (0, 0, 77), (1, 1, 70), (2, 0, 68), (14, 0, 68)}
"""Types of operands, of the result, and of the computation, of cublasGemmEx."""


class FakeCublas:
    """cupy.cuda.cublas, and the library behind it."""

    handle = 4711

    def __init__(self, gpu: FakeGpu) -> None:
        self._gpu = gpu
        self._stream: int | None = None

    def gemmEx(self, handle: int, *arguments: int) -> None:  # noqa: N802
        """CuPy's: on the current stream, but not while it is captured."""
        if self._gpu.stream.capturing:
            raise NotImplementedError("calling cuBLAS API during stream capture is currently unsupported")
        self._stream = self._gpu.stream.ptr
        assert not self.cublasGemmEx(handle, *arguments)

    def cublasSetStream_v2(self, handle: int, stream: int) -> int:  # noqa: N802
        assert handle == self.handle
        self._stream = stream
        return 0

    def cublasGemmEx(self, *arguments: Any) -> int:  # noqa: N802
        """cublasStatus_t."""
        assert all(type(argument) is int for argument in arguments), arguments
        handle, transa, transb, m, n, k, alpha, a, a_type, lda, b, b_type, ldb, beta, c, c_type, ldc, compute, _ = (
            arguments
        )
        assert handle == self.handle and self._stream == self._gpu.stream.ptr
        assert a_type == b_type and (a_type, c_type, compute) in ALLOWED
        self._gpu.gemms.append(arguments)
        self._gpu.stream.work()
        scale = OPERANDS[c_type]
        left = _numbers(self._matrix(a, a_type, m, k, lda, transa), compute)
        right = _numbers(self._matrix(b, b_type, k, n, ldb, transb), compute)
        result = self._matrix(c, c_type, m, n, ldc, 0)
        product = _at(alpha, scale) * (left.astype(np.float64) @ right.astype(np.float64))
        factor = _at(beta, scale)
        result[...] = product + factor * result if factor else product
        return 0

    def _matrix(self, address: int, kind: int, rows: int, columns: int, lead: int, transposed: int) -> Any:
        """op(A) as (rows, columns), in place."""
        stored = (columns, rows) if transposed else (rows, columns)
        item = np.dtype(OPERANDS[kind]).itemsize
        assert min(rows, columns) > 0 and lead >= max(1, stored[0]), "cublas: a leading dimension is too small"
        count = (stored[1] - 1) * lead + stored[0]
        assert address % item == 0 and self._gpu.owns(address, count * item), "cublas: beyond an array's memory"
        flat = np.frombuffer((ctypes.c_char * (count * item)).from_address(address), OPERANDS[kind])
        matrix = np.lib.stride_tricks.as_strided(flat, stored, (item, lead * item))
        return matrix.T if transposed else matrix


def _at(address: int, dtype: Any) -> Any:
    """A factor in the host's memory."""
    size = np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_char * size).from_address(address), dtype)[0]


def _numbers(matrix: Any, compute: int) -> Any:
    """What tensor cores multiply: bits of bfloat16 as numbers, float32 rounded to TF32."""
    if matrix.dtype == np.uint16:
        return (matrix.astype(np.uint32) << 16).view(np.float32)
    if compute != 77:
        return matrix
    words = np.ascontiguousarray(matrix).view(np.uint32)
    return ((words + np.uint32(1 << 12)) & np.uint32(0xFFFFE000)).view(np.float32)


# ------------------------------------------------------------------------------------------ streams


class FakeStream:
    """A stream. clock: of each stream's work, how much is surely done when this one goes on."""

    def __init__(self, gpu: FakeGpu, pointer: int | None = None) -> None:
        self._gpu = gpu
        gpu.streams.append(self)
        self.ptr = 100 + len(gpu.streams) if pointer is None else pointer
        self.clock: dict[FakeStream, int] = {self: 0}
        self.capturing = False
        self._before: list[FakeStream] = []

    def __enter__(self) -> FakeStream:
        self._before.append(self._gpu.stream)
        self._gpu.stream = self
        return self

    def __exit__(self, *_: object) -> None:
        self._gpu.stream = self._before.pop()

    def work(self) -> None:
        """Something is queued."""
        self.clock[self] += 1

    def record(self, event: FakeEvent | None = None) -> FakeEvent:
        event = event or FakeEvent(self._gpu)
        event.clock, event.at = dict(self.clock), time.perf_counter()
        return event

    def wait_event(self, event: FakeEvent) -> None:
        assert event.clock is not None, "the event was not recorded"
        for stream, done in event.clock.items():
            self.clock[stream] = max(done, self.clock.get(stream, 0))

    def knows(self, other: FakeStream) -> bool:
        """Whether all that another stream was given comes before what this one is given next."""
        return self.clock.get(other, 0) >= other.clock[other]

    def synchronize(self) -> None:
        self._gpu.waits.append("Stream.synchronize")

    def begin_capture(self) -> None:
        assert self.ptr, "cannot capture on the default (legacy) stream"
        self.capturing = True

    def end_capture(self) -> FakeGraph:
        self.capturing = False
        return FakeGraph(self._gpu)


class FakeGraph:
    """What was captured: it has been done already."""

    def __init__(self, gpu: FakeGpu) -> None:
        self._gpu = gpu

    def launch(self, stream: FakeStream | None = None) -> None:
        (stream or self._gpu.stream).work()


class FakeEvent:
    """An event."""

    def __init__(self, gpu: FakeGpu) -> None:
        self._gpu = gpu
        self.clock: dict[FakeStream, int] | None = None
        self.at = 0.0

    def record(self, stream: FakeStream | None = None) -> None:
        (stream or self._gpu.stream).record(self)

    def synchronize(self) -> None:
        self._gpu.waits.append("Event.synchronize")
