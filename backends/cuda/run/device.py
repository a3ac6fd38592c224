"""Devices: the arrays, kernels and matrix products that code needs. On a GPU, CuPy provides them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from typing import Any, Protocol

from rnnc.backends.cuda.emit.kernel import Kernel
from rnnc.backends.cuda.run.gemm import gemm
from rnnc.backends.cuda.schedule.chip import Chip
from rnnc.ir.errors import ArgumentError, BackendError

DEFAULT_SHARED = 48 * 1024
"""The bytes of dynamic shared memory that a kernel may have without setting an attribute."""

Array = Any
"""A CuPy array, or a NumPy array if kernels are emulated."""


class LoadedUnit(Protocol):
    """A loaded translation unit."""

    def launch(
        self, kernel: Kernel, grid: tuple[int, int, int], arguments: Sequence[object], cooperative: bool = False
    ) -> None:
        """Launches on the caller's current stream. arguments: arrays, None (a null pointer), NumPy scalars."""


class Streams(Protocol):
    """Streams that run side by side after the caller's stream, which then waits for all of them."""

    def use(self, number: int, after: int | None) -> AbstractContextManager[None]:
        """A context whose work is queued on a stream. It waits for the work queued so far on the stream `after`."""


class Device(Protocol):
    """A device. xp: the module of its arrays, with NumPy's interface. on_host: True if they are NumPy's."""

    xp: Any
    chip: Chip
    on_host: bool

    def load(self, source: str, kernels: Sequence[Kernel]) -> LoadedUnit:
        """The translation unit, compiled and loaded."""

    def to_device(self, array: Any) -> Array:
        """A NumPy array, copied to the device if needed."""

    def to_host(self, array: Array) -> Any:
        """An array of the device as a NumPy array. The host waits for its value."""

    def settle(self) -> None:
        """Waits for all queued work, so that values computed from bound parameters may be read on any stream."""

    def streams(self, count: int) -> AbstractContextManager[Streams]:
        """A context with so many streams."""

    def narrow(self, array: Array, operands: str | None) -> Array:
        """An array as an operand of `gemm`: rounded to "float16", "bfloat16" or "tf32", or unchanged (None)."""

    def gemm(self, out: Array, a: Array, b: Array, accumulate: bool, operands: str | None) -> None:
        """out = a @ b, or out += a @ b. a and b are results of `narrow`; sums have the dtype of out.

        Each matrix has one contiguous axis. For out, it is the last axis.
        """

    def sum_rows(self, out: Array, a: Array, accumulate: bool) -> None:
        """out (N,) = the sum over the rows of a (R, N), or += with `accumulate`."""


