"""Array libraries: NumPy for backends on the CPU, CuPy for those on the GPU.

CuPy has NumPy's functions and methods, so most code calls the module, `xp`. The methods here are for the differences.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np
from numpy.lib.array_utils import byte_bounds

from rnnc.ir.errors import ArgumentError

Array = np.ndarray[tuple[Any, ...], np.dtype[Any]]
"""An array of a backend's library. CuPy's arrays are typed as NumPy's, because they have the same methods."""


class ArrayLibrary(Protocol):
    """The library of the arrays that a backend takes and returns.

    name, module: the library's names in messages, such as "NumPy" and "np". place: the kind of device of its arrays, in
    torch's words; hardware: the same in messages. on_host: True if reading a value needs no device synchronisation.
    """

    name: str
    module: str
    place: str
    hardware: str
    on_host: bool

    @property
    def xp(self) -> Any:
        """The module, with NumPy's functions."""

    @property
    def array_type(self) -> type:
        """The class of the library's arrays."""

    def adopt(self, value: Any) -> Array:
        """Another library's array, on the same kind of device, as one of this library, without a copy if possible."""

    def aligned(self, name: str, array: Array) -> Array:
        """The array with any strides, ready for a kernel: the address of each element is a multiple of its size."""

    def compact(self, name: str, array: Array) -> Array:
        """The array, aligned and C-contiguous. It is copied only if needed."""

    def keep(self, array: Array) -> Array:
        """A C-contiguous copy, read-only if the library has read-only arrays."""

    def check_writable(self, name: str, array: Array) -> None:
        """Raises ArgumentError unless a kernel can write to the array in place."""

    def share_memory(self, a: Array, b: Array) -> bool:
        """True if an element of one array shares memory with an element of the other."""

    def from_host(self, array: Array) -> Array:
        """A NumPy array as one of this library. It is copied only to another device."""

    def to_host(self, array: Array) -> Array:
        """The array as a NumPy array. It is copied only from another device, after a synchronisation."""


class NumPyArrays:
    """NumPy's arrays, in the host's memory."""

    name = "NumPy"
    module = "np"
    place = "cpu"
    hardware = "CPU"
    on_host = True
    xp: Any = np
    array_type: type = np.ndarray

    def adopt(self, value: Any) -> Array:
        """See `ArrayLibrary.adopt`.

        Raises what the value's own protocol raises, and ValueError if its elements lie outside its memory.
        """
        if not hasattr(value, "__array__"):
            return np.from_dlpack(value)
        array = np.asarray(value)
        interface = getattr(value, "__array_interface__", None)
        if isinstance(interface, dict) and array.size:
            _check_within(array, interface.get("data"))
        return array

    def aligned(self, name: str, array: Array) -> Array:
        return array if array.flags.aligned else array.copy()

    def compact(self, name: str, array: Array) -> Array:
        flags = array.flags
        return array if flags.c_contiguous and flags.aligned else np.require(array, requirements=["C", "A"])

    def keep(self, array: Array) -> Array:
        copy = np.array(array, order="C", copy=True)
        copy.flags.writeable = False
        return copy

    def check_writable(self, name: str, array: Array) -> None:
        if not array.flags.behaved:
            what = "aligned" if array.flags.writeable else "writable"
            raise ArgumentError(f"{name}: the array to write into is not {what}")

    def share_memory(self, a: Array, b: Array) -> bool:
        return np.may_share_memory(a, b) and np.shares_memory(a, b)

    def from_host(self, array: Array) -> Array:
        return array

    def to_host(self, array: Array) -> Array:
        return array


class CuPyArrays:
    """CuPy's arrays, on the current GPU. Work is queued on CuPy's current stream, and only `to_host` waits for it."""

    name = "CuPy"
    module = "cupy"
    place = "cuda"
    hardware = "GPU"
    on_host = False

    def __init__(self, load: Callable[[], Any]) -> None:
        """load: imports cupy, or raises an exception that says what is missing. It is called at the first need."""
        self._load = load

    @cached_property
    def xp(self) -> Any:
        return self._load()

    @cached_property
    def array_type(self) -> type:
        found: type = self.xp.ndarray
        return found

    def adopt(self, value: Any) -> Array:
        """See `ArrayLibrary.adopt`.

        DLPack is preferred: with it the streams of both libraries wait for each other, while the other protocol may
        block this thread.
        """
        found: Array = self.xp.from_dlpack(value) if hasattr(value, "__dlpack__") else self.xp.asarray(value)
        return found

    def aligned(self, name: str, array: Any) -> Array:
        """See `ArrayLibrary.aligned`.

        Raises ArgumentError for a misaligned array, because a misaligned access would end this process's use of the
        GPU, and for an array on another GPU.
        """
        device, current = array.data.device_id, self.xp.cuda.runtime.getDevice()
        if device != current:
            raise ArgumentError(
                f"{name}: the array is on GPU {device}, the current one is {current}; "
                f"call within `with cupy.cuda.Device({device})`, or copy the array"
            )
        if any(number % array.itemsize for number in (array.data.ptr, *array.strides)):
            raise ArgumentError(f"{name}: the array is not aligned: an element's address is no multiple of its size")
        found: Array = array
        return found

    def compact(self, name: str, array: Array) -> Array:
        found: Array = self.xp.ascontiguousarray(self.aligned(name, array))
        return found

    def keep(self, array: Array) -> Array:
        return array.copy()

    def check_writable(self, name: str, array: Array) -> None:
        self.aligned(name, array)

    def share_memory(self, a: Array, b: Array) -> bool:
        if not a.size or not b.size:
            return False
        return NUMPY.share_memory(_addresses(a), _addresses(b))

    def from_host(self, array: Array) -> Array:
        found: Array = self.xp.asarray(array)
        return found

    def to_host(self, array: Array) -> Array:
        found: Array = self.xp.asnumpy(array)
        return found


NUMPY = NumPyArrays()


def _check_within(array: Array, memory: object) -> None:
    """Raises ValueError if an array reaches beyond its buffer, which NumPy does not check.

    memory: the buffer. An address, or None, cannot be checked.
    """
    if memory is None or isinstance(memory, tuple):
        return
    whole, part = byte_bounds(np.frombuffer(memory, np.uint8)), byte_bounds(array)  # type: ignore[call-overload]
    if not whole[0] <= part[0] <= part[1] <= whole[1]:
        raise ValueError(f"its shape and strides need {part[1] - part[0]} bytes of a buffer of {whole[1] - whole[0]}")


def _addresses(array: Any) -> Array:
    """A NumPy array at the addresses of one on the GPU. It serves to compare addresses, and must not be read."""
    interface = {
        "version": 3,
        "shape": array.shape,
        "strides": array.strides,
        "typestr": array.dtype.str,
        "data": (array.data.ptr, True),
    }
    return np.asarray(SimpleNamespace(__array_interface__=interface))
