"""Fresh memory: arrays that nobody has written yet, and the setting that makes reading one show.

With RNNC_POISON=1 (`rnnc.ir.settings.poison`) all of it holds NaN: outputs before a backend writes them, scratch
buffers, blocks that are used again, packed weights before they are packed. What is computed from memory that nobody
wrote is then NaN, whatever happened to lie there. Generated code that takes memory of its own fills it likewise. The
tests run so.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnnc.ir import settings
from rnnc.ir.errors import SizeError

HINT = "give shorter sequences or fewer rows at a time, or make the network smaller"

BYTE = 0xFF
"""Four or eight of it are a NaN of float32 or float64, two one of float16."""


def empty(shape: int | tuple[int, ...] | list[int], dtype: Any, xp: ModuleType | Any = np) -> Any:
    """A new array, not cleared. xp: the module of arrays. Raises SizeError if there is no memory for it."""
    try:
        array = xp.empty(shape, dtype)
    except (MemoryError, ValueError) as error:
        _say("results and buffers", error)
        raise
    return spoiled(array) if settings.poison() else array


@contextmanager
def enough_memory(what: str) -> Iterator[None]:
    """Raises SizeError, naming what the memory is for, where an array within cannot be had."""
    try:
        yield
    except (MemoryError, ValueError) as error:
        _say(what, error)
        raise


def _say(what: str, error: Exception) -> None:
    """Raises SizeError if an error means that memory for something cannot be had."""
    short = isinstance(error, MemoryError) or "too big" in str(error) or "Maximum allowed" in str(error)
    if short and not isinstance(error, SizeError):
        raise SizeError(f"no memory for {what}: {error}; {HINT}") from error


def empty_like(array: Any, xp: ModuleType | Any = np) -> Any:
    """A new array of the shape and dtype of another, not cleared."""
    return empty(array.shape, array.dtype, xp)


def spoiled(array: Any) -> Any:
    """The array, filled with NaN (integers: with their largest value) where memory is poisoned."""
    if settings.poison():
        array[...] = np.nan if array.dtype.kind == "f" else np.iinfo(array.dtype).max
    return array


def block(size: int) -> NDArray[np.uint8]:
    """Bytes, not cleared."""
    made: NDArray[np.uint8] = empty(size, np.uint8)
    return made
