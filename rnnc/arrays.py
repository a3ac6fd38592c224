"""Arrays from outside: NumPy's own, and what can become one (torch tensors, DLPack, __array__), without an import."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rnnc import checks
from rnnc.ir.errors import ArgumentTypeError, DtypeError, ShapeError

if TYPE_CHECKING:
    from numpy.typing import NDArray


def as_array(name: str, value: object) -> NDArray[Any]:
    """`value` as an ndarray, without a copy where that can be.

    Lists and numbers are refused: they have no dtype to check. A torch tensor may require gradients (it is detached)
    but must be on the CPU.
    """
    if type(value) is np.ndarray:
        return value
    if isinstance(value, np.ma.MaskedArray):
        raise ArgumentTypeError(f"{name}: got a masked array, whose mask would be lost; pass array.filled(0) or so")
    if not (hasattr(value, "__array__") or hasattr(value, "__dlpack__")):
        raise ArgumentTypeError(
            f"{name}: expected a NumPy array, got {checks.came(value)}; use np.asarray(value, dtype=...)"
        )
    _check_on_cpu(name, value)
    detach = getattr(value, "detach", None)
    value = detach() if callable(detach) else value
    try:
        return np.asarray(value) if hasattr(value, "__array__") else np.from_dlpack(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError, BufferError) as error:  # bfloat16, a sparse tensor, a foreign device
        dtype = getattr(value, "dtype", type(value).__name__)
        raise ArgumentTypeError(f"{name}: NumPy cannot read this {dtype} array: {error}") from error


def _check_on_cpu(name: str, value: object) -> None:
    device = getattr(value, "device", None)
    kind = getattr(device, "type", "cpu")  # a torch.device says "cpu", "cuda", "meta", ...
    if hasattr(type(value), "__cuda_array_interface__") and kind == "cpu":
        kind = "cpu" if hasattr(value, "detach") else "cuda"  # CuPy, Numba; every torch tensor has the attribute
    if kind != "cpu":
        how = "value.cpu()" if hasattr(value, "cpu") else "value.get()"
        raise ArgumentTypeError(f"{name}: the array is on {device or kind}, this backend runs on the CPU; pass {how}")


def check_dtype(name: str, array: NDArray[Any], dtype: np.dtype[Any]) -> None:
    """Nothing is cast: DtypeError unless the array has exactly this dtype, in the machine's byte order."""
    if array.dtype != dtype:
        fix = f"pass value.astype(np.{dtype.name})"
        if array.dtype.name in checks.DTYPES and array.dtype.isnative:
            fix += f", or make the spec with dtype={array.dtype.name!r}"
        raise DtypeError(f"{name}: expected {dtype.name}, got {array.dtype}; {fix}")


def check_shape(name: str, array: NDArray[Any], shape: tuple[int, ...], meaning: str = "") -> None:
    """ShapeError unless the array has exactly this shape; `meaning` names the axes in the message."""
    if array.shape != shape:
        what = f"{meaning} = {shape}" if meaning else str(shape)
        raise ShapeError(f"{name}: expected shape {what}, got {array.shape}")
