"""Random equations whose units have several axes: products row by row, groups, and grids that do not fit each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import gcd

from rnnc.ir.equations import Value, concat, matvec, outer, rsqrt, sigmoid, softmax, square, tanh, vecmat, where

MOST = 4
"""Units of a factor of an outer product."""

Made = Callable[[Value, Value, int], Value]
"""Two values (B, N) and a size -> a value (B, N)."""


def width(v: Value) -> int:
    return int(v.shape[-1])


def flat(v: Value) -> Value:
    units = 1
    for size in v.shape[1:]:
        units *= int(size)
    return v.reshape(-1, units)


def first(v: Value, count: int) -> Value:
    """So many of the first units."""
    return v[:, : min(count, width(v))]


def divisor(v: Value, size: int) -> int:
    found = [n for n in range(1, width(v) + 1) if width(v) % n == 0]
    return found[size % len(found)]


def grouped(v: Value, size: int) -> Value:
    """(B, groups, units)."""
    units = divisor(v, size)
    return v.reshape(-1, width(v) // units, units)


def common(a: Value, b: Value) -> int:
    return gcd(width(a), width(b))


def product_of_rows(a: Value, b: Value, size: int) -> Value:
    """(B, m, k) @ (B, k, n)."""
    k = min(common(a, b), MOST)
    left, right = first(a, MOST // k * k), first(b, MOST // k * k)
    return flat(tanh(left).reshape(-1, width(left) // k, k) @ right.reshape(-1, k, width(right) // k))


def two_grids(a: Value, b: Value, size: int) -> Value:
    """Units as (m, n), read as (n, m): an axis of one ends within an axis of the other."""
    u, w = first(a, 3), first(b, 2)
    cells = outer(u, tanh(w))
    return flat(
        flat(cells).reshape(-1, width(w), width(u)) * w[:, :, None] + flat(cells).reshape(-1, width(w), width(u))
    )


def normed_groups(a: Value, b: Value, size: int) -> Value:
    groups = grouped(a, size)
    spread = groups - groups.mean(axis=-1)
    return flat(spread * rsqrt(square(spread).mean(axis=-1) + 0.1))


def row_added(a: Value, b: Value, size: int) -> Value:
    rows = common(a, b)
    return flat(a.reshape(-1, rows, width(a) // rows) + first(b, rows)[..., None])


def sums_both_ways(a: Value, b: Value, size: int) -> Value:
    """Reductions of one grid over each of its axes, and over both."""
    cells = outer(first(a, MOST), sigmoid(first(b, MOST)))
    rows, columns = cells.sum(axis=2, keepdims=False), cells.max(axis=1, keepdims=False)
    return concat(rows, columns, flat(cells).mean())


def in_parts(a: Value, b: Value, size: int) -> Value:
    """Columns of what is repeated."""
    repeated = flat(where(first(a, MOST)[:, :, None] > 0, first(a, MOST)[:, :, None], tanh(first(b, 3))[:, None, :]))
    return concat(repeated[:, size % width(repeated) :], flat(outer(first(b, 2), first(a, 1))))


def three_axes(a: Value, b: Value, size: int) -> Value:
    u, v, w = first(a, 2), first(b, 3), first(tanh(a), 2)
    cells = u[:, :, None, None] * v[:, None, :, None] + w[:, None, None, :]
    return flat(cells.sum(axis=size % 3 + 1, keepdims=False))


GRIDS: Mapping[str, Made] = {
    "outer": lambda a, b, size: flat(outer(first(a, MOST), first(b, MOST))),
    "matvec": lambda a, b, size: matvec(a.reshape(-1, width(a) // common(a, b), common(a, b)), first(b, common(a, b))),
    "vecmat": lambda a, b, size: vecmat(first(b, common(a, b)), a.reshape(-1, common(a, b), width(a) // common(a, b))),
    "product_of_rows": product_of_rows,
    "softmax_of_groups": lambda a, b, size: flat(softmax(grouped(a, size))),
    "normed_groups": normed_groups,
    "row_added": lambda a, b, size: flat(
        a.reshape(-1, common(a, b), width(a) // common(a, b)) + first(b, common(a, b))[..., None]
    ),
    "column_scaled": lambda a, b, size: flat(grouped(a, size) * sigmoid(grouped(a, size).max(axis=1))),
    "two_grids": two_grids,
    "sums_both_ways": sums_both_ways,
    "in_parts": in_parts,
    "three_axes": three_axes,
}
