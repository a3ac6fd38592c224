"""CuPy on a GPU that is none: enough of it for the whole host path of the cuda backend to run.

Arrays are those of tests/fake_device.py, as strict, in memory of their own between guards, which starts as NaN. Kernels
run on the emulator of CUDA C; cuBLAS and streams are in tests/fake_cupy_cuda.py. `FakeGpu.install` puts all in place.
Everything is done when it is asked for; `FakeGpu` counts what a real GPU would be waited for.
"""

from __future__ import annotations

import bisect
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rnnc.backends import cuda
from rnnc.backends.arrays import CuPyArrays
from rnnc.backends.cuda.emulator import EmulatedModule
from rnnc.backends.cuda.run import availability as driver
from rnnc.backends.cuda.run import gemm
from rnnc.backends.cuda.schedule import chip as chips
from rnnc.backends.cuda.schedule.chip import EMULATED, Chip
from tests.fake_cupy_cuda import FakeCublas, FakeDriver, FakeEvent, FakeRuntime, FakeStream, Launch, RawModule
from tests.fake_device import FakeArray

MARGIN, ALIGNMENT = 256, 256
LIFTED = ("zeros_like", "empty_like", "where", "concatenate", "stack", "square", "maximum", "minimum")


@dataclass
class FakeGpu:
    """The state of all GPUs: which is current, what was launched, how often the host waited.

    uploads: copies from the host's memory. blocks: all memory that was given out, with its guards. places: the first
    address and the one past the last of each array, other libraries' too, in order.
    """

    chip: Chip = EMULATED
    count: int = 1
    current: int = 0
    launches: list[Launch] = field(default_factory=list)
    waits: list[str] = field(default_factory=list)
    uploads: int = 0
    gemms: list[tuple[int, ...]] = field(default_factory=list)
    blocks: list[tuple[Any, int, int]] = field(default_factory=list)
    places: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.streams: list[FakeStream] = []
        self.stream = FakeStream(self, pointer=0)

    # ---- memory

    def new(self, host: Any) -> FakeCupyArray:
        """A copy of an array on the current GPU."""
        copy = self.allocate(host.shape, host.dtype)
        copy._host[...] = host
        return copy

    def allocate(self, shape: Any, dtype: Any) -> FakeCupyArray:
        """An array of 0xff bytes (NaN in floats) between guards of them."""
        shape = (shape,) if isinstance(shape, (int, np.integer)) else tuple(shape)
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        memory = np.full(size + 2 * MARGIN + ALIGNMENT, 0xFF, np.uint8)
        start = MARGIN + -(memory.ctypes.data + MARGIN) % ALIGNMENT
        self.blocks.append((memory, start, start + size))
        self._place(memory.ctypes.data + start, size)
        host = memory[start : start + size].view(dtype).reshape(shape)
        return FakeCupyArray(host, self.current, self)

    def view(self, host: Any, device: int) -> FakeCupyArray:
        """An array in the memory of another one; a copy, where NumPy made one."""
        array = FakeCupyArray(host, device, self)
        return array if self.owns(array.data.ptr, 0) else self.new(host)

    def _place(self, address: int, size: int) -> None:
        bisect.insort(self.places, (address, address + size))

    def owns(self, address: int, size: int) -> bool:
        """Whether these bytes lie in one array's memory."""
        number = bisect.bisect_right(self.places, (address, sys.maxsize)) - 1
        return number >= 0 and address + size <= self.places[number][1]

    def check_guards(self) -> None:
        """Nothing was written beside an array."""
        for memory, start, stop in self.blocks:
            assert (memory[:start] == 0xFF).all() and (memory[stop:] == 0xFF).all(), "written beside an array"

    # ---- in place of CuPy

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """`import cupy` gives this one, a driver is there, and the chip is known."""
        modules = {"cupy": self.cupy, "cupy.cuda": self.cupy.cuda}
        for name, module in modules.items():
            monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setattr(driver, "gpu_status", lambda: driver.Status(True, "fake GPU"))
        monkeypatch.setattr(chips, "of_device", lambda device=None: self.chip)
        monkeypatch.setattr(cuda, "arrays", CuPyArrays(cuda._cupy))
        monkeypatch.setattr(gemm, "library", lambda major: self.cublas)

    @cached_property
    def cublas(self) -> FakeCublas:
        return FakeCublas(self)

    @cached_property
    def cupy(self) -> Any:
        """The module."""
        module: Any = ModuleType("cupy")
        module.__version__ = "14.0.fake"
        module.ndarray = FakeCupyArray
        module.empty = self.allocate
        module.zeros = lambda shape, dtype=float: self.full(shape, 0, dtype)
        module.full = self.full
        module.arange = lambda *bounds, dtype=None: self.new(np.arange(*bounds, dtype=dtype))
        module.array, module.asarray, module.asnumpy = self.array, self.asarray, self.asnumpy
        module.ascontiguousarray = self.ascontiguousarray
        module.broadcast_to = lambda array, shape: self.view(np.broadcast_to(array._host, shape), array.device.id)
        module.clip = lambda array, low, high: array.clip(low, high)
        module.from_dlpack = self.from_dlpack
        for name in LIFTED:
            setattr(module, name, self.lifted(getattr(np, name)))
        for name in (
            "add",
            "subtract",
            "multiply",
            "divide",
            "negative",
            "maximum",
            "minimum",
            "greater",
            "sqrt",
            "tanh",
        ):
            setattr(module, name, self.lifted(getattr(np, name)))
        module.cuda = ModuleType("cupy.cuda")
        module.cuda.runtime, module.cuda.driver = FakeRuntime(self), FakeDriver(self)
        module.cuda.cublas, module.cuda.get_cublas_handle = self.cublas, lambda: self.cublas.handle
        module.cuda.get_current_stream = lambda: self.stream
        module.cuda.ExternalStream = lambda pointer: FakeStream(self, pointer)
        module.cuda.Stream, module.cuda.Event = lambda non_blocking=False: FakeStream(self), self.event
        module.cuda.get_elapsed_time = lambda start, end: (end.at - start.at) * 1e3
        module.cuda.Device = lambda number=None: self.device(number)
        module.cuda.MemoryPool = lambda: SimpleNamespace(malloc=None)
        module.cuda.using_allocator = nullcontext
        module.get_default_memory_pool = lambda: SimpleNamespace(free_all_blocks=lambda: None)
        module.RawModule = lambda **options: RawModule(self, **options)
        module.ElementwiseKernel = self.elementwise
        return module

    def event(self, block: bool = False, disable_timing: bool = False) -> FakeEvent:
        return FakeEvent(self)

    def device(self, number: int | None) -> Any:
        """`with cupy.cuda.Device(number)`."""
        return _Current(self, self.current if number is None else number)

    def full(self, shape: Any, value: Any, dtype: Any) -> FakeCupyArray:
        array = self.allocate(shape, dtype)
        array._host[...] = value
        return array

    def array(self, value: Any, dtype: Any = None, copy: bool = True, order: str = "K") -> FakeCupyArray:
        if isinstance(value, FakeArray):
            found = np.array(value._host, dtype, copy=True, order=order)  # type: ignore[call-overload]
            return self.in_order(found)
        return self.upload(np.array(value, dtype))

    def asarray(self, value: Any, dtype: Any = None) -> Any:
        if isinstance(value, FakeArray):
            return value if dtype in (None, value.dtype) else self.array(value, dtype)
        return self.upload(np.asarray(value, dtype))

    def upload(self, host: Any) -> FakeCupyArray:
        if self.stream.capturing:
            raise RuntimeError("the current stream is capturing, so H2D transfers are disallowed")
        self.uploads += 1
        return self.new(host)

    def asnumpy(self, array: Any) -> Any:
        self.waits.append("asnumpy")
        return array._host.copy()

    def ascontiguousarray(self, array: Any, dtype: Any = None) -> Any:
        assert isinstance(array, FakeArray), type(array)
        if array.flags.c_contiguous and dtype in (None, array.dtype):
            return array
        return self.new(np.ascontiguousarray(array._host, dtype))

    def in_order(self, host: Any) -> FakeCupyArray:
        """A copy with the same order of axes in memory."""
        axes = np.argsort([-stride for stride in host.strides], kind="stable")
        copy = self.new(host.transpose(axes))
        return FakeCupyArray(copy._host.transpose(np.argsort(axes)), self.current, self)

    def from_dlpack(self, value: Any) -> FakeCupyArray:
        """An array in memory that another library gave out."""
        kind, device = value.__dlpack_device__()
        assert kind == 2
        host = value.__dlpack__(stream=1)
        self._place(host.ctypes.data, host.nbytes)
        return FakeCupyArray(host, device, self)

    def lifted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """NumPy's function for arrays of this GPU and numbers."""

        def call(*arguments: Any, **options: Any) -> Any:
            return self.new(np.asarray(function(*map(_host_of, arguments), **options)))

        return call

    def elementwise(self, given: str, result: str, operation: str, name: str) -> Callable[[Any], FakeCupyArray]:
        """cupy.ElementwiseKernel of one argument and one result, such as "float32 x", "uint16 y"."""
        kinds = {"float32": "float", "uint16": "unsigned short"}
        (source, x), (target, y) = given.split(), result.split()
        module = EmulatedModule(
            f'extern "C" __global__ void {name}(const {kinds[source]}* from, {kinds[target]}* to, int count) {{\n'
            f"  for (int i = 0; i < count; i++) {{ const {kinds[source]} {x} = from[i]; {kinds[target]} {y};\n"
            f"    {operation};\n    to[i] = {y}; }}\n}}\n"
        )

        def call(array: Any) -> FakeCupyArray:
            assert array.dtype == source
            found, dense = self.allocate(array.shape, target), np.ascontiguousarray(array._host)
            module.launch(name, 1, 1, arguments=(dense.reshape(-1), found._host.reshape(-1), np.int32(dense.size)))
            return found

        return call


