"""Sum flattening: nested additions become one n-ary sum, and its time-free terms one operand.

    %4 = add(%xw, %b_ih);  %5 = add(%hw, %b_hh);  %6 = add(%4, %5)
->
    %7 = add(%b_ih, %b_hh)                        (time-free: happens when parameters are bound)
    %6 = add(%xw, %hw, %7)

A sum over time of sums is one sum over time:

    %8 = add(%a, %b)  (each step);  %9 = tsum(%8, ...)      ->  %9 = tsum(%a, %b, ...)
"""

from __future__ import annotations

from rnnc.ir.graph import Graph, Node
from rnnc.ir.passes.rebuild import Mapping, rebuild
from rnnc.ir.shape_rules import BATCH


def flatten_sums(graph: Graph) -> Graph:
    """Returns the graph with each sum flattened into its reader, if that is the only one and a sum of the same shape.

    The time-free terms of a sum become one operand.
    """
    users = graph.users()
    sums = [node for node in users if node.op in ("add", "tsum")]
    nested = {i for node in sums for i in node.inputs if _is_nested(i, node, users)}

    def rule(result: Graph, node: Node, new: Mapping) -> Node | None:
        if node.op == "tsum":
            return result.tsum([new[i] for i in _terms(node, nested)])
        if node.op != "add":
            return None
        terms = _terms(node, nested)
        timed = [new[i] for i in terms if i.step is not None]
        fixed = [new[i] for i in terms if i.step is None]
        if timed and len(fixed) > 1:
            zeros = [i for i in fixed if i.op == "zeros"]
            rest = [i for i in fixed if i.op != "zeros"]
            fixed = ([result.sum(rest)] if rest else []) + list(dict.fromkeys(zeros))
        return result.sum(timed + fixed)

    return rebuild(graph, rule)


def _is_nested(operand: Node, reader: Node, users: dict[Node, int]) -> bool:
    if operand.op != "add" or users[operand] != 1 or operand.shape != reader.shape:
        return False
    return operand.step == reader.step or (reader.op == "tsum" and _keeps_steps(operand))


def _terms(node: Node, nested: set[Node]) -> list[Node]:
    """The terms of a sum, from left to right."""
    terms: list[Node] = []
    todo = list(reversed(node.inputs))
    while todo:
        operand = todo.pop()
        if operand in nested:
            todo += reversed(operand.inputs)
        else:
            terms.append(operand)
    return terms


def _keeps_steps(node: Node) -> bool:
    """True if each term of the sum can be summed over time by itself: it has a step, and the shape of the sum.

    A sum over time of values with a batch axis stays one sum.
    """
    return BATCH not in node.shape and all(i.step is not None and i.shape == node.shape for i in node.inputs)
