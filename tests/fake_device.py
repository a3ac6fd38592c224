"""A device that is none: arrays that can be neither read nor written from the host, their module, and a backend.

`FakeArray` wraps NumPy's and offers what cupy.ndarray offers and rnnc uses, as strictly as CuPy or more so: it does not
mix with NumPy's arrays, and whatever would wait for a GPU (a value as a number, a truth, a text) raises. The module
`cupy` below stands in for CuPy in rnnc's own `CuPyArrays`. The backend unwraps the arrays and calls the reference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from rnnc.backends import reference
from rnnc.backends.arrays import Array, CuPyArrays
from rnnc.backends.base import Bound, Code, Tape
from rnnc.backends.call_forms import PlainCall
from rnnc.ir.computation import Computation

CURRENT_DEVICE = 0


class Synchronized(AssertionError):
    """Something looked at a value, for which a real device would have to finish its work."""


def _refuse(*_: Any, **__: Any) -> Any:
    raise Synchronized("this would wait for the device")


class FakeDevice:
    """What an array says it is on."""

    def __init__(self, number: int) -> None:
        self.id = number

    def __repr__(self) -> str:
        return f"<fake device {self.id}>"


class FakeArray:
    """An array on the device."""

    def __init__(self, host: np.ndarray, device: int = CURRENT_DEVICE) -> None:
        assert type(host) is np.ndarray
        self._host = host
        self.data = SimpleNamespace(ptr=host.ctypes.data, device_id=device)
        self.flags = SimpleNamespace(c_contiguous=host.flags.c_contiguous, f_contiguous=host.flags.f_contiguous)
        self.device = FakeDevice(device)

    shape = property(lambda self: self._host.shape)
    strides = property(lambda self: self._host.strides)
    dtype = property(lambda self: self._host.dtype)
    ndim = property(lambda self: self._host.ndim)
    size = property(lambda self: self._host.size)
    itemsize = property(lambda self: self._host.itemsize)
    nbytes = property(lambda self: self._host.nbytes)

    # ---- not to be had without waiting, or at all

    __bool__ = __int__ = __float__ = __index__ = __iter__ = __repr__ = __str__ = _refuse
    item = tolist = get = _refuse
    __array_ufunc__ = None

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    def __array_function__(self, function: Any, *_: Any) -> Any:
        raise TypeError(f"numpy.{function.__name__} of an array on the device")

    # ---- exchange

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {"shape": self.shape, "typestr": self.dtype.str, "data": (self.data.ptr, False), "version": 3}

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self.device.id

    def __dlpack__(self, *, stream: int | None = None) -> np.ndarray:
        assert stream is not None, "the consumer says on which stream it will read"
        return self._host

    def fill(self, value: float) -> None:
        self._host.fill(value)

    # ---- arithmetic: with arrays of the device and with numbers

    def __len__(self) -> int:
        return len(self._host)

    def __getitem__(self, key: Any) -> FakeArray:
        return FakeArray(np.asarray(self._host[_host_of(key)]), self.device.id)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._host[_host_of(key)] = _host_of(value)

    def __iadd__(self, other: Any) -> FakeArray:
        self._host += _host_of(other)
        return self

    def _binary(name: str) -> Callable[[FakeArray, Any], FakeArray]:  # type: ignore[misc]  # noqa: N805
        return lambda self, other: FakeArray(np.asarray(getattr(self._host, name)(_host_of(other))))

    __sub__, __gt__, __rtruediv__ = _binary("__sub__"), _binary("__gt__"), _binary("__rtruediv__")
    __radd__, __add__, __lt__ = _binary("__radd__"), _binary("__add__"), _binary("__lt__")

    def reshape(self, *shape: int) -> FakeArray:
        return FakeArray(self._host.reshape(*shape), self.device.id)

    def swapaxes(self, a: int, b: int) -> FakeArray:
        return FakeArray(self._host.swapaxes(a, b), self.device.id)

    def astype(self, dtype: Any) -> FakeArray:
        return FakeArray(self._host.astype(dtype))

    def clip(self, low: int, high: int) -> FakeArray:
        return FakeArray(self._host.clip(low, high))

    def copy(self) -> FakeArray:
        return FakeArray(self._host.copy())


def _host_of(value: Any) -> Any:
    """What a kernel would read: arrays of the device, and plain numbers; not NumPy's arrays."""
    if isinstance(value, FakeArray):
        return value._host
    if isinstance(value, tuple):
        return tuple(map(_host_of, value))
    assert not isinstance(value, np.ndarray), "an array of the host among those of the device"
    return value


def _lifted(function: Callable[..., Any]) -> Callable[..., FakeArray]:
    """NumPy's function for arrays of the device. Its result must not be a view of read-only memory."""

    def call(*arguments: Any, **options: Any) -> FakeArray:
        return FakeArray(function(*map(_host_of, arguments), **options))

    return call


