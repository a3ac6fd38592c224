"""Gate fusion: the matmuls of one input become one.

    %5 = matmul(%h, %w_r);  %6 = matmul(%h, %w_z)
->
    %7 = concat(%w_r, %w_z) {axis=0}              (time-free: weights are packed when parameters are bound)
    %8 = matmul(%h, %7)
    %5 = slice(%8) {start=0, stop=4};  %6 = slice(%8) {start=4, stop=8}

Matmuls of different loops are never joined. A join would pull hoisted work back into a loop, and no comparison of
results would notice. The parts keep the order of their slices in the parameter.
"""

from __future__ import annotations

from collections import defaultdict

from rnnc.ir.families import recurrences
from rnnc.ir.graph import Graph, Node
from rnnc.ir.passes.rebuild import Mapping, rebuild


def gate_fusion(graph: Graph) -> Graph:
    """Returns the graph with one matmul for all matmuls that share their left operand, form and recurrence."""
    groups = _groups(graph)

    def rule(result: Graph, node: Node, new: Mapping) -> Node | None:
        group = groups.get(node)
        if group is None:
            return None
        transposed = bool(node.attr("transpose_b"))
        weights = result.concat([new[member.inputs[1]] for member in group], 0 if transposed else -1)
        fused = result.add("matmul", (new[node.inputs[0]], weights), transpose_b=transposed)
        start = sum(int(member.shape[-1]) for member in group[: group.index(node)])
        return result.slice(fused, -1, start, start + int(node.shape[-1]))

    return rebuild(graph, rule)


def _groups(graph: Graph) -> dict[Node, list[Node]]:
    """Each matmul that is fused -> all matmuls fused with it, in the order of their weights in the parameter."""
    cycle = recurrences(graph)
    live = graph.live()
    found: dict[tuple[Node, bool, int | None], list[Node]] = defaultdict(list)
    for node in graph.nodes:
        if node in live and node.op == "matmul" and node.step is not None and node.inputs[1].step is None:
            found[node.inputs[0], bool(node.attr("transpose_b")), cycle[node]].append(node)
    groups: dict[Node, list[Node]] = {}
    for members in found.values():
        if len(members) > 1:
            members.sort(key=lambda n: _packed_order(n.inputs[1]))
            groups.update(dict.fromkeys(members, members))
    return groups


def _packed_order(weight: Node) -> tuple[int, int]:
    if weight.op == "slice":
        return weight.inputs[0].index, int(weight.attr("start"))
    return weight.index, 0
