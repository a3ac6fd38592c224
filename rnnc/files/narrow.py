"""Numbers as files hold them, and the widening of float16 and bfloat16, in which rnnc does not compute."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rnnc.files.named import NamedFile

    Array = NDArray[Any]

__all__ = ["BFLOAT16", "NARROW", "Stored", "finished"]

BFLOAT16 = "bfloat16"
NARROW = ("float16", BFLOAT16)


class Stored(NamedTuple):
    """An array of a file. dtype: NumPy's name, or "bfloat16", which NumPy lacks: array holds its bits as uint16."""

    array: Array
    dtype: str

    @classmethod
    def of(cls, array: Array) -> Stored:
        """An array whose dtype is NumPy's."""
        return cls(array, array.dtype.name)

    def widened(self) -> Array:
        """The numbers as float32, which holds all those of float16 and bfloat16."""
        if self.dtype == BFLOAT16:
            return (self.array.astype(np.uint32) << 16).view(np.float32)
        return self.array.astype(np.float32)


def finished(file: NamedFile, found: Mapping[str, Stored], widen: bool) -> dict[str, Array]:
    """The arrays in native byte order, the narrow ones widened. Raises FileError for those unless `widen`."""
    narrow = [name for name, stored in found.items() if stored.dtype in NARROW]
    if narrow and not widen:
        dtypes = " and ".join(sorted({found[name].dtype for name in narrow}))
        raise file.refusal(
            f"holds {dtypes}, in which rnnc does not compute ({narrow[0]!r}, {len(narrow)} of {len(found)} arrays); "
            "pass widen=True to read those as float32, which holds the same numbers"
        )
    return {
        name: stored.widened() if stored.dtype in NARROW else _native(stored.array) for name, stored in found.items()
    }


def _native(array: Array) -> Array:
    return array.astype(array.dtype.newbyteorder("="), copy=False)
