"""Operators that reorder, add, drop, join or cut axes. In a network they only rename axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnc.ir.errors import OnnxError
from rnnc.onnx.building import Building
from rnnc.onnx.ops.table import Given, Left, Op, Result, axis_in
from rnnc.onnx.sizes import Dim, Dims, product, same, static
from rnnc.onnx.values import Step, is_sizes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

__all__ = ["MOVEMENT_OPS", "moved", "squeezed", "unsqueezed"]


def moved(building: Building, step: Step, sources: Sequence[int | None]) -> None:
    """The result is the input with other names for its axes.

    sources: for each axis of the result, that of the input; None for a new one of size 1.
    """
    (x, *_), (y, *_) = step.tensors, step.made
    placed = building.place(x)
    target = {source: axis for axis, source in enumerate(sources) if source is not None}
    order = [target[axis] for axis in placed.order]
    building.put(y, placed.name, order, timed=placed.timed, flipped=placed.flipped)
    if x.name in building.zeroed:
        building.zeroed.add(y.name)


# ---- Identity, Dropout, Cast


def _identity_result(given: Given) -> Sequence[Result]:
    x = given.value(0)
    return [(x.dtype, x.shape), ("bool", x.shape)]


def _dropout_meaning(given: Given) -> Any:
    """Nothing is dropped; the mask, if it is asked for, says so."""
    if len(given.node.outputs) > 1:
        return lambda x, *_: (x, np.ones(x.shape, bool))
    return lambda x, *_: x


def _identity(building: Building, step: Step, given: Given) -> None:
    moved(building, step, range(len(step.tensors[0].shape)))


def _cast_dtype(given: Given) -> str:
    from rnnc.onnx.reading import dtype_name

    name = dtype_name(given.attributes.integer("to", 0))
    if not name:
        raise OnnxError(f"{given.label}: to: expected a dtype of numbers, got {given.attributes.integer('to', 0)}")
    return name


def _cast_meaning(given: Given) -> Any:
    dtype = _cast_dtype(given)

    def cast(x: Array) -> Array:
        return x if is_sizes(x) and dtype in ("int32", "int64") else x.astype(dtype)

    return cast


def _cast_result(given: Given) -> Sequence[Result]:
    return [(_cast_dtype(given), given.value(0).shape)]


def _cast(building: Building, step: Step, given: Given) -> None:
    if step.tensors[0].dtype != _cast_dtype(given):
        raise Left(f"it turns {step.tensors[0].dtype} into {_cast_dtype(given)}")
    _identity(building, step, given)


# ---- Transpose


def _perm(given: Given) -> tuple[int, ...]:
    rank = len(given.value(0).shape)
    perm = given.attributes.integers("perm") or tuple(range(rank))[::-1]
    if sorted(perm) != list(range(rank)):
        raise OnnxError(f"{given.label}: perm: expected an order of {rank} axes, got {perm}")
    return perm


def _transpose_meaning(given: Given) -> Any:
    perm = given.attributes.integers("perm")
    return lambda x: x.transpose(perm)


def _transpose_result(given: Given) -> Sequence[Result]:
    x = given.value(0)
    return [(x.dtype, tuple(x.shape[axis] for axis in _perm(given)))]


def _transpose(building: Building, step: Step, given: Given) -> None:
    moved(building, step, _perm(given))


# ---- Squeeze, Unsqueeze


def squeezed(given: Given) -> list[int]:
    """The axes that go."""
    shape, axes = given.value(0).shape, given.integers("axes", 1)
    if axes is None:
        return [axis for axis, size in enumerate(shape) if same(size, 1)]
    found = [axis_in(given, axis, len(shape)) for axis in axes]
    for axis in found:
        if not same(shape[axis], 1):
            raise OnnxError(f"{given.label}: axis {axis} of shape {shape} is not of size 1")
    return found


def _squeeze_result(given: Given) -> Sequence[Result]:
    x, gone = given.value(0), squeezed(given)
    return [(x.dtype, tuple(size for axis, size in enumerate(x.shape) if axis not in gone))]


def _squeeze(building: Building, step: Step, given: Given) -> None:
    gone = squeezed(given)
    moved(building, step, [axis for axis in range(len(step.tensors[0].shape)) if axis not in gone])


def _squeeze_meaning(given: Given) -> Any:
    gone = squeezed(given)
    index = tuple(0 if axis in gone else slice(None) for axis in range(len(given.value(0).shape)))
    return lambda x, _=None: x[index]


def unsqueezed(given: Given) -> tuple[int, list[int]]:
    """The number of axes of the result, and those that are new."""
    axes = given.integers("axes", 1) or ()
    rank = len(given.value(0).shape) + len(axes)
    return rank, [axis_in(given, axis, rank) for axis in axes]


def _unsqueeze_sources(given: Given) -> list[int | None]:
    rank, new = unsqueezed(given)
    old = iter(range(rank))
    return [None if axis in new else next(old) for axis in range(rank)]


def _unsqueeze_result(given: Given) -> Sequence[Result]:
    x = given.value(0)
    return [(x.dtype, tuple(1 if source is None else x.shape[source] for source in _unsqueeze_sources(given)))]


def _unsqueeze(building: Building, step: Step, given: Given) -> None:
    moved(building, step, _unsqueeze_sources(given))


def _unsqueeze_meaning(given: Given) -> Any:
    rank, new = unsqueezed(given)
    index = tuple(None if axis in new else slice(None) for axis in range(rank))
    return lambda x, _=None: x[index]  # ten times as quick as expand_dims


# ---- Reshape, Flatten


def _target(given: Given) -> Dims:
    """The shape that a Reshape or Flatten gives."""
    x = given.value(0)
    if given.node.op == "Flatten":
        axis = given.attributes.integer("axis", 1) % (len(x.shape) + 1)
        return product(x.shape[:axis]), product(x.shape[axis:])
    wanted = list(given.dims(1))
    if not given.attributes.integer("allowzero", 0):
        wanted = [x.shape[n] if isinstance(size, int) and size == 0 else size for n, size in enumerate(wanted)]
    unknown = [n for n, size in enumerate(wanted) if isinstance(size, int) and size == -1]
    if len(unknown) == 1:
        rest = product(size for n, size in enumerate(wanted) if n != unknown[0])
        wanted[unknown[0]] = product(x.shape) // rest
    if len(unknown) > 1 or not same(product(wanted), product(x.shape)):
        raise OnnxError(f"{given.label}: a tensor of shape {x.shape} cannot become {tuple(given.dims(1))}")
    return _named_again(tuple(wanted), x.shape)


def _named_again(wanted: Dims, shape: Dims) -> Dims:
    """Sizes that a file writes as numbers, as the axes of the input that they stand for, where that can be told."""
    found, axis = list(wanted), 0
    for n, size in enumerate(wanted):
        while axis < len(shape) and static(shape[axis]) == 1 and static(size) != 1:
            axis += 1
        if axis == len(shape) or static(size) == 1:
            continue
        if static(size) is None or static(size) != static(shape[axis]):
            break
        found[n], axis = shape[axis], axis + 1
    return tuple(1 if static(size) == 1 else size for size in found)


def _reshape_result(given: Given) -> Sequence[Result]:
    return [(given.value(0).dtype, _target(given))]


def _reshape_meaning(given: Given) -> Any:
    if given.node.op == "Flatten":
        axis = given.attributes.integer("axis", 1)
        return lambda x: x.reshape(int(np.prod(x.shape[:axis])), -1)
    keeps = not given.attributes.integer("allowzero", 0)

    def reshape(x: Array, shape: Array) -> Array:
        sizes = [x.shape[n] if size == 0 and keeps else size for n, size in enumerate(shape.tolist())]
        return x.reshape([int(size) for size in sizes])

    return reshape


def _reshape(building: Building, step: Step, given: Given) -> None:
    """Axes of columns are joined and cut; time and rows stay what they are."""
    (x,), (y,) = step.tensors, step.made
    placed, axes = building.place(x), building.axes(y)
    _check_groups(placed.axes.roles, x.shape, axes.roles, y.shape)
    name = building.reordered(placed, placed.axes.columns)
    building.put(y, name, axes.columns, timed=placed.timed, flipped=placed.flipped)
    if x.name in building.zeroed:
        building.zeroed.add(y.name)


def _check_groups(roles: Sequence[str], shape: Dims, new_roles: Sequence[str], new_shape: Dims) -> None:
    """Between time and rows lie as many columns before as after, in the same places."""

    def outline(roles: Sequence[str], shape: Dims) -> list[Any]:
        found: list[Any] = [1]
        for role, size in zip(roles, shape, strict=True):
            if role == "C":
                found[-1] *= int(size)
            elif role in "TB":
                found += [role, 1]
        return found

    if outline(roles, shape) != outline(new_roles, new_shape):
        raise Left(f"it mixes time, rows and columns: {_shown(shape)} becomes {_shown(new_shape)}")


def _shown(shape: Sequence[Dim]) -> str:
    return f"({', '.join(map(str, shape))})"


MOVEMENT_OPS: dict[tuple[str, str], Op] = {
    ("", "Identity"): Op(lambda given: lambda x: x, _identity_result, _identity, moves=True),
    ("", "Dropout"): Op(_dropout_meaning, _identity_result, _identity, moves=True),
    ("", "Cast"): Op(_cast_meaning, _cast_result, _cast, moves=True),
    ("", "Transpose"): Op(_transpose_meaning, _transpose_result, _transpose, moves=True),
    ("", "Squeeze"): Op(_squeeze_meaning, _squeeze_result, _squeeze, moves=True),
    ("", "Unsqueeze"): Op(_unsqueeze_meaning, _unsqueeze_result, _unsqueeze, moves=True),
    ("", "Reshape"): Op(_reshape_meaning, _reshape_result, _reshape, moves=True),
    ("", "Flatten"): Op(_reshape_meaning, _reshape_result, _reshape, moves=True),
}
