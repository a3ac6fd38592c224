"""The op table: the one place where an operation is declared.

An op has a name, a kind, an arity, a shape rule, a dtype rule, its meaning in NumPy, and, if it is
elementwise, its scalar code in terms of the few primitives every code generator offers (`Primitives`).
Adding an elementwise op touches this table and its test.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rnnc.ir.errors import IRError

BATCH = "B"
"""The symbolic batch size: the only dimension not known when a graph is built."""

Dim = int | str
Shape = tuple[Dim, ...]
AttrValue = int | float | bool | str
Attrs = tuple[tuple[str, AttrValue], ...]
Array = NDArray[Any]


class Kind(Enum):
    """What a scheduler needs to know of an op."""

    LEAF = "leaf"
    CARRY = "carry"
    ELEMENTWISE = "map"
    MATMUL = "gemm"
    VIEW = "view"
    REDUCE = "reduce"


class Primitives(Protocol):
    """The operations a code generator offers to the `emit` field of elementwise ops."""

    def constant(self, value: float) -> Any: ...
    def add(self, a: Any, b: Any) -> Any: ...
    def sub(self, a: Any, b: Any) -> Any: ...
    def mul(self, a: Any, b: Any) -> Any: ...
    def div(self, a: Any, b: Any) -> Any: ...
    def neg(self, a: Any) -> Any: ...
    def absolute(self, a: Any) -> Any: ...
    def sqrt(self, a: Any) -> Any: ...
    def exp(self, a: Any) -> Any: ...
    def log(self, a: Any) -> Any: ...
    def tanh(self, a: Any) -> Any: ...
    def sigmoid(self, a: Any) -> Any: ...
    def maximum(self, a: Any, b: Any) -> Any: ...
    def minimum(self, a: Any, b: Any) -> Any: ...
    def greater(self, a: Any, b: Any) -> Any: ...
    def select(self, condition: Any, a: Any, b: Any) -> Any: ...


ShapeRule = Callable[[Sequence[Shape], Mapping[str, AttrValue]], Shape]
Meaning = Callable[..., Array]
Emit = Callable[..., Any]


@dataclass(frozen=True)
class Op:
    """One row of the table.

    arity: number of operands; None means one or more.
    attrs: names of the attributes, in the order they print.
    shape: result shape from operand shapes and attributes.
    meaning: NumPy arrays, then attributes by keyword -> NumPy array. Leaves have none.
    emit: `Primitives`, then scalar operands -> scalar (elementwise ops only).
    commutative: operands may be compared as a multiset.
    boolean: the result is a mask, whatever the operands are.
    """

    name: str
    kind: Kind
    arity: int | None
    shape: ShapeRule
    meaning: Meaning | None = None
    emit: Emit | None = None
    attrs: tuple[str, ...] = ()
    commutative: bool = False
    boolean: bool = False


def broadcast(shapes: Sequence[Shape]) -> Shape:
    """NumPy's broadcasting rule over shapes that may contain the symbolic batch size."""
    rank = max((len(s) for s in shapes), default=0)
    result: list[Dim] = []
    for axis in range(-rank, 0):
        sizes = {s[axis] for s in shapes if len(s) >= -axis} - {1}
        if len(sizes) > 1:
            listed = ", ".join(map(str, shapes))
            raise IRError(f"shapes {listed} do not broadcast: axis {axis} has {sorted(map(str, sizes))}")
        result.append(sizes.pop() if sizes else 1)
    return tuple(result)


def _elementwise(shapes: Sequence[Shape], attrs: Mapping[str, AttrValue]) -> Shape:
    return broadcast(shapes)


def _same(shapes: Sequence[Shape], attrs: Mapping[str, AttrValue]) -> Shape:
    return shapes[0]


def _declared(shapes: Sequence[Shape], attrs: Mapping[str, AttrValue]) -> Shape:
    raise IRError("a leaf's shape is given, not inferred")


def _scalar(shapes: Sequence[Shape], attrs: Mapping[str, AttrValue]) -> Shape:
    return ()


def _matmul_shape(shapes: Sequence[Shape], attrs: Mapping[str, AttrValue]) -> Shape:
    a, b = shapes
    if len(a) != 2 or len(b) != 2:
        raise IRError(f"matmul needs two matrices, got shapes {a} and {b}")
    rows, inner = a
    inner_b, columns = (b[1], b[0]) if attrs["transpose_b"] else b
    if inner != inner_b:
        form = f"transpose_b={attrs['transpose_b']}"
        raise IRError(f"matmul of shapes {a} and {b} ({form}): inner sizes {inner} and {inner_b} differ")
    return (rows, columns)


def _slice_shape(shapes: Sequence[Shape], attrs: Mapping[str, AttrValue]) -> Shape:
    axis, start, stop = (int(attrs[k]) for k in ("axis", "start", "stop"))
    size = shapes[0][axis]
    if not isinstance(size, int) or not 0 <= start < stop <= size:
        raise IRError(f"slice {start}:{stop} does not fit axis {axis} of shape {shapes[0]}")
    return _replace(shapes[0], axis, stop - start)


def _concat_shape(shapes: Sequence[Shape], attrs: Mapping[str, AttrValue]) -> Shape:
    axis = int(attrs["axis"])
    total = 0
    for s in shapes:
        if len(s) != len(shapes[0]) or _replace(s, axis, 0) != _replace(shapes[0], axis, 0):
            raise IRError(f"concat along axis {axis} of shapes {', '.join(map(str, shapes))}: the other axes differ")
        total += int(s[axis])
    return _replace(shapes[0], axis, total)


