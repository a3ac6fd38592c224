"""Arrays from outside: a library's own, and what can become one (torch tensors, DLPack, __array__), without an import.

A backend names its library: NumPy for the CPU, CuPy for the GPU (`rnnc.backends.arrays`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rnnc import checks
from rnnc.backends.arrays import NUMPY
from rnnc.ir.errors import ArgumentTypeError, DtypeError, ShapeError

if TYPE_CHECKING:
    from rnnc.backends.arrays import Array, ArrayLibrary

DLPACK_PLACES = {1: "cpu", 2: "cuda", 13: "cuda"}
"""Kinds of device in DLPack's numbers; 13 is memory that CUDA moves to where it is read."""


def as_array(name: str, value: object, arrays: ArrayLibrary = NUMPY) -> Array:
    """`value` as an array of a library, without a copy where that can be.

    Lists and numbers are refused: they have no dtype to check. A torch tensor may require gradients (it is detached)
    but must be on the library's kind of device.
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
    _check_place(name, value, arrays)
    detach = getattr(value, "detach", None)
    value = detach() if callable(detach) else value
    try:
        return arrays.adopt(value)
    except (TypeError, ValueError, RuntimeError, BufferError) as error:  # bfloat16, a sparse tensor, a foreign device
        dtype = getattr(value, "dtype", type(value).__name__)
        raise ArgumentTypeError(f"{name}: {arrays.name} cannot read this {dtype} array: {error}") from error


def reader(value: object, arrays: ArrayLibrary) -> ArrayLibrary:
    """The library to read an argument with that may lie on the host, too: NumPy, or the backend's own."""
    return arrays if arrays.on_host or place_of(value) != NUMPY.place else NUMPY


def place_of(value: object) -> str:
    """The kind of device that an array is on: "cpu", "cuda", "meta", ...; "cpu" for anything that is no array."""
    kind = getattr(getattr(value, "device", None), "type", None)
    if isinstance(kind, str):  # of a torch.device
        return kind
    device = getattr(value, "__dlpack_device__", None)
    if callable(device):
        number = int(device()[0])
        return DLPACK_PLACES.get(number, f"DLPack device {number}")
    return "cuda" if hasattr(type(value), "__cuda_array_interface__") else "cpu"


def _is_array_like(value: object) -> bool:
    return any(hasattr(value, name) for name in ("__array__", "__dlpack__", "__cuda_array_interface__"))


def _check_place(name: str, value: object, arrays: ArrayLibrary) -> None:
    place = place_of(value)
    if place == arrays.place:
        return
    if arrays.on_host:
        how = "value.cpu()" if hasattr(value, "cpu") else "value.get()"
    else:
        how = "value.cuda()" if hasattr(value, "cuda") else f"{arrays.module}.asarray({name})"
    where = getattr(value, "device", None) or place
    raise ArgumentTypeError(f"{name}: the array is on {where}, this backend runs on the {arrays.hardware}; pass {how}")


def check_dtype(name: str, array: Array, dtype: np.dtype[Any]) -> None:
    """Nothing is cast: DtypeError unless the array has exactly this dtype, in the machine's byte order."""
    if array.dtype != dtype:
        fix = f"pass value.astype(np.{dtype.name})"
        if array.dtype.name in checks.DTYPES and array.dtype.isnative:
            fix += f", or make the spec with dtype={array.dtype.name!r}"
        raise DtypeError(f"{name}: expected {dtype.name}, got {array.dtype}; {fix}")


def check_shape(name: str, array: Array, shape: tuple[int, ...], meaning: str = "") -> None:
    """ShapeError unless the array has exactly this shape; `meaning` names the axes in the message."""
    if array.shape != shape:
        what = f"{meaning} = {shape}" if meaning else str(shape)
        raise ShapeError(f"{name}: expected shape {what}, got {array.shape}")