class _Current:
    def __init__(self, gpu: FakeGpu, number: int) -> None:
        self._gpu, self.id = gpu, number

    def __enter__(self) -> _Current:
        self._before, self._gpu.current = self._gpu.current, self.id
        return self

    def __exit__(self, *_: object) -> None:
        self._gpu.current = self._before

    def synchronize(self) -> None:
        self._gpu.waits.append("Device.synchronize")


def _host_of(value: Any) -> Any:
    """What a kernel would read: arrays of a GPU, and numbers; not NumPy's arrays."""
    if isinstance(value, FakeArray):
        return value._host
    if isinstance(value, (tuple, list)):
        return type(value)(map(_host_of, value))
    if isinstance(value, np.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    return value


class FakeCupyArray(FakeArray):
    """A cupy.ndarray."""

    def __init__(self, host: Any, device: int, gpu: FakeGpu) -> None:
        super().__init__(host, device)
        self._gpu = gpu

    T = property(lambda self: self._gpu.view(self._host.T, self.device.id))

    def __getitem__(self, key: Any) -> Any:
        found = np.asarray(self._host[_host_of(key)])
        return self._gpu.view(found, self.device.id)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._host[_host_of(key)] = _host_of(value)

    def reshape(self, *shape: Any) -> Any:
        return self._gpu.view(self._host.reshape(*shape), self.device.id)

    def swapaxes(self, a: int, b: int) -> Any:
        return self._gpu.view(self._host.swapaxes(a, b), self.device.id)

    def copy(self) -> Any:
        return self._gpu.new(self._host)

    def astype(self, dtype: Any) -> Any:
        with np.errstate(over="ignore"):
            return self._gpu.in_order(self._host.astype(dtype))

    def clip(self, low: int, high: int) -> Any:
        return self._gpu.new(self._host.clip(low, high))

    def sum(self, axis: Any = None, keepdims: bool = False, out: Any = None) -> Any:
        found = np.asarray(self._host.sum(axis=axis, keepdims=keepdims))
        if out is None:
            return self._gpu.new(found)
        assert out.shape == found.shape and out.dtype == found.dtype
        out._host[...] = found
        return out

    def cumsum(self, axis: int) -> Any:
        return self._gpu.new(self._host.cumsum(axis=axis))

    def max(self, axis: Any = None, keepdims: bool = False) -> Any:
        return self._gpu.new(np.asarray(self._host.max(axis=axis, keepdims=keepdims)))

    # ---- CuPy takes NumPy's functions of its arrays

    def __array_ufunc__(self, function: Any, method: str, *inputs: Any, out: Any = ()) -> Any:  # type: ignore[override]
        assert method == "__call__"
        found = function(*map(_host_of, inputs))
        if not out:
            return self._gpu.new(np.asarray(found))
        out[0]._host[...] = found
        return out[0]

    def __array_function__(self, function: Any, types: Any, arguments: Any, options: Any) -> Any:
        assert all(issubclass(kind, FakeArray) for kind in types), "an array of the host among those of the device"
        return getattr(self._gpu.cupy, function.__name__)(*arguments, **options)

    def _operator(function: Any, swapped: bool = False) -> Any:  # type: ignore[misc]  # noqa: N805
        def call(self: Any, *other: Any) -> Any:
            inputs = (*other, self) if swapped else (self, *other)
            return self._gpu.new(np.asarray(function(*map(_host_of, inputs))))

        return call

    __add__, __radd__ = _operator(np.add), _operator(np.add, True)
    __sub__, __rsub__ = _operator(np.subtract), _operator(np.subtract, True)
    __mul__, __rmul__ = _operator(np.multiply), _operator(np.multiply, True)
    __truediv__, __rtruediv__ = _operator(np.divide), _operator(np.divide, True)
    __matmul__, __neg__ = _operator(np.matmul), _operator(np.negative)
    __lt__, __le__ = _operator(np.less), _operator(np.less_equal)
    __gt__, __ge__ = _operator(np.greater), _operator(np.greater_equal)
