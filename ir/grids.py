"""Values whose units have several axes: (B, m, n) in a cell's equations, and m * n columns per row in the graph.

A node of the graph has rows of units without axes. A `Value` remembers the axes of its units. NumPy's rules for
broadcasting, for None in an index, and for sums over an axis become three ops on columns: `expand`, `group_sum` and
`group_max` (rnnc.ir.ops).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

from rnnc.ir.errors import IRError
from rnnc.ir.indexing import BATCH, Shape, spelled, whole

if TYPE_CHECKING:
    from rnnc.ir.graph import Graph, Node

Axes = tuple[int, ...]
"""The sizes of the axes of units, in C order."""


def axes_of(node: Node, axes: Axes) -> Axes:
    """The axes of a value's units: those that it remembers, or those of its node without the batch."""
    return axes or tuple(int(size) for size in node.shape if size != BATCH)


def fitted(graph: Graph, op: str, operands: Sequence[tuple[Node, Axes]]) -> tuple[list[Node], Axes]:
    """The operands of an elementwise op, expanded to columns of one grid, and the axes of the result.

    At least one operand has several axes of units. Raises IRError if the operands do not broadcast by NumPy's rules.
    """
    target = _broadcast(op, operands)
    return [_spread(graph, _columns(graph, node), axes_of(node, axes), target) for node, axes in operands], target


def _columns(graph: Graph, node: Node) -> Node:
    """The node, or if it is a matrix without a batch axis, the same elements as one row."""
    if BATCH in node.shape or len(node.shape) < 2:
        return node
    return graph.add("reshape", (node,), shape=str(prod(int(size) for size in node.shape)))


def _broadcast(op: str, operands: Sequence[tuple[Node, Axes]]) -> Axes:
    shapes = [(*((BATCH,) if BATCH in node.shape else ()), *axes_of(node, axes)) for node, axes in operands]
    rank = max(map(len, shapes))
    target: list[int] = []
    for axis in range(-rank, 0):
        sizes = {shape[axis] for shape in shapes if len(shape) >= -axis} - {1}
        if len(sizes) > 1:
            listed = ", ".join(map(str, shapes))
            raise IRError(f"{op} of shapes {listed}: axis {axis} differs; add axes with None, as in v[:, None, :]")
        if sizes != {BATCH}:
            target.append(int(sizes.pop()) if sizes else 1)
    return tuple(target)


def _spread(graph: Graph, node: Node, own: Axes, target: Axes) -> Node:
    """The columns of a value, repeated along the axes of the target that it lacks, the last ones first."""
    own = (1,) * (len(target) - len(own)) + own
    if prod(own) == 1:  # one number per row, or one for all rows: it broadcasts without an op
        return node
    axis = len(target)
    while axis:
        stop = axis
        while axis and own[axis - 1] == 1:
            axis -= 1
        node = graph.over_groups("expand", node, prod(target[axis:stop]), prod(target[stop:]))
        axis -= axis > 0 and own[axis - 1] != 1
    return node


def reduced(graph: Graph, op: str, node: Node, own: Axes, axis: int) -> Node:
    """The `group_sum` or `group_max` of a value over an axis of its units."""
    return graph.over_groups(op, node, own[axis], prod(own[axis + 1 :]))


def cut(graph: Graph, what: str, node: Node, own: Axes, axis: int, start: int, stop: int) -> tuple[Node, Axes]:
    """A part of an axis of units, and the axes of the result. Raises IRError unless its columns are contiguous."""
    if prod(own[:axis]) != 1:
        raise IRError(
            f"{what}: of units with the axes {own} only the first can be cut, since its parts are neighbours; cut "
            "before v.reshape"
        )
    inner = prod(own[axis + 1 :])
    return graph.slice(node, -1, start * inner, stop * inner), (*own[:axis], stop - start, *own[axis + 1 :])


def side_by_side(graph: Graph, parts: Sequence[tuple[Node, Axes]], axis: object) -> tuple[Node, Axes]:
    """Values of several axes joined along the first axis of units. Raises IRError for another axis, or other shapes."""
    each = [axes_of(node, axes) for node, axes in parts]
    along = unit_axis("concat", axis, each[0], BATCH in parts[0][0].shape)
    if along or len({axes[1:] for axes in each}) > 1:
        raise IRError(
            f"concat of units with the axes {', '.join(map(str, each))} along axis {axis}: several axes are joined "
            "along the first, axis=1, and the others are equal"
        )
    return graph.concat([node for node, _ in parts], -1), (sum(axes[0] for axes in each), *each[0][1:])


def unit_axis(what: str, axis: object, own: Axes, rows: bool) -> int:
    """The number of the axis of units that an axis of a value names. Raises IRError for the batch and other numbers."""
    rank = len(own) + rows
    found = whole(f"{what}: axis", axis)
    if not -rank <= found < rank or (rows and found % rank == 0):
        raise IRError(f"{what}(axis={axis!r}): rows are independent; expected an axis from {int(rows)} to {rank - 1}")
    return found % rank - rows


def reshaped(shape: Shape, sizes: Sequence[object]) -> Axes:
    """The axes of the result of v.reshape(-1, m, n), where -1 is the batch. Raises IRError if the sizes do not fit."""
    wanted = [whole("v.reshape", size) for size in sizes]
    units = prod(int(size) for size in shape[1:])
    shown = f"v.reshape({', '.join(map(str, wanted))}) of shape {shape}"
    if wanted[:1] != [-1]:
        raise IRError(f"{shown}: the first size is the batch: write -1 for it, v.reshape(-1, m, n)")
    if min(wanted[1:], default=0) < 1 or prod(wanted[1:]) != units:
        raise IRError(f"{shown}: expected sizes >= 1 with the product {units}")
    return tuple(wanted[1:])


def with_new_axes(given: Sequence[object], own: Axes, rows: bool) -> Axes:
    """The axes after v[:, None, :]. Raises IRError for an axis before the batch."""
    old = len(own) + rows
    full: list[object] = []
    for i in given:
        full += [i] if i is not Ellipsis else [i] * (old - sum(j is not None and j is not Ellipsis for j in given))
    full += [Ellipsis] * (old - sum(i is not None for i in full))
    if rows and full[0] is None:
        raise IRError(f"v[{', '.join(map(spelled, given))}]: rows of the batch come first; v[:, None] adds an axis")
    sizes = iter(own)
    return tuple(1 if i is None else next(sizes) for i in full[rows:])
