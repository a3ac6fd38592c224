"""Symbolic values: the values on which a cell's equations are run, and the meaning of Python's syntax on them.

An expression of symbolic values adds nodes to a graph and computes nothing. Python and NumPy syntax has its NumPy
meaning if that can be compiled. Otherwise it raises an error that says what to write. The functions that cells call are
in `rnnc.ir.equations`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeGuard

import numpy as np

from rnnc.ir import grids
from rnnc.ir.errors import ArgumentError, ArgumentTypeError, IRError
from rnnc.ir.indexing import BATCH, axis_to_cut, bounds_of, edges_of, whole
from rnnc.ir.refusals import NoConcreteValue, is_function

if TYPE_CHECKING:
    from rnnc.ir.graph import Graph, Node

Number = int | float

BY_SQUARING = 8
"""The largest whole exponent that is computed by repeated squaring. It takes at most 4 products."""


class Value(NoConcreteValue):
    """A value of one time step, a parameter, or a value computed from them.

    A comparison returns a mask: the condition of `where`, which counts as 0 or 1 in arithmetic.
    axes: the sizes of the units' axes if there are several (rnnc.ir.grids), otherwise ().
    """

    def __init__(self, graph: Graph, node: Node, axes: tuple[int, ...] = ()) -> None:
        self.graph, self.node, self.axes = graph, node, axes

    def __repr__(self) -> str:
        return f"Value({self.node}, shape={self.shape})"

    @property
    def shape(self) -> tuple[int | str, ...]:
        """(B, N) or (B, M, N, ...) for a value of a step, where B is the text "B". A parameter has its own shape."""
        return (*self.node.shape[:-1], *self.axes) if self.axes else self.node.shape

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def is_mask(self) -> bool:
        """True for the result of a comparison."""
        return self.node.dtype == "bool"

    def as_numbers(self) -> Value:
        """A mask as numbers 0 and 1. Numbers are returned as they are."""
        if not self.is_mask:
            return self
        chosen = self.graph.add("select", (self.node, self.graph.const(1.0), self.graph.const(0.0)))
        return Value(self.graph, chosen, self.axes)

    # -- arithmetic ---------------------------------------------------------------------------------

    def __add__(self, other: Value | Number) -> Value:
        return apply("add", self, other)

    def __radd__(self, other: Number) -> Value:
        return apply("add", other, self)

    def __sub__(self, other: Value | Number) -> Value:
        return apply("sub", self, other)

    def __rsub__(self, other: Number) -> Value:
        return apply("sub", other, self)

    def __mul__(self, other: Value | Number) -> Value:
        return apply("mul", self, other)

    def __rmul__(self, other: Number) -> Value:
        return apply("mul", other, self)

    def __truediv__(self, other: Value | Number) -> Value:
        return apply("div", self, other)

    def __rtruediv__(self, other: Number) -> Value:
        return apply("div", other, self)

    def __floordiv__(self, other: Value | Number) -> Value:
        return apply("floor", apply("div", self, other))

    def __rfloordiv__(self, other: Number) -> Value:
        return apply("floor", apply("div", other, self))

    def __mod__(self, other: Value | Number) -> Value:
        return modulo(self, other)

    def __rmod__(self, other: Number) -> Value:
        return modulo(other, self)

    def __divmod__(self, other: Value | Number) -> tuple[Value, Value]:
        return self // other, self % other

    def __rdivmod__(self, other: Number) -> tuple[Value, Value]:
        return other // self, other % self

    def __pow__(self, exponent: Value | Number) -> Value:
        return raised(self, exponent)

    def __rpow__(self, base: Number) -> Value:
        return raised(base, self)

    def __matmul__(self, other: Value) -> Value:
        return product(self, other)

    def __rmatmul__(self, other: object) -> NoReturn:
        product(other, self)
        raise AssertionError

    def __neg__(self) -> Value:
        return apply("neg", self)

    def __pos__(self) -> Value:
        return self.as_numbers()

    def __abs__(self) -> Value:
        return apply("abs", self)

    def __round__(self, digits: int | None = None) -> Value:
        if digits is not None:
            raise ArgumentError(f"round({digits}): a symbolic value is rounded to integers: round(v * 10) / 10")
        return apply("rint", self)

    def __floor__(self) -> Value:
        return apply("floor", self)

    def __ceil__(self) -> Value:
        return -apply("floor", -self)

    def __trunc__(self) -> Value:
        return apply("sign", self) * apply("floor", abs(self))

    # -- comparisons and masks ----------------------------------------------------------------------

    def __gt__(self, other: Value | Number) -> Value:
        return apply("greater", self, other)

    def __lt__(self, other: Value | Number) -> Value:
        return apply("greater", other, self)

    def __ge__(self, other: Value | Number) -> Value:
        return apply("greater_equal", self, other)

    def __le__(self, other: Value | Number) -> Value:
        return apply("greater_equal", other, self)

    def __eq__(self, other: object) -> Value:  # type: ignore[override]
        return equal(self, other)

    def __ne__(self, other: object) -> Value:  # type: ignore[override]
        return ~equal(self, other)

    __hash__ = object.__hash__

    def __and__(self, other: Value) -> Value:
        return apply("mul", _mask("&", self), _mask("&", other)) > 0.5

    def __or__(self, other: Value) -> Value:
        return apply("add", _mask("|", self), _mask("|", other)) > 0.5

    def __xor__(self, other: Value) -> Value:
        return abs(apply("sub", _mask("^", self), _mask("^", other))) > 0.5

    def __invert__(self) -> Value:
        return apply("greater", 0.5, _mask("~", self))

    # -- shapes -------------------------------------------------------------------------------------

    def split(self, parts: int | Sequence[int], axis: int | None = None) -> tuple[Value, ...]:
        """The value cut into parts: `parts` equal ones, or parts of the sizes listed.

        axis: by default the last axis of a value with a batch, of its units, and the first axis of a parameter. A value
        with a batch is cut along units only. Raises IRError if the parts do not fill the axis.
        """
        own = self.axes
        cut = self._axis("split", axis) if own else axis_to_cut("split", axis, self.shape, self.has_batch)
        edges = edges_of(parts, int(self.shape[cut]), f"axis {cut} of shape {self.shape}")
        return tuple(self._cut(cut, start, stop) for start, stop in zip(edges, edges[1:], strict=False))

    def __getitem__(self, index: object) -> Value:
        given = index if isinstance(index, tuple) else (index,)
        if any(i is None for i in given):
            old = self[tuple(i for i in given if i is not None)]
            axes = grids.with_new_axes(given, grids.axes_of(old.node, old.axes), old.has_batch)
            return old.replaced(old.node, axes) if old.has_batch else old.reshape(axes)
        result = self
        for axis, (start, stop) in bounds_of(given, self.shape).items():
            result = result._cut(axis - self.ndim if self.has_batch else axis, start, stop)
        return result

    def reshape(self, *sizes: Any) -> Value:
        """The same elements with other axes, in C order, as NumPy's reshape.

        A value with a batch gets other axes of its units: v.reshape(-1, m, n), where -1 is the batch. It costs nothing.
        """
        given = tuple(sizes[0]) if len(sizes) == 1 and isinstance(sizes[0], tuple | list) else sizes
        if not self.has_batch:
            return self._arranged("reshape", "shape", given)
        numbers = self.as_numbers()
        return numbers.replaced(numbers.node, grids.reshaped(self.shape, given))

    @property
    def T(self) -> Value:
        """A parameter with rows and columns exchanged. Raises IRError if the value has a batch axis."""
        if self.has_batch:
            raise IRError(f"v.T: shape {self.shape} has a batch axis; transpose the parameter that v meets: v @ w.T")
        if self.node.op == "transpose":
            return Value(self.graph, self.node.inputs[0])
        return self if self.ndim < 2 else apply("transpose", self)

    def permute(self, *axes: int) -> Value:
        """A parameter with its axes in another order, as NumPy's transpose(axes)."""
        return self._arranged("permute", "axes", axes)

    def sum(self, axis: int | None = None, keepdims: bool = True, **other: object) -> Value:
        """The sum over the last axis, or over one of several axes of units. The axis is kept: (B, N) -> (B, 1)."""
        return self._reduced("sum", "sum", axis, keepdims, other)

    def mean(self, axis: int | None = None, keepdims: bool = True, **other: object) -> Value:
        """The mean over the last axis, or over one of several axes of units. The axis is kept: (B, N) -> (B, 1)."""
        size = int(self.shape[self._axis("mean", axis)])
        return self._reduced("mean", "sum", axis, keepdims, other) * (1.0 / size)

    def max(self, axis: int | None = None, keepdims: bool = True, **other: object) -> Value:
        """The maximum over the last axis, or over one of several axes of units. The axis is kept: (B, N) -> (B, 1)."""
        return self._reduced("max", "max", axis, keepdims, other)

    def min(self, axis: int | None = None, keepdims: bool = True, **other: object) -> Value:
        """The minimum over the last axis, or over one of several axes of units. The axis is kept: (B, N) -> (B, 1)."""
        return -(-self)._reduced("min", "max", axis, keepdims, other)

    def clip(self, low: Value | Number | None = None, high: Value | Number | None = None, **other: object) -> Value:
        """minimum(maximum(v, low), high). A bound that is None is left out."""
        _no_other("clip", other)
        result = self if low is None else apply("maximum", self, low)
        return result if high is None else apply("minimum", result, high)

    @property
    def has_batch(self) -> bool:
        """True if the value has a step or a batch axis, so that its last axis is the units; False for parameters."""
        return self.node.step is not None or BATCH in self.shape

    def _cut(self, axis: int, start: int, stop: int) -> Value:
        """A part of an axis. For values with a batch or several axes, the axis is counted from the end."""
        whole = self.as_numbers()
        if not self.axes:
            return Value(self.graph, self.graph.slice(whole.node, axis, start, stop))
        shown = f"a cut of shape {self.shape}"
        return whole.replaced(*grids.cut(self.graph, shown, whole.node, self.axes, axis % len(self.axes), start, stop))

    def _arranged(self, what: str, attribute: str, numbers: tuple[int, ...]) -> Value:
        if self.has_batch:
            raise IRError(f"v.{what}: shape {self.shape} has a batch axis; only parameters are rearranged")
        written = "x".join(map(str, (whole(f"v.{what}", number) for number in numbers)))
        node = self.as_numbers().node
        return Value(self.graph, self.graph.add(what, (node,), **{attribute: written}))  # type: ignore[arg-type]

    def replaced(self, node: Node, axes: tuple[int, ...]) -> Value:
        """The value of another node of the same graph, with these axes of units."""
        return Value(self.graph, node, axes if len(axes) > 1 else ())

    def _axis(self, what: str, axis: object) -> int:
        """The axis of units to reduce over, counted from the end."""
        if self.axes:
            found = grids.unit_axis(f"v.{what}", -1 if axis is None else axis, self.axes, self.has_batch)
            return found - len(self.axes)
        if axis is None and (self.has_batch or self.ndim < 2):
            axis = -1
        if axis not in (-1, self.ndim - 1):
            why = "rows are independent" if self.has_batch else f"over rows of a parameter, p.w.T.{what}(axis=-1)"
            raise IRError(f"v.{what}(axis={axis!r}) of shape {self.shape}: over the last axis only, axis=-1; {why}")
        return -1

    def _reduced(self, what: str, op: str, axis: object, keepdims: object, other: dict[str, object]) -> Value:
        _no_other(what, other)
        at = self._axis(what, axis)
        if not self.axes:
            if not keepdims:
                raise IRError(f"v.{what}(keepdims=False): the last axis is kept with size 1, leave keepdims out")
            return apply(f"reduce_{op}", self)
        number = len(self.axes) + at
        made = grids.reduced(self.graph, f"group_{op}", self.as_numbers().node, self.axes, number)
        return self.replaced(made, (*self.axes[:number], *((1,) if keepdims else ()), *self.axes[number + 1 :]))

    # -- NumPy and PyTorch --------------------------------------------------------------------------

    def __array__(self, *arguments: object, **keywords: object) -> NoReturn:
        raise ArgumentTypeError(
            "a symbolic value cannot become a NumPy array: use operators and the functions of rnnc.ir.equations"
        )

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *operands: Any, **keywords: object) -> Value:
        from rnnc.ir.numpy_functions import call_ufunc

        return call_ufunc(ufunc, method, operands, keywords)

    def __array_function__(self, function: Callable[..., Any], _: object, operands: Any, keywords: Any) -> Any:
        from rnnc.ir.numpy_functions import call_function

        return call_function(function, operands, keywords)

    @classmethod
    def __torch_function__(cls, function: Any, *_: object, **__: object) -> NoReturn:
        name = getattr(function, "__name__", "this function")
        known = f"write {name}(v)" if is_function(name) else "write it with operators and functions"
        raise ArgumentTypeError(f"torch's {name} takes tensors, not a symbolic value; {known}, from rnnc.ir.equations")


