"""Operators on each number by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnc.ir.errors import OnnxError
from rnnc.layers import Activation
from rnnc.onnx.building import Building
from rnnc.onnx.layers import EQUATIONS, Elementwise
from rnnc.onnx.ops.shapes import broadcast
from rnnc.onnx.ops.table import Given, Left, Op, Result, one_dtype
from rnnc.onnx.places import Axes, Placed
from rnnc.onnx.values import Filled, Known, Step, Tensor, Value, is_sizes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

__all__ = ["ELEMENTWISE_OPS", "combined"]


def _divided(a: Array, b: Array) -> Array:
    """Integers are cut towards 0, as ONNX says."""
    if is_sizes(a) or is_sizes(b):
        return np.floor_divide(a, b)
    if a.dtype.kind not in "iu":
        return np.true_divide(a, b)
    return np.asarray(np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b)), a.dtype)


def _clip(x: Array, low: Array | None = None, high: Array | None = None) -> Array:
    return np.clip(x, low, high) if low is not None or high is not None else x


NUMPY: Mapping[str, Callable[..., Any]] = {
    "Abs": np.abs,
    "Add": np.add,
    "And": np.logical_and,
    "Ceil": np.ceil,
    "Clip": _clip,
    "Cos": np.cos,
    "Div": _divided,
    "Equal": np.equal,
    "Exp": np.exp,
    "Floor": np.floor,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "Log": np.log,
    "Max": lambda *xs: reduce(np.maximum, xs),
    "Mean": lambda *xs: reduce(np.add, xs) / len(xs),
    "Min": lambda *xs: reduce(np.minimum, xs),
    "Mod": np.mod,
    "Mul": np.multiply,
    "Neg": np.negative,
    "Not": np.logical_not,
    "Or": np.logical_or,
    "PRelu": lambda x, slope: np.where(x < 0, slope * x, x),
    "Pow": lambda a, b: np.power(a, b).astype(a.dtype),
    "Reciprocal": lambda x: 1 / x,
    "Relu": lambda x: np.maximum(x, 0),
    "Round": np.rint,
    "Sigmoid": lambda x: (1 / (1 + np.exp(-x))).astype(x.dtype),
    "Sign": np.sign,
    "Sin": np.sin,
    "Sqrt": np.sqrt,
    "Sub": np.subtract,
    "Sum": lambda *xs: reduce(np.add, xs),
    "Tanh": np.tanh,
    "Where": np.where,
    "Xor": np.logical_xor,
}
"""The meaning of operators without attributes."""

BINARY = (
    *("Add", "Div", "Mod", "Mul", "PRelu", "Pow", "Sub"),
    *("And", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Or", "Xor"),
)

TRUTHS = ("And", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "Or", "Xor")

ACTIVATIONS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "Abs": ("absolute", ()),
    "Celu": ("celu", ("alpha",)),
    "Elu": ("elu", ("alpha",)),
    "Exp": ("exp", ()),
    "HardSigmoid": ("hard_sigmoid", ("alpha", "beta")),
    "HardSwish": ("hard_swish", ()),
    "LeakyRelu": ("leaky_relu", ("alpha",)),
    "Mish": ("mish", ()),
    "Neg": ("negative", ()),
    "Relu": ("relu", ()),
    "Selu": ("selu", ("alpha", "gamma")),
    "Sigmoid": ("sigmoid", ()),
    "Softplus": ("softplus", ()),
    "Softsign": ("softsign", ()),
    "Tanh": ("tanh", ()),
    "ThresholdedRelu": ("thresholded_relu", ("alpha",)),
}
"""Operators that are a `rnnc.Activation`: its name, and the attributes that are its alpha and beta."""


# ---- shapes


def _infer(given: Given) -> Sequence[Result]:
    numbers = [n for n, value in enumerate(given.inputs) if value is not None]
    wanted = 3 if given.node.op == "Where" else 2 if given.node.op in BINARY else len(numbers)
    if len(numbers) != wanted or not numbers:
        raise OnnxError(f"{given.label}: expected {wanted or 'some'} inputs, got {len(numbers)}")
    shape = broadcast(*(given.value(n).shape for n in numbers))
    if given.node.op in TRUTHS:
        return [("bool", shape)]
    return [(one_dtype(given, numbers[1:] if given.node.op == "Where" else numbers[:1]), shape)]


def _same(given: Given) -> Sequence[Result]:
    return [(given.value(0).dtype, given.value(0).shape)]


# ---- layers


def _activation(building: Building, step: Step, given: Given) -> None:
    name, attributes = ACTIVATIONS[step.node.op]
    numbers = [given.attributes.number(attribute, None) for attribute in attributes]
    _unary(building, step, Activation(name, *numbers))


def _gelu(building: Building, step: Step, given: Given) -> None:
    approximate = given.attributes.text("approximate", "none")
    _unary(building, step, Activation("gelu_tanh" if approximate == "tanh" else "gelu"))


def _unary(building: Building, step: Step, layer: Any) -> None:
    """A layer that keeps axes and columns as they are."""
    (x,), (y,) = step.tensors, step.made
    placed = building.place(x)
    name = building.layer(y.name, layer, placed.name)
    building.put(y, name, placed.order, timed=placed.timed, flipped=placed.flipped)


def _lower(building: Building, step: Step, given: Given) -> None:
    combined(building, step, step.node.op, [given.value(n) for n, value in enumerate(step.inputs) if value is not None])


def _lower_clip(building: Building, step: Step, given: Given) -> None:
    bounds: list[float | None] = []
    for number, attribute in ((1, "min"), (2, "max")):
        array = given.array(number)
        bound = given.attributes.number(attribute, None) if array is None else float(array.ravel()[0])
        bounds.append(None if bound is None or not isfinite(bound) or abs(bound) > 3e38 else bound)
    (x,), (y,) = step.tensors, step.made
    placed = building.place(x)
    low, high = bounds
    name = placed.name
    for op, bound in (("Max", low), ("Min", high)):
        name = name if bound is None else building.layer(y.name, Elementwise(op, ("x", bound)), name)
    building.put(y, name, placed.order, timed=placed.timed, flipped=placed.flipped)


def combined(building: Building, step: Step, op: str, values: Sequence[Value]) -> None:
    """An operator of `EQUATIONS` on values that broadcast."""
    (y,) = step.made
    axes = building.axes(y)
    placed = [building.place(value) if isinstance(value, Tensor) else None for value in values]
    tensors = [place for place in placed if place is not None]
    if len({place.flipped for place in tensors if place.timed}) > 1:
        raise Left("it joins a sequence with a reversed one")
    order = _order(axes, tensors)
    operands: list[str | int | float] = []
    sources: list[str] = []
    params: dict[str, Array] = {}
    for number, (value, place) in enumerate(zip(values, placed, strict=True)):
        if place is not None:
            operands.append("x")
            sources.append(_spread(building, place, axes, order))
            continue
        array = _constant(value, axes, order)
        if array.size == 1 or (array == array[0]).all():
            operands.append(float(array[0]))
        else:
            operands.append(len(array))
            params[f"operand{number}"] = array
    name = building.layer(y.name, Elementwise(op, tuple(operands)), *sources, params=params)
    timed = any(place.timed for place in tensors)
    building.put(y, name, order, timed=timed, flipped=any(place.flipped for place in tensors))


def _order(axes: Axes, placed: Sequence[Placed]) -> tuple[int, ...]:
    """The order of columns of the result: that of the first operand which has them all."""
    for place in placed:
        shift = len(axes.roles) - len(place.axes.roles)
        order = tuple(axis + shift for axis in place.order)
        if sorted(order) == list(axes.columns):
            return order
    return axes.columns


def _spread(building: Building, placed: Placed, axes: Axes, order: Sequence[int]) -> str:
    """An operand's columns in the order of the result; where it has fewer, they are repeated."""
    shift = len(axes.roles) - len(placed.axes.roles)
    own = [axis - shift for axis in order if axis >= shift and placed.axes.roles[axis - shift] == "C"]
    if len(own) == len(order):
        return building.reordered(placed, own)
    if placed.axes.width == 1:
        return placed.name
    numbers = np.arange(placed.axes.width).reshape([placed.axes.size(axis) for axis in placed.order])
    numbers = numbers.transpose([placed.order.index(axis) for axis in own])
    present = tuple(slice(None) if axis - shift in own else None for axis in order)
    wide = np.broadcast_to(numbers[present], [axes.size(axis) for axis in order])
    return building.selected(placed, wide.ravel())