def blocks_for(chip: Chip, count: int, threads: int) -> int:
    """The number of blocks of a kernel that strides over `count` elements: enough to fill the chip, and no more."""
    return max(1, min(-(-count // threads), 32 * chip.sms))


class CupyDevice:
    """The current GPU, by CuPy. It is made when parameters are first bound, or at the first call.

    All work is queued on CuPy's current stream. Only `to_host` and binding parameters wait for it. With several GPUs,
    kernels run on the current one, where parameters and arguments must be.

    A call can be captured into a CUDA graph (`cupy.cuda.Stream.begin_capture`) under these conditions:

    - The same call was made before on that stream. That call compiles kernels, computes values of parameters, and makes
      cuBLAS's handle. A capture refuses such work, or would put it into the graph.
    - Nothing comes from the host. Lengths must be on the GPU, too.
    - The call's memory is reserved. A replay writes to the buffers of the captured call, which CuPy's pool would have
      given to other arrays by then. So make both calls within `cupy.cuda.using_allocator(pool.malloc)`, with a
      `cupy.cuda.MemoryPool` that nothing else uses. The pool, the arguments and the results must live as long as the
      graph.
    """

    on_host = False

    def __init__(self) -> None:
        from rnnc.backends.cuda.run.availability import require_gpu

        require_gpu()
        import cupy

        from rnnc.backends.cuda.schedule.chip import of_device

        self.xp = cupy
        self.chip = of_device()
        self._streams: dict[int, list[Any]] = {}

    def load(self, source: str, kernels: Sequence[Kernel]) -> LoadedUnit:
        return CupyUnit(self.xp, source)

    def to_device(self, array: Any) -> Array:
        return self.xp.asarray(array)

    def to_host(self, array: Array) -> Any:
        return self.xp.asnumpy(array)

    def settle(self) -> None:
        self.xp.cuda.get_current_stream().synchronize()

    @contextmanager
    def streams(self, count: int) -> Iterator[Streams]:
        streams = self._streams.setdefault(self.xp.cuda.runtime.getDevice(), [])
        while len(streams) < count:
            streams.append(self.xp.cuda.Stream(non_blocking=True))
        caller = self.xp.cuda.get_current_stream()
        forked = CupyStreams(self.xp, streams[:count])
        forked.fork(caller)
        try:
            yield forked
        finally:  # after an error, too: memory returns to the caller's stream, which must not reuse it too early
            forked.join(caller)

    def narrow(self, array: Array, operands: str | None) -> Array:
        if operands in (None, "tf32"):
            return array
        return array.astype("float16") if operands == "float16" else self._to_bfloat16(array)

    @cached_property
    def _to_bfloat16(self) -> Any:
        """The kernel that rounds to bfloat16, returned as uint16 bits, because CuPy has no such dtype."""
        return self.xp.ElementwiseKernel("float32 x", "uint16 y", _TO_BFLOAT16, "rnnc_to_bfloat16")

    def gemm(self, out: Array, a: Array, b: Array, accumulate: bool, operands: str | None) -> None:
        gemm(self.xp, out, a, b, accumulate, operands)

    def sum_rows(self, out: Array, a: Array, accumulate: bool) -> None:
        if accumulate:
            out += a.sum(axis=0)
        else:
            a.sum(axis=0, out=out)


_TO_BFLOAT16 = "unsigned u = __float_as_uint(x); y = x != x ? 0x7fc0 : (u + 0x7fff + (u >> 16 & 1)) >> 16"


class CupyStreams:
    """See `Streams`. Events order the work of the streams."""

    def __init__(self, cupy: Any, streams: Sequence[Any]) -> None:
        self._cupy, self._streams = cupy, streams

    @contextmanager
    def use(self, number: int, after: int | None) -> Iterator[None]:
        """See `Streams.use`."""
        stream = self._streams[number]
        if after is not None:
            stream.wait_event(self._streams[after].record(self._event()))
        with stream:
            yield

    def fork(self, caller: Any) -> None:
        """Makes all streams wait for the caller's stream."""
        event = caller.record(self._event())
        for stream in self._streams:
            stream.wait_event(event)

    def join(self, caller: Any) -> None:
        """Makes the caller's stream wait for all streams."""
        for stream in self._streams:
            caller.wait_event(stream.record(self._event()))

    def _event(self) -> Any:
        return self._cupy.cuda.Event(block=False, disable_timing=True)


class CupyUnit:
    """The kernels of one source. CuPy compiles them for a GPU at the first launch there, and caches them on disk."""

    def __init__(self, cupy: Any, source: str) -> None:
        self._cupy = cupy
        self._runtime = cupy.cuda.runtime
        self._module = cupy.RawModule(code=source, options=("-std=c++17",))
        self._functions: dict[tuple[int, str], tuple[Any, int]] = {}

    def launch(
        self, kernel: Kernel, grid: tuple[int, int, int], arguments: Sequence[object], cooperative: bool = False
    ) -> None:
        gpu = self._runtime.getDevice()
        function, resident = self._functions.get((gpu, kernel.name)) or self._load(kernel, gpu)
        self._check_place(arguments, gpu)
        if cooperative and grid[0] * grid[1] * grid[2] > resident:
            # CuPy would only warn and launch fewer blocks, which would wait for the missing ones for ever.
            raise BackendError(
                f"backend 'cuda': {kernel.name}: {grid} blocks must be resident at once, GPU {gpu} holds {resident}; "
                "the code is for a larger chip"
            )
        # The flag is set per launch. If it were set on the module, all of its kernels would be launched so.
        function(
            grid,
            (kernel.threads, 1, 1),
            tuple(arguments),
            shared_mem=kernel.shared,
            enable_cooperative_groups=cooperative,
        )

    def _load(self, kernel: Kernel, gpu: int) -> tuple[Any, int]:
        """The function on the current GPU, with attributes of its own there, and its number of resident blocks."""
        most = int(self._runtime.deviceGetAttribute(_SHARED_PER_BLOCK, gpu))
        if kernel.shared > most:
            raise BackendError(
                f"backend 'cuda': {kernel.name}: {kernel.shared:,} bytes of shared memory, a block on GPU {gpu} has "
                f"{most:,}; the code is for a larger chip"
            )
        raw = self._module.get_function(kernel.name)
        if kernel.shared > DEFAULT_SHARED:
            raw.max_dynamic_shared_size_bytes = kernel.shared
        function = raw.kernel
        each = self._cupy.cuda.driver.occupancyMaxActiveBlocksPerMultiprocessor(
            function.ptr, kernel.threads, kernel.shared
        )
        found = function, int(each) * int(self._runtime.deviceGetAttribute(_MULTIPROCESSORS, gpu))
        self._functions[gpu, kernel.name] = found
        return found

    def _check_place(self, arguments: Sequence[object], gpu: int) -> None:
        """Raises ArgumentError for an array on another GPU, as an access to it would end this process's use of GPUs."""
        for argument in arguments:
            if isinstance(argument, self._cupy.ndarray) and argument.data.device_id != gpu:
                other = argument.data.device_id
                raise ArgumentError(
                    f"the model's parameters are on GPU {other}, the current one is {gpu}; "
                    f"call within `with cupy.cuda.Device({other})`, or bind them there"
                )


# enum cudaDeviceAttr
_MULTIPROCESSORS = 16
_SHARED_PER_BLOCK = 97
