"""Slice sinking: a slice moves towards the weights, so that each gate is a value of its own.

    %5 = add(matmul(%x, %w), %b) : [B, 12]
    %6 = slice(%5) {start=4, stop=8}
->
    %7 = slice(%w) {axis=0, start=4, stop=8}      (time-free: happens when parameters are bound)
    %8 = slice(%b) {start=4, stop=8}
    %6 = add(matmul(%x, %7), %8) : [B, 4]

Only through values that nobody reads whole, so no work is done twice. A part of an adjoint may be zeros that nothing
reaches; products and sums of such are zeros. `gate_fusion` joins the matmuls again, by the loop they are in.
"""

from __future__ import annotations

from rnnc.ir.deep import Calls, run
from rnnc.ir.graph import Graph, Node
from rnnc.ir.ops import Kind
from rnnc.ir.passes.rebuild import Mapping, rebuild

Columns = tuple[Node, int, int]
"""The columns start:stop of an old node: (node, start, stop)."""


def sink_slices(graph: Graph) -> Graph:
    """Returns the graph with slices of the last axis moved through elementwise ops, matmuls, slices and concats."""
    whole = _read_whole(graph)
    made: dict[Columns, Node] = {}

    def rule(result: Graph, node: Node, new: Mapping) -> Node | None:
        if _is_nothing(node, new):
            return result.zeros(node.shape, node.step)
        if node.op != "slice" or node.attr("axis") != -1:
            return None
        columns = _seen_through((node.inputs[0], node.attr("start"), node.attr("stop")))
        run(_narrow(result, columns, new, whole, made))
        narrow = made[columns]
        if narrow.op == "zeros":  # at the step of the node, because the equal node of another step may be no zeros
            return result.zeros(node.shape, node.step)
        return result.spread(narrow, node.shape, node.step)

    return rebuild(graph, rule)


def _is_nothing(node: Node, new: Mapping) -> bool:
    """True for a product or a sum of `zeros`, which are the part of an adjoint that nothing reaches."""
    zeros = [new[operand].op == "zeros" for operand in node.inputs]
    if node.spec.products:
        return zeros[0] or (node.op == "outer" and zeros[1])
    return node.op in ("tsum", "reduce_rows", "reduce_sum", "group_sum", "expand") and all(zeros)


def _read_whole(graph: Graph) -> set[Node]:
    """The nodes that a reader needs whole.

    A reader does not, if it is a slice of the last axis, or an elementwise node that is itself only read in slices.
    """
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


def _narrow(graph: Graph, columns: Columns, new: Mapping, whole: set[Node], made: dict[Columns, Node]) -> Calls:
    """Makes the columns of an old node as a node of the new graph, in `made`. `columns` have been seen through."""
    node, start, stop = columns
    if columns in made:
        return
    if node in whole or (start == 0 and stop == node.shape[-1]):
        made[columns] = graph.slice(new[node], -1, start, stop)
    elif node.op == "matmul":
        lhs, rhs = node.inputs
        transposed = bool(node.attr("transpose_b"))
        part = graph.slice(new[rhs], 0 if transposed else -1, start, stop)
        made[columns] = graph.add("matmul", (new[lhs], part), transpose_b=transposed)
    elif node.spec.kind is Kind.ELEMENTWISE:
        operands = []
        for operand in node.inputs:
            if operand.shape and operand.shape[-1] == node.shape[-1]:
                part_of = _seen_through((operand, start, stop))
                yield _narrow(graph, part_of, new, whole, made)
                operands.append(made[part_of])
            else:  # broadcast along the units, such as a number: it is not cut
                operands.append(new[operand])
        made[columns] = graph.add(node.op, [_at_step(graph, operand, node.step) for operand in operands])
    else:
        made[columns] = graph.slice(new[node], -1, start, stop)


def _at_step(graph: Graph, operand: Node, step: int | None) -> Node:
    """The operand. Time-free zeros, which may be a part of a value of a step, are moved to that step."""
    return graph.zeros(operand.shape, step) if operand.op == "zeros" and operand.step is None else operand


def _seen_through(columns: Columns) -> Columns:
    """The same columns as part of the value they come from, through slices, and concats that have them in one part."""
    node, start, stop = columns
    while True:
        found = _source(node, start, stop)
        if found is None:
            return node, start, stop
        node, start, stop = found


def _source(node: Node, start: int, stop: int) -> Columns | None:
    if node.op == "slice" and node.attr("axis") == -1:
        offset = node.attr("start")
        return node.inputs[0], start + offset, stop + offset
    if node.op == "concat" and node.attr("axis") == -1:
        offset = 0
        for part in node.inputs:
            width = int(part.shape[-1])
            if offset <= start and stop <= offset + width:
                return part, start - offset, stop - offset
            offset += width
    return None
