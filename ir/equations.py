"""What a cell's equations are written with.

A cell is a plain Python function over `Value`s. Running it once builds one time step of the graph:

    h = tanh(linear(x, p.weight_ih, p.bias_ih) + linear(state.h, p.weight_hh, p.bias_hh))

Numbers mix with values. Shapes: per-step values are (B, N); weights are (N, K); biases and other
vectors are (N,), and broadcast over the batch. Python's operators and NumPy's functions work on values as well
(rnnc.ir.symbolic, rnnc.ir.numpy_functions).
"""

from __future__ import annotations

from collections.abc import Callable
from math import pi
from math import sqrt as _root
from typing import TYPE_CHECKING

from rnnc.ir import grids
from rnnc.ir.errors import ArgumentTypeError, IRError
from rnnc.ir.indexing import axis_to_cut
from rnnc.ir.symbolic import Number, Value, apply, as_node, combined, equal, modulo, raised

if TYPE_CHECKING:
    from rnnc.ir.graph import Graph

__all__ = [
    "Value",
    "absolute",
    "argmax",
    "ceil",
    "clip",
    "concat",
    "cos",
    "elu",
    "equal",
    "exp",
    "expm1",
    "floor",
    "gelu",
    "gelu_tanh",
    "greater",
    "greater_equal",
    "hard_sigmoid",
    "hard_tanh",
    "largest",
    "leaky_relu",
    "less",
    "less_equal",
    "linear",
    "log",
    "log1p",
    "log_softmax",
    "matvec",
    "maximum",
    "mean",
    "minimum",
    "mod",
    "not_equal",
    "one_hot",
    "outer",
    "power",
    "relu",
    "rint",
    "rsqrt",
    "select",
    "sigmoid",
    "sign",
    "silu",
    "sin",
    "smallest",
    "softmax",
    "softplus",
    "sqrt",
    "square",
    "stop_gradient",
    "tanh",
    "total",
    "transpose",
    "vecmat",
    "where",
]

Operand = Value | Number


def _unary(op: str, doc: str) -> Callable[[Value], Value]:
    def function(x: Value) -> Value:
        return apply(op, x)

    function.__name__ = op
    function.__doc__ = doc
    return function


# -- functions of one value, elementwise -----------------------------------------------------------------

sigmoid = _unary("sigmoid", "1 / (1 + exp(-x)), elementwise.")
tanh = _unary("tanh", "Hyperbolic tangent, elementwise.")
relu = _unary("relu", "max(x, 0), elementwise.")
exp = _unary("exp", "e to the x, elementwise.")
expm1 = _unary("expm1", "exp(x) - 1, accurate near 0, elementwise.")
log = _unary("log", "Natural logarithm, elementwise.")
log1p = _unary("log1p", "log(1 + x), accurate near 0, elementwise.")
sqrt = _unary("sqrt", "Square root, elementwise.")
rsqrt = _unary("rsqrt", "1 / sqrt(x), elementwise.")
sin = _unary("sin", "Sine of x in radians, elementwise.")
cos = _unary("cos", "Cosine of x in radians, elementwise.")
absolute = _unary("abs", "|x|, elementwise.")
floor = _unary("floor", "The largest integer <= x, elementwise; its gradient is 0.")
rint = _unary("rint", "The integer nearest to x, the even one of two, elementwise; its gradient is 0.")
sign = _unary("sign", "-1, 0 or 1 with the sign of x, NaN for NaN, elementwise; its gradient is 0.")


def ceil(x: Value) -> Value:
    """The smallest integer >= x, elementwise; its gradient is 0."""
    return -floor(-x)


def square(x: Value) -> Value:
    """x * x."""
    return x * x


def silu(x: Value) -> Value:
    """x * sigmoid(x), also called swish."""
    return x * sigmoid(x)


def softplus(x: Value) -> Value:
    """log(1 + exp(x)), without overflow."""
    return maximum(x, 0.0) + log1p(exp(-absolute(x)))


def leaky_relu(x: Value, slope: float = 0.01) -> Value:
    """x where x > 0, slope * x elsewhere."""
    return where(x > 0.0, x, slope * x)


def elu(x: Value, alpha: float = 1.0) -> Value:
    """x where x > 0, alpha * (exp(x) - 1) elsewhere (Clevert et al. 2016)."""
    return where(x > 0.0, x, alpha * expm1(minimum(x, 0.0)))


def gelu_tanh(x: Value) -> Value:
    """x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))): PyTorch's gelu(approximate="tanh")."""
    return 0.5 * x * (1.0 + tanh(_root(2.0 / pi) * (x + 0.044715 * (x * x * x))))


