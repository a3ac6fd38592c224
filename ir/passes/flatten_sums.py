"""Sum flattening: nested additions become one n-ary sum, and its time-free terms one operand.

    %4 = add(%xw, %b_ih);  %5 = add(%hw, %b_hh);  %6 = add(%4, %5)
->
    %7 = add(%b_ih, %b_hh)                        (time-free: happens when parameters are bound)
    %6 = add(%xw, %hw, %7)
"""

from __future__ import annotations

from rnnc.ir.graph import Graph, Node
from rnnc.ir.passes.rebuild import Mapping, rebuild


def flatten_sums(graph: Graph) -> Graph:
    """Flattens sums that only another sum of the same shape reads."""
    users = graph.users()

    def rule(result: Graph, node: Node, new: Mapping) -> Node | None:
        if node.op != "add":
            return None
        terms = _terms(node, users)
        timed = [new[i] for i in terms if i.step is not None]
        fixed = [new[i] for i in terms if i.step is None]
        if timed and len(fixed) > 1:
            fixed = [result.sum(fixed)]
        return result.sum(timed + fixed)

    return rebuild(graph, rule)


def _terms(node: Node, users: dict[Node, int]) -> list[Node]:
    terms: list[Node] = []
    for operand in node.inputs:
        nested = operand.op == "add" and users[operand] == 1
        if nested and operand.step == node.step and operand.shape == node.shape:
            terms += _terms(operand, users)
        else:
            terms.append(operand)
    return terms
