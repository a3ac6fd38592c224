"""Where the steps of a network's values lie: before a row's own steps, on one of them, or past its end.

Each position has a code, BEFORE, DURING or AFTER (`rnnc.networks.timing`), which goes from layer to layer beside the
values. A call of a layer has begun where the position of its own step has; it is past the end where the position is
that its `Pace` says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from rnnc.checking.networks import PAST_SPAN
from rnnc.ir.graph import Graph, Node
from rnnc.ir.shape_rules import BATCH
from rnnc.layers import Layer
from rnnc.networks.flows import Flow
from rnnc.networks.lines import FrameStates, Line
from rnnc.networks.timing import AFTER, BEFORE, DURING, Timing


@dataclass(frozen=True)
class Spans:
    """Where the calls of a layer's equations lie of a row's own steps.

    during: whether each call is one of them; None: all are. after: the codes of the steps that the calls give. inside:
    for each call, 1 for the steps of its window that the row has, else 0, if the layer reads that.
    """

    during: list[Node] | None
    after: tuple[Node, ...] | None
    inside: list[Node]


INSIDE = "inside"
"""What a layer that `sees_padding` reads beside its parameters."""


class SpanCodes:
    """The codes of the calls of layers."""

    def __init__(self, graph: Graph, frames: FrameStates, timing: Timing) -> None:
        self.graph = graph
        self.frames = frames
        self.timing = timing

    def during(self, spans: Sequence[Node]) -> list[Node]:
        """Whether each place is DURING."""
        half = self.graph.const(0.5)
        return [self.graph.add("greater", (span, half)) for span in spans]

    def of(self, name: str, layer: Layer, timed: Flow, calls: int) -> Spans | None:
        """Where the calls of a layer, and what they give, lie of the row's own steps. timed: what it reads."""
        reading, timing = self.timing.span_reading(name), self.timing
        if not timing.spanned or timed.spans is None and not reading.past and not layer.sees_padding:
            return None
        codes = timed.spans or [self.graph.spread(self.graph.const(DURING), (BATCH, 1), n.step) for n in timed.listed]
        line = self.frames.line(name, PAST_SPAN, codes, reading.past, reading.ahead, AFTER)
        each = list(product(range(self.graph.steps), range(calls)))
        inside = [self._inside(line, t, timing.reading(name).at(c)) for t, c in each] if layer.sees_padding else []
        if timed.spans is None:  # all steps are the row's own; the line hands its state on
            return Spans(None, None, inside)
        start, pace = timing.here(name), layer.pace
        ends = [start + pace.fewer, *(timing.end(name, phase) for phase in range(pace.factor))]
        coded = [self._codes(line, t, c * pace.stride, start, ends) for t, c in each]
        return Spans(self.during([call for call, *_ in coded]), tuple(n for _, *after in coded for n in after), inside)

    def _inside(self, line: Line, frame: int, window: tuple[int, int]) -> Node:
        """1 for each step of a window that the row has, else 0."""
        (own,) = self.during([line.read(frame, *window)])
        return self.graph.add("select", (own, self.graph.const(1.0), self.graph.const(0.0)))

    def _codes(self, line: Line, frame: int, place: int, start: int, ends: Sequence[int]) -> list[Node]:
        """For each end, whether what begins at place + start and ends at place + end is BEFORE, DURING or AFTER."""
        begun = line.read(frame, place + start, place + start + 1)
        return [self._code(begun, line.read(frame, place + end, place + end + 1)) for end in ends]

    def _code(self, start: Node, end: Node) -> Node:
        """Whether a step is BEFORE, DURING or AFTER: it begins where `start` does, and ends where `end` does."""
        if start is end:
            return start
        graph, half = self.graph, self.graph.const(0.5)
        ended = graph.add("greater", (graph.const(-0.5), end))
        begun = graph.add("greater", (graph.add("mul", (start, start)), half))
        last = graph.add(
            "select", (ended, *(graph.spread(graph.const(c), (BATCH, 1), end.step) for c in (AFTER, DURING)))
        )
        return graph.add("select", (begun, last, graph.const(BEFORE)))
