"""Arithmetic on shapes: the part of a value that an index, a split or an axis names. Errors say what to write."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import numpy as np

from rnnc.ir.errors import ArgumentTypeError, IRError

BATCH = "B"  # also in rnnc.ir.ops, which imports the gradient rules and, through symbolic values, this module

Shape = tuple[int | str, ...]


def axis_to_cut(what: str, axis: int | None, shape: Shape, has_batch: bool) -> int:
    """The axis to cut or to join along, in the form that nodes use: -1, the units, if the value has a batch.

    None stands for the units, or for the rows of a parameter. Raises IRError for an axis that does not exist, and for
    the batch axis.
    """
    rank = len(shape)
    if axis is None:
        axis = -1 if has_batch else 0
    axis = whole(f"{what}: axis", axis)
    if not -rank <= axis < rank:
        raise IRError(f"{what}: axis {axis} of a value of shape {shape}")
    if not has_batch:
        return axis % rank
    if axis not in (-1, rank - 1):
        raise IRError(f"{what}: axis {axis} of shape {shape}: rows are independent; the units are axis -1")
    return -1


def edges_of(parts: int | Sequence[int], size: int, where: str) -> list[int]:
    """The boundaries of the parts, from 0 to `size`. There are `parts` equal parts, or parts of the sizes listed.

    Raises IRError if they do not fill the axis.
    """
    if isinstance(parts, list | tuple | np.ndarray):
        sizes = [whole("split", n) for n in parts]
        if any(n < 1 for n in sizes) or sum(sizes) != size:
            raise IRError(f"split({sizes}): expected sizes >= 1 with the sum {size}, for {where}")
    else:
        count = whole("split", parts)
        if count < 1 or size % count:
            raise IRError(f"split({parts}): {where} is not divisible by {parts}")
        sizes = [size // count] * count
    return [sum(sizes[:n]) for n in range(len(sizes) + 1)]


def bounds_of(given: tuple[object, ...], shape: Shape) -> dict[int, tuple[int, int]]:
    """Axis -> start and stop, for the axes that slices cut. Raises IRError for any other index."""
    written = f"v[{', '.join(map(spelled, given))}]"
    rest = len(shape) - sum(i is not Ellipsis for i in given)
    if sum(i is Ellipsis for i in given) > 1:
        raise IRError(f"{written}: one ... at most")
    full: list[object] = []
    for i in given:
        full += [slice(None)] * rest if i is Ellipsis else [i]
    full += [slice(None)] * (len(shape) - len(full))
    if len(full) > len(shape):
        raise IRError(f"{written}: {len(full)} indices for a value of shape {shape}")
    bounds = {axis: _bounds(written, axis, i, shape) for axis, i in enumerate(full)}
    return {axis: pair for axis, pair in bounds.items() if pair is not None}


def _bounds(written: str, axis: int, index: object, shape: Shape) -> tuple[int, int] | None:
    """(start, stop), or None for the whole axis."""
    size = shape[axis]
    if not isinstance(index, slice):
        hint = "a slice keeps the axis: write v[:, i:i+1] for one unit, and where(condition, a, b) for a condition"
        raise IRError(f"{written}: {hint}")
    ends = [None if end is None else whole(written, end) for end in (index.start, index.stop)]
    if size == BATCH:
        if ends != [None, None] or index.step is not None:
            raise IRError(f"{written}: rows of the batch are independent; cut the units: v[:, a:b]")
        return None
    if index.step is not None and whole(written, index.step) != 1:
        raise IRError(f"{written}: a step is not supported; write concat(v[:, 0:1], v[:, 2:3], ...)")
    start, stop, _ = slice(*ends).indices(int(size))
    if start >= stop:
        raise IRError(f"{written}: no element of axis {axis} of shape {shape}")
    return None if (start, stop) == (0, size) else (start, stop)


def whole(what: str, value: object) -> int:
    """The value as an int. It may be Python's or NumPy's; raises ArgumentTypeError for anything else."""
    if isinstance(value, bool) or not hasattr(type(value), "__index__"):
        raise ArgumentTypeError(f"{what}: expected an integer, got {type(value).__name__} {value!r}")
    return operator.index(value)  # type: ignore[arg-type]


def spelled(index: object) -> str:
    """An index as Python writes it, for messages."""
    if isinstance(index, slice):
        ends = ["" if end is None else str(end) for end in (index.start, index.stop)]
        return ":".join(ends if index.step is None else [*ends, str(index.step)])
    return "..." if index is Ellipsis else repr(index) if isinstance(index, int | type(None)) else type(index).__name__