def _constant(value: Value, axes: Axes, order: Sequence[int]) -> Array:
    """A constant operand: one number, or one for each column."""
    if isinstance(value, Filled):
        return value.number.reshape(1)
    assert isinstance(value, Known)
    array = value.array
    if array.size == 1:
        return array.reshape(1)
    array = array.reshape((1,) * (len(axes.roles) - array.ndim) + array.shape)
    if any(size != 1 and role in "TB" for size, role in zip(array.shape, axes.roles, strict=True)):
        raise Left("a constant differs from step to step, or from row to row")
    rest = [axis for axis in range(array.ndim) if axis not in order]
    columns = array.transpose([*rest, *order]).reshape([array.shape[axis] for axis in order])
    return np.ascontiguousarray(np.broadcast_to(columns, [axes.size(axis) for axis in order])).ravel()


def _table() -> dict[str, Op]:
    found: dict[str, Op] = {}
    for name in {*NUMPY, *EQUATIONS, *ACTIVATIONS, "Gelu"}:
        function = NUMPY.get(name)
        lower: Any = _activation if name in ACTIVATIONS else _lower if name in EQUATIONS else None
        lower = {"Clip": _lower_clip, "Gelu": _gelu}.get(name, lower)
        infer = _same if name in ("Clip", *ACTIVATIONS) else _infer
        found[name] = Op(_meant(function) if function else None, infer, lower)
    return found


def _meant(function: Callable[..., Any]) -> Callable[[Given], Callable[..., Any]]:
    return lambda given: function


ELEMENTWISE_OPS = {("", name): op for name, op in _table().items()}
