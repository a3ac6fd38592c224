"""RNN, GRU, LSTM, and ONNX Runtime's DynamicQuantizeLSTM, whose weights are turned into numbers.

With `weights="int8"` they become the same integers again (`rnnc.backends.products`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnc.ir.errors import OnnxError
from rnnc.onnx.building import Building, StateFeed, zeros
from rnnc.onnx.ops.table import Given, Left, Op, Result
from rnnc.onnx.places import Axes
from rnnc.onnx.recurrent import Recurrence, Weights, parameters_of, read_recurrence, spec_of
from rnnc.onnx.sizes import same, static
from rnnc.onnx.values import Known, Step, Tensor, Value
from rnnc.specs import Spec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

__all__ = ["RECURRENCE_OPS", "recurrence_of"]

X, W, R, B, LENGTHS, H0, C0, P, W_SCALE, W_ZERO, R_SCALE, R_ZERO = range(12)
"""Numbers of the inputs; the last four are of DynamicQuantizeLSTM."""

QUANTIZED = "DynamicQuantizeLSTM"


def recurrence_of(given: Given) -> Recurrence:
    """The node's attributes."""
    return read_recurrence(given.node, peepholes=given.optional(P) is not None)


def _infer(given: Given) -> Sequence[Result]:
    node, x, r = recurrence_of(given), given.value(X), given.value(R)
    given.value(W)
    if len(x.shape) != 3:
        raise OnnxError(f"{node.label}: X: expected 3 axes, got shape {x.shape}")
    steps, batch, _ = (x.shape[1], x.shape[0], x.shape[2]) if node.batch_first else x.shape
    hidden = node.hidden_size or r.shape[1 if given.node.op == QUANTIZED else -1]
    count = len(node.cells)
    state = (batch, count, hidden) if node.batch_first else (count, batch, hidden)
    _check_beside(given, node, state, batch)
    y = (batch, steps, count, hidden) if node.batch_first else (steps, count, batch, hidden)
    return [(x.dtype, y), *[(x.dtype, state)] * len(node.states)]


def _check_beside(given: Given, node: Recurrence, state: Sequence[Any], batch: Any) -> None:
    """Initial states and lengths have the shapes that the standard says."""
    for number in (H0, C0)[: len(node.states)]:
        value = given.optional(number)
        if value is not None:
            _check_shape(given, number, value, state)
    lengths = given.optional(LENGTHS)
    if lengths is not None:
        _check_shape(given, LENGTHS, lengths, (batch,))


def _check_shape(given: Given, number: int, value: Value, wanted: Sequence[Any]) -> None:
    if len(value.shape) != len(wanted) or not all(same_axis(a, b) for a, b in zip(wanted, value.shape, strict=True)):
        name = given.node.inputs[number]
        raise OnnxError(f"{given.label}: {name!r}: expected shape {tuple(wanted)}, got {tuple(value.shape)}")


def weights_of(given: Given) -> Weights:
    """The weights, which must be constants. Raises Left if they come with the call."""
    arrays = []
    for number in (W, R, B, P, W_SCALE, W_ZERO, R_SCALE, R_ZERO):
        value = given.optional(number)
        if isinstance(value, Tensor):
            raise Left(f"its weights {value.name!r} come with the call")
        arrays.append(given.array(number))
    w, r, b, p, *quantized = arrays
    assert w is not None and r is not None
    if given.node.op == QUANTIZED:
        w, r = _dequantized(given, "W", w, *quantized[:2]), _dequantized(given, "R", r, *quantized[2:])
    return Weights(w, r, b, p)


def _dequantized(given: Given, name: str, array: Array, scale: Array | None, zero: Array | None) -> Array:
    """(array - zero) * scale, (D, N, 4H) of integers -> (D, 4H, N) of float32; a scale per direction or per row."""
    if scale is None or array.dtype.kind not in "iu" or array.ndim != 3:
        expected = "expected integers (D, N, 4H) and their scale"
        raise OnnxError(f"{given.label}: {name}: {expected}, got {array.dtype} of shape {array.shape}")
    count, _, rows = array.shape
    zero = np.zeros_like(scale, array.dtype) if zero is None else zero
    for what, numbers in (("scale", scale), ("zero_point", zero)):
        if numbers.shape not in ((count,), (count, rows)):
            expected = f"expected shape ({count},) or ({count}, {rows})"
            raise OnnxError(f"{given.label}: {name}_{what}: {expected}, got {numbers.shape}")
    scale, zero = (numbers.reshape(count, 1, -1).astype(np.float32) for numbers in (scale, zero))
    return np.ascontiguousarray(((array.astype(np.float32) - zero) * scale).swapaxes(1, 2))


def _lower(building: Building, step: Step, given: Given) -> None:
    node, weights = recurrence_of(given), weights_of(given)
    spec = spec_of(node, weights)
    lower_recurrence(building, step, given, node, spec, parameters_of(node, spec, weights))


