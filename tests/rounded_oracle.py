"""What rounded operands of matrix products come to: a graph evaluated in float64, with the operands of each product
rounded first. Only the numbers are rnnc's graph's; the rounding is done here, from the definition of each format.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnnc.ir.graph import Graph, Node

Array = NDArray[Any]

PRODUCTS = {"matmul": None, "outer": "tf32"}
"""Ops that multiply matrices, and the operands they take whatever is asked for: sums over rows are always TF32."""
MOVES = ("slice", "concat", "carry", "transpose", "permute", "reshape")
"""Ops whose results are numbers they have read."""


def rounded(values: Array, operands: str) -> Array:
    """To the nearest number of a format: ties to even, of TF32 away from zero."""
    if operands == "float16":
        return values.astype(np.float16).astype(np.float64)
    mantissa, exponent = np.frexp(values)
    scaled = mantissa * _scale(operands)
    whole = np.rint(scaled) if operands == "bfloat16" else np.trunc(scaled + np.copysign(0.5, scaled))
    return np.ldexp(whole / _scale(operands), exponent)


def _scale(operands: str) -> float:
    """2 ** (bits of the significand, with the one that is not stored)."""
    return 2.0 ** {"float16": 11, "bfloat16": 8, "tf32": 11}[operands]


class RoundedRun:
    """A run of an unrolled graph; `outputs` by name. nudge: by which part computed operands are changed before they are
    rounded, to find out which results hang on a number that lies where its rounding turns."""

    def __init__(self, graph: Graph, feeds: Mapping[str, Array], batch: int, operands: str, nudge: float = 0.0) -> None:
        self._operands = operands
        self._feeds = feeds
        self._batch = batch
        self._nudge = nudge
        self._values: dict[Node, Array] = {}
        self._given: set[Node] = set()
        live = graph.live()
        for node in graph.nodes:
            if node in live:
                self._values[node] = self._apply(node) if node.inputs else self._leaf(node)
        self.outputs = {
            name: np.stack([self._values[n] for n in output]) if isinstance(output, tuple) else self._values[output]
            for name, output in graph.outputs.items()
        }

    def _leaf(self, node: Node) -> Array:
        self._given.add(node)
        if node.op == "input":
            fed = self._feeds[str(node.attr("name"))]
            return fed if node.step is None else fed[node.step]
        if node.op == "const":
            return np.asarray(node.attr("value"), np.float64)
        assert node.op == "zeros", node
        return np.zeros([self._batch if isinstance(size, str) else int(size) for size in node.shape])

    def _apply(self, node: Node) -> Array:
        if node.op in MOVES and all(i in self._given for i in node.inputs):
            self._given.add(node)
        read = [self._values[i] for i in node.inputs]
        if node.op in PRODUCTS:
            read = [self._rounded(i, PRODUCTS[node.op] or self._operands) for i in node.inputs]
        assert node.spec.meaning is not None
        return np.asarray(node.spec.meaning(*read, **({} if node.op == "carry" else dict(node.attrs))))

    def _rounded(self, node: Node, operands: str) -> Array:
        values = self._values[node]
        return rounded(values if node in self._given else values * (1 + self._nudge), operands)


def steady(graph: Graph, feeds: Mapping[str, Array], batch: int, operands: str, off: float) -> dict[str, Array]:
    """Results by name; NaN where they hang on how an operand near the turn of its rounding is rounded.

    off: how far an evaluation in float32 may be off, relative to each operand.
    """
    runs = [RoundedRun(graph, feeds, batch, operands, nudge).outputs for nudge in (0.0, off, -off)]
    found = {}
    for name, value in runs[0].items():
        apart = np.maximum(np.abs(runs[1][name] - value), np.abs(runs[2][name] - value))
        found[name] = np.where(apart <= 4 * off * np.max(np.abs(value), initial=0), value, np.nan)
    return found
