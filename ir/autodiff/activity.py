"""Activity: the nodes that a derivative flows through.

A state is active at all steps or at none. Its carry at the first or the last step may have no active neighbour, but
that step must look like the others, or the steps could not be rolled into a loop. So activity is computed for names of
states, as a fixpoint.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from rnnc.ir.errors import IRError
from rnnc.ir.families import families
from rnnc.ir.graph import Graph, Node, remap_outputs
from rnnc.ir.ops import Kind


def check_names(graph: Graph, wrt: Collection[str]) -> None:
    """Raises IRError unless every name is a floating-point input of the graph."""
    known = {n.attr("name"): n for n in graph.nodes if n.op == "input"}
    for name in wrt:
        if name not in known:
            raise IRError(f"wrt: the graph has no input {name!r}; it has {', '.join(map(repr, known))}")
        if known[name].dtype == "bool":
            raise IRError(f"wrt: the input {name!r} is a mask, which has no derivative")


def check_new(graph: Graph, seeds: Mapping[str, str], results: Iterable[str]) -> None:
    """Raises IRError if a seed has the name of an existing input."""
    taken = {n.attr("name") for n in graph.nodes if n.op == "input"}
    for output, seed in seeds.items():
        if seed in taken:
            for name in results:  # if a result clashes too, report that: another prefix resolves both
                check_free(graph, name)
            raise IRError(
                f"seeds: the graph has an input {seed!r} already; give the adjoint of {output!r} another name, "
                "or choose another prefix"
            )


def check_inputs(graph: Graph, new: Iterable[str]) -> None:
    """Raises IRError if a new input has the name of an existing one."""
    taken = {n.attr("name") for n in graph.nodes if n.op == "input"}
    for name in new:
        if name in taken:
            raise IRError(f"prefix: the graph has an input {name!r} already; choose another prefix")


def depends(graph: Graph, wrt: Collection[str]) -> set[Node]:
    """The active nodes: those whose value is a differentiable function of an input in `wrt`."""
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
    """The active nodes that get an adjoint if `seeded` have one, and those among them whose adjoint is zeros.

    If one carry or the exit of a state gets an adjoint, all its carries do. A node gets zeros if it is not seeded and
    no node that reads it has an adjoint. This is decided after the fixpoint, when every state that is reached is known:
    decided earlier, the last step, whose carry is reached first, would differ from the others.
    """
    has = {n for n in seeded if n in active}
    states: dict[str, list[Node]] = {}
    for node in graph.nodes:
        if node.spec.kind is Kind.CARRY and node in active:
            states.setdefault(node.attr("state"), []).append(node)
    while True:
        for node in reversed(graph.nodes):
            if node in has:
                has.update(i for i in node.inputs if i in active)
        new = [n for nodes in states.values() if any(n in has for n in nodes) for n in nodes if n not in has]
        if not new:
            break
        has.update(new)
    given = {i for n in has for i in n.inputs} | set(seeded)
    return has, [n for nodes in states.values() for n in nodes if n in has and n not in given]


def fresh_prefix(graph: Graph, letter: str) -> str:
    """A prefix for the names of new states: the letter, a number and a colon, such as "t1:", used by no state yet."""
    taken = {n.attr("state").split(":")[0] for n in graph.nodes if n.spec.kind is Kind.CARRY and ":" in n.attr("state")}
    number = 1
    while f"{letter}{number}" in taken:
        number += 1
    return f"{letter}{number}:"


def copy(graph: Graph) -> Graph:
    """The live nodes as a new graph, which merges equal nodes."""
    result = Graph(graph.dtype, graph.steps)
    new: dict[Node, Node] = {}
    live = graph.live()
    for node in graph.nodes:
        if node in live:
            result.site = node.site
            new[node] = result.copy_node(node, [new[i] for i in node.inputs])
    result.outputs = remap_outputs(graph.outputs, new)
    return result


def add_exits(graph: Graph, active: set[Node]) -> None:
    """Adds an exit to each active state that has none, so that the adjoint of the last step is handed on too.

    The exit reads the value of the last step that is equal, up to a shift of time, to what the carries of the other
    steps read. Raises IRError if there is only one step: no carry then shows what the state becomes.
    """
    done = {n.attr("state") for n in graph.nodes if n.op == "exit"}
    lacking = [n for n in graph.nodes if n.op == "carry" and n in active and n.attr("state") not in done]
    carried = {n.attr("state"): n for n in lacking if n.inputs[0].step is not None}
    for node in lacking:
        if node.attr("state") not in carried:
            raise IRError(f"{node}: nothing says what this state becomes; add its exit, or build two steps or more")
    of = families(graph) if carried else {}
    for state, node in carried.items():
        delta = int(node.attr("delta"))
        last = graph.steps - 1 if delta > 0 else 0
        value = next((n for n in graph.nodes if n.step == last and of.get(n) is of[node.inputs[0]]), None)
        if value is None:
            raise IRError(f"{node}: nothing says what this state becomes in step {last}; add its exit")
        graph.site = node.site
        graph.exit(value, state, delta)


def check_free(graph: Graph, name: str) -> None:
    """Raises IRError if the graph has an output of this name."""
    if name in graph.outputs:
        raise IRError(f"prefix: the graph has an output {name!r} already; choose another prefix")


def add_output(graph: Graph, name: str, output: Node | tuple[Node, ...]) -> None:
    """Adds an output. Raises IRError if the graph has one of this name."""
    check_free(graph, name)
    graph.outputs[name] = output
