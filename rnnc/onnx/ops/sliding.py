"""Operators that slide over one axis: over time as layers of rnnc, over columns written out place by place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rnnc.ir.errors import OnnxError
from rnnc.layers import AvgPool1d, Conv1d, ConvTranspose1d, First, Linear, MaxPool1d
from rnnc.onnx.building import Building, check_places
from rnnc.onnx.layers import PositionConv, PositionPool
from rnnc.onnx.ops.table import Given, Left, Op, Result, constant, one_dtype
from rnnc.onnx.places import Axes
from rnnc.onnx.sizes import Dim, rounded_down, static
from rnnc.onnx.values import Step, Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

SLIDING = ("Conv", "ConvTranspose", "MaxPool", "AveragePool")
"""Operators that may change the number of steps."""


MOST_STRIDE = 16
"""The largest stride over time. A larger one cuts a chunk of samples into frames, and its size is asked for
(`rnnc.onnx.frames`): as steps, the samples of a frame would be unrolled.
"""


class Window:
    """The attributes of an operator that slides over one axis: Conv, ConvTranspose, MaxPool, AveragePool."""

    def __init__(self, given: Given, kernel: int) -> None:
        attributes = given.attributes
        self.kernel = kernel
        (self.stride,) = attributes.integers("strides") or (1,)
        (self.dilation,) = attributes.integers("dilations") or (1,)
        self.span = (kernel - 1) * self.dilation
        self.auto = attributes.choice("auto_pad", "NOTSET", ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"))
        pads = attributes.integers("pads") or (0, 0)
        if len(pads) != 2 or min(pads) < 0 or min(kernel, self.stride, self.dilation) < 1:
            raise OnnxError(
                f"{given.label}: pads {pads}, kernel {kernel}, stride {self.stride}, dilation {self.dilation}"
            )
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

    def length(self, size: Dim, label: str) -> Dim:
        """How many places there are along an axis of this size."""
        before, after = self.pads(size)
        if self.stride > MOST_STRIDE:
            size = int(size)
        length = rounded_down(size + (before + after - self.span - 1), self.stride) + 1
        if isinstance(length, int) and length < 1:
            raise OnnxError(f"{label}: an axis of size {size} is shorter than the kernel")
        return length

    def keeps(self, size: Dim) -> bool:
        """Whether there are as many places as before."""
        return self.stride == 1 and sum(self.pads(size)) == self.span


class Convolution(Window):
    """The attributes of a Conv over one axis."""

    def __init__(self, given: Given) -> None:
        w = given.value(1)
        rank = len(given.value(0).shape) - 2
        if rank != 1 or len(w.shape) != 3:
            raise Left(f"it convolves over {rank} axes")
        super().__init__(given, int(w.shape[2]))
        self.groups = given.attributes.integer("group", 1)
        if self.groups < 1:
            raise OnnxError(f"{given.label}: expected a group of at least 1, got {self.groups}")


def _conv_result(given: Given) -> Sequence[Result]:
    conv, x, w = Convolution(given), given.value(0).shape, given.value(1).shape
    if static(x[1]) != int(w[1]) * conv.groups:
        raise OnnxError(f"{given.label}: X of shape {x} has not the {int(w[1]) * conv.groups} channels that W reads")
    return [(one_dtype(given, (0, 1)), (x[0], int(w[0]), conv.length(x[2], given.label)))]


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
        _check_steps(building, x, y, conv.keeps(x.shape[2]))
        options: dict[str, Any] = {"dilation": conv.dilation, "groups": conv.groups, "bias": bias is not None}
        placed = building.place(x)
        name = building.columns(x, [1] if axes.roles[1] == "C" else [])
        pads = (after, before) if placed.flipped else (before, after)
        if placed.flipped:
            params["weight"] = weight[:, :, ::-1]
        name = building.layer(y.name, Conv1d(*sizes, padding=pads, stride=conv.stride, **options), name, params=params)
        return building.put(y, name, [1] if sizes[1] > 1 else [], flipped=placed.flipped)
    _check_columns(axes, conv, (before, after))
    layer = PositionConv(
        *sizes, axes.size(2), conv.stride, before, after, conv.dilation, conv.groups, bias=bias is not None
    )
    return _over_columns(building, x, y, layer, params)


def _check_columns(axes: Axes, window: Window, pads: tuple[int, int]) -> None:
    """Raises Left for an operator that slides over columns unless it is compiled."""
    if axes.roles[2] not in "C1":
        raise Left("it slides over the batch")
    if max(pads) > window.span:
        raise Left("some of its places lie in the padding alone")


def _over_columns(
    building: Building, x: Tensor, y: Tensor, layer: PositionConv | PositionPool, params: dict[str, Array]
) -> None:
    """A layer over positions of columns, the outer axis of them."""
    check_places(layer.out_length)
    axes, made, placed = building.axes(x), building.axes(y), building.place(x)
    name = building.columns(x, [axis for axis in (2, 1) if axes.roles[axis] == "C"])
    name = building.layer(y.name, layer, name, params=params)
    order = [axis for axis in (2, 1) if made.roles[axis] == "C"]
    building.put(y, name, order, timed=placed.timed, flipped=placed.flipped)


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


def _check_steps(building: Building, x: Tensor, y: Tensor, keeps: bool) -> None:
    """Raises Left for an operator over time that changes the number of steps where the network has one number alone."""
    if keeps:
        return
    if not building.rows.is_time(y.shape[2]):
        raise Left("it leaves another number of steps than the network knows of")
    if building.lengths is not None:
        raise Left("it changes the number of steps of a ragged batch", later=True)
    if building.place(x).flipped:
        raise Left("it changes the number of steps of a reversed sequence", later=True)


# ---- ConvTranspose


class Transposed(Convolution):
    """The attributes of a ConvTranspose over one axis."""

    def __init__(self, given: Given) -> None:
        super().__init__(given)
        if given.attributes.integers("output_shape"):
            raise Left("it has an output_shape, which rnnc does not read")
        (self.longer,) = given.attributes.integers("output_padding") or (0,)
        if not 0 <= self.longer < max(self.stride, self.dilation):
            raise OnnxError(f"{given.label}: output_padding {self.longer} with stride {self.stride}")

    def cut(self) -> tuple[int, int]:
        """Places that are cut off at the start, and at the end: fewer by the output_padding."""
        if self.auto in ("NOTSET", "VALID"):
            before, after = self._pads if self.auto == "NOTSET" else (0, 0)
            return before, after - self.longer
        total = self.span + 1 + self.longer - self.stride
        less, more = total // 2, total - total // 2
        before, after = (less, more) if self.auto == "SAME_UPPER" else (more, less)
        return before, after - self.longer

    def length(self, size: Dim, label: str) -> Dim:
        return size * self.stride + (self.span + 1 - self.stride - sum(self.cut()))


def _transposed_result(given: Given) -> Sequence[Result]:
    conv, x, w = Transposed(given), given.value(0).shape, given.value(1).shape
    if static(x[1]) != int(w[0]):
        raise OnnxError(f"{given.label}: X of shape {x} has not the {int(w[0])} channels that W reads")
    return [(one_dtype(given, (0, 1)), (x[0], int(w[1]) * conv.groups, conv.length(x[2], given.label)))]


def _transposed(building: Building, step: Step, given: Given) -> None:
    x, y, conv = given.value(0), step.made[0], Transposed(given)
    weight, bias = constant(given.value(1), "its weight"), constant(given.optional(2), "its bias")
    assert weight is not None
    name = _over_time(building, x, y, keeps=False)
    sizes = int(weight.shape[0]), int(weight.shape[1]) * conv.groups, conv.kernel
    if conv.cut()[0] < 0:
        raise Left("it is longer at its start than its input reaches")
    layer = ConvTranspose1d(*sizes, conv.cut(), conv.dilation, conv.groups, bias is not None, conv.stride)
    params = {"weight": weight} | ({} if bias is None else {"bias": bias})
    name = building.layer(y.name, layer, name, params=params)
    building.put(y, name, [1] if sizes[1] > 1 else [])


def _over_time(building: Building, x: Any, y: Tensor, keeps: bool) -> str:
    """The name of what an operator slides over, whose steps are time."""
    if not isinstance(x, Tensor):
        raise Left("its X is a constant")
    axes = building.axes(x)
    if axes.roles[2] != "T":
        raise Left("it slides over columns, or over the batch")
    _check_steps(building, x, y, keeps)
    return building.columns(x, [1] if axes.roles[1] == "C" else [])


# ---- pooling


class Pooling(Window):
    """The attributes of a MaxPool or AveragePool over one axis."""

    def __init__(self, given: Given) -> None:
        kernel = given.attributes.integers("kernel_shape")
        if kernel is None:
            raise OnnxError(f"{given.label}: it has no kernel_shape")
        if len(kernel) != 1 or len(given.value(0).shape) != 3:
            raise Left(f"it pools over {len(kernel)} axes")
        super().__init__(given, kernel[0])
        if given.attributes.integer("ceil_mode", 0):
            raise Left("it has ceil_mode, which rnnc does not have")
        if len([name for name in given.node.outputs if name]) > 1:
            raise Left("it gives the places of the largest")
        if given.node.op == "AveragePool" and self.dilation > 1:
            raise Left("it is an AveragePool with dilations")
        self.counts_padding = bool(given.attributes.integer("count_include_pad", 0))


def _pool_result(given: Given) -> Sequence[Result]:
    x = given.value(0)
    return [(one_dtype(given, (0,)), (*x.shape[:2], Pooling(given).length(x.shape[2], given.label)))]


def _pool(building: Building, step: Step, given: Given) -> None:
    x, y, pool = given.value(0), step.made[0], Pooling(given)
    if not isinstance(x, Tensor):
        raise Left("its X is a constant")
    pads, axes = pool.pads(x.shape[2]), building.axes(x)
    if axes.roles[2] != "T":
        return _pool_columns(building, step, given, pool, axes)
    name = _over_time(building, x, y, pool.keeps(x.shape[2]))
    placed = building.place(x)
    pads = pads[::-1] if placed.flipped else pads
    if building.lengths is not None:
        raise Left("it pools a ragged batch", later=True)
    layer: Any = MaxPool1d(pool.kernel, pool.stride, pads, pool.dilation)
    if given.node.op == "AveragePool":
        layer = AvgPool1d(pool.kernel, pool.stride, pads, pool.counts_padding or not any(pads))
    name = building.layer(y.name, layer, name)
    return building.put(y, name, [1] if placed.axes.roles[1] == "C" else [], flipped=placed.flipped)


def _pool_columns(building: Building, step: Step, given: Given, pool: Pooling, axes: Axes) -> None:
    x, y = step.tensors[0], step.made[0]
    pads, size = pool.pads(x.shape[2]), axes.size(2)
    _check_columns(axes, pool, pads)
    sizes = axes.width // size, pool.kernel, size, int(pool.length(size, given.label))
    layer = PositionPool(given.node.op, *sizes, pool.stride, pads[0], pool.dilation, pool.counts_padding)
    _over_columns(building, x, y, layer, {})


SLIDING_OPS: dict[tuple[str, str], Op] = {
    ("", "Conv"): Op(None, _conv_result, _conv),
    ("", "ConvTranspose"): Op(None, _transposed_result, _transposed),
    ("", "MaxPool"): Op(None, _pool_result, _pool),
    ("", "AveragePool"): Op(None, _pool_result, _pool),
}
