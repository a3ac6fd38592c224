"""Operators that take parts of a tensor, or put parts together: Slice, Gather, Split, Concat, Pad, Expand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnc.ir.errors import OnnxError
from rnnc.layers import Concat, First, Last
from rnnc.onnx.building import Building
from rnnc.onnx.layers import ZeroPad
from rnnc.onnx.ops.shapes import broadcast, meet
from rnnc.onnx.ops.table import Given, Left, Op, Result, axis_in
from rnnc.onnx.places import Placed
from rnnc.onnx.sizes import Dim, Size, same, static
from rnnc.onnx.values import Known, Step, Tensor, is_ready

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

__all__ = ["CUTTING_OPS", "is_reversing", "slice_ranges"]

FAR = 2**31 - 1
"""A number in a Slice that means the end."""


def chosen(building: Building, step: Step, axis: int, taken: Array, y: Tensor, drop: bool = False) -> None:
    """The result is the input with some places of one axis of columns. drop: a single place, whose axis goes."""
    x = step.tensors[0]
    placed = building.place(x)
    gone = placed.axes.size(axis) != 1 and (drop or len(taken) == 1)
    order = [axis, *(a for a in placed.order if a != axis)] if placed.axes.roles[axis] == "C" else list(placed.order)
    if placed.order and placed.order[-1] == axis:
        order = list(placed.order)  # innermost it stays: then whole blocks keep their places
    numbers = np.arange(placed.axes.width).reshape([placed.axes.size(a) for a in placed.order] or [1])
    if placed.axes.roles[axis] == "C":
        numbers = numbers.transpose([placed.order.index(a) for a in order])
        numbers = numbers.take(taken, order.index(axis))
    name = placed.name
    if not np.array_equal(numbers.ravel(), np.arange(placed.axes.width)):
        name = building.selected(placed, numbers.ravel())
    kept = [a for a in order if not (a == axis and gone)]
    new = [a - (drop and a > axis) for a in kept]
    building.put(y, name, new, timed=placed.timed, flipped=placed.flipped)
    if x.name in building.zeroed:
        building.zeroed.add(y.name)


# ---- Slice


def slice_ranges(given: Given) -> dict[int, tuple[int, int, int]]:
    """axis -> (start, stop, step), as the node says."""
    shape = given.value(0).shape
    if given.opset < 10:
        starts, ends = given.attributes.integers("starts") or (), given.attributes.integers("ends") or ()
        axes, steps = given.attributes.integers("axes"), None
    else:
        listed = [None if given.optional(n) is None else [int(size) for size in given.dims(n)] for n in (1, 2, 3, 4)]
        starts, ends, axes, steps = listed  # type: ignore[assignment]
    axes = axes or tuple(range(len(starts)))
    steps = steps or [1] * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps):
        raise OnnxError(f"{given.label}: expected as many starts, ends, axes and steps, got {starts}, {ends}, {axes}")
    parts = zip(axes, starts, ends, steps, strict=True)
    return {axis_in(given, axis, len(shape)): (start, stop, step) for axis, start, stop, step in parts}


def is_reversing(part: tuple[int, int, int]) -> bool:
    """Whether a slice takes all places of an axis, the last one first."""
    start, stop, step = part
    return step == -1 and (start >= FAR or start == -1) and stop < -FAR


def _cut_size(size: Dim, start: int, stop: int, step: int) -> Dim:
    """How many places a slice takes of an axis."""
    if step == 1 and 0 <= start and stop >= FAR and static(size) is None:
        return size - start if start else size
    if step == 1 and start == 0 and stop < 0 and static(size) is None:
        left: Dim = size + stop
        return left
    if is_reversing((start, stop, step)):
        return size
    if step == 1 and -FAR < start < 0 and stop >= FAR and static(size) is None:
        return -start
    if (start, step) == (0, 1) and stop >= FAR:
        return size
    return len(range(int(size))[start:stop:step])


def _slice_result(given: Given) -> Sequence[Result]:
    x = given.value(0)
    shape = list(x.shape)
    for axis, (start, stop, step) in slice_ranges(given).items():
        shape[axis] = _cut_size(shape[axis], start, stop, step)
    return [(x.dtype, tuple(1 if static(size) == 1 else size for size in shape))]


def _slice_meaning(given: Given) -> Any:
    if all(map(is_ready, given.inputs[1:])):
        ranges = slice_ranges(given)
        index = tuple(
            slice(*_bounds(ranges[a])) if a in ranges else slice(None) for a in range(len(given.value(0).shape))
        )
        return lambda x, *_: x[index]

    def cut(x: Array, starts: Array, ends: Array, axes: Array | None = None, steps: Array | None = None) -> Array:
        index = [slice(None)] * x.ndim
        for n, (start, stop) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
            step = 1 if steps is None else int(steps[n])
            index[n if axes is None else int(axes[n])] = slice(*_bounds((start, stop, step)))
        return x[tuple(index)]

    return cut


def _bounds(part: tuple[int, int, int]) -> tuple[int | None, int | None, int]:
    """Python's: backwards to before the first place is None, for -1 is the last."""
    start, stop, step = part
    return start, None if step < 0 and stop < -FAR else stop, step


