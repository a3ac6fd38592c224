"""Scan, and a Loop over the steps of a sequence: the body as a cell, its states as the cell's, what it scans as x."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rnnc.layers import Concat, Layer, Readout
from rnnc.onnx.body_cell import BodyCell
from rnnc.onnx.building import Building, StateFeed, zeros
from rnnc.onnx.ops.table import Given, Left, Op
from rnnc.onnx.places import Placed, Rows, into_rows
from rnnc.onnx.values import Scanned, Step, Tensor, Value
from rnnc.specs import Recurrent

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

__all__ = ["SCAN_OPS"]


def _lower(building: Building, step: Step, given: Given) -> None:
    scanned = step.scanned
    assert scanned is not None
    if building.lengths is not None:
        raise Left("it scans the padding of a ragged batch, too", later=True)
    xs = [_timed(building, tensor, axis) for tensor, axis in zip(scanned.read, scanned.axes, strict=True)]
    if len({x.flipped for x in xs}) > 1:
        raise Left("it scans a sequence and a reversed one")
    inner = _body(building, scanned, xs)
    cell = _cell(inner, scanned)
    width = sum(x.axes.width for x in xs)
    backward = scanned.backward != xs[0].flipped
    spec = Recurrent(cell, width, cell.own_states[0][1], bias=False, reverse=backward, dtype=building.dtype)
    suffix = spec.ways[0].suffix
    params = {f"{name}_l0{suffix}": inner.params[f"{layer}.{base}"] for name, layer, _, base in cell.named()}
    x = building.layer(f"{step.node.name}_x", Concat(), *(x.name for x in xs)) if len(xs) > 1 else xs[0].name
    initial = step.inputs[scanned.starts : scanned.starts + len(scanned.states)]
    starts = {f"s{n}": value for n, value in enumerate(initial)}
    inside = _inside(building, starts)
    name = building.layer(step.node.name, spec, x, params=params, states=inside)
    for (state, value), tensor in zip(starts.items(), scanned.states, strict=True):
        if state not in inside and not zeros(value):
            axes = inner.axes(tensor)
            building.feeds.append(_feed(value, f"{name}.{state}_l0{suffix}", into_rows(axes, axes.columns, "B")))
    _put(building, step, scanned, inner, name, xs[0].flipped)


def _timed(building: Building, tensor: Tensor, axis: int) -> Placed:
    placed = building.place(tensor)
    if placed.axes.roles[axis] != "T" or not placed.timed:
        raise Left("it scans another axis than the time of its network", later=bool(building.made))
    return placed


def _body(building: Building, scanned: Scanned, xs: Sequence[Placed]) -> Building:
    """The body's layers: its tensors are values of a network without time."""
    inner = Building(Rows(None, building.rows.batch), building.dtype)
    for number, tensor in enumerate(scanned.states):
        axes = inner.axes(tensor)
        inner.placed[tensor.name] = Placed(f"s{number}", axes, axes.columns, timed=True)
    for number, (tensor, axis, x) in enumerate(zip(scanned.xs, scanned.axes, xs, strict=True)):
        order = tuple(a - (a > axis) for a in x.order)
        inner.placed[tensor.name] = Placed(f"x{number}", inner.axes(tensor), order, timed=True)
    from rnnc.onnx.ops import OPS

    inner.inputs = {placed.name: (tensor, placed) for tensor, placed in _placed(inner, scanned)}
    for step in scanned.steps:
        lower = OPS[step.node.domain, step.node.op].lower
        if lower is None or any(tensor.name not in inner.placed for tensor in step.tensors):
            raise Left(f"rnnc cannot compile {step.node.label} of its body")
        lower(inner, step, Given(step.node, step.inputs, scanned.opset, lambda tensor: None))
    return inner


def _placed(inner: Building, scanned: Scanned) -> list[tuple[Tensor, Placed]]:
    return [(tensor, inner.placed[tensor.name]) for tensor in (*scanned.states, *scanned.xs)]


def _cell(inner: Building, scanned: Scanned) -> BodyCell:
    nexts = [_columns(inner, value) for value in scanned.nexts]
    gives = [_columns(inner, value) for value in scanned.outputs] or nexts[:1]
    kept = scanned.outputs or scanned.nexts[:1]
    layers = []
    for name, (layer, *sources) in inner.entries.items():
        plain = isinstance(layer, Layer) and not isinstance(layer, Readout) and layer.window == (0, 0)
        if not plain or any(isinstance(source, dict) for source in sources):
            raise Left(f"its body has a layer with states of its own, {name!r}")
        layers.append((name, layer, tuple(sources)))
    return BodyCell(
        xs=tuple((inner.placed[t.name].name, inner.placed[t.name].axes.width) for t in scanned.xs),
        own_states=tuple(
            (f"s{n}", inner.axes(tensor).width, new)
            for n, (tensor, new) in enumerate(zip(scanned.states, nexts, strict=True))
        ),
        layers=tuple(layers),
        gives=tuple(gives),
        width=sum(inner.axes(value).width for value in kept if isinstance(value, Tensor)),
    )


def _columns(inner: Building, value: Value) -> str:
    """The value that holds a tensor's columns in the order of its axes."""
    if not isinstance(value, Tensor):
        raise Left("its body gives a constant")
    return inner.reordered(inner.placed[value.name], inner.axes(value).columns)


def _inside(building: Building, starts: dict[str, Value | None]) -> dict[str, str]:
    """Initial states that the network computes: all of them, or none."""
    found: dict[str, str] = {}
    for state, value in starts.items():
        if isinstance(value, Tensor) and value.name in building.made:
            placed = building.place(value)
            if placed.timed:
                raise Left(f"its initial state {value.name!r} is computed at every step", later=True)
            found[state] = building.reordered(placed, placed.axes.columns)
    if found and not all(state in found or zeros(value) for state, value in starts.items()):
        raise Left("one of its initial states is computed in the network, the other is not", later=True)
    return found


def _feed(value: Value | None, key: str, way: Any) -> StateFeed:
    assert value is not None
    return StateFeed(value, (key,), 0, way)


def _put(building: Building, step: Step, scanned: Scanned, inner: Building, name: str, flipped: bool) -> None:
    """Places the last states, and what the body gives at each step."""
    count = len(scanned.states)
    for number, end in enumerate(step.outputs[:count]):
        if end is not None:
            building.put(end, f"{name}.s{number}", building.axes(end).columns, timed=False)
    widths = [inner.axes(value).width for value in scanned.outputs if isinstance(value, Tensor)]
    at = 0
    for y, width, axis, turned in zip(step.outputs[count:], widths, scanned.out_axes, scanned.turned, strict=False):
        if y is not None:
            axes = building.axes(y)
            if axes.roles[axis] not in "T1":
                raise Left("what it gives has another axis of time than what it scans", later=bool(building.made))
            part = name if width == sum(widths) else building.columns_of(name, at, width)
            building.put(y, part, axes.columns, flipped=turned != flipped)
        at += width


SCAN_OPS: dict[tuple[str, str], Op] = {("", "Scan"): Op(lower=_lower), ("", "Loop"): Op(lower=_lower)}
