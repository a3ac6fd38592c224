"""Operators over a whole axis: sums and the like, softmax, and normalisations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnc.layers import Activation, LayerNorm, Max, Mean, Sum
from rnnc.onnx.building import Building, check_places
from rnnc.onnx.layers import Blocks, Elementwise
from rnnc.onnx.ops.elementwise import combined
from rnnc.onnx.ops.table import Given, Left, Op, Result, axis_in, constant
from rnnc.onnx.places import Placed
from rnnc.onnx.sizes import static
from rnnc.onnx.values import Known, Step, Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

__all__ = ["REDUCTION_OPS"]

# ---- Reduce...

NUMPY: Mapping[str, Callable[..., Any]] = {
    "ReduceMean": np.mean,
    "ReduceSum": np.sum,
    "ReduceMax": np.max,
    "ReduceMin": np.min,
    "ReduceProd": np.prod,
    "ReduceL2": lambda x, axis, keepdims: np.sqrt(np.sum(x * x, axis=axis, keepdims=keepdims)),
    "ReduceSumSquare": lambda x, axis, keepdims: np.sum(x * x, axis=axis, keepdims=keepdims),
}


def _axes(given: Given) -> tuple[int, ...]:
    """The axes that are summed up."""
    rank = len(given.value(0).shape)
    axes = given.integers("axes", 1)
    if not axes:
        return () if given.attributes.integer("noop_with_empty_axes", 0) else tuple(range(rank))
    return tuple(sorted(axis_in(given, axis, rank) for axis in axes))


def _keeps(given: Given) -> bool:
    return given.attributes.integer("keepdims", 1) == 1


def _reduced(given: Given) -> Sequence[Result]:
    x, axes = given.value(0), _axes(given)
    if _keeps(given):
        return [(x.dtype, tuple(1 if axis in axes else size for axis, size in enumerate(x.shape)))]
    return [(x.dtype, tuple(size for axis, size in enumerate(x.shape) if axis not in axes))]


def _reduce_meaning(given: Given) -> Any:
    function, axes, keeps = NUMPY[given.node.op], _axes(given), _keeps(given)
    return lambda x, _=None: function(x, axis=axes, keepdims=keeps)


def _reduce(building: Building, step: Step, given: Given) -> None:
    x, y = step.tensors[0], step.made[0]
    placed = building.place(x)
    axes = [axis for axis in _axes(given) if placed.axes.roles[axis] != "1"]
    roles = {placed.axes.roles[axis] for axis in axes}
    if "B" in roles or roles == {"T", "C"}:
        raise Left("it sums over the batch, or over time and columns at once")
    gone = set() if _keeps(given) else set(_axes(given))
    if roles == {"T"}:
        return _over_time(building, step, placed, gone)
    order = [*(axis for axis in placed.order if axis not in axes), *(axis for axis in placed.order if axis in axes)]
    name = building.reordered(placed, order)
    count = placed.axes.width
    for axis in axes:
        count //= placed.axes.size(axis)
    if axes or step.node.op in ("ReduceL2", "ReduceSumSquare"):
        check_places(count)
        name = building.layer(y.name, Blocks(step.node.op, count), name)
    kept = [_shifted(axis, gone) for axis in order if axis not in axes]
    return building.put(y, name, kept, timed=placed.timed, flipped=placed.flipped)


def _over_time(building: Building, step: Step, placed: Placed, gone: set[int]) -> None:
    readout = {"ReduceMean": Mean, "ReduceMax": Max, "ReduceSum": Sum}.get(step.node.op)
    if readout is None:
        raise Left("it goes over time; of that rnnc has the mean, the sum and the maximum")
    name = building.over_time(step.made[0].name, readout(), placed.name)
    building.put(step.made[0], name, [_shifted(axis, gone) for axis in placed.order], timed=False)


def _shifted(axis: int, gone: set[int]) -> int:
    """The number of an axis once others have gone."""
    return axis - sum(other < axis for other in gone)


# ---- Softmax


def _softmax_axes(given: Given) -> list[int]:
    """The axes that are summed over: one since version 13, before that one and all behind it."""
    rank = len(given.value(0).shape)
    axis = axis_in(given, given.attributes.integer("axis", -1 if given.opset >= 13 else 1), rank)
    return [axis] if given.opset >= 13 else list(range(axis, rank))


def _softmax(building: Building, step: Step, given: Given) -> None:
    x, y = step.tensors[0], step.made[0]
    placed = building.place(x)
    axes = [axis for axis in _softmax_axes(given) if placed.axes.roles[axis] != "1"]
    if [placed.axes.roles[axis] for axis in axes] == ["T"]:
        return _softmax_over_time(building, step, placed)
    if any(placed.axes.roles[axis] != "C" for axis in axes):
        raise Left("it is a softmax over time or the batch")
    order = [*(axis for axis in placed.order if axis not in axes), *(axis for axis in placed.order if axis in axes)]
    count = placed.axes.width
    for axis in axes:
        count //= placed.axes.size(axis)
    check_places(count)
    name = building.layer(y.name, Blocks(step.node.op, count), building.reordered(placed, order))
    building.put(y, name, order, timed=placed.timed, flipped=placed.flipped)


def _softmax_over_time(building: Building, step: Step, placed: Placed) -> None:
    """exp(x - m) / sum(exp(x - m)), where m is the largest of all steps."""
    text, both = step.made[0].name, ("x", "x")
    largest = building.over_time(f"{text}_largest", Max(), placed.name)
    shifted = building.layer(f"{text}_shifted", Elementwise("Sub", both), placed.name, largest)
    powers = building.layer(f"{text}_powers", Activation("exp"), shifted)
    total = building.over_time(f"{text}_total", Sum(), powers)
    if step.node.op == "Softmax":
        name = building.layer(text, Elementwise("Div", both), powers, total)
    else:
        logarithm = building.layer(f"{text}_log", Elementwise("Log", ("x",)), total)
        name = building.layer(text, Elementwise("Sub", both), shifted, logarithm)
    building.put(step.made[0], name, placed.order, flipped=placed.flipped)


def _same(given: Given) -> Sequence[Result]:
    return [(given.value(0).dtype, given.value(0).shape)]


# ---- normalisations


def _batch_norm(building: Building, step: Step, given: Given) -> None:
    """x * scale + shift, with the statistics of training."""
    if given.attributes.integer("training_mode", 0):
        raise Left("training_mode is 1: it takes the statistics of the batch; export the model for inference")
    x = given.value(0)
    scale, bias, mean, variance = (constant(given.value(n), "a parameter") for n in (1, 2, 3, 4))
    assert scale is not None and bias is not None and mean is not None and variance is not None
    epsilon = given.attributes.number("epsilon", 1e-5) or 0.0
    factor = scale.astype(np.float64) / np.sqrt(variance.astype(np.float64) + epsilon)
    shape = (-1, *[1] * (len(x.shape) - 2))
    times, plus = (array.astype(x.dtype).reshape(shape) for array in (factor, bias - mean * factor))
    y = step.made[0]
    scaled = Tensor(f"{y.name}_scaled", y.dtype, y.shape)
    combined(building, Step(step.node, (x,), (scaled,)), "Mul", [x, Known(times)])
    combined(building, Step(step.node, (scaled,), (y,)), "Add", [scaled, Known(plus)])


def _layer_norm(building: Building, step: Step, given: Given) -> None:
    x, y = step.tensors[0], step.made[0]
    rank = len(x.shape)
    axis = axis_in(given, given.attributes.integer("axis", -1), rank)
    placed = building.place(x)
    if len(step.made) > 1 or placed.axes.columns != tuple(a for a in range(axis, rank) if static(x.shape[a]) != 1):
        raise Left("it normalises over other axes than all columns, or gives its mean")
    scale, bias = constant(given.value(1), "its scale"), constant(given.optional(2), "its bias")
    assert scale is not None
    width = placed.axes.width
    epsilon = given.attributes.number("epsilon", 1e-5) or 0.0
    zero = np.zeros(width, scale.dtype)
    params = {"weight": np.ravel(scale), "bias": zero if bias is None else np.ravel(bias)}
    name = building.layer(
        y.name, LayerNorm(width, eps=epsilon), building.reordered(placed, placed.axes.columns), params=params
    )
    building.put(y, name, placed.axes.columns, timed=placed.timed, flipped=placed.flipped)


REDUCTION_OPS: dict[tuple[str, str], Op] = {
    **{("", name): Op(_reduce_meaning, _reduced, _reduce if name != "ReduceProd" else None) for name in NUMPY},
    ("", "Softmax"): Op(None, _same, _softmax),
    ("", "LogSoftmax"): Op(None, _same, _softmax),
    ("", "BatchNormalization"): Op(None, _same, _batch_norm),
    ("", "LayerNormalization"): Op(None, _same, _layer_norm),
}