def apply(op: str, *operands: Value | Number) -> Value:
    """The op of the table applied to symbolic values and numbers. Masks count as 0 and 1.

    Raises ArgumentTypeError if an operand is neither, or if no operand is symbolic.
    """
    graph = next((v.graph for v in operands if isinstance(v, Value)), None)
    if graph is None:
        raise ArgumentTypeError(f"{op} needs at least one symbolic value, got {operands!r}")
    return combined(graph, op, [as_node(graph, op, v) for v in operands], operands)


def combined(graph: Graph, op: str, nodes: list[Node], operands: Sequence[object]) -> Value:
    """The op on the nodes of the operands. Operands with several axes of units broadcast as in NumPy."""
    axes: tuple[int, ...] = ()
    known = [v.axes if isinstance(v, Value) else () for v in operands]
    if any(known):
        nodes, axes = grids.fitted(graph, op, list(zip(nodes, known, strict=True)))
    return Value(graph, graph.add(op, nodes), axes)


def as_node(graph: Graph, op: str, operand: object) -> Node:
    """The node of a symbolic value or of a number. A number may be Python's, NumPy's, or an array without axes.

    Raises ArgumentTypeError for anything else, which names the op.
    """
    if isinstance(operand, Value):
        return operand.as_numbers().node
    if is_number(operand):
        try:
            return graph.const(float(operand))
        except OverflowError as error:
            raise ArgumentError(f"{op}: an integer of {operand.bit_length()} bits is no {graph.dtype}") from error
    came = type(operand).__name__
    if operand is None:
        came = "None; a parameter that the cell leaves out (bias=False) reads as None: test `p.name is None`"
    elif isinstance(operand, np.ndarray):
        came = f"an array of shape {operand.shape}; declare it as a parameter of the cell"
    raise ArgumentTypeError(f"{op}: expected a symbolic value or a number, got {came}")