def _asarray(value: Any, dtype: Any = None) -> FakeArray:
    if isinstance(value, FakeArray):
        return value
    assert hasattr(value, "__array__") or isinstance(value, (list, float, int)), value
    return FakeArray(np.array(value, dtype))  # uploaded: memory of its own


def _from_dlpack(value: Any) -> FakeArray:
    kind, device = value.__dlpack_device__()
    assert kind == 2
    return FakeArray(value.__dlpack__(stream=1), device)


LIFTED = (
    "arange",
    "take_along_axis",
    "empty",
    "zeros",
    "full",
    "zeros_like",
    "empty_like",
    "broadcast_to",
    "ascontiguousarray",
    "where",
    "maximum",
)
cupy = SimpleNamespace(
    ndarray=FakeArray,
    asarray=_asarray,
    from_dlpack=_from_dlpack,
    asnumpy=lambda array: array._host.copy(),
    clip=lambda array, low, high: array.clip(low, high),
    cuda=SimpleNamespace(runtime=SimpleNamespace(getDevice=lambda: CURRENT_DEVICE)),
    **{name: _lifted(getattr(np, name)) for name in LIFTED},
)


class FakePlace(NamedTuple):
    """A torch.device."""

    type: str

    def __str__(self) -> str:
        return self.type


class FakeTensor:
    """A tensor of torch on the device."""

    def __init__(self, host: np.ndarray, device: str = "cuda", requires_grad: bool = False) -> None:
        self._host, self.requires_grad = host, requires_grad
        self.device = FakePlace(device)
        self.dtype = "torch." + host.dtype.name

    def detach(self) -> FakeTensor:
        return FakeTensor(self._host, self.device.type)

    def cpu(self) -> FakeTensor:
        return FakeTensor(self._host, "cpu", self.requires_grad)

    def cuda(self) -> FakeTensor:
        return FakeTensor(self._host, "cuda", self.requires_grad)

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        if self.device.type != "cpu" or self.requires_grad:
            raise TypeError("can't convert this tensor to numpy")
        return self._host

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2 if self.device.type == "cuda" else 1), 0

    def __dlpack__(self, *, stream: int | None = None) -> np.ndarray:
        if self.requires_grad:
            raise BufferError("Can't export tensors that require gradient, use tensor.detach()")
        return self._host


# ------------------------------------------------------------------------------------------ the backend


arrays = CuPyArrays(lambda: cupy)


def compile(computation: Computation, *, threads: int | None) -> FakeCode:
    return FakeCode(reference.compile(computation, threads=threads))


class FakeCode:
    def __init__(self, inner: Code) -> None:
        self._inner = inner
        self.stages, self.text, self.explain = inner.stages, inner.text, inner.explain
        self.saved_bytes = inner.saved_bytes

    def bind(self, parameters: Mapping[str, Any]) -> FakeBound:
        return FakeBound(self._inner.bind(_unwrapped(parameters)))


class FakeBound:
    def __init__(self, inner: Bound) -> None:
        self._inner = inner

    def quick(self, call: PlainCall, outcomes: Array) -> None:
        return None

    def real_time(self, call: PlainCall, fixed: Mapping[str, Any], outcomes: Array) -> None:
        return None

    def quick_halves(self, first: PlainCall, second: PlainCall, outcomes: Array) -> None:
        return None

    def start(
        self, inputs: Mapping[str, Any], outputs: Mapping[str, Any], steps: int, batch: int, lengths: Any
    ) -> FakeTape:
        _check_lengths(lengths, steps)
        counts = None if lengths is None else _compact(lengths)
        return FakeTape(self._inner.start(_unwrapped(inputs), _unwrapped(outputs), steps, batch, counts))


class FakeTape:
    def __init__(self, inner: Tape) -> None:
        self._inner = inner

    def finish(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        self._inner.finish(_unwrapped(inputs), _unwrapped(outputs))


def _device(array: Any) -> np.ndarray:
    """The numbers of an array that came to the backend, which is on the device and aligned."""
    assert type(array) is FakeArray, type(array)
    assert array.device.id == CURRENT_DEVICE and array._host.flags.aligned
    return array._host


def _compact(array: Any) -> np.ndarray:
    host = _device(array)
    assert host.flags.c_contiguous
    return host


def _unwrapped(named: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """A value of each step has any strides, one without a step is contiguous."""
    return {name: (_device if array.ndim == 3 else _compact)(array) for name, array in named.items()}


def _check_lengths(lengths: Any, steps: int) -> None:
    if lengths is not None:
        host = _compact(lengths)
        assert host.dtype == np.int64 and ((host >= 0) & (host <= steps)).all()
