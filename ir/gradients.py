"""Gradient rules: how the adjoint of a result flows to each operand, written as equations.

A rule takes g, the adjoint of y; y, the result; xs, the operands; and i, the number of an operand. It returns the
contribution to the adjoint of xs[i]. If xs[i] was broadcast, the rule does not sum the contribution back to its shape:
rnnc.ir.autodiff does that for every op. The op table (rnnc.ir.ops) names the rule of each op.
"""

from __future__ import annotations

from collections.abc import Callable

from rnnc.ir.equations import Value, cos, greater, log, select, sin, total
from rnnc.ir.symbolic import apply

Rule = Callable[[Value, Value, tuple[Value, ...], int], Value]
"""g, y, xs, i -> the contribution to xs[i]."""


def partials(*rules: Callable[..., Value]) -> Rule:
    """A rule made of one function per operand, each called with g, y and all operands."""
    return lambda g, y, xs, i: rules[i](g, y, *xs)


# -- elementwise: the partial derivative times g ---------------------------------------------------------


def add(g: Value, y: Value, xs: tuple[Value, ...], i: int) -> Value:
    """Every term of a sum has the sum's adjoint."""
    return g


sub = partials(lambda g, y, a, b: g, lambda g, y, a, b: -g)
mul = partials(lambda g, y, a, b: g * b, lambda g, y, a, b: g * a)
div = partials(lambda g, y, a, b: g / b, lambda g, y, a, b: -(g * y) / b)
absolute = partials(lambda g, y, x: select(greater(x, 0.0), g, select(greater(0.0, x), -g, 0.0)))
relu = partials(lambda g, y, x: select(greater(x, 0.0), g, 0.0))
sine = partials(lambda g, y, x: g * cos(x))
cosine = partials(lambda g, y, x: -(g * sin(x)))


def power(g: Value, y: Value, xs: tuple[Value, ...], i: int) -> Value:
    """d a^b = b a^(b-1) da + a^b log(a) db. The first term is 0 for b = 0, the second for a = 0 and b >= 0.

    Where a factor would be infinite, the rule replaces the operand, not the product. If it replaced the product, the
    second derivative would still contain 0 * infinity, which is NaN.
    """
    a, b = xs
    if i == 0:
        flat = select(greater(abs(b), 0.0), a, 1.0)
        return g * (b * apply("power", flat, b - 1.0))
    inside = select(greater(abs(a), 0.0), a, select(greater(0.0, b), a, 1.0))
    return g * (y * log(inside))


def maximum(g: Value, y: Value, xs: tuple[Value, ...], i: int) -> Value:
    """g to the larger operand; half of g to each where they are equal."""
    mine, other = xs[i], xs[1 - i]
    return select(greater(mine, other), g, select(greater(other, mine), 0.0, g * 0.5))


def minimum(g: Value, y: Value, xs: tuple[Value, ...], i: int) -> Value:
    """g to the smaller operand; half of g to each where they are equal."""
    mine, other = xs[i], xs[1 - i]
    return select(greater(other, mine), g, select(greater(mine, other), 0.0, g * 0.5))


select_ = partials(
    lambda g, y, c, a, b: g,  # never called: a mask has no adjoint
    lambda g, y, c, a, b: select(c, g, 0.0),
    lambda g, y, c, a, b: select(c, 0.0, g),
)


# -- products ------------------------------------------------------------------------------------------


def matmul(g: Value, y: Value, xs: tuple[Value, ...], i: int) -> Value:
    """y = a b: da = g b', db = a' g. With b transposed: da = g b, db = g' a."""
    a, b = xs
    transposed = bool(y.node.attr("transpose_b"))
    if i == 0:
        return _product("matmul", g, b, transpose_b=not transposed)
    return _product("outer", g, a) if transposed else _product("outer", a, g)


def outer(g: Value, y: Value, xs: tuple[Value, ...], i: int) -> Value:
    """y = a' b: da = b g', db = a g."""
    a, b = xs
    return _product("matmul", b, g, transpose_b=True) if i == 0 else _product("matmul", a, g, transpose_b=False)


