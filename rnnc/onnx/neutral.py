"""Operands that change nothing, and products that are zeros whatever comes.

An exporter that must keep an input which nothing reads writes `y + 0 * x`, with an x of integers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rnnc.onnx.ops.table import Given, Op
from rnnc.onnx.sizes import Dims
from rnnc.onnx.values import Filled, Known, Tensor, Value, is_sizes

__all__ = ["filled", "without_work"]

NEUTRAL = {"Add": 0, "Sub": 0, "Mul": 1, "Div": 1}
"""The number that, as the second operand, changes nothing."""


def without_work(given: Given, op: Op) -> Sequence[Value]:
    """The result of a node that computes nothing: its operand, or zeros; () for any other node."""
    if given.node.op not in NEUTRAL or given.node.domain or op.infer is None or len(given.inputs) != 2:
        return ()
    first, second = given.value(0), given.value(1)
    if isinstance(first, Known) and given.node.op in ("Add", "Mul"):
        first, second = second, first
    if not isinstance(first, Tensor) or not isinstance(second, Known) or is_sizes(second.array):
        return ()
    ((dtype, shape),) = op.infer(given)
    if shape == first.shape and (second.array == NEUTRAL[given.node.op]).all():
        return (first,)
    if given.node.op == "Mul" and np.dtype(dtype).kind in "iu" and not second.array.any():
        return (filled(np.zeros((), dtype), shape),)
    return ()


def filled(number: np.ndarray[tuple[()], np.dtype[np.generic]], shape: Dims) -> Value:
    """A constant if the shape is known, otherwise the number with the shape."""
    if all(isinstance(size, int) for size in shape):
        return Known(np.broadcast_to(number, [int(size) for size in shape]))
    return Filled(number, shape)