ERFC = (
    *(-0.6717940840566906, 0.6726432239776583, 0.04734330684142489, -0.046895610231328926),
    *(-0.009872689343191125, 0.008824938561312477, 0.0017589331171182802, -0.002345812552997889),
    *(-0.00014624252396283876, 0.0006736791352714216, -9.376035757684243e-05, -0.00017430412993364375),
    *(7.149530974396006e-05, 3.174693560560537e-05, -3.0421097366780022e-05, 1.3989336769021025e-07),
    *(8.952692088913553e-06, -2.9634838261813727e-06, -1.7128778787056307e-06, 1.2833946112187894e-06),
    *(1.5975475027743435e-07, -2.8956252690890845e-07, 7.992192962564449e-10, 2.980510962035111e-08),
)
"""log(erfc(z) / t) + z^2 as a polynomial in 2t - 1, for t = 2 / (2 + z): a Chebyshev fit, exact to 1e-15."""


def gelu(x: Value) -> Value:
    """x P(X <= x) for a standard normal X (Hendrycks & Gimpel 2016): PyTorch's gelu."""
    z = absolute(x) * _root(0.5)
    t = 2.0 / (2.0 + z)
    s = 2.0 * t - 1.0
    power = ERFC[-1] * s + ERFC[-2]
    for coefficient in ERFC[-3::-1]:
        power = power * s + coefficient
    tail = 0.5 * (t * exp(power - z * z))  # P(X <= -|x|)
    return x * where(x > 0.0, 1.0 - tail, tail)


def hard_sigmoid(x: Value) -> Value:
    """clip(x / 6 + 1 / 2, 0, 1), as PyTorch's."""
    return clip(x * (1.0 / 6.0) + 0.5, 0.0, 1.0)


def hard_tanh(x: Value) -> Value:
    """clip(x, -1, 1)."""
    return clip(x, -1.0, 1.0)


# -- functions of two values, elementwise ----------------------------------------------------------------


def maximum(a: Operand, b: Operand) -> Value:
    """The larger of both, elementwise; NaN if either is NaN."""
    return apply("maximum", a, b)


def minimum(a: Operand, b: Operand) -> Value:
    """The smaller of both, elementwise; NaN if either is NaN."""
    return apply("minimum", a, b)


def clip(x: Value, low: Operand | None = None, high: Operand | None = None) -> Value:
    """minimum(maximum(x, low), high); a bound of None is left out."""
    return x.clip(low, high)


def power(a: Operand, b: Operand) -> Value:
    """a to the b, elementwise: `a ** b`. 0 ** 0 is 1; NaN for a negative a unless b is whole."""
    return raised(a, b)


def mod(a: Operand, b: Operand) -> Value:
    """a - floor(a / b) * b, elementwise: `a % b`. It has the sign of b, as NumPy's.

    Its rounding errors are those of the formula: half a unit in the last place of a. b is finite.
    """
    return modulo(a, b)


# -- comparisons and choices -----------------------------------------------------------------------------


def greater(a: Operand, b: Operand) -> Value:
    """The mask a > b, for `where`."""
    return apply("greater", a, b)


def greater_equal(a: Operand, b: Operand) -> Value:
    """The mask a >= b."""
    return apply("greater_equal", a, b)


def less(a: Operand, b: Operand) -> Value:
    """The mask a < b."""
    return apply("greater", b, a)


def less_equal(a: Operand, b: Operand) -> Value:
    """The mask a <= b."""
    return apply("greater_equal", b, a)


def not_equal(a: Operand, b: Operand) -> Value:
    """The mask a != b."""
    return ~equal(a, b)


def where(condition: Value, a: Operand, b: Operand) -> Value:
    """a where the condition holds, b elsewhere; the condition is a mask, as `v > 0` gives."""
    if not isinstance(condition, Value) or not condition.is_mask:
        came = f"numbers of shape {condition.shape}" if isinstance(condition, Value) else repr(condition)
        raise ArgumentTypeError(f"where: the condition is a mask, as `v > 0` gives; got {came}: write v != 0")
    graph = condition.graph
    nodes = [condition.node, as_node(graph, "where", a), as_node(graph, "where", b)]
    return combined(graph, "select", nodes, (condition, a, b))


select = where


def stop_gradient(x: Value) -> Value:
    """x, held constant when the equations are differentiated."""
    return apply("stop_gradient", x)


# -- over units ------------------------------------------------------------------------------------------


def total(x: Value) -> Value:
    """Sum over the last axis, kept with size 1: (B, N) -> (B, 1)."""
    return x.sum(axis=-1) if isinstance(x, Value) else apply("reduce_sum", x)


def largest(x: Value) -> Value:
    """The maximum over the last axis, kept with size 1: (B, N) -> (B, 1). NaN if an element is NaN."""
    return x.max(axis=-1) if isinstance(x, Value) else apply("reduce_max", x)


def smallest(x: Value) -> Value:
    """The smallest of the last axis, kept with size 1: (B, N) -> (B, 1); NaN if one is."""
    return -largest(-x)


def mean(x: Value) -> Value:
    """Mean over the last axis, kept with size 1: (B, N) -> (B, 1)."""
    return total(x) * (1.0 / int(x.shape[-1]))


