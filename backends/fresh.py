"""Fresh memory: arrays that nobody has written yet, and the setting that reveals a read of one.

With RNNC_POISON=1 (`rnnc.ir.settings.poison`), fresh memory holds NaN: outputs before a backend writes them, scratch
buffers, reused blocks, and the memory for packed weights. A result computed from memory that nobody wrote is then NaN.
Generated code fills memory that it allocates in the same way. The tests run with this setting.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnc.ir import settings
from rnnc.ir.errors import SizeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

HINT = "give shorter sequences or fewer rows at a time, or make the network smaller"

BYTE = 0xFF
"""The byte of poison. Two, four or eight of them are a NaN of float16, float32 or float64."""


def empty(shape: int | tuple[int, ...] | list[int], dtype: Any, xp: ModuleType | Any = np) -> Any:
    """A new array, not cleared. xp: the module of arrays. Raises SizeError if there is not enough memory."""
    try:
        array = xp.empty(shape, dtype)
    except (MemoryError, ValueError) as error:
        _say("results and buffers", error)
        raise
    return spoiled(array) if settings.poison() else array


@contextmanager
def enough_memory(what: str) -> Iterator[None]:
    """A context that raises SizeError if an array cannot be allocated in it. what: the purpose, for the message."""
    try:
        yield
    except (MemoryError, ValueError) as error:
        _say(what, error)
        raise


def _say(what: str, error: Exception) -> None:
    """Raises SizeError if an error means that there is not enough memory for something."""
    short = isinstance(error, MemoryError) or "too big" in str(error) or "Maximum allowed" in str(error)
    if short and not isinstance(error, SizeError):
        raise SizeError(f"no memory for {what}: {error}; {HINT}") from error


def empty_like(array: Any, xp: ModuleType | Any = np) -> Any:
    """A new array with the shape and dtype of another, not cleared."""
    return empty(array.shape, array.dtype, xp)


def spoiled(array: Any) -> Any:
    """The array. If memory is poisoned, it is filled with NaN, or with the largest value of an integer dtype."""
    if settings.poison():
        array[...] = np.nan if array.dtype.kind == "f" else np.iinfo(array.dtype).max
    return array


def block(size: int) -> NDArray[np.uint8]:
    """A new array of bytes, not cleared."""
    made: NDArray[np.uint8] = empty(size, np.uint8)
    return made
