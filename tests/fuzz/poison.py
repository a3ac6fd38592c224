"""Fresh memory full of garbage, so that reading what nobody wrote gives a wrong result on every run, not on some."""

from __future__ import annotations

from typing import Any

import numpy as np

GARBAGE_BYTE = 0x7F
"""As floats, its repetitions are 3.4e38 and 1.4e306; as integers, they are far beyond any size."""

MOST_BYTES = 1 << 20
"""Of an array that are filled: the rest of a larger one comes from the system, and as zeros."""

ENVIRONMENT = {
    # The C library fills what malloc returns with the complement of this byte, and what is freed with the byte.
    "MALLOC_PERTURB_": str(GARBAGE_BYTE ^ 0xFF),
    # Its cache of small blocks per thread would hand them out as they are.
    "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0",
    # rnnc fills its scratch and packed memory with NaN.
    "RNNC_POISON": "1",
}
"""Of a process to be started."""


def new_arrays() -> None:
    """From now on numpy.empty and numpy.empty_like return arrays full of garbage.

    NumPy keeps freed blocks of its own, which the C library does not see.
    """
    for name in ("empty", "empty_like"):
        setattr(np, name, _filled(getattr(np, name)))


def _filled(make: Any) -> Any:
    def filled(*args: Any, **options: Any) -> Any:
        array = make(*args, **options)
        if array.dtype.kind in "fiu" and array.base is None and array.flags.c_contiguous and array.size:
            array.reshape(-1).view(np.uint8)[:MOST_BYTES] = GARBAGE_BYTE
        return array

    return filled
