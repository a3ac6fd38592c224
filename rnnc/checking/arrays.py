"""Conversion of arguments to arrays of a backend's library: NumPy for the CPU, CuPy for the GPU.

Torch tensors and other objects with DLPack or __array__ are accepted; their libraries are not imported for that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rnnc.backends.arrays import NUMPY
from rnnc.checking import checks
from rnnc.ir.errors import ArgumentTypeError, DtypeError, RnncError, ShapeError

if TYPE_CHECKING:
    from rnnc.backends.arrays import Array, ArrayLibrary

DLPACK_PLACES = {1: "cpu", 2: "cuda", 13: "cuda"}
"""DLPack's numbers of devices -> the kind of device. 13 is CUDA's managed memory."""


def as_array(name: str, value: object, arrays: ArrayLibrary = NUMPY) -> Array:
    """`value` as an array of a library, without a copy if possible.

    Raises ArgumentTypeError for lists and numbers, which have no dtype to check, for an array on another kind of
    device, and for a torch tensor that requires gradients, which would be lost without notice.
    """
    if type(value) is arrays.array_type:
        return value  # type: ignore[return-value]
    if isinstance(value, np.ma.MaskedArray):
        raise ArgumentTypeError(f"{name}: got a masked array, whose mask would be lost; pass array.filled(0) or so")
    if not _is_array_like(value):
        raise ArgumentTypeError(
            f"{name}: expected a {arrays.name} array, got {checks.came(value)}; "
            f"use {arrays.module}.asarray(value, dtype=...)"
        )
    check_no_gradient(name, value)
    _check_place(name, value, arrays)
    try:
        return arrays.adopt(value)
    except (RnncError, MemoryError):
        raise
    except Exception as error:  # bfloat16, a sparse tensor, a foreign device, a class whose protocol is wrong
        dtype = _text(attribute(value, "dtype") or type(value).__name__)
        fix = "; pass value.float()" if "bfloat16" in dtype else ""
        raise ArgumentTypeError(f"{name}: {arrays.name} cannot read this {dtype} array: {_text(error)}{fix}") from error


def check_no_gradient(name: str, value: object) -> None:
    """Raises ArgumentTypeError for a torch tensor that requires gradients."""
    if attribute(value, "requires_grad") is True:
        raise ArgumentTypeError(
            f"{name}: the tensor requires gradients, and torch would get none through rnnc; use a module "
            "of rnnc.torch, or pass value.detach() (of parameters module.state_dict()) and call rnnc.vjp"
        )


def attribute(value: object, name: str) -> Any:
    """An attribute of any object; None if it has no such attribute, or if reading it fails."""
    try:
        return getattr(value, name, None)
    except Exception:  # a property may raise anything
        return None


def _text(value: object) -> str:
    try:
        return str(value)
    except Exception:
        return f"<{type(value).__name__}>"


def reader(value: object, arrays: ArrayLibrary) -> ArrayLibrary:
    """The library for an argument that may also be on the host: NumPy, or the backend's own."""
    return arrays if arrays.on_host or place_of(value) != NUMPY.place else NUMPY


def place_of(value: object) -> str:
    """The kind of device that an array is on, such as "cpu", "cuda" or "meta". It is "cpu" for other objects."""
    kind = attribute(attribute(value, "device"), "type")
    if isinstance(kind, str):  # a torch.device's
        return kind
    device = attribute(value, "__dlpack_device__")
    if callable(device):
        try:
            number = int(device()[0])
        except Exception:  # reading the array raises the same error, with a message
            return "cpu"
        return DLPACK_PLACES.get(number, f"DLPack device {number}")
    return "cuda" if hasattr(type(value), "__cuda_array_interface__") else "cpu"


def _is_array_like(value: object) -> bool:
    if isinstance(value, type):  # a class of arrays has the attributes of its instances
        return False
    return any(attribute(value, name) is not None for name in ("__array__", "__dlpack__", "__cuda_array_interface__"))


def _check_place(name: str, value: object, arrays: ArrayLibrary) -> None:
    place = place_of(value)
    if place == arrays.place:
        return
    if arrays.on_host:
        how = "value.cpu()" if attribute(value, "cpu") else "value.get()"
    else:
        how = "value.cuda()" if attribute(value, "cuda") else f"{arrays.module}.asarray({name})"
    where = _text(attribute(value, "device") or place)
    raise ArgumentTypeError(f"{name}: the array is on {where}, this backend runs on the {arrays.hardware}; pass {how}")


def check_dtype(name: str, array: Array, dtype: np.dtype[Any]) -> None:
    """Raises DtypeError unless the array has exactly this dtype, in native byte order. Nothing is cast."""
    if array.dtype != dtype:
        fix = f"pass value.astype(np.{dtype.name})"
        if array.dtype.name in checks.DTYPES and array.dtype.isnative:
            fix += f", or make the spec with dtype={array.dtype.name!r}"
        raise DtypeError(f"{name}: expected {dtype.name}, got {array.dtype}; {fix}")


def check_shape(name: str, array: Array, shape: tuple[int, ...], meaning: str = "") -> None:
    """Raises ShapeError unless the array has exactly this shape. meaning: the names of the axes, for the message."""
    if array.shape != shape:
        what = f"{meaning} = {shape}" if meaning else str(shape)
        raise ShapeError(f"{name}: expected shape {what}, got {array.shape}")
