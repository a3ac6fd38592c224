"""The op table: the one place where an operation is declared.

An op has a name, a kind, an arity, a shape rule, a dtype rule, a meaning in NumPy and a gradient rule. An elementwise
op also has scalar code, written with the few primitives that every code generator offers (`Primitives`).
To add an elementwise op, add a row to this table, and a test.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from math import inf
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from rnnc.ir import gradients, meanings, shape_rules
from rnnc.ir.errors import IRError
from rnnc.ir.gradients import Rule, partials
from rnnc.ir.shape_rules import AttrValue, Shape, numbers_of

Attrs = tuple[tuple[str, AttrValue], ...]
Array = np.ndarray[tuple[Any, ...], np.dtype[Any]]


class Kind(Enum):
    """What a scheduler needs to know about an op."""

    LEAF = "leaf"
    CARRY = "carry"
    ELEMENTWISE = "map"
    MATMUL = "gemm"
    VIEW = "view"
    REDUCE = "reduce"
    OUTER = "outer"
    TIME_SUM = "sum"


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
    def sin(self, a: Any) -> Any: ...
    def cos(self, a: Any) -> Any: ...
    def power(self, a: Any, b: Any) -> Any: ...
    def rint(self, a: Any) -> Any: ...
    def maximum(self, a: Any, b: Any) -> Any: ...
    def minimum(self, a: Any, b: Any) -> Any: ...
    def greater(self, a: Any, b: Any) -> Any: ...
    def greater_equal(self, a: Any, b: Any) -> Any: ...
    def select(self, condition: Any, a: Any, b: Any) -> Any: ...


ZeroOf = Literal["all", "any", "first", "never"]
ShapeRule = Callable[[Sequence[Shape], Mapping[str, AttrValue]], Shape]
Meaning = Callable[..., Array]
Emit = Callable[..., Any]


class Op(NamedTuple):
    """One row of the table.

    arity: number of operands; None means one or more.
    attrs: names of the attributes, in the order they print.
    shape: (operand shapes, attributes) -> the shape of the result.
    meaning: (NumPy arrays, attributes by keyword) -> NumPy array. Leaves have none.
    emit: (`Primitives`, scalar operands) -> scalar, for elementwise ops. For a reduction over the last axis, it
        combines two partial results.
    identity: the result of a reduction over nothing.
    commutative: the order of the operands does not matter, so they are compared as a multiset.
    boolean: the result is always a mask.
    vjp: the gradient rule of reverse mode; None if no gradient flows (masks, step functions, `stop_gradient`). For an
        elementwise op it is the partial derivative times g, which serves forward mode as well.
    products: the op is linear in each operand alone, as a product is. Other ops that are not elementwise are linear in
        all operands together, or have a `jvp`.
    jvp: the rule of forward mode for an op that is neither: (tangent of x, y, x) -> tangent of y.
    costly: the elementwise op takes longer than reading its result back from memory.
    zero_of: which operands must be 0 in a row for the result to be exactly 0 there, if all operands are finite: "all",
        "any" one, or the "first". "never" promises nothing, so it is always correct.
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
    vjp: Rule | None = None
    products: bool = False
    identity: float | None = None
    costly: bool = False
    jvp: Callable[..., Any] | None = None
    zero_of: ZeroOf = "never"


def _map(
    name: str,
    arity: int | None,
    meaning: Meaning,
    emit: Emit,
    vjp: Rule | None,
    *,
    commutative: bool = False,
    boolean: bool = False,
    costly: bool = False,
    zero_of: ZeroOf = "never",
) -> Op:
    flags = (commutative, boolean)
    rule = shape_rules.elementwise
    return Op(name, Kind.ELEMENTWISE, arity, rule, meaning, emit, (), *flags, vjp, costly=costly, zero_of=zero_of)


