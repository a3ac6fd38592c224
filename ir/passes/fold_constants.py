"""Constant folding and identities.

    %3 = mul(%1, 1.0)            ->  %1
    %4 = add(%1, 0.0, %2)        ->  add(%1, %2)
    %5 = sub(2.0, 0.5)           ->  1.5
    %6 = neg(neg(%1))            ->  %1
    %8 = add(%1, zeros);  %9 = mul(%8, %7)
                                 ->  mul(%1, %7)         (%7 alone gives the result its shape)
    %8 = add(%1, zeros);  %9 = neg(%8)
                                 ->  add(neg(%1), zeros) (the arithmetic before the broadcast)

The last rule keeps values that depend on time-free values alone time-free, such as the seed of a loss at every step.

0 * x is not folded: it is not 0 where x is infinite or NaN. Carries are opaque: an initial state of zeros is never
folded into the first step, because that step would then differ from the others.
"""

from __future__ import annotations

import numpy as np

from rnnc.ir.graph import Graph, Node
from rnnc.ir.ops import Kind
from rnnc.ir.passes.rebuild import Mapping, rebuild
from rnnc.ir.shape_rules import BATCH, broadcast


def fold_constants(graph: Graph) -> Graph:
    """Returns the graph with numbers evaluated and neutral operands dropped."""
    return rebuild(graph, _fold)


def _fold(graph: Graph, node: Node, new: Mapping) -> Node | None:
    if node.spec.kind is not Kind.ELEMENTWISE:
        return None
    operands = _unspread(node, [new[i] for i in node.inputs])
    if all(i.op == "const" for i in operands) and not node.spec.boolean and node.op != "select":
        return _evaluate(graph, node, operands)
    if (known := _before_spread(graph, node, operands)) is not None:
        return known
    known = _identity(graph, node, operands)
    changed = any(a is not new[b] for a, b in zip(operands, node.inputs, strict=True))
    return graph.add(node.op, operands) if known is None and changed else known


def _unspread(node: Node, operands: list[Node]) -> list[Node]:
    """The operands as they were before zeros broadcast them, if the others give the result its shape and step."""
    result = list(operands)
    for number in range(len(result)):
        while (small := _spread_from(result[number])) is not None:
            others = [small, *(o for n, o in enumerate(result) if n != number)]
            if broadcast([o.shape for o in others]) != node.shape or all(o.step != node.step for o in others):
                break
            result[number] = small
    return result


def _before_spread(graph: Graph, node: Node, operands: list[Node]) -> Node | None:
    """The value computed before its operands are broadcast, then broadcast; None if they have a step or rows.

    A mask is none: zeros cannot be added to it.
    """
    if node.spec.boolean:
        return None
    small = [_least(operand) for operand in operands]
    if node.op == "add":
        small = [i for i in small if i.op != "zeros"]
    if small == operands or not small or any(i.step is not None or BATCH in i.shape for i in small):
        return None
    made = graph.sum(small) if node.op == "add" else graph.add(node.op, small)
    return graph.spread(made, node.shape, node.step)


def _least(node: Node) -> Node:
    """The value before any broadcasts, each written as a sum with zeros."""
    while (small := _spread_from(node)) is not None:
        node = small
    return node


def _spread_from(node: Node) -> Node | None:
    """The operand that a sum with zeros broadcasts; None if the node is no such sum."""
    if node.op != "add" or len(node.inputs) != 2:
        return None
    kept = [i for i in node.inputs if i.op != "zeros"]
    return kept[0] if len(kept) == 1 else None


def _evaluate(graph: Graph, node: Node, operands: list[Node]) -> Node:
    assert node.spec.meaning is not None
    dtype = np.dtype(graph.dtype).type
    with np.errstate(all="ignore"):
        return graph.const(float(node.spec.meaning(*[np.asarray(dtype(i.attr("value"))) for i in operands])))


def _identity(graph: Graph, node: Node, operands: list[Node]) -> Node | None:
    match node.op:
        case "add":
            kept = [i for i in operands if not _is(i, 0.0) and i.op != "zeros"]
            return graph.sum(kept) if len(kept) < len(operands) and _covers(kept, node) else None
        case "mul":
            kept = [i for i in operands if not _is(i, 1.0)]
            return kept[0] if len(kept) == 1 and _covers(kept, node) else None
        case "sub" if _is(operands[1], 0.0) and _covers(operands[:1], node):
            return operands[0]
        case "div" if _is(operands[1], 1.0) and _covers(operands[:1], node):
            return operands[0]
        case "neg" if operands[0].op == "neg":
            return operands[0].inputs[0]
    return None


def _is(node: Node, value: float) -> bool:
    return node.op == "const" and node.attr("value") == value


def _covers(kept: list[Node], node: Node) -> bool:
    """True if the remaining operands still give the result its shape and step."""
    return any(i.shape == node.shape for i in kept) and any(i.step == node.step for i in kept)
