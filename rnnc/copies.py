"""Copies and pickles of compiled objects.

Machine code, its addresses and its threads belong to one process. The pickle of a compiled object therefore holds its
sources (spec, parameters, options), and the object is compiled again when it is loaded, usually from the cache. A
compiled object never changes, so its copy within the process is the object itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from rnnc.ir.errors import ArgumentTypeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rnnc.backends.arrays import Array, ArrayLibrary


class Unchanging:
    """Base of compiled objects that do not change: `copy.copy` and `copy.deepcopy` return the object itself."""

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self


def on_host(params: Mapping[str, Array], arrays: ArrayLibrary) -> dict[str, NDArray[Any]]:
    """The parameters as NumPy arrays, for a pickle that a machine without a GPU can load."""
    return {name: np.asarray(arrays.to_host(array)) for name, array in params.items()}


def refusal(value: object, what: str, instead: str) -> ArgumentTypeError:
    """The exception for a copy or pickle of an object that belongs to one process.

    what: what is refused, such as "cannot be pickled". instead: what to do.
    """
    return ArgumentTypeError(f"{type(value).__name__} {what}: {instead}")