def is_number(value: object) -> TypeGuard[Any]:
    """True for a real number that is not a bool: Python's, NumPy's, or in an array without axes."""
    if isinstance(value, np.ndarray | np.generic):
        return value.ndim == 0 and value.dtype.kind in "iuf"
    return isinstance(value, int | float) and not isinstance(value, bool)


def equal(a: Value | Number, b: object) -> Value:
    """The mask a == b. Raises IRError if b is None."""
    if b is None:
        raise IRError("a symbolic value is compared with None: write `p.name is None`")
    return apply("greater_equal", a, b) & apply("greater_equal", b, a)  # type: ignore[arg-type]


def modulo(a: Value | Number, b: Value | Number) -> Value:
    """a - floor(a / b) * b. This is NumPy's mod, with the sign of b, but is rounded as the formula rounds."""
    return apply("sub", a, apply("mul", apply("floor", apply("div", a, b)), b))


def raised(a: Value | Number, b: Value | Number) -> Value:
    """a ** b. A small whole exponent becomes products, and 0.5 and -0.5 become square roots."""
    if not isinstance(a, Value) or not is_number(b):
        return apply("power", a, b)
    exponent, base = float(b), a.as_numbers()
    if exponent == 0.5:
        return apply("sqrt", base)
    if exponent == -0.5:
        return apply("rsqrt", base)
    if exponent == 0.0:
        return base.replaced(a.graph.spread(a.graph.const(1.0), base.node.shape, base.node.step), base.axes)
    if exponent == -1.0:
        return 1.0 / base
    if 0 < exponent <= BY_SQUARING and exponent.is_integer():
        return _multiplied(base, int(exponent))
    return apply("power", base, exponent)


