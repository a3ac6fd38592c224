"""The core of every pass: copy the live part of a graph, and replace nodes on the way."""

from __future__ import annotations

from collections.abc import Callable

from rnnc.ir.graph import Graph, Node, remap_outputs

Mapping = dict[Node, Node]
Rule = Callable[[Graph, Node, Mapping], Node | None]
"""(graph under construction, old node, old -> new of all operands) -> the replacement, or None to copy the node."""


def rebuild(graph: Graph, rule: Rule, *, share: bool = True) -> Graph:
    """Returns a copy of the live nodes, each replaced as `rule` says.

    Time-free nodes are copied first. So a rule may make a new time-free node, such as a concat of weights or a sum of
    biases, at whichever step first needs it.
    """
    result = Graph(graph.dtype, graph.steps, share)
    new: Mapping = {}
    live = graph.live()
    timed = _time_dependent(graph)
    nodes = [node for node in graph.nodes if node in live]
    for node in sorted(nodes, key=timed.__contains__):  # a stable sort: otherwise in the order of the graph
        result.site = node.site
        replacement = rule(result, node, new)
        new[node] = replacement if replacement is not None else result.copy_node(node, [new[i] for i in node.inputs])
    result.outputs = remap_outputs(graph.outputs, new)
    return result


def _time_dependent(graph: Graph) -> set[Node]:
    """The nodes that have a step, and all nodes that depend on one."""
    timed: set[Node] = set()
    for node in graph.nodes:
        if node.step is not None or not timed.isdisjoint(node.inputs):
            timed.add(node)
    return timed
