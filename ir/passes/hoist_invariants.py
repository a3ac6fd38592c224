"""Loop-invariant code motion in sums: what does not depend on the recurrence is added outside it.

    %9 = add(%xw, %hw, %b)            (%hw is on the cycle through the carry, %xw and %b are not)
->
    %10 = add(%xw, %b)                (time-batched: one Gemm with a bias, before the loop)
    %9 = add(%10, %hw)

Everything that is on no cycle leaves the loop when the graph is rolled; sums are the one place
where invariant and carried terms share a node.
"""

from __future__ import annotations

from rnnc.ir.families import recurrences
from rnnc.ir.graph import Graph, Node
from rnnc.ir.passes.rebuild import Mapping, rebuild


def hoist_invariants(graph: Graph) -> Graph:
    """Splits sums on a cycle that have a per-step term and another term off the cycle."""
    cycle = recurrences(graph)

    def rule(result: Graph, node: Node, new: Mapping) -> Node | None:
        if node.op != "add" or cycle[node] is None:
            return None
        outside = [i for i in node.inputs if cycle[i] != cycle[node]]
        if len(outside) < 2 or all(i.step is None for i in outside):
            return None
        inside = [new[i] for i in node.inputs if cycle[i] == cycle[node]]
        return result.sum([result.sum([new[i] for i in outside]), *inside])

    return rebuild(graph, rule)
