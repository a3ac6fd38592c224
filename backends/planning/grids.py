"""Grids: units with several axes, in C order, so that a value is read with one step per axis.

    expand(v) {size=3, inner=4} of v (B, 8)   ->   v itself, read as ((2, 4), (3, 0), (4, 1)): sizes and steps

The **bounds** of axes are the numbers of units in the last axis, in the last two, and so on: (2, 3, 4) has the bounds 4
and 12. Grids whose bounds divide one another can be walked together, with the axes between all bounds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod

from rnnc.ir.families import Family
from rnnc.ir.ops import Kind

Grid = tuple[tuple[int, int], ...]
"""For each axis, its size, and its step: the number of columns to the next value, or 0 if the value is repeated."""


def expanded(grid: Grid, size: int, inner: int) -> Grid | None:
    """The grid after an `expand`; None if the new axis would begin within an axis that cannot be cut there."""
    units, result = prod(n for n, _ in grid), list(grid)
    place, right = len(result), 1
    while right < inner:
        place -= 1
        count, step = result[place]
        if right * count > inner:
            part, rest = divmod(inner, right)
            if rest or count % part:
                return None
            result[place : place + 1] = [(count // part, step * part), (part, step)]
            place += 1
            count = part
        right *= count
    assert units % right == 0
    return _merged([*result[:place], (size, 0), *result[place:]])


def _merged(axes: Sequence[tuple[int, int]]) -> Grid:
    """The grid with neighbouring axes joined if they can be read as one, and without axes of size 1."""
    result: list[tuple[int, int]] = []
    for size, step in axes:
        if result and result[-1][1] == step * size:
            result[-1] = (result[-1][0] * size, step)
        elif size > 1:
            result.append((size, step))
    return tuple(result)


def bounds_of(sizes: Iterable[int]) -> frozenset[int]:
    """The bounds of axes."""
    found, right = set(), 1
    for size in reversed(list(sizes)):
        found.add(right)
        right *= size
    return frozenset(found - {1})


def group_bounds(family: Family) -> frozenset[int]:
    """The bounds of the axis that a reduction sums over; none if it reduces all units."""
    if not is_group(family):
        return frozenset()
    size, inner = family.attr("size"), family.attr("inner")
    return frozenset({inner, inner * size} - {1, int(family.inputs[0].shape[-1])})


def are_alike(bounds: Iterable[int]) -> bool:
    """True if every bound divides the next one, so that axes between them exist."""
    ordered = sorted(bounds)
    return all(b % a == 0 for a, b in zip(ordered, ordered[1:], strict=False))


def axes_between(width: int, bounds: Iterable[int]) -> tuple[int, ...]:
    """The sizes of the axes between bounds, of so many units."""
    ordered = [1, *sorted(bounds), width]
    return tuple(b // a for a, b in zip(ordered, ordered[1:], strict=False))[::-1]


def steps_along(grid: Grid, axes: Sequence[int]) -> tuple[int, ...] | None:
    """The step of a grid along each of these axes; None if an axis of the grid ends within one of them."""
    found: list[int] = []
    left = list(grid)
    for size in reversed(axes):
        if not left or left[-1][0] % size:
            return None
        count, step = left.pop()
        found.append(step)
        if count > size:
            left.append((count // size, step * size))
    return tuple(reversed(found))


def reduced_axes(family: Family, axes: Sequence[int]) -> frozenset[int]:
    """The numbers of the axes that a reduction over units reduces."""
    if not is_group(family):
        return frozenset(range(len(axes)))
    start, stop = family.attr("inner"), family.attr("inner") * family.attr("size")
    rights = [prod(axes[n + 1 :]) for n in range(len(axes))]
    return frozenset(n for n, right in enumerate(rights) if start <= right < stop)


def is_group(family: Family) -> bool:
    """True for a reduction over one of several axes of units."""
    return family.spec.kind is Kind.REDUCE and "size" in family.spec.attrs