def argmax(x: Value) -> Value:
    """The number, from 0, of the first largest of the last axis, or of the first NaN: (B, N) -> (B, 1), as NumPy's.

    Its gradient is 0. N is at most 2^24, so that the number is exact in float32.
    """
    left = int(x.shape[-1]) - iota(x.graph, int(x.shape[-1]))  # the number of elements from each to the last
    most = where(x >= largest(x), left, where(x >= x, 0.0, left))  # a maximum that is NaN leaves the NaNs alone
    return int(x.shape[-1]) - largest(most)


def one_hot(number: Value, size: int) -> Value:
    """1 in the column of a number in 0..size-1, 0 elsewhere: (B, 1) -> (B, size). `one_hot(n, V) @ table` is a row."""
    return where(0.5 > absolute(number - iota(number.graph, size)), 1.0, 0.0)


def iota(graph: Graph, size: int) -> Value:
    """The vector 0, 1, 2, ..., (size,)."""
    return Value(graph, graph.add("iota", (graph.zeros((size,)),)))


def softmax(x: Value) -> Value:
    """exp(x) / total(exp(x)) over the last axis, without overflow; a column's of a parameter is softmax(p.w.T).T."""
    powers = exp(x - stop_gradient(largest(x)))
    return powers / total(powers)


def log_softmax(x: Value) -> Value:
    """log(softmax(x)) over the last axis, without overflow."""
    shifted = x - stop_gradient(largest(x))
    return shifted - log(total(exp(shifted)))


# -- shapes and products ---------------------------------------------------------------------------------


def concat(*xs: Value | list[Value] | tuple[Value, ...], axis: int = -1) -> Value:
    """Values side by side along the last axis: (B, N1), (B, N2), ... -> (B, N1 + N2 + ...).

    axis: parameters may also be stacked along axis 0.
    """
    listed = xs[0] if len(xs) == 1 and isinstance(xs[0], list | tuple) else xs
    wrong = [x for x in listed if not isinstance(x, Value)]
    if wrong or not listed:
        came = type(wrong[0]).__name__ if wrong else "nothing"
        raise ArgumentTypeError(f"concat: expected symbolic values, got {came}")
    values = [x.as_numbers() for x in listed if isinstance(x, Value)]
    graph: Graph = values[0].graph
    if len({v.ndim for v in values}) > 1:
        shapes = ", ".join(str(v.shape) for v in values)
        raise IRError(f"concat of shapes {shapes}: expected as many axes each; a vector has no batch axis")
    if any(v.axes for v in values):
        node, axes = grids.side_by_side(graph, [(v.node, v.axes) for v in values], axis)
        return values[0].replaced(node, axes)
    along = -1 if axis == -1 else axis_to_cut("concat", axis, values[0].shape, any(v.has_batch for v in values))
    return Value(graph, graph.concat([v.node for v in values], along))


def transpose(x: Value) -> Value:
    """A parameter with rows and columns exchanged: `x.T`."""
    return x.T


def linear(x: Value, weight: Value, bias: Value | None = None) -> Value:
    """x @ weight.T + bias: (B, K), (N, K), (N,) -> (B, N)."""
    if x.axes or weight.axes:
        raise IRError(
            f"linear of shapes {x.shape} and {weight.shape}: a parameter multiplies (B, K); write v.reshape(-1, m * n) "
            "first, or matvec(m, v) and vecmat(v, m) for the product with one matrix per row"
        )
    transposed = weight.node.op == "transpose"
    right = weight.node.inputs[0] if transposed else weight.as_numbers().node
    made = Value(x.graph, x.graph.add("matmul", (x.as_numbers().node, right), transpose_b=not transposed))
    return made if bias is None else made + bias


# -- one matrix per row --------------------------------------------------------------------------------------


def outer(u: Value, v: Value) -> Value:
    """The outer product u v' per row: (B, M), (B, N) -> (B, M, N). Further axes before M and N broadcast.

    Raises IRError if an operand has too few axes. So do `matvec` and `vecmat`.
    """
    _expect_axes("outer", (u, 1), (v, 1))
    return u[..., None] * v[..., None, :]


def matvec(m: Value, v: Value) -> Value:
    """The product m v per row: (B, M, N), (B, N) -> (B, M). It is NumPy's matvec."""
    _expect_axes("matvec", (m, 2), (v, 1))
    return (m * v[..., None, :]).sum(axis=-1, keepdims=False)


def vecmat(v: Value, m: Value) -> Value:
    """The product v m per row: (B, M), (B, M, N) -> (B, N). It is NumPy's vecmat."""
    _expect_axes("vecmat", (v, 1), (m, 2))
    return (v[..., :, None] * m).sum(axis=-2, keepdims=False)


def _expect_axes(what: str, *given: tuple[Value, int]) -> None:
    wrong = [v for v, _ in given if not isinstance(v, Value)]
    if wrong:
        raise ArgumentTypeError(f"{what}: expected symbolic values, got {type(wrong[0]).__name__}")
    if any(v.ndim < v.has_batch + axes for v, axes in given):
        shapes = ", ".join(str(v.shape) for v, _ in given)
        raise IRError(f"{what} of shapes {shapes}: a matrix of each row is (B, M, N): v.reshape(-1, m, n) makes one")
