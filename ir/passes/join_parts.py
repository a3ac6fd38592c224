"""Joining parts: a sum of values, each of which is zero except in one place, becomes one concat.

    %7 = concat(%1, zeros, zeros);  %8 = concat(zeros, %2, zeros);  %9 = concat(zeros, zeros, %3)
    %10 = add(%7, %8, %9)
->
    %10 = concat(%1, %2, %3)

Reverse mode writes such sums where the forward pass has slices: the adjoints of the gates of one matmul, or of the
slices of one parameter.
"""

from __future__ import annotations

from rnnc.ir.graph import Graph, Node
from rnnc.ir.passes.rebuild import Mapping, rebuild


def join_parts(graph: Graph) -> Graph:
    """Returns the graph with each sum rewritten that has two or more such operands, all along one axis."""

    def rule(result: Graph, node: Node, new: Mapping) -> Node | None:
        if node.op != "add":
            return None
        operands = [new[i] for i in node.inputs]
        parts = [i for i in operands if _is_part(i) and i.shape == node.shape]
        axes = {i.attr("axis") for i in parts}
        if len(parts) < 2 or len(axes) > 1:
            return None
        rest = [i for i in operands if i not in parts]
        return result.sum([_join(result, parts, axes.pop()), *rest])

    return rebuild(graph, rule)


def _is_part(node: Node) -> bool:
    return node.op == "concat" and any(i.op == "zeros" for i in node.inputs)


def _join(graph: Graph, concats: list[Node], axis: int) -> Node:
    """The sum of the concats, segment by segment between the boundaries of all their parts."""
    placed = [item for node in concats for item in _placed(node, axis)]
    cuts = sorted({place for start, stop, _ in placed for place in (start, stop)})
    segments = []
    for start, stop in zip(cuts, cuts[1:], strict=False):
        terms = [
            graph.slice(part, axis, start - a, stop - a)
            for a, b, part in placed
            if a <= start and stop <= b and part.op != "zeros"
        ]
        covered = next((a, part) for a, b, part in placed if a <= start and stop <= b)
        empty = graph.slice(covered[1], axis, start - covered[0], stop - covered[0])
        segments.append(graph.sum(terms) if terms else empty)
    return graph.concat(segments, axis)


def _placed(concat: Node, axis: int) -> list[tuple[int, int, Node]]:
    """(start, stop, part) of each part of a concat."""
    result, start = [], 0
    for part in concat.inputs:
        stop = start + int(part.shape[axis])
        result.append((start, stop, part))
        start = stop
    return result
