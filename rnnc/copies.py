"""Copies and pickles of what is compiled.

Machine code, its addresses and its threads belong to one process. What is compiled is pickled as what it was made from
(spec, parameters, options) and compiled again where it is read, as a rule out of the cache. It never changes, so that a
copy within the process is the object itself.
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
    """Base of what is compiled and does not change: `copy.copy` and `copy.deepcopy` return the object itself."""

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self


def on_host(params: Mapping[str, Array], arrays: ArrayLibrary) -> dict[str, NDArray[Any]]:
    """Parameters as NumPy arrays, for a pickle that any machine can read."""
    return {name: np.asarray(arrays.to_host(array)) for name, array in params.items()}


def refusal(value: object, what: str, instead: str) -> ArgumentTypeError:
    """The exception of what belongs to one process alone. what: "cannot be pickled", or so; instead: what to do."""
    return ArgumentTypeError(f"{type(value).__name__} {what}: {instead}")