def _slice(building: Building, step: Step, given: Given) -> None:
    (x,), (y,) = step.tensors, step.made
    ranges = slice_ranges(given)
    changed = {axis: part for axis, part in ranges.items() if not _whole(x.shape[axis], part)}
    if not changed:
        return _same_columns(building, step, building.place(x), y)
    if len(changed) > 1:
        raise Left("it cuts several axes at once")
    ((axis, part),) = changed.items()
    placed = building.place(x)
    if placed.axes.roles[axis] == "T":
        return _slice_time(building, placed, y, axis, part)
    if placed.axes.roles[axis] != "C":
        raise Left("it cuts the batch")
    taken = np.arange(placed.axes.size(axis))[slice(*_bounds(part))]
    if not len(taken):
        raise Left("it cuts nothing out")
    return chosen(building, step, axis, taken, y)


def _whole(size: Dim, part: tuple[int, int, int]) -> bool:
    start, stop, step = part
    if step == 1 and start == 0 and stop >= FAR:
        return True
    known = static(size)
    return known is not None and list(range(known))[slice(*_bounds(part))] == list(range(known))


def _same_columns(building: Building, step: Step, placed: Placed, y: Tensor) -> None:
    building.put(y, placed.name, placed.order, timed=placed.timed, flipped=placed.flipped)
    if step.tensors[0].name in building.zeroed:
        building.zeroed.add(y.name)


def _slice_time(building: Building, placed: Placed, y: Tensor, axis: int, part: tuple[int, int, int]) -> None:
    """Backwards is a matter of words; the last step and the first one are readouts."""
    start, stop, step = part
    if is_reversing(part):
        if building.lengths is not None:
            raise Left("it reverses a ragged batch", later=True)
        return building.put(y, placed.name, placed.order, timed=True, flipped=not placed.flipped)
    if step == 1 and (start, stop >= FAR or stop == 0) == (-1, True):
        return _end(building, placed, y, placed.order, last=True)
    if step == 1 and (start, stop) == (0, 1):
        return _end(building, placed, y, placed.order, last=False)
    raise Left("it cuts time, other than its first or last step")


def _end(building: Building, placed: Placed, y: Tensor, order: Sequence[int], last: bool) -> None:
    """The value of the last step of a tensor, or of the first."""
    if building.lengths is not None:
        raise Left("it reads the last step of a ragged batch", later=True)
    readout = Last() if last != placed.flipped else First()
    name = placed.name
    if isinstance(readout, Last) and _is_recurrent(building, name):
        from rnnc.layers import Activation

        name = building.layer(f"{name}_steps", Activation("identity"), name)  # behind a layer Last means both ends
    building.put(y, building.layer(y.name, readout, name), order, timed=False)


def _is_recurrent(building: Building, name: str) -> bool:
    from rnnc.specs import Spec

    return name in building.entries and isinstance(building.entries[name][0], Spec)


# ---- Gather


def _gather_parts(given: Given) -> tuple[int, Array]:
    indices = given.array(1)
    assert indices is not None
    return axis_in(given, given.attributes.integer("axis", 0), len(given.value(0).shape)), indices


def _gather_result(given: Given) -> Sequence[Result]:
    x, indices = given.value(0), given.value(1)
    axis = axis_in(given, given.attributes.integer("axis", 0), len(x.shape))
    return [(x.dtype, (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))]


def _gather_meaning(given: Given) -> Any:
    axis = given.attributes.integer("axis", 0)
    indices = given.value(1)
    if isinstance(indices, Known) and not indices.shape:
        rank = len(given.value(0).shape)
        place = (slice(None),) * axis_in(given, axis, rank) + (int(indices.array),)
        return lambda x, _: x[place]
    return lambda x, indices: np.take(x, indices, axis=axis)