def _reduce_shape(shapes: Sequence[Shape], attrs: Mapping[str, AttrValue]) -> Shape:
    return _replace(shapes[0], -1, 1)


def _replace(shape: Shape, axis: int, size: Dim) -> Shape:
    sizes = list(shape)
    sizes[axis] = size
    return tuple(sizes)


def _sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)) without overflow: exp only ever sees a non-positive argument."""
    small = np.exp(-np.abs(x))
    one = x.dtype.type(1)
    return np.asarray(np.where(x >= 0, one / (one + small), small / (one + small)), dtype=x.dtype)


def _sum(*terms: Array) -> Array:
    result = terms[0]
    for term in terms[1:]:
        result = result + term
    return result


def _slice(x: Array, *, axis: int, start: int, stop: int) -> Array:
    index: list[slice] = [slice(None)] * x.ndim
    index[axis] = slice(start, stop)
    return x[tuple(index)]


def _emit_sum(e: Primitives, *terms: Any) -> Any:
    result = terms[0]
    for term in terms[1:]:
        result = e.add(result, term)
    return result


def _map(
    name: str, arity: int | None, meaning: Meaning, emit: Emit, *, commutative: bool = False, boolean: bool = False
) -> Op:
    return Op(name, Kind.ELEMENTWISE, arity, _elementwise, meaning, emit, (), commutative, boolean)


_TABLE = (
    # Leaves: `input` reads an argument, `const` is a number.
    Op("input", Kind.LEAF, 0, _declared, attrs=("name",)),
    Op("const", Kind.LEAF, 0, _scalar, attrs=("value",)),
    # The only ops that cross steps. carry: a state of the step before, in loop direction (delta = +1 or -1);
    # the first step reads an initial value. exit: a state after the last step.
    Op("carry", Kind.CARRY, 1, _same, lambda x, **_: x, attrs=("state", "delta")),
    Op("exit", Kind.CARRY, 1, _same, lambda x, **_: x, attrs=("state", "delta")),
    # Elementwise.
    _map("add", None, _sum, _emit_sum, commutative=True),
    _map("sub", 2, np.subtract, lambda e, a, b: e.sub(a, b)),
    _map("mul", 2, np.multiply, lambda e, a, b: e.mul(a, b), commutative=True),
    _map("div", 2, np.divide, lambda e, a, b: e.div(a, b)),
    _map("neg", 1, np.negative, lambda e, a: e.neg(a)),
    _map("abs", 1, np.abs, lambda e, a: e.absolute(a)),
    _map("exp", 1, np.exp, lambda e, a: e.exp(a)),
    _map("log", 1, np.log, lambda e, a: e.log(a)),
    _map("sqrt", 1, np.sqrt, lambda e, a: e.sqrt(a)),
    _map("rsqrt", 1, lambda x: x.dtype.type(1) / np.sqrt(x), lambda e, a: e.div(e.constant(1.0), e.sqrt(a))),
    _map("sigmoid", 1, _sigmoid, lambda e, a: e.sigmoid(a)),
    _map("tanh", 1, np.tanh, lambda e, a: e.tanh(a)),
    _map("relu", 1, lambda x: np.maximum(x, x.dtype.type(0)), lambda e, a: e.maximum(a, e.constant(0.0))),
    _map("maximum", 2, np.maximum, lambda e, a, b: e.maximum(a, b), commutative=True),
    _map("minimum", 2, np.minimum, lambda e, a, b: e.minimum(a, b), commutative=True),
    _map("greater", 2, np.greater, lambda e, a, b: e.greater(a, b), boolean=True),
    _map("select", 3, np.where, lambda e, c, a, b: e.select(c, a, b)),
    # Matrix product of (M, K) and (K, N), or (N, K) with transpose_b.
    Op(
        "matmul",
        Kind.MATMUL,
        2,
        _matmul_shape,
        lambda a, b, *, transpose_b: a @ (b.T if transpose_b else b),
        attrs=("transpose_b",),
    ),
    # Views: no arithmetic; code generators solve them by addressing.
    Op("slice", Kind.VIEW, 1, _slice_shape, _slice, attrs=("axis", "start", "stop")),
    Op("concat", Kind.VIEW, None, _concat_shape, lambda *xs, axis: np.concatenate(xs, axis), attrs=("axis",)),
    # Sum over the last axis, kept with size 1.
    Op("reduce_sum", Kind.REDUCE, 1, _reduce_shape, lambda x: x.sum(axis=-1, keepdims=True)),
)

OPS: Mapping[str, Op] = {op.name: op for op in _TABLE}
"""All ops by name."""


def result_dtype(op: Op, dtypes: Sequence[str]) -> str:
    """The dtype rule: masks come from comparisons; everything else has the one float dtype of its operands."""
    if op.boolean:
        return "bool"
    values = dtypes[1:] if op.name == "select" else dtypes
    if op.name == "select" and dtypes[0] != "bool":
        raise IRError(f"select needs a bool condition, got {dtypes[0]}")
    if len(set(values)) != 1:
        raise IRError(f"{op.name} needs operands of one dtype, got {', '.join(dtypes)}")
    return values[0]