def _product(op: str, a: Value, b: Value, **attrs: bool) -> Value:
    return Value(a.graph, a.graph.add(op, (a.node, b.node), **attrs))


# -- views and sums ------------------------------------------------------------------------------------


def slice_(g: Value, y: Value, xs: tuple[Value, ...], i: int) -> Value:
    """g in the place of the slice, zeros on both sides."""
    (x,) = xs
    axis, start, stop = (int(y.node.attr(name)) for name in ("axis", "start", "stop"))
    size = int(x.shape[axis])
    parts = [g.node]
    for width, place in ((start, 0), (size - stop, 2)):
        if width:
            shape = list(x.shape)
            shape[axis] = width
            parts.insert(place, g.graph.zeros(tuple(shape)))
    return Value(g.graph, g.graph.concat(parts, axis))


def transpose(g: Value, y: Value, xs: tuple[Value, ...], i: int) -> Value:
    """The adjoint, transposed."""
    return apply("transpose", g)


def permute(g: Value, y: Value, xs: tuple[Value, ...], i: int) -> Value:
    """The adjoint, with its axes in their original order."""
    axes = [int(axis) for axis in str(y.node.attr("axes")).split("x")]
    return g.permute(*(axes.index(axis) for axis in range(len(axes))))


def reshape(g: Value, y: Value, xs: tuple[Value, ...], i: int) -> Value:
    """The adjoint, in the shape of the operand."""
    return g.reshape(*map(int, xs[0].shape))


def concat(g: Value, y: Value, xs: tuple[Value, ...], i: int) -> Value:
    """The part of g in the place of the operand."""
    axis = int(y.node.attr("axis"))
    start = sum(int(x.shape[axis]) for x in xs[:i])
    return Value(g.graph, g.graph.slice(g.node, axis, start, start + int(xs[i].shape[axis])))


def broadcast_back(g: Value, y: Value, xs: tuple[Value, ...], i: int) -> Value:
    """The adjoint of a sum, broadcast to the shape of its operand."""
    return Value(g.graph, g.graph.spread(g.node, xs[0].shape))


def _largest(y: Value, x: Value) -> Value:
    """The weights of a maximum over the last axis: 1 at the largest element, shared equally if there are several."""
    mask = select(greater(y, x), 0.0, 1.0)
    return mask / total(mask)


reduce_max = partials(lambda g, y, x: g * _largest(y, x))


def reduce_max_forward(t: Value, y: Value, x: Value) -> Value:
    """The tangent of a maximum: the tangent of the largest element."""
    return total(t * _largest(y, x))


# -- grids of units --------------------------------------------------------------------------------------


def expand(g: Value, y: Value, xs: tuple[Value, ...], i: int) -> Value:
    """The adjoint of `expand`: the sum over the repetitions."""
    return _over_groups("group_sum", g, y)


def group_sum(g: Value, y: Value, xs: tuple[Value, ...], i: int) -> Value:
    """The adjoint of `group_sum`: the adjoint of each sum, repeated for its terms."""
    return _over_groups("expand", g, y)


def _over_groups(op: str, v: Value, like: Value) -> Value:
    """One of the ops on groups, applied with the groups of a value that another of them made."""
    return Value(v.graph, v.graph.over_groups(op, v.node, like.node.attr("size"), like.node.attr("inner")))


def _largest_of_group(y: Value, x: Value) -> Value:
    mask = select(greater(_over_groups("expand", y, y), x), 0.0, 1.0)
    return mask / _over_groups("expand", _over_groups("group_sum", mask, y), y)


group_max = partials(lambda g, y, x: _over_groups("expand", g, y) * _largest_of_group(y, x))


def group_max_forward(t: Value, y: Value, x: Value) -> Value:
    """The tangent of a maximum: the tangent of the largest element of its group."""
    return _over_groups("group_sum", t * _largest_of_group(y, x), y)


def tsum(g: Value, y: Value, xs: tuple[Value, ...], i: int) -> Value:
    """Every step of a sum over time has the sum's adjoint."""
    return g
