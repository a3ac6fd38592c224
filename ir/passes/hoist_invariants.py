"""Loop-invariant code motion in sums: terms that do not depend on the recurrence are added outside it.

    %9 = add(%xw, %hw, %b)            (%hw is on the cycle through the carry, %xw and %b are not)
->
    %10 = add(%xw, %b)                (time-batched: one Gemm with a bias, before the loop)
    %9 = add(%10, %hw)

When the graph is rolled, every value that is on no cycle leaves the loop. A sum is the only kind of node in which
invariant and carried terms meet, so it is the only one that needs a rewrite.
"""

from __future__ import annotations

from rnnc.ir.families import recurrences
from rnnc.ir.graph import Graph, Node
from rnnc.ir.passes.rebuild import Mapping, rebuild


def hoist_invariants(graph: Graph) -> Graph:
    """Returns the graph with sums on a cycle split that have two or more terms off it, one of them with a step."""
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