def lower_recurrence(
    building: Building, step: Step, given: Given, node: Recurrence, spec: Spec, params: Mapping[str, Array]
) -> None:
    """Writes a recurrent node as a layer."""
    x = given.value(X)
    if not isinstance(x, Tensor):
        raise Left("its X is a constant")
    _check_rows(building, node, x)
    if str(spec.dtype) != building.dtype:
        raise Left(f"it computes in {spec.dtype}, the network before in {building.dtype}", later=True)
    _use_lengths(building, given)
    placed = building.place(x)
    if x.shape[2] != spec.input_size:
        raise OnnxError(f"{node.label}: X: expected {spec.input_size} columns, as W has, got shape {x.shape}")
    if placed.flipped:
        spec, params = _turned(node, spec, params)
    states = _states(building, given, node, spec)
    name = building.layer(node_name(step), spec, placed.name, params=params, states=states.inside)
    _feed(building, node, spec, name, states.outside)
    _put(building, step, node, name, placed.flipped)


def node_name(step: Step) -> str:
    """What a layer of a node is called."""
    return step.node.name


def _check_rows(building: Building, node: Recurrence, x: Tensor) -> None:
    sizes = x.shape[1::-1] if node.batch_first else x.shape[:2]
    time, batch = (None if static(size) == 1 else size for size in sizes)
    rows = building.rows
    if batch != rows.batch or (time != rows.time if time is None else not rows.is_time(time)):
        raise Left("its time or batch is another one than in the network before", later=True)


def _use_lengths(building: Building, given: Given) -> None:
    """All recurrent nodes of a network have the same lengths."""
    lengths = given.optional(LENGTHS)
    if isinstance(lengths, Known):
        raise Left("its sequence_lens are constants")
    if building.made and lengths is not building.lengths:
        raise Left("its sequence_lens are others than in the network before", later=True)
    if lengths is not None and building.rows.others:
        raise Left("its sequence_lens count the steps behind an operator that changes their number", later=True)
    if lengths is not None and not building.made:
        assert isinstance(lengths, Tensor)
        building.lengths = lengths


def _turned(node: Recurrence, spec: Spec, params: Mapping[str, Array]) -> tuple[Spec, Mapping[str, Array]]:
    """A node that reads a sequence backwards: its directions exchanged."""
    from rnnc.specs import Recurrent

    if len(node.cells) == 2:
        raise Left("a bidirectional node between reversed Slices", later=True)
    common = {name: getattr(spec, name) for name in ("input_size", "hidden_size", "bias", "dtype")}
    return Recurrent(spec.cell, reverse=not spec.reads_ahead, **common), params


class _States:
    """Initial states: names of values of the network, and what comes from outside."""

    def __init__(self) -> None:
        self.inside: dict[str, str] = {}
        self.outside: dict[str, Value] = {}


def _states(building: Building, given: Given, node: Recurrence, spec: Spec) -> _States:
    found = _States()
    for state, number in zip(node.states, (H0, C0), strict=False):
        value = given.optional(number)
        if value is None or zeros(value):
            continue
        if isinstance(value, Tensor) and value.name in building.made:
            placed = building.place(value)
            if placed.timed and building.rows.time is not None:
                raise Left(f"its initial state {value.name!r} is computed at every step", later=True)
            order = (1, 2) if node.batch_first else (0, 2)
            found.inside[state] = building.reordered(placed, [a for a in order if placed.axes.roles[a] == "C"])
        else:
            found.outside[state] = value
    if found.inside and found.outside:
        raise Left("one of its initial states is computed in the network, the other is not", later=True)
    return found


def _feed(building: Building, node: Recurrence, spec: Spec, name: str, outside: Mapping[str, Value]) -> None:
    for state, value in outside.items():
        keys = tuple(f"{name}.{state}_l0{way.suffix}" for way in spec.ways)
        building.feeds.append(StateFeed(value, keys, 0 if node.batch_first else 1))


def _put(building: Building, step: Step, node: Recurrence, name: str, flipped: bool) -> None:
    """Places Y, Y_h and Y_c: directions outermost in the columns."""
    y, *ends = step.outputs
    if y is not None:
        axes = building.axes(y)
        building.put(y, name, _order(axes, (2, 3) if node.batch_first else (1, 3)), flipped=flipped)
        building.zeroed.add(y.name)
    for state, end in zip(node.states, ends, strict=False):
        if end is not None:
            axes = building.axes(end)
            order = _order(axes, (1, 2) if node.batch_first else (0, 2))
            building.put(end, f"{name}.{state}", order, timed=False)
            building.zeroed.add(end.name)


def _order(axes: Axes, order: Sequence[int]) -> list[int]:
    return [axis for axis in order if axes.roles[axis] == "C"]


def same_axis(a: Any, b: Any) -> bool:
    """Whether two axes have one size, which is taken for granted of two that are not known."""
    from rnnc.onnx.ops.shapes import meet

    return same(meet(a, b), a) if static(a) is None or static(b) is None else same(a, b)


RECURRENCE_OPS: dict[tuple[str, str], Op] = {
    **{("", name): Op(infer=_infer, lower=_lower) for name in ("RNN", "GRU", "LSTM")},
    ("com.microsoft", QUANTIZED): Op(infer=_infer, lower=_lower),
}
