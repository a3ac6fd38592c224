"""ReverseSequence: the first steps of each row in the other order, as many as its length says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rnnc.ir.errors import OnnxError
from rnnc.onnx.building import Building
from rnnc.onnx.ops.shapes import meet
from rnnc.onnx.ops.table import Given, Left, Op, Result
from rnnc.onnx.places import reversed_rows
from rnnc.onnx.values import Step

__all__ = ["REVERSAL_OPS"]


def _reverse_axes(given: Given) -> tuple[int, int]:
    """The axes of time and of the batch."""
    axes = given.attributes.integer("time_axis", 0), given.attributes.integer("batch_axis", 1)
    if axes not in ((0, 1), (1, 0), (0, 2)):  # the last one is that of Y, which rnnc itself writes
        raise OnnxError(f"{given.label}: time_axis and batch_axis: expected 0 and 1, or 1 and 0, got {axes}")
    return axes


def _reverse_result(given: Given) -> Sequence[Result]:
    x, lengths, (_, batch) = given.value(0), given.value(1), _reverse_axes(given)
    if len(x.shape) < 2 or len(lengths.shape) != 1:
        raise OnnxError(f"{given.label}: expected (T, B, ...) and (B,), got shapes {x.shape} and {lengths.shape}")
    meet(x.shape[batch], lengths.shape[0])
    return [(x.dtype, x.shape)]


def _reverse_meaning(given: Given) -> Any:
    time, batch = _reverse_axes(given)
    return lambda x, lengths: reversed_rows(x, lengths, time, batch)


def _reverse(building: Building, step: Step, given: Given) -> None:
    """By the lengths of a ragged network it is a matter of words."""
    x, y = step.tensors[0], step.made[0]
    placed, (time, batch) = building.place(x), _reverse_axes(given)
    if given.value(1) is not building.lengths:
        raise Left("it reverses by other lengths than those of the network")
    if (placed.axes.roles[time], placed.axes.roles[batch]) != ("T", "B"):
        raise Left("it reverses another axis than time")
    building.put(y, placed.name, placed.order, timed=True, flipped=not placed.flipped)
    if x.name in building.zeroed:
        building.zeroed.add(y.name)


REVERSAL_OPS: dict[tuple[str, str], Op] = {
    ("", "ReverseSequence"): Op(_reverse_meaning, _reverse_result, _reverse, moves=True),
}
