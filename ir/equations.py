"""Symbolic values: what a cell's equations are written with.

A cell is a plain Python function over `Value`s. Running it once builds one time step of the graph:

    h = tanh(linear(x, p.weight_ih, p.bias_ih) + linear(state.h, p.weight_hh, p.bias_hh))

Numbers mix with values. Shapes: per-step values are (B, N); weights are (N, K); biases and other
vectors are (N,), and broadcast over the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rnnc.ir.errors import ArgumentTypeError, IRError

if TYPE_CHECKING:
    from rnnc.ir.graph import Graph, Node

Number = int | float


@dataclass(frozen=True)
class Value:
    """A value of one time step, or a parameter. Supports + - * /, unary -, and `split`."""

    graph: Graph
    node: Node

    def __repr__(self) -> str:
        return f"Value({self.node}, shape={self.shape})"

    @property
    def shape(self) -> tuple[int | str, ...]:
        """(B, N) for a value of a step; a parameter's own shape otherwise."""
        return self.node.shape

    def split(self, parts: int) -> tuple[Value, ...]:
        """Equal parts of the last axis of a (B, N) value, or of the first axis of a parameter."""
        axis = -1 if self.node.step is not None else 0
        size = self.node.shape[axis]
        if not isinstance(size, int) or size % parts:
            raise IRError(f"split({parts}): axis {axis} of shape {self.shape} is not divisible by {parts}")
        width = size // parts
        return tuple(
            Value(self.graph, self.graph.slice(self.node, axis, i * width, (i + 1) * width)) for i in range(parts)
        )

    def __add__(self, other: Value | Number) -> Value:
        return _apply("add", self, other)

    def __radd__(self, other: Number) -> Value:
        return _apply("add", other, self)

    def __sub__(self, other: Value | Number) -> Value:
        return _apply("sub", self, other)

    def __rsub__(self, other: Number) -> Value:
        return _apply("sub", other, self)

    def __mul__(self, other: Value | Number) -> Value:
        return _apply("mul", self, other)

    def __rmul__(self, other: Number) -> Value:
        return _apply("mul", other, self)

    def __truediv__(self, other: Value | Number) -> Value:
        return _apply("div", self, other)

    def __rtruediv__(self, other: Number) -> Value:
        return _apply("div", other, self)

    def __neg__(self) -> Value:
        return _apply("neg", self)

    def __bool__(self) -> bool:
        raise IRError("a symbolic value has no truth value: write select(condition, a, b) instead of `if`")


def _apply(op: str, *operands: Value | Number) -> Value:
    graph = next((v.graph for v in operands if isinstance(v, Value)), None)
    if graph is None:
        raise ArgumentTypeError(f"{op} needs at least one symbolic value, got {operands!r}")
    return Value(graph, graph.add(op, [_node(graph, op, v) for v in operands]))


def _node(graph: Graph, op: str, operand: object) -> Node:
    if isinstance(operand, Value):
        return operand.node
    if isinstance(operand, (int, float)) and not isinstance(operand, bool):
        return graph.const(operand)
    raise ArgumentTypeError(f"{op}: expected a symbolic value or a number, got {type(operand).__name__}")


def _unary(op: str, doc: str) -> Callable[[Value], Value]:
    def function(x: Value) -> Value:
        return _apply(op, x)

    function.__name__ = op
    function.__doc__ = doc
    return function


sigmoid = _unary("sigmoid", "1 / (1 + exp(-x)), elementwise.")
tanh = _unary("tanh", "Hyperbolic tangent, elementwise.")
relu = _unary("relu", "max(x, 0), elementwise.")
exp = _unary("exp", "e to the x, elementwise.")
log = _unary("log", "Natural logarithm, elementwise.")
sqrt = _unary("sqrt", "Square root, elementwise.")
rsqrt = _unary("rsqrt", "1 / sqrt(x), elementwise.")
absolute = _unary("abs", "|x|, elementwise.")
total = _unary("reduce_sum", "Sum over the last axis, kept with size 1: (B, N) -> (B, 1).")


def maximum(a: Value | Number, b: Value | Number) -> Value:
    """The larger of both, elementwise; NaN if either is NaN."""
    return _apply("maximum", a, b)


def minimum(a: Value | Number, b: Value | Number) -> Value:
    """The smaller of both, elementwise; NaN if either is NaN."""
    return _apply("minimum", a, b)


def greater(a: Value | Number, b: Value | Number) -> Value:
    """The mask a > b, for `select`."""
    return _apply("greater", a, b)


def select(condition: Value, a: Value | Number, b: Value | Number) -> Value:
    """a where the condition holds, b elsewhere."""
    return _apply("select", condition, a, b)


def stop_gradient(x: Value) -> Value:
    """x, held constant when the equations are differentiated."""
    return _apply("stop_gradient", x)


def mean(x: Value) -> Value:
    """Mean over the last axis, kept with size 1: (B, N) -> (B, 1)."""
    return total(x) * (1.0 / int(x.shape[-1]))


def concat(*xs: Value) -> Value:
    """Values of one step side by side: (B, N1), (B, N2), ... -> (B, N1 + N2 + ...)."""
    return Value(xs[0].graph, xs[0].graph.concat([x.node for x in xs], -1))


def linear(x: Value, weight: Value, bias: Value | None = None) -> Value:
    """x @ weight.T + bias: (B, K), (N, K), (N,) -> (B, N)."""
    product = Value(x.graph, x.graph.add("matmul", (x.node, weight.node), transpose_b=True))
    return product if bias is None else product + bias
