"""The order of nodes: each follows those whose values it reads. Unknown names and cycles are errors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from graphlib import CycleError, TopologicalSorter

from rnnc.checking import checks
from rnnc.ir.errors import OnnxError
from rnnc.onnx.file import Body, Node

__all__ = ["all_reads", "checked_order", "free_names"]


def checked_order(source: str, nodes: Sequence[Node], known: AbstractSet[str]) -> tuple[Node, ...]:
    """The nodes in an order in which they can run; those in such an order already stay in theirs.

    known: names that are there before. Raises OnnxError.
    """
    maker = {output: number for number, node in enumerate(nodes) for output in node.outputs if output}
    reads: dict[int, list[int]] = {}
    for number, node in enumerate(nodes):
        needed = list(all_reads(node))
        for name in needed:
            if name not in maker and name not in known:
                hint = checks.suggestion(name, {*maker, *known})
                raise OnnxError(f"{source}: {node.label} reads {name!r}, which nothing gives{hint}")
        reads[number] = [maker[name] for name in needed if name in maker]
    if all(earlier < number for number, others in reads.items() for earlier in others):
        return tuple(nodes)
    try:
        return tuple(nodes[number] for number in TopologicalSorter(reads).static_order())
    except CycleError as error:
        cycle = " -> ".join(nodes[number].label for number in reversed(error.args[1]))
        raise OnnxError(f"{source}: a cycle, in which each node waits for the one before: {cycle}") from None


def all_reads(node: Node) -> Iterator[str]:
    """Names of what a node reads, in its branches, too."""
    yield from (name for name in node.inputs if name)
    for body in node.bodies:
        yield from free_names(body)


def free_names(body: Body) -> list[str]:
    """Names that a graph reads from the graphs around it."""
    known = {*body.inputs, *body.constants, *(output for node in body.nodes for output in node.outputs)}
    read = [name for node in body.nodes for name in all_reads(node)] + list(body.outputs)
    return list(dict.fromkeys(name for name in read if name not in known))
