"""Products of matrices: MatMul and Gemm by constant ones, MatMul of two tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnc.ir.errors import OnnxError
from rnnc.layers import Linear, Sum
from rnnc.onnx.building import Building, check_places
from rnnc.onnx.layers import PositionLinear, PositionProduct
from rnnc.onnx.ops.shapes import broadcast, meet
from rnnc.onnx.ops.table import Given, Left, Op, Result, constant, one_dtype
from rnnc.onnx.values import Step, Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

__all__ = ["PRODUCT_OPS"]


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
    x, right, y = given.value(0), given.value(1), step.made[0]
    if isinstance(x, Tensor) and isinstance(right, Tensor):
        return _of_tensors(building, x, right, y)
    weight = constant(right, "its right side")
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


def _of_tensors(building: Building, a: Tensor, b: Tensor, y: Tensor) -> None:
    """a @ b: over columns at each step, or over time: of products at each step the sum."""
    left, right, made = building.axes(a), building.axes(b), building.axes(y)
    if min(len(a.shape), len(b.shape)) < 2:
        raise Left("one of its sides is a vector")
    inner = left.roles[-1]
    if right.roles[-2] != inner or inner == "B":
        raise Left("it sums over the batch, or over axes that are not the same")
    before = [axis for axis in made.columns if axis < len(made.roles) - 2]
    kept = [[axis - len(made.roles) + len(axes.roles) for axis in before] for axes in (left, right)]
    for axes, own in zip((left, right), kept, strict=True):
        if own != [axis for axis in axes.columns if axis < len(axes.roles) - 2]:
            raise Left("its sides have other axes before their last two")
    names = [
        building.columns(tensor, [*own, *(axis for axis in axes.columns if axis >= len(axes.roles) - 2)])
        for tensor, axes, own in zip((a, b), (left, right), kept, strict=True)
    ]
    placed = building.place(a), building.place(b)
    if len({place.flipped for place in placed if place.timed}) > 1:
        raise Left("it joins a sequence with a reversed one")
    rows, columns, summed = (axes.size(len(axes.roles) - n) for axes, n in ((left, 2), (right, 1), (left, 1)))
    count = made.width // (rows * columns)
    check_places(count * rows)
    name = building.layer(y.name, PositionProduct(count, rows, summed, columns), *names)
    timed, flipped = any(place.timed for place in placed), any(place.flipped for place in placed)
    if inner == "T":
        name, timed, flipped = building.over_time(y.name, Sum(), name), False, False
    building.put(y, name, made.columns, timed=timed, flipped=flipped)


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


PRODUCT_OPS: dict[tuple[str, str], Op] = {
    ("", "MatMul"): Op(lambda given: np.matmul, _matmul_result, _matmul),
    ("", "Gemm"): Op(None, _gemm_result, _gemm),
}
