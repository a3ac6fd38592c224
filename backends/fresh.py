"""Fresh memory: arrays that nobody has written yet, and the setting that makes reading one show.

With RNNC_POISON=1 (`rnnc.ir.settings.poison`) all of it holds NaN: outputs before a backend writes them, scratch
buffers, blocks that are used again, packed weights before they are packed. What is computed from memory that nobody
wrote is then NaN, whatever happened to lie there. Generated code that takes memory of its own fills it likewise. The
tests run so.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnnc.ir import settings

BYTE = 0xFF
"""Four or eight of it are a NaN of float32 or float64, two one of float16."""


def empty(shape: int | tuple[int, ...] | list[int], dtype: Any, xp: ModuleType | Any = np) -> Any:
    """A new array, not cleared. xp: the module of arrays."""
    return spoiled(xp.empty(shape, dtype))


def empty_like(array: Any, xp: ModuleType | Any = np) -> Any:
    """A new array of the shape and dtype of another, not cleared."""
    return empty(array.shape, array.dtype, xp)


def spoiled(array: Any) -> Any:
    """The array, filled with NaN (integers: with ones) where memory is poisoned."""
    if settings.poison():
        array.fill(np.nan if array.dtype.kind == "f" else np.iinfo(array.dtype).max)
    return array


def block(size: int) -> NDArray[np.uint8]:
    """Bytes, not cleared."""
    made: NDArray[np.uint8] = empty(size, np.uint8)
    return made
