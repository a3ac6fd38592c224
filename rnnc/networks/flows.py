"""What goes from layer to layer while a network is lowered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rnnc.ir import names
from rnnc.ir.graph import Graph, Node
from rnnc.ir.stacks import Direction

Nodes = tuple[Node, ...] | Node
"""A value at each position of each frame, or one per sequence."""


@dataclass(frozen=True)
class Column:
    """The output of one direction of a recurrent layer."""

    nodes: list[Node]
    direction: Direction
    spans: tuple[Node, ...] | None


@dataclass(frozen=True)
class Flow:
    """What goes from layer to layer.

    spans: for each position, whether it lies BEFORE, DURING or AFTER the row's own steps, (B, 1); None: it is DURING.
    columns: the directions that a recurrent layer's output is made of.
    """

    nodes: Nodes
    spans: tuple[Node, ...] | None = None
    columns: list[Column] = field(default_factory=list)

    @property
    def timed(self) -> bool:
        """Whether there is a value per step."""
        return isinstance(self.nodes, tuple)

    @property
    def listed(self) -> tuple[Node, ...]:
        """The values at all positions."""
        assert isinstance(self.nodes, tuple)
        return self.nodes

    @property
    def first(self) -> Node:
        """The value per sequence, or at the first position."""
        return self.nodes[0] if isinstance(self.nodes, tuple) else self.nodes


def framed(graph: Graph, positions: Sequence[Node]) -> tuple[Node, ...]:
    """The positions of each frame side by side."""
    rate = len(positions) // graph.steps
    return tuple(graph.concat(positions[t : t + rate], -1) for t in range(0, len(positions), rate))


def join_outputs(graph: Graph, parts: Mapping[str, Nodes]) -> None:
    """Puts outputs of one kind side by side at each of their steps, as "output"."""
    for name in parts:
        graph.outputs.pop(name)
    alone = [nodes for nodes in parts.values() if isinstance(nodes, Node)]
    timed = [nodes for nodes in parts.values() if isinstance(nodes, tuple)]
    joined = [graph.concat(step, -1) for step in zip(*timed, strict=True)]
    graph.outputs[names.OUTPUT] = framed(graph, joined) if timed else graph.concat(alone, -1)
