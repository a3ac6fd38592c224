"""Slice sinking: a slice moves towards the weights, so that each gate is a value of its own.

    %5 = add(matmul(%x, %w), %b) : [B, 12]
    %6 = slice(%5) {start=4, stop=8}
->
    %7 = slice(%w) {axis=0, start=4, stop=8}      (time-free: happens when parameters are bound)
    %8 = slice(%b) {start=4, stop=8}
    %6 = add(matmul(%x, %7), %8) : [B, 4]

Only through values that nobody reads whole, so no work is done twice. `gate_fusion` joins the matmuls again,
by the loop they are in.
"""

from __future__ import annotations

from rnnc.ir.graph import Graph, Node
from rnnc.ir.ops import Kind
from rnnc.ir.passes.rebuild import Mapping, rebuild


def sink_slices(graph: Graph) -> Graph:
    """Rewrites slices of elementwise values, matmuls, slices and concats of the last axis."""
    whole = _read_whole(graph)

    def rule(result: Graph, node: Node, new: Mapping) -> Node | None:
        if node.op != "slice" or node.attr("axis") != -1:
            return None
        made = _narrow(result, node.inputs[0], node.attr("start"), node.attr("stop"), new, whole)
        if made.op == "zeros":  # of a step: its like elsewhere is a value of that step
            return result.zeros(node.shape, node.step)
        return result.spread(made, node.shape, node.step)

    return rebuild(graph, rule)


def _read_whole(graph: Graph) -> set[Node]:
    """Nodes with a reader other than a slice of the last axis, or an elementwise value that is itself only sliced."""
    whole = set(graph.roots())
    live = graph.live()
    for reader in reversed(graph.nodes):
        if reader not in live or (reader.op == "slice" and reader.attr("axis") == -1):
            continue
        if reader.spec.kind is not Kind.ELEMENTWISE or reader in whole:
            whole.update(reader.inputs)
        else:
            whole.update(i for i in reader.inputs if i.shape[-1:] != reader.shape[-1:])
    return whole


def _narrow(graph: Graph, node: Node, start: int, stop: int, new: Mapping, whole: set[Node]) -> Node:
    """Columns start:stop of an old node, as a node of the new graph."""
    if node.op == "slice" and node.attr("axis") == -1:
        offset = node.attr("start")
        return _narrow(graph, node.inputs[0], start + offset, stop + offset, new, whole)
    if node.op == "concat" and node.attr("axis") == -1:
        offset = 0
        for part in node.inputs:
            width = int(part.shape[-1])
            if offset <= start and stop <= offset + width:
                return _narrow(graph, part, start - offset, stop - offset, new, whole)
            offset += width
    if node in whole or (start == 0 and stop == node.shape[-1]):
        return graph.slice(new[node], -1, start, stop)
    if node.op == "matmul":
        lhs, rhs = node.inputs
        axis = 0 if node.attr("transpose_b") else -1
        transposed = bool(node.attr("transpose_b"))
        return graph.add("matmul", (new[lhs], graph.slice(new[rhs], axis, start, stop)), transpose_b=transposed)
    if node.spec.kind is Kind.ELEMENTWISE:
        return graph.add(node.op, [_operand(graph, i, node, start, stop, new, whole) for i in node.inputs])
    return graph.slice(new[node], -1, start, stop)


def _operand(graph: Graph, operand: Node, node: Node, start: int, stop: int, new: Mapping, whole: set[Node]) -> Node:
    """A full-width operand is narrowed; a broadcast one (a number, a row scalar) stays."""
    if operand.shape and operand.shape[-1] == node.shape[-1]:
        return _narrow(graph, operand, start, stop, new, whole)
    return new[operand]
