"""What a derivative flows through.

A state is active at all steps or at none: the first or last step, where it happens to read or to be read by nothing
active, must look like the others, or the steps could not be rolled into a loop. So activity goes by the names of
states and is a fixpoint.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from rnnc.ir.errors import IRError
from rnnc.ir.graph import Graph, Node, remap_outputs
from rnnc.ir.ops import Kind


def check_names(graph: Graph, wrt: Collection[str]) -> None:
    """IRError unless all names are floating-point inputs of the graph."""
    known = {n.attr("name"): n for n in graph.nodes if n.op == "input"}
    for name in wrt:
        if name not in known:
            raise IRError(f"wrt: the graph has no input {name!r}; it has {', '.join(map(repr, known))}")
        if known[name].dtype == "bool":
            raise IRError(f"wrt: the input {name!r} is a mask, which has no derivative")


def depends(graph: Graph, wrt: Collection[str]) -> set[Node]:
    """Nodes whose value varies smoothly with the inputs in `wrt`."""
    states: set[str] = set()
    while True:
        active: set[Node] = set()
        for node in graph.nodes:
            if _is_input(node, wrt) or _carries(node, states) or (_smooth(node) and _any(node.inputs, active)):
                active.add(node)
        found = {n.attr("state") for n in active if n.spec.kind is Kind.CARRY}
        if found == states:
            return active
        states = found


def _is_input(node: Node, wrt: Collection[str]) -> bool:
    return node.op == "input" and node.attr("name") in wrt


def _carries(node: Node, states: set[str]) -> bool:
    return node.spec.kind is Kind.CARRY and node.attr("state") in states


def _smooth(node: Node) -> bool:
    return node.spec.kind is Kind.CARRY or node.spec.vjp is not None


def _any(nodes: Iterable[Node], active: set[Node]) -> bool:
    return any(n in active for n in nodes)


def reached(graph: Graph, active: set[Node], seeded: Collection[Node]) -> tuple[set[Node], list[Node]]:
    """Active nodes that get an adjoint when `seeded` have one, and those of them that then need one of zeros.

    If one carry of a state gets an adjoint, or its exit does, all of them do: what is not read anywhere, or not seeded,
    contributes zeros.
    """
    has = {n for n in seeded if n in active}
    states: dict[str, list[Node]] = {}
    for node in graph.nodes:
        if node.spec.kind is Kind.CARRY and node in active:
            states.setdefault(node.attr("state"), []).append(node)
    missing: dict[Node, None] = {}
    while True:
        for node in reversed(graph.nodes):
            if node in has:
                has.update(i for i in node.inputs if i in active)
        new = [n for nodes in states.values() if any(n in has for n in nodes) for n in nodes if n not in has]
        if not new:
            return has, list(missing)
        missing.update(dict.fromkeys(new))
        has.update(new)


def fresh_prefix(graph: Graph, letter: str) -> str:
    """The start of names for new states: letter and number, used by no state yet."""
    taken = {n.attr("state").split(":")[0] for n in graph.nodes if n.spec.kind is Kind.CARRY and ":" in n.attr("state")}
    number = 1
    while f"{letter}{number}" in taken:
        number += 1
    return f"{letter}{number}:"


def copy(graph: Graph) -> Graph:
    """The live part of a graph, as a new one that merges equal nodes."""
    result = Graph(graph.dtype, graph.steps)
    new: dict[Node, Node] = {}
    live = graph.live()
    for node in graph.nodes:
        if node in live:
            result.site = node.site
            new[node] = result.copy_node(node, [new[i] for i in node.inputs])
    result.outputs = remap_outputs(graph.outputs, new)
    return result


def add_output(graph: Graph, name: str, output: Node | tuple[Node, ...]) -> None:
    """A new output. IRError if there is one of that name: differentiate again with another prefix."""
    if name in graph.outputs:
        raise IRError(f"prefix: the graph has an output {name!r} already; choose another prefix")
    graph.outputs[name] = output