def _gather(building: Building, step: Step, given: Given) -> None:
    if not isinstance(given.value(0), Tensor):
        raise Left("it takes rows of a table by numbers of the call")
    (axis, indices), (y,) = _gather_parts(given), step.made
    placed = building.place(step.tensors[0])
    if placed.axes.roles[axis] == "T":
        place = int(indices.ravel()[0]) if indices.size == 1 else None
        if place not in (0, -1):
            raise Left("it takes steps other than the first or last")
        order = [a - (a > axis) * (indices.ndim == 0) for a in placed.order]
        return _end(building, placed, y, order, last=place == -1)
    if placed.axes.roles[axis] == "B" or indices.ndim > 1:
        raise Left("it takes rows of the batch, or of several axes")
    size = placed.axes.size(axis)
    if indices.size and not (-size <= indices.min() and indices.max() < size):
        raise OnnxError(f"{given.label}: numbers {indices.tolist()} of an axis of size {size}")
    return chosen(building, step, axis, indices.reshape(-1) % size, y, drop=indices.ndim == 0)


# ---- Split


def _split_sizes(given: Given) -> tuple[int, list[int]]:
    x = given.value(0)
    axis = axis_in(given, given.attributes.integer("axis", 0), len(x.shape))
    sizes = given.integers("split", 1)
    if sizes is None:
        count, whole = given.attributes.integer("num_outputs", len(given.node.outputs)), int(x.shape[axis])
        part = -(-whole // count)
        sizes = tuple(min(part, whole - at) for at in range(0, whole, part))
    if not same(sum(sizes), x.shape[axis]):
        raise OnnxError(f"{given.label}: parts {list(sizes)} of axis {axis} of shape {x.shape}")
    return axis, list(sizes)


def _split_result(given: Given) -> Sequence[Result]:
    x, (axis, sizes) = given.value(0), _split_sizes(given)
    return [(x.dtype, (*x.shape[:axis], size, *x.shape[axis + 1 :])) for size in sizes]


def _split_meaning(given: Given) -> Any:
    axis, sizes = _split_sizes(given)
    ends = np.cumsum(sizes)[:-1]
    return lambda x, _=None: tuple(np.split(x, ends, axis))


def _split(building: Building, step: Step, given: Given) -> None:
    axis, sizes = _split_sizes(given)
    if building.place(step.tensors[0]).axes.roles[axis] not in "C1":
        raise Left("it cuts time or the batch")
    at = 0
    for y, size in zip(step.outputs, sizes, strict=False):
        if y is not None:
            chosen(building, step, axis, np.arange(at, at + size), y)
        at += size


# ---- Concat


def _concat_result(given: Given) -> Sequence[Result]:
    first = given.value(0)
    axis = axis_in(given, given.attributes.integer("axis", 0), len(first.shape))
    shape = list(first.shape)
    for number in range(1, len(given.inputs)):
        other = given.value(number).shape
        if len(other) != len(shape):
            raise OnnxError(f"{given.label}: it joins tensors of {len(shape)} and of {len(other)} axes")
        shape = [a + b if n == axis else meet(a, b) for n, (a, b) in enumerate(zip(shape, other, strict=True))]
    return [(first.dtype, tuple(shape))]


def _concat_meaning(given: Given) -> Any:
    axis = given.attributes.integer("axis", 0)
    return lambda *xs: np.concatenate(xs, axis)


def _concat(building: Building, step: Step, given: Given) -> None:
    if len(step.tensors) < len(step.inputs):
        raise Left("it joins constants with what is computed")
    (y,) = step.made
    axes = building.axes(y)
    axis = axis_in(given, given.attributes.integer("axis", 0), len(y.shape))
    if axes.roles[axis] not in "C1":
        raise Left("it joins along time or the batch")
    placed = [building.place(x) for x in step.tensors]
    if len({place.flipped for place in placed if place.timed}) > 1:
        raise Left("it joins a sequence with a reversed one")
    order = [axis, *(a for a in axes.columns if a != axis)]
    names = [building.reordered(place, [a for a in order if place.axes.roles[a] == "C"]) for place in placed]
    name = building.whole(names) or (building.layer(y.name, Concat(), *names) if len(names) > 1 else names[0])
    building.put(
        y,
        name,
        [a for a in order if axes.roles[a] == "C"],
        timed=any(place.timed for place in placed),
        flipped=any(place.flipped for place in placed),
    )
    if all(x.name in building.zeroed for x in step.tensors):
        building.zeroed.add(y.name)


# ---- Pad


def _pads(given: Given) -> tuple[tuple[int, int], ...]:
    rank = len(given.value(0).shape)
    pads = given.integers("pads", 1) or ()
    axes = given.integers("axes", 3) or tuple(range(rank))
    if len(pads) != 2 * len(axes):
        raise OnnxError(f"{given.label}: pads: expected two for each of {len(axes)} axes, got {list(pads)}")
    found = {axis_in(given, a, rank): (pads[n], pads[n + len(axes)]) for n, a in enumerate(axes)}
    return tuple(found.get(axis, (0, 0)) for axis in range(rank))


def _pad_result(given: Given) -> Sequence[Result]:
    x = given.value(0)
    return [(x.dtype, tuple(size + sum(pads) for size, pads in zip(x.shape, _pads(given), strict=True)))]


def _pad_number(given: Given) -> float:
    array = given.array(2)
    return float(array.ravel()[0]) if array is not None and array.size else given.attributes.number("value", 0.0) or 0.0


def _pad_meaning(given: Given) -> Any:
    pads, mode = _pads(given), given.attributes.text("mode", "constant")
    number = _pad_number(given)
    options: dict[str, Any] = {"constant_values": number} if mode == "constant" else {}
    changed = [axis for axis, pad in enumerate(pads) if pad != (0, 0)]
    size = static(given.value(0).shape[changed[0]]) if len(changed) == 1 else None
    if mode != "constant" and size is not None:
        lead = (slice(None),) * changed[0]
        places = np.pad(np.arange(size), pads[changed[0]], mode)  # type: ignore[call-overload]
        return lambda x, *_: x[(*lead, places)]
    return lambda x, *_: np.pad(x, pads, mode, **options)  # type: ignore[call-overload]


def _pad(building: Building, step: Step, given: Given) -> None:
    (x,), (y,) = step.tensors[:1], step.made
    pads, mode = _pads(given), given.attributes.text("mode", "constant")
    changed = [axis for axis, pad in enumerate(pads) if pad != (0, 0)]
    placed = building.place(x)
    if len(changed) != 1 or placed.axes.roles[changed[0]] not in "C1" or mode == "wrap":
        raise Left("it pads time, the batch, or several axes")
    axis, (before, after) = changed[0], pads[changed[0]]
    size = placed.axes.size(axis)
    if mode == "constant" and min(before, after) >= 0:
        inner = placed.axes.width // size
        order = [axis, *(a for a in placed.order if a != axis)]
        name = building.reordered(placed, [a for a in order if placed.axes.roles[a] == "C"])
        name = building.layer(y.name, ZeroPad(before * inner, after * inner, _pad_number(given)), name)
        return building.put(y, name, order, timed=placed.timed, flipped=placed.flipped)
    if min(before, after) < 0 and mode == "constant":
        raise Left("it cuts and pads at once")
    taken = np.pad(np.arange(size), (before, after), mode)  # type: ignore[call-overload]
    return chosen(building, step, axis, taken, y)


# ---- Expand, Tile


def _expand_result(given: Given) -> Sequence[Result]:
    x = given.value(0)
    return [(x.dtype, broadcast(x.shape, given.dims(1)))]


def _expand(building: Building, step: Step, given: Given) -> None:
    if any(static(a) != static(b) or isinstance(a, Size) != isinstance(b, Size) for a, b in _aligned(step)):
        raise Left("it repeats what it reads")
    rank, new = len(step.tensors[0].shape), len(step.made[0].shape)
    from rnnc.onnx.ops.movement import moved

    moved(building, step, [None] * (new - rank) + list(range(rank)))


def _aligned(step: Step) -> list[tuple[Dim, Dim]]:
    """The sizes of input and result, axis by axis from the last."""
    x, y = step.tensors[0].shape, step.made[0].shape
    return list(zip((1,) * (len(y) - len(x)) + x, y, strict=True))


CUTTING_OPS: dict[tuple[str, str], Op] = {
    ("", "Slice"): Op(_slice_meaning, _slice_result, _slice, moves=True),
    ("", "Gather"): Op(_gather_meaning, _gather_result, _gather, moves=True),
    ("", "Split"): Op(_split_meaning, _split_result, _split, moves=True),
    ("", "Concat"): Op(_concat_meaning, _concat_result, _concat, moves=True),
    ("", "Pad"): Op(_pad_meaning, _pad_result, _pad, moves=True),
    ("", "Expand"): Op(
        lambda given: lambda x, shape: x * np.ones([int(size) for size in shape], x.dtype),
        _expand_result,
        _expand,
        moves=True,
    ),
}
