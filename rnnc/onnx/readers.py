"""How a value is read in a call: by its name, or, where it is known, as an array with the call's sizes filled in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnc.onnx.sizes import Dim, NeedsNumber, Size, static
from rnnc.onnx.values import Filled, Known, Tensor, Value, is_sizes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

__all__ = ["InputAxes", "Reader", "reader"]

InputAxes = Mapping[str, tuple[str, int]]
"""The name of an axis -> an input that has it, and its number there."""

Reader = Callable[[Mapping[str, "Array"]], Any]
"""The values of a call by name -> an array; None for an input that is left out."""


def reader(value: Value | None, axes: InputAxes) -> Reader:
    """Reads a value. Raises NeedsNumber if it holds the size of an axis that no input has."""
    if isinstance(value, Tensor):
        name = value.name
        return lambda values: values[name]
    if isinstance(value, Filled) and any(static(size) is None for size in value.shape):
        number, sizes = value.number, _sizes(value.shape, axes)
        return lambda values: np.full(sizes(values), number)
    if isinstance(value, Known) and is_sizes(value.array):
        shape, sizes = value.array.shape, _sizes(value.array.ravel(), axes)
        return lambda values: np.array(sizes(values), np.int64).reshape(shape)
    if isinstance(value, Filled):
        array: Array | None = np.full([int(size) for size in value.shape], value.number)
    else:
        array = None if value is None else value.array
    return lambda values: array


def _sizes(dims: Any, axes: InputAxes) -> Callable[[Mapping[str, Array]], list[int]]:
    """Gives the numbers of these sizes in a call."""
    parts: list[Dim] = list(dims)
    for name in {name for size in parts if isinstance(size, Size) for name in size.unknown}:
        if name not in axes:
            raise NeedsNumber(name)

    def numbers(values: Mapping[str, Array]) -> list[int]:
        def length(name: str) -> int:
            source, axis = axes[name]
            return int(values[source].shape[axis])

        return [size.at(length) if isinstance(size, Size) else int(size) for size in parts]

    return numbers
