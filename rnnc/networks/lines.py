"""Frames of the lowered graph: states that run over them, and delay lines, which hold what lies beside a frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from rnnc.ir import names
from rnnc.ir.graph import Graph, Node
from rnnc.ir.shape_rules import BATCH
from rnnc.networks.names import moments


@dataclass(frozen=True)
class Line:
    """A value at several positions of each frame, with those before and behind it.

    past, ahead: at each frame, the positions beside it, (B, positions * width), the earlier first.
    """

    graph: Graph
    nodes: Sequence[Node]
    past: Sequence[Node]
    ahead: Sequence[Node]

    def read(self, frame: int, start: int, stop: int) -> Node:
        """The positions start .. stop - 1, counted from the start of the frame, side by side."""
        rate, width = len(self.nodes) // self.graph.steps, int(self.nodes[0].shape[-1])
        parts: list[Node] = []
        if start < 0:
            held = int(self.past[frame].shape[-1]) // width
            parts.append(self._cut(self.past[frame], width, held + start, held + min(stop, 0)))
        parts += self.nodes[frame * rate + max(start, 0) : frame * rate + max(min(stop, rate), 0)]
        if stop > rate:
            parts.append(self._cut(self.ahead[frame], width, max(start - rate, 0), stop - rate))
        return self.graph.concat(parts, -1)

    def _cut(self, node: Node, width: int, start: int, stop: int) -> Node:
        return self.graph.slice(node, -1, start * width, stop * width)


class FrameStates:
    """The frames of a graph. lengths: whether rows end before the last one."""

    def __init__(self, graph: Graph, lengths: bool) -> None:
        self.graph = graph
        self.lengths = lengths

    @cached_property
    def valid(self) -> list[Node] | None:
        """Which rows still run, at each frame."""
        if not self.lengths:
            return None
        return [self.graph.input(names.VALID, (BATCH, 1), t, dtype="bool") for t in range(self.graph.steps)]

    def kept(self, t: int, new: Node, old: Node) -> Node:
        """What a state becomes: in a row past its end it stays."""
        return new if self.valid is None else self.graph.add("select", (self.valid[t], new, old))

    def initial(self, name: str, state: str, width: int) -> Node:
        """The first value of a layer's state, which is an input."""
        return self.graph.input(moments(name, state, "", width)[0], (BATCH, width))

    def final(self, name: str, state: str, node: Node) -> Node:
        """The last value of a state, which is an output."""
        end = self.graph.exit(node, names.in_layer(name, state), 1)
        self.graph.outputs[moments(name, state, "", 0)[1]] = end
        return end

    def line(
        self, name: str, state: str, nodes: Sequence[Node], past: int, ahead: int = 0, behind_all: float = 0.0
    ) -> Line:
        """A delay line for a layer, whose state `state` holds the last `past` positions before the frame.

        behind_all: what the positions behind the last frame hold.
        """
        before = self._past(name, state, nodes, past) if past else []
        return Line(self.graph, nodes, before, self._ahead(f"{name}:{state}", nodes, ahead, behind_all))

    def _past(self, name: str, state: str, nodes: Sequence[Node], count: int) -> list[Node]:
        graph, rate, width = self.graph, len(nodes) // self.graph.steps, int(nodes[0].shape[-1])
        held, found = self.initial(name, state, count * width), []
        for t in range(graph.steps):
            old = graph.carry(held, names.in_layer(name, state), 1, t)
            found.append(old)
            if count < rate:
                new = graph.concat(nodes[(t + 1) * rate - count : (t + 1) * rate], -1)
            else:
                joined = graph.concat([old, *nodes[t * rate : (t + 1) * rate]], -1)
                new = graph.slice(joined, -1, rate * width, (count + rate) * width)
            held = self.kept(t, new, old)
        self.final(name, state, held)
        return found

    def _ahead(self, state: str, nodes: Sequence[Node], count: int, behind_all: float) -> list[Node]:
        if not count:
            return []
        graph, rate, width = self.graph, len(nodes) // self.graph.steps, int(nodes[0].shape[-1])
        shape = (BATCH, count * width)
        held = graph.spread(graph.const(behind_all), shape) if behind_all else graph.zeros(shape)
        found = []
        for t in reversed(range(graph.steps)):
            old = graph.carry(held, state, -1, t)
            found.append(old)
            if count < rate:
                new = graph.concat(nodes[t * rate : t * rate + count], -1)
            else:
                joined = graph.concat([*nodes[t * rate : (t + 1) * rate], old], -1)
                new = graph.slice(joined, -1, 0, count * width)
            held = self.kept(t, new, old)
        graph.exit(held, state, -1)
        return found[::-1]