def _multiplied(base: Value, exponent: int) -> Value:
    """base ** exponent by repeated squaring."""
    if exponent == 1:
        return base
    half = _multiplied(base, exponent // 2)
    return half * half * base if exponent % 2 else half * half


def product(a: object, b: object) -> Value:
    """a @ b: (B, K) @ (K, N) -> (B, N), as in NumPy. For w.T of a parameter w (N, K), the matmul reads w itself."""
    if not isinstance(a, Value) or not isinstance(b, Value):
        other = type(b if isinstance(a, Value) else a).__name__
        raise ArgumentTypeError(f"@: expected two symbolic values, got {other}; declare a matrix as a parameter")
    if a.axes and b.axes:
        return matrix_product(a, b)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0]:
        raise IRError(
            f"@ of shapes {a.shape} and {b.shape}: expected (B, K) @ (K, N); a weight (N, K) is multiplied by "
            "x @ w.T or linear(x, w), the dot product of two (B, N) values is total(v * w), and the product with a "
            "matrix per row is matvec(m, v) or vecmat(v, m)"
        )
    transposed = b.node.op == "transpose"
    right = b.node.inputs[0] if transposed else b.as_numbers().node
    return Value(a.graph, a.graph.add("matmul", (a.as_numbers().node, right), transpose_b=transposed))


def matrix_product(a: Value, b: Value) -> Value:
    """The product of matrices per row: (B, M, K), (B, K, N) -> (B, M, N). Further axes before them broadcast."""
    if a.shape[-1] != b.shape[-2]:
        raise IRError(f"@ of shapes {a.shape} and {b.shape}: expected (B, M, K) @ (B, K, N)")
    return (a[..., None] * b[..., None, :, :]).sum(axis=-2, keepdims=False)


def _mask(what: str, value: object) -> Value:
    if not isinstance(value, Value) or not value.is_mask:
        raise ArgumentTypeError(f"{what} combines masks, as `v > 0` gives; got {_came(value)}")
    return value


def _came(value: object) -> str:
    return f"numbers of shape {value.shape}" if isinstance(value, Value) else type(value).__name__


def _no_other(what: str, other: dict[str, object]) -> None:
    given = [name for name, value in other.items() if value is not None]
    if given:
        raise ArgumentTypeError(f"v.{what}: unknown argument {given[0]!r}")
