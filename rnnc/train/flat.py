"""All parameters of a network in one flat array, and views of it by name.

Gradients and optimiser slots have the same layout.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rnnc.backends.fresh import enough_memory
from rnnc.checking import checks
from rnnc.checking.arrays import as_array, check_dtype, check_shape
from rnnc.ir.errors import ParameterError

if TYPE_CHECKING:
    from rnnc.cells import Shape
    from rnnc.layered import Layered

Array = NDArray[Any]

LINE = 64
"""Bytes per cache line. Each parameter begins at a cache line."""


class FlatLayout(NamedTuple):
    """The place of each parameter in a flat array: first those with dense gradients, then tables with sparse ones, then
    those that do not change.

    places: name -> (first element, shape). dense: the number of elements of the first kind. size: the number of all
    elements. Gaps between parameters are zeros, and stay zeros.
    """

    dtype: np.dtype[Any]
    places: dict[str, tuple[int, Shape]]
    dense: int
    size: int

    @staticmethod
    def of(model: Layered, sparse: Collection[str] = (), frozen: Collection[str] = ()) -> FlatLayout:
        """The layout of a network's parameters. sparse, frozen: those of the second and of the third kind."""
        dtype = np.dtype(model.dtype)
        shapes = model.parameter_shapes()
        places: dict[str, tuple[int, Shape]] = {}
        kinds = {name: 2 if name in frozen else int(name in sparse) for name in shapes}
        ends = [0]
        for kind in range(3):
            own = {name: shape for name, shape in shapes.items() if kinds[name] == kind}
            ends.append(_place(places, own, ends[-1], LINE // dtype.itemsize))
        return FlatLayout(dtype, {name: places[name] for name in shapes}, ends[1], ends[3])

    def zeros(self, *, dense: bool = False) -> Array:
        """A new flat array of zeros. dense: of the first kind alone."""
        return aligned(self.dense if dense else self.size, self.dtype)

    def views(self, flat: Array) -> dict[str, Array]:
        """Views of the parameters in a flat array, by name; in one of the dense ones, of those."""
        return {
            name: flat[start : start + math.prod(shape)].reshape(shape)
            for name, (start, shape) in self.places.items()
            if start + math.prod(shape) <= flat.size
        }


class Views(Mapping[str, Array]):
    """A mapping of names to views of one flat array. `views[name] = values` copies the values into the flat array.

    Each lookup makes a new view, so that a caller who changes its shape affects no other reader.
    """

    def __init__(self, layout: FlatLayout, flat: Array) -> None:
        self._layout, self._flat = layout, flat

    def __getitem__(self, name: str) -> Array:
        first, shape = self._layout.places[name]
        return self._flat[first : first + math.prod(shape)].reshape(shape)

    def __setitem__(self, name: str, values: object) -> None:
        """Copies values into the place of a parameter. They may be a view of that place, as in `views[name] += 1`.

        Raises ParameterError for an unknown name, ShapeError, DtypeError or ArgumentTypeError.
        """
        if name not in self._layout.places:
            known = checks.suggestion(str(name), self._layout.places)
            raise ParameterError(f"params: there is no parameter {name!r}{known}")
        array = as_array(f"params[{name!r}]", values)
        check_dtype(f"params[{name!r}]", array, self._layout.dtype)
        check_shape(f"params[{name!r}]", array, self._layout.places[name][1])
        self[name][...] = array

    def __or__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        return {**self, **other}

    def __iter__(self) -> Iterator[str]:
        return iter(self._layout.places)

    def __len__(self) -> int:
        return len(self._layout.places)

    def __repr__(self) -> str:
        return f"Views({', '.join(f'{name} {shape}' for name, (_, shape) in self._layout.places.items())})"


def aligned(size: int, dtype: np.dtype[Any]) -> Array:
    """An array (size,) of zeros that begins at a cache line."""
    spare = LINE // dtype.itemsize
    with enough_memory("parameters, gradients and slots of the optimiser"):
        whole = np.zeros(size + spare, dtype)
    first = -(whole.ctypes.data % LINE) % LINE // dtype.itemsize
    return whole[first : first + size]


def _place(places: dict[str, tuple[int, Shape]], shapes: dict[str, Shape], end: int, unit: int) -> int:
    for name, shape in shapes.items():
        places[name] = (end, shape)
        end += -(-math.prod(shape) // unit) * unit
    return end
