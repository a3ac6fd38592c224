"""Reverse mode: a graph -> the same graph, extended by its vector-Jacobian product.

    %3 = tanh(%2)                                  adjoint g of %3 known
->
    %7 = mul(%3, %3);  %8 = sub(1.0, %7);  %9 = mul(%g, %8)        %9: the contribution to %2

The contributions to an adjoint are summed by one n-ary `add`, and over steps by one `tsum`, so that every step has the
same nodes. The adjoint of a carry is a carry in the other direction. Its initial value is the adjoint of the exit, and
its last value is an `exit`, the adjoint of the initial state. So a second derivative needs no other op.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping

from rnnc.ir import names
from rnnc.ir.autodiff.activity import (
    add_exits,
    add_output,
    check_names,
    check_new,
    copy,
    depends,
    fresh_prefix,
    reached,
)
from rnnc.ir.equations import Value
from rnnc.ir.errors import IRError
from rnnc.ir.graph import Graph, Node
from rnnc.ir.ops import Kind
from rnnc.ir.shape_rules import Shape


def vjp(
    graph: Graph, wrt: Collection[str], seeds: Mapping[str, str] | None = None, prefix: str = names.GRADIENT
) -> Graph:
    """Returns the graph with the gradients with respect to some of its inputs.

    wrt: names of inputs.
    seeds: output name -> name of the new input that holds its adjoint. The adjoint of any other output is 0. Without
    seeds, every output is seeded by an input prefix + name.
    For each input in `wrt` that a seeded output depends on, there is a new output prefix + name, its gradient.
    Raises IRError if a name is unknown, or a new name is taken.
    """
    check_names(graph, wrt)
    seeds = {name: prefix + name for name in graph.outputs} if seeds is None else seeds
    if unknown := set(seeds) - set(graph.outputs):
        raise IRError(f"seeds: the graph has no output {min(unknown)!r}; it has {', '.join(map(repr, graph.outputs))}")
    made = copy(graph)
    check_new(made, seeds, (prefix + name for name in wrt))
    add_exits(made, depends(made, wrt))
    return _Reverse(made, wrt, seeds, prefix).run()


class _Reverse:
    def __init__(self, graph: Graph, wrt: Collection[str], seeds: Mapping[str, str], prefix: str) -> None:
        self.graph = graph
        self.wrt = wrt
        self.prefix = prefix
        self.primal = list(graph.nodes)
        self.active = depends(graph, wrt)
        self.states = fresh_prefix(graph, "d")
        self.adjoints: dict[Node, list[Node]] = defaultdict(list)
        self.gradients: dict[str, dict[int | None, Node]] = {}
        self._seed(seeds)

    def _seed(self, seeds: Mapping[str, str]) -> None:
        for name, seed in seeds.items():
            output = self.graph.outputs[name]
            for node in output if isinstance(output, tuple) else (output,):
                if node in self.active:
                    self.graph.site = node.site
                    self.adjoints[node].append(self.graph.input(seed, node.shape, node.step))

    def run(self) -> Graph:
        has, missing = reached(self.graph, self.active, self.adjoints)
        for node in missing:
            self.adjoints[node].append(self.graph.zeros(node.shape, node.step))
        for node in reversed(self.primal):
            if node in has:
                self.graph.site = node.site.marked("grad") if node.site else None
                self._propagate(node, self._total(node))
        for name in self.wrt:
            if name not in self.gradients:
                continue
            by_step = self.gradients[name]
            whole = by_step[None] if None in by_step else tuple(by_step[t] for t in range(self.graph.steps))
            add_output(self.graph, self.prefix + name, whole)
        return self.graph

    def _total(self, node: Node) -> Node:
        """The sum of all contributions to a node's adjoint, over all steps if the node is time-free."""
        terms = self.adjoints.pop(node)
        if node.step is None and (timed := [t for t in terms if t.step is not None]):
            fixed = [t for t in terms if t.step is None]
            return self.graph.sum([*fixed, self.graph.tsum(timed)])
        return self.graph.spread(self.graph.sum(terms), node.shape, node.step)

    def _propagate(self, node: Node, g: Node) -> None:
        if node.op == "input":
            self.gradients.setdefault(node.attr("name"), {})[node.step] = g
        elif node.spec.kind is Kind.CARRY:
            self._through_time(node, g)
        else:
            assert node.spec.vjp is not None
            xs = tuple(Value(self.graph, i) for i in node.inputs)
            for number, operand in enumerate(node.inputs):
                if operand in self.active:
                    made = node.spec.vjp(Value(self.graph, g), Value(self.graph, node), xs, number)
                    self.adjoints[operand].append(self._summed_to(made.node, operand.shape))

    def _through_time(self, node: Node, g: Node) -> None:
        """Hands a carry's adjoint to the step that it reads, and at the loop's first step to the initial value."""
        (source,) = node.inputs
        state, delta = self.states + node.attr("state"), -node.attr("delta")
        if source.step is not None:
            self.adjoints[source].append(self.graph.carry(g, state, delta, source.step))
        elif (last := self.graph.exit(g, state, delta)) and source in self.active:
            self.adjoints[source].append(last)

    def _summed_to(self, g: Node, shape: Shape) -> Node:
        """Sums an adjoint over the axes along which its operand, of the given shape, was broadcast."""
        if g.shape == shape:
            return g
        if len(g.shape) == 2 and len(shape) < 2:
            if not shape or (shape == (1,) and g.shape[-1] != 1):
                g = self.graph.add("reduce_sum", (g,))
            return self.graph.add("reduce_rows", (g,), keep=False)
        for axis, op in ((-1, "reduce_sum"), (-2, "reduce_rows")):
            if len(shape) >= -axis and shape[axis] == 1 and g.shape[axis] != 1:
                g = self.graph.add(op, (g,), **({} if op == "reduce_sum" else {"keep": True}))
        return self.graph.spread(g, shape)
