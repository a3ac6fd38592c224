"""Operators that multiply by constant matrices: MatMul, Gemm, Conv."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnc.ir.errors import OnnxError
from rnnc.layers import Conv1d, First, Linear
from rnnc.onnx.building import Building, check_places
from rnnc.onnx.layers import PositionConv, PositionLinear
from rnnc.onnx.ops.shapes import broadcast, meet
from rnnc.onnx.ops.table import Given, Left, Op, Result, one_dtype
from rnnc.onnx.sizes import Dim, static
from rnnc.onnx.values import Filled, Step, Tensor, Value

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

__all__ = ["PRODUCT_OPS", "Convolution"]


def constant(value: Value | None, what: str) -> Array | None:
    """A constant operand, None if it is left out. Raises Left if it comes with the call."""
    if isinstance(value, Tensor):
        raise Left(f"{what} {value.name!r} is no constant")
    if isinstance(value, Filled):
        raise Left(f"{what} has sizes that are not known")
    return None if value is None else value.array


# ---- MatMul


def _matmul_result(given: Given) -> Sequence[Result]:
    a, b = given.value(0).shape, given.value(1).shape
    if not a or not b:
        raise OnnxError(f"{given.label}: expected matrices, got shapes {a} and {b}")
    meet(a[-1], b[-2] if len(b) > 1 else b[0])
    lead = broadcast(a[:-2], b[:-2])
    rows, columns = (a[-2:-1] if len(a) > 1 else ()), (b[-1:] if len(b) > 1 else ())
    return [(one_dtype(given, (0, 1)), (*lead, *rows, *columns))]


def _matmul(building: Building, step: Step, given: Given) -> None:
    x, y = given.value(0), step.made[0]
    weight = constant(given.value(1), "its right side")
    assert weight is not None
    if not isinstance(x, Tensor) or weight.ndim != 2 or len(x.shape) < 2:
        raise Left("its left side is a constant, or its right side no matrix")
    linear(building, x, y, weight.T, None)


def linear(building: Building, x: Tensor, y: Tensor, weight: Array, bias: Array | None) -> None:
    """weight (N, K) times the last axis of x, plus bias, at every place of its other axes."""
    last = len(x.shape) - 1
    axes = building.axes(x)
    if axes.roles[last] not in "C1":
        raise Left("it sums over time or the batch")
    if axes.size(last) != weight.shape[1]:
        raise OnnxError(f"a matrix for {weight.shape[1]} columns reads a tensor of shape {x.shape}")
    others = [axis for axis in axes.columns if axis != last]
    placed = building.place(x)
    kept = [axis for axis in placed.order if axis != last] or others
    name = building.columns(x, [*kept, *([last] if axes.roles[last] == "C" else [])])
    positions = axes.width // axes.size(last)
    out, inner = weight.shape
    check_places(positions)
    layer: Any = PositionLinear(positions, inner, out, bias is not None)
    if positions == 1:
        layer = Linear(inner, out, bias=bias is not None)
    params = {"weight": weight} | ({} if bias is None else {"bias": bias})
    name = building.layer(y.name, layer, name, params=params)
    order = [*kept, *([last] if out > 1 else [])]
    building.put(y, name, order, timed=placed.timed, flipped=placed.flipped)


# ---- Gemm


def _gemm_result(given: Given) -> Sequence[Result]:
    a, b = given.value(0).shape, given.value(1).shape
    if len(a) != 2 or len(b) != 2:
        raise OnnxError(f"{given.label}: expected two matrices, got shapes {a} and {b}")
    a = a[::-1] if given.attributes.integer("transA", 0) else a
    b = b[::-1] if given.attributes.integer("transB", 0) else b
    meet(a[1], b[0])
    return [(one_dtype(given, (0, 1)), (a[0], b[1]))]


def _gemm(building: Building, step: Step, given: Given) -> None:
    x, weight = given.value(0), constant(given.value(1), "its right side")
    bias = constant(given.optional(2), "its bias")
    if not isinstance(x, Tensor) or given.attributes.integer("transA", 0):
        raise Left("its left side is a constant, or transposed")
    assert weight is not None
    weight = weight if given.attributes.integer("transB", 0) else weight.T
    alpha, beta = given.attributes.number("alpha", 1.0), given.attributes.number("beta", 1.0)
    weight = weight if alpha == 1 else weight * weight.dtype.type(alpha)
    if bias is not None:
        if bias.ndim == 2 and bias.shape[0] != 1:
            raise Left("its bias differs from row to row")
        bias = np.broadcast_to(bias.reshape(-1), weight.shape[:1]) * bias.dtype.type(beta)
    linear(building, x, step.made[0], weight, bias)


# ---- Conv


class Convolution:
    """The attributes of a Conv over one axis."""

    def __init__(self, given: Given) -> None:
        w = given.value(1)
        rank = len(given.value(0).shape) - 2
        if rank != 1 or len(w.shape) != 3:
            raise Left(f"it convolves over {rank} axes")
        attributes = given.attributes
        self.kernel = int(w.shape[2])
        (self.stride,) = attributes.integers("strides") or (1,)
        (self.dilation,) = attributes.integers("dilations") or (1,)
        self.groups = attributes.integer("group", 1)
        self.span = (self.kernel - 1) * self.dilation
        self.auto = attributes.choice("auto_pad", "NOTSET", ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"))
        pads = attributes.integers("pads") or (0, 0)
        if len(pads) != 2 or min(pads) < 0 or min(self.stride, self.dilation, self.groups) < 1:
            raise OnnxError(f"{given.label}: pads {pads}, stride {self.stride}, dilation {self.dilation}")
        self._pads = pads

    def pads(self, size: Dim) -> tuple[int, int]:
        """Zeros before and after an axis of this size."""
        if self.auto == "NOTSET":
            return self._pads[0], self._pads[1]
        if self.auto == "VALID":
            return 0, 0
        known = self.stride if self.stride == 1 else int(size)
        total = max((-(-known // self.stride) - 1) * self.stride + self.span + 1 - known, 0)
        less, more = total // 2, total - total // 2
        return (less, more) if self.auto == "SAME_UPPER" else (more, less)


def _conv_result(given: Given) -> Sequence[Result]:
    conv, x, w = Convolution(given), given.value(0).shape, given.value(1).shape
    before, after = conv.pads(x[2])
    if static(x[1]) != int(w[1]) * conv.groups:
        raise OnnxError(f"{given.label}: X of shape {x} has not the {int(w[1]) * conv.groups} channels that W reads")
    length: Dim = x[2] + (before + after - conv.span)
    if conv.stride > 1:
        length = (int(length) - 1) // conv.stride + 1
    if isinstance(length, int) and length < 1:
        raise OnnxError(f"{given.label}: X of shape {x} is shorter than the kernel")
    return [(one_dtype(given, (0, 1)), (x[0], int(w[0]), length))]


def _conv(building: Building, step: Step, given: Given) -> None:
    x, y = given.value(0), step.made[0]
    weight, bias = constant(given.value(1), "its weight"), constant(given.optional(2), "its bias")
    assert weight is not None
    if not isinstance(x, Tensor):
        raise Left("its X is a constant")
    params = {"weight": weight} | ({} if bias is None else {"bias": bias})
    if building.frames is not None:
        return _framed(building, step, Convolution(given), params)
    conv, axes = Convolution(given), building.axes(x)
    before, after = conv.pads(x.shape[2])
    sizes = int(weight.shape[1]) * conv.groups, int(weight.shape[0]), conv.kernel
    if axes.roles[2] == "T":
        if conv.stride != 1 or before + after != conv.span:
            raise Left("it changes the number of steps")
        options: dict[str, Any] = {"dilation": conv.dilation, "groups": conv.groups, "bias": bias is not None}
        placed = building.place(x)
        name = building.columns(x, [1] if axes.roles[1] == "C" else [])
        pads = (after, before) if placed.flipped else (before, after)
        if placed.flipped:
            params["weight"] = weight[:, :, ::-1]
        name = building.layer(y.name, Conv1d(*sizes, padding=pads, **options), name, params=params)
        return building.put(y, name, [1] if sizes[1] > 1 else [], flipped=placed.flipped)
    if axes.roles[2] not in "C1":
        raise Left("it convolves over the batch")
    if max(before, after) > conv.span:
        raise Left("some of its places lie in the padding alone")
    layer = PositionConv(
        *sizes, axes.size(2), conv.stride, before, after, conv.dilation, conv.groups, bias=bias is not None
    )
    check_places(layer.out_length)
    name = building.columns(x, [axis for axis in (2, 1) if axes.roles[axis] == "C"])
    name = building.layer(y.name, layer, name, params=params)
    made = building.axes(y)
    placed = building.place(x)
    order = [axis for axis in (2, 1) if made.roles[axis] == "C"]
    return building.put(y, name, order, timed=placed.timed, flipped=placed.flipped)


def _framed(building: Building, step: Step, conv: Convolution, params: dict[str, Array]) -> None:
    """A convolution whose positions are steps (`rnnc.onnx.frames`)."""
    (x,), (y,), frames = step.tensors, step.made, building.frames
    assert frames is not None
    out, inner, kernel = params["weight"].shape
    if step is frames.first:
        name = building.name_of(x.name)
        building.framed[name] = x, inner * kernel, frames.view(conv)
        params["weight"] = params["weight"].reshape(out, inner * kernel)
        layer: Any = Linear(inner * kernel, out, bias="bias" in params)
    else:
        every, (before, _) = frames.every[x.name], conv.pads(x.shape[2])
        pads = before * every, (conv.span - before) * every
        name = building.columns(x, [1])
        options: dict[str, Any] = {"dilation": conv.dilation * every, "groups": conv.groups, "bias": "bias" in params}
        layer = Conv1d(inner * conv.groups, out, kernel, padding=pads, **options)
    name = building.layer(y.name, layer, name, params=params)
    if static(y.shape[2]) == 1:
        return building.put(y, building.layer(f"{y.name}_first", First(), name), [1], timed=False)
    return building.put(y, name, [1])


PRODUCT_OPS: dict[tuple[str, str], Op] = {
    ("", "MatMul"): Op(lambda given: np.matmul, _matmul_result, _matmul),
    ("", "Gemm"): Op(None, _gemm_result, _gemm),
    ("", "Conv"): Op(None, _conv_result, _conv),
}
