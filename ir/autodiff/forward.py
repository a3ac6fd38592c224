"""Forward mode: a graph -> the same graph, extended by its Jacobian-vector product.

    %3 = mul(%1, %2)                               tangents %t1, %t2 known
->
    %8 = mul(%t1, %2);  %9 = mul(%1, %t2);  %10 = add(%8, %9)      %10: the tangent of %3

The gradient rule of an elementwise op multiplies what it is given by the partial derivative, so forward mode uses it
too. All other ops are linear, in all operands together or in each operand alone, or have a rule in the op table.
"""

from __future__ import annotations

from collections.abc import Collection

from rnnc.ir import names
from rnnc.ir.autodiff.activity import add_output, check_inputs, check_names, copy, depends, fresh_prefix
from rnnc.ir.equations import Value
from rnnc.ir.graph import Graph, Node
from rnnc.ir.ops import Kind


def jvp(graph: Graph, wrt: Collection[str], prefix: str = names.TANGENT) -> Graph:
    """Returns the graph with the derivative of all its outputs along a direction.

    wrt: names of the inputs that vary. For each, there is a new input prefix + name, which holds the direction.
    For each output that depends on them, there is a new output prefix + name, its tangent.
    Raises IRError if a name is unknown, or a new name is taken.
    """
    check_names(graph, wrt)
    check_inputs(graph, (prefix + name for name in wrt))
    return _Forward(copy(graph), wrt, prefix).run()


class _Forward:
    def __init__(self, graph: Graph, wrt: Collection[str], prefix: str) -> None:
        self.graph = graph
        self.prefix = prefix
        self.primal = list(graph.nodes)
        self.active = depends(graph, wrt)
        self.states = fresh_prefix(graph, "t")
        self.tangents: dict[Node, Node] = {}

    def run(self) -> Graph:
        outputs = dict(self.graph.outputs)
        for node in self.primal:
            if node in self.active:
                self.graph.site = node.site.marked("tangent") if node.site else None
                self.tangents[node] = self.graph.spread(self._tangent(node), node.shape, node.step)
        for name, output in outputs.items():
            if not isinstance(output, tuple):
                if output in self.active:
                    add_output(self.graph, self.prefix + name, self.tangents[output])
            elif all(n in self.active for n in output):
                add_output(self.graph, self.prefix + name, tuple(self.tangents[n] for n in output))
        return self.graph

    def _tangent(self, node: Node) -> Node:
        graph = self.graph
        if node.op == "input":
            return graph.input(self.prefix + node.attr("name"), node.shape, node.step)
        if node.spec.kind is Kind.CARRY:
            state, delta = self.states + node.attr("state"), node.attr("delta")
            tangent = self._tangent_or_zeros(node.inputs[0])
            return (
                graph.exit(tangent, state, delta)
                if node.op == "exit"
                else graph.carry(tangent, state, delta, node.step or 0)
            )
        if node.spec.kind is Kind.ELEMENTWISE:
            return self._along_partials(node)
        if node.spec.jvp is not None:
            t, y, x = (Value(graph, n) for n in (self.tangents[node.inputs[0]], node, node.inputs[0]))
            made: Node = node.spec.jvp(t, y, x).node
            return made
        if node.spec.products:
            return self._product_rule(node)
        if node.spec.kind is Kind.TIME_SUM:
            return graph.tsum([self.tangents[i] for i in node.inputs if i in self.active])
        return graph.copy_node(node, [self._tangent_or_zeros(i) for i in node.inputs])

    def _tangent_or_zeros(self, node: Node) -> Node:
        return self.tangents[node] if node in self.active else self.graph.zeros(node.shape, node.step)

    def _along_partials(self, node: Node) -> Node:
        rule = node.spec.vjp
        assert rule is not None
        xs = tuple(Value(self.graph, i) for i in node.inputs)
        y = Value(self.graph, node)
        active = [(n, i) for n, i in enumerate(node.inputs) if i in self.active]
        return self.graph.sum([rule(Value(self.graph, self.tangents[i]), y, xs, n).node for n, i in active])

    def _product_rule(self, node: Node) -> Node:
        terms = []
        for number, operand in enumerate(node.inputs):
            if operand in self.active:
                varied = [self.tangents[i] if n == number else i for n, i in enumerate(node.inputs)]
                terms.append(self.graph.copy_node(node, varied))
        return self.graph.sum(terms)
