"""Ragged batches: masks that keep NaN and infinities out of what leaves a row past its end.

A graph that is lowered with lengths is 0 past the end of a row wherever that is read (rnnc.ir.ragged), as long as all
operands are finite. But 0 times infinity is NaN. So a value that may be such a product is masked where it leaves its
row:

    output "d:x" = [matmul(%8, %3), ...]           ->  [select(valid, matmul(%8, %3), 0), ...]
    outer(%8, %5)                                  ->  outer(select(valid, %8, 0), select(valid, %5, 0))
    carry(%9) of a state that is %2 at %9's step   ->  carry(select(valid, %9, %2))

On rows that have not ended, every mask is the identity.
"""

from __future__ import annotations

from rnnc.ir import names
from rnnc.ir.graph import Graph, Node, Output
from rnnc.ir.ops import Kind
from rnnc.ir.passes.rebuild import Mapping, rebuild
from rnnc.ir.shape_rules import BATCH


def mask_padding(graph: Graph) -> Graph:
    """The graph with masks at outputs, at sums over rows and at carries.

    A graph without the mask "valid" is returned as it is.
    """
    if not any(_is_mask(node) for node in graph.nodes):
        return graph
    masking = _Masking(graph)
    made = rebuild(graph, masking.rule)
    made.outputs = {name: masking.output(made, name, output) for name, output in made.outputs.items()}
    return made


class _Masking:
    def __init__(self, graph: Graph) -> None:
        self.outputs = graph.outputs
        self.zero = _surely_zero(graph)
        self.states = {(n.attr("state"), n.step): n for n in graph.nodes if n.op == "carry"}

    def rule(self, graph: Graph, node: Node, new: Mapping) -> Node | None:
        """Masks the operands of nodes that read across rows or steps."""
        if node.spec.kind is Kind.CARRY:
            return graph.copy_node(node, [self._kept(graph, node.attr("state"), node.inputs[0], new)])
        if node.op == "tsum" or BATCH not in node.shape:
            return graph.copy_node(node, [self._zeroed(graph, i, new[i]) for i in node.inputs])
        return None

    def output(self, graph: Graph, name: str, output: Output) -> Output:
        """An output with a value per step, masked. Any other output is returned as it is."""
        if not isinstance(output, tuple):
            return output
        old = self.outputs[name]
        assert isinstance(old, tuple)
        return tuple(self._zeroed(graph, before, node) for before, node in zip(old, output, strict=True))

    def _kept(self, graph: Graph, state: str, source: Node, new: Mapping) -> Node:
        """The next value of a state. Past the end of a row, the state stays as it was."""
        before = self.states.get((state, source.step))
        if source.step is None or before is None or source is before or _is_choice(source, before):
            return new[source]
        return graph.add("select", (_mask_of(graph, source), new[source], new[before]))

    def _zeroed(self, graph: Graph, old: Node, node: Node) -> Node:
        """The value with 0 past the end of its rows. A value without a step or rows is returned as it is."""
        if old.step is None or BATCH not in old.shape or old.dtype == "bool" or old in self.zero:
            return node
        return graph.add("select", (_mask_of(graph, old), node, graph.const(0.0)))


def _mask_of(graph: Graph, node: Node) -> Node:
    return graph.input(names.VALID, (BATCH, 1), node.step, dtype="bool")


def _is_mask(node: Node) -> bool:
    return node.op == "input" and node.attr("name") == names.VALID


def _is_choice(node: Node, otherwise: Node) -> bool:
    """True for select(valid, anything, otherwise)."""
    return node.op == "select" and _is_mask(node.inputs[0]) and node.inputs[2] is otherwise


def _surely_zero(graph: Graph) -> set[Node]:
    """The values that are 0 past the end of a row even where x is not finite.

    They are masked, or computed from such values without a product.
    """
    zero: set[Node] = set()
    for node in graph.nodes:
        operands = [i in zero for i in node.inputs]
        if node.op == "select":
            sure = operands[2] and (operands[1] or _is_mask(node.inputs[0]))
        elif node.op == "const":
            sure = node.attr("value") == 0.0
        else:
            sure = node.op == "zeros" or (node.spec.zero_of == "all" and all(operands))
        if sure:
            zero.add(node)
    return zero