_TABLE = (
    # Leaves. `input` reads an argument, `const` is a number, and `zeros` is an array of zeros, at one step or at all.
    Op("input", Kind.LEAF, 0, shape_rules.declared, attrs=("name",)),
    Op("const", Kind.LEAF, 0, shape_rules.scalar, attrs=("value",)),
    Op("zeros", Kind.LEAF, 0, shape_rules.declared),
    # The only ops that cross steps. carry: a state of the step before, in loop direction (delta = +1 or -1); the
    # first step reads an initial value. exit: a state after the last step. tsum: the sum over all steps.
    # The gradient of a carry is a carry in the other direction; rnnc.ir.autodiff makes it.
    Op("carry", Kind.CARRY, 1, shape_rules.same, lambda x, **_: x, attrs=("state", "delta")),
    Op("exit", Kind.CARRY, 1, shape_rules.same, lambda x, **_: x, attrs=("state", "delta")),
    Op("tsum", Kind.TIME_SUM, None, shape_rules.all_same, meanings.added, commutative=True, vjp=gradients.tsum),
    # Elementwise.
    _map("add", None, meanings.added, meanings.emit_sum, gradients.add, commutative=True, zero_of="all"),
    _map("sub", 2, np.subtract, lambda e, a, b: e.sub(a, b), gradients.sub, zero_of="all"),
    _map("mul", 2, np.multiply, lambda e, a, b: e.mul(a, b), gradients.mul, commutative=True, zero_of="any"),
    _map("div", 2, np.divide, lambda e, a, b: e.div(a, b), gradients.div, costly=True, zero_of="first"),
    _map("neg", 1, np.negative, lambda e, a: e.neg(a), partials(lambda g, y, x: -g), zero_of="all"),
    _map("abs", 1, np.abs, lambda e, a: e.absolute(a), gradients.absolute, zero_of="all"),
    _map("exp", 1, np.exp, lambda e, a: e.exp(a), partials(lambda g, y, x: g * y), costly=True),
    _map("log", 1, np.log, lambda e, a: e.log(a), partials(lambda g, y, x: g / x), costly=True),
    _map("sqrt", 1, np.sqrt, lambda e, a: e.sqrt(a), partials(lambda g, y, x: g * 0.5 / y), costly=True, zero_of="all"),
    _map(
        "rsqrt",
        1,
        lambda x: x.dtype.type(1) / np.sqrt(x),
        lambda e, a: e.div(e.constant(1.0), e.sqrt(a)),
        partials(lambda g, y, x: g * (-0.5 * (y * y * y))),
        costly=True,
    ),
    _map(
        "sigmoid",
        1,
        meanings.sigmoid,
        lambda e, a: e.sigmoid(a),
        partials(lambda g, y, x: g * (y * (1.0 - y))),
        costly=True,
    ),
    _map(
        "tanh",
        1,
        np.tanh,
        lambda e, a: e.tanh(a),
        partials(lambda g, y, x: g * (1.0 - y * y)),
        costly=True,
        zero_of="all",
    ),
    _map(
        "relu",
        1,
        lambda x: np.maximum(x, x.dtype.type(0)),
        lambda e, a: e.maximum(a, e.constant(0.0)),
        gradients.relu,
        zero_of="all",
    ),
    _map("maximum", 2, np.maximum, lambda e, a, b: e.maximum(a, b), gradients.maximum, commutative=True),
    _map("minimum", 2, np.minimum, lambda e, a, b: e.minimum(a, b), gradients.minimum, commutative=True),
    _map("sin", 1, np.sin, lambda e, a: e.sin(a), gradients.sine, costly=True, zero_of="all"),
    _map("cos", 1, np.cos, lambda e, a: e.cos(a), gradients.cosine, costly=True),
    _map(
        "log1p", 1, np.log1p, meanings.emit_log1p, partials(lambda g, y, x: g / (1.0 + x)), costly=True, zero_of="all"
    ),
    _map(
        "expm1", 1, np.expm1, meanings.emit_expm1, partials(lambda g, y, x: g * (y + 1.0)), costly=True, zero_of="all"
    ),
    _map("power", 2, np.power, lambda e, a, b: e.power(a, b), gradients.power, costly=True),
    # Steps: no gradient flows, as if the slope were 0 at the jumps too.
    _map("floor", 1, np.floor, meanings.emit_floor, None, zero_of="all"),
    _map("rint", 1, np.rint, lambda e, a: e.rint(a), None, zero_of="all"),
    _map("sign", 1, np.sign, meanings.emit_sign, None, zero_of="all"),
    _map("greater", 2, np.greater, lambda e, a, b: e.greater(a, b), None, boolean=True),
    _map("greater_equal", 2, np.greater_equal, lambda e, a, b: e.greater_equal(a, b), None, boolean=True),
    _map("select", 3, np.where, lambda e, c, a, b: e.select(c, a, b), gradients.select_),
    # The value, held constant by differentiation.
    _map("stop_gradient", 1, lambda x: x, lambda e, a: a, None, zero_of="all"),
    # Matrix product of (M, K) and (K, N), or (N, K) with transpose_b.
    Op(
        "matmul",
        Kind.MATMUL,
        2,
        shape_rules.matmul,
        lambda a, b, *, transpose_b: a @ (b.T if transpose_b else b),
        attrs=("transpose_b",),
        vjp=gradients.matmul,
        products=True,
        zero_of="first",
    ),
    # The sum over rows of their outer products: (R, M), (R, N) -> (M, N). Weight gradients are such sums.
    Op("outer", Kind.OUTER, 2, shape_rules.outer, lambda a, b: a.T @ b, vjp=gradients.outer, products=True),
    # Views: no arithmetic. Code generators turn them into addresses.
    Op(
        "slice",
        Kind.VIEW,
        1,
        shape_rules.slice_,
        meanings.sliced,
        attrs=("axis", "start", "stop"),
        vjp=gradients.slice_,
        zero_of="all",
    ),
    Op(
        "concat",
        Kind.VIEW,
        None,
        shape_rules.concat,
        lambda *xs, axis: np.concatenate(xs, axis),
        attrs=("axis",),
        vjp=gradients.concat,
        zero_of="all",
    ),
    # Units as a grid (outer, size, inner), the last axis fastest: `expand` repeats what has no `size`.
    Op(
        "expand",
        Kind.VIEW,
        1,
        shape_rules.expand,
        meanings.expanded,
        attrs=("size", "inner"),
        vjp=gradients.expand,
        zero_of="all",
    ),
    Op("transpose", Kind.VIEW, 1, shape_rules.transpose, lambda x: x.T, vjp=gradients.transpose),
    # Views of parameters alone: their axes in another order, and their elements in another shape. Sizes are written
    # "3x4".
    Op(
        "permute",
        Kind.VIEW,
        1,
        shape_rules.permute,
        lambda x, *, axes: x.transpose(numbers_of(axes)),
        attrs=("axes",),
        vjp=gradients.permute,
    ),
    Op(
        "reshape",
        Kind.VIEW,
        1,
        shape_rules.reshape,
        lambda x, *, shape: x.reshape(numbers_of(shape)),
        attrs=("shape",),
        vjp=gradients.reshape,
    ),
    # A vector without a batch axis: bound beside the parameters, once.
    Op("iota", Kind.VIEW, 1, shape_rules.iota, meanings.iota),
    # Sums. `reduce_sum` sums over the last axis and keeps it with size 1. `reduce_rows` sums over the first axis of a
    # matrix, and keeps it with size 1 if `keep` is set.
    Op(
        "reduce_sum",
        Kind.REDUCE,
        1,
        shape_rules.reduce,
        lambda x: x.sum(axis=-1, keepdims=True),
        lambda e, a, b: e.add(a, b),
        identity=0.0,
        vjp=gradients.broadcast_back,
        zero_of="all",
    ),
    # The largest element along the last axis, which is kept with size 1; NaN if an element is NaN.
    Op(
        "reduce_max",
        Kind.REDUCE,
        1,
        shape_rules.reduce,
        lambda x: x.max(axis=-1, keepdims=True),
        lambda e, a, b: e.maximum(a, b),
        identity=-inf,
        vjp=gradients.reduce_max,
        jvp=gradients.reduce_max_forward,
    ),
    # The same over the middle axis of a grid (outer, size, inner) of units: one number for each of (outer, inner).
    Op(
        "group_sum",
        Kind.REDUCE,
        1,
        shape_rules.group,
        meanings.group_sum,
        lambda e, a, b: e.add(a, b),
        attrs=("size", "inner"),
        identity=0.0,
        vjp=gradients.group_sum,
        zero_of="all",
    ),
    Op(
        "group_max",
        Kind.REDUCE,
        1,
        shape_rules.group,
        meanings.group_max,
        lambda e, a, b: e.maximum(a, b),
        attrs=("size", "inner"),
        identity=-inf,
        vjp=gradients.group_max,
        jvp=gradients.group_max_forward,
    ),
    Op(
        "reduce_rows",
        Kind.OUTER,
        1,
        shape_rules.reduce_rows,
        lambda x, *, keep: x.sum(axis=0, keepdims=keep),
        attrs=("keep",),
        vjp=gradients.broadcast_back,
    ),
)

OPS: Mapping[str, Op] = {op.name: op for op in _TABLE}
"""All ops by name."""


def result_dtype(op: Op, dtypes: Sequence[str]) -> str:
    """The dtype of a result: bool for comparisons and ops on masks, otherwise the float dtype of the operands."""
    if op.boolean:
        return "bool"
    values = dtypes[1:] if op.name == "select" else dtypes
    if op.name == "select" and dtypes[0] != "bool":
        raise IRError(f"select needs a bool condition, got {dtypes[0]}")
    if len(set(values)) != 1:
        raise IRError(f"{op.name} needs operands of one dtype, got {', '.join(dtypes)}")
    return values[0]
