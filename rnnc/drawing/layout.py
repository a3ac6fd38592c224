"""Where everything in the picture of a network lies: lanes of boxes upward, steps to the right, and arrows.

A lane is a row of boxes: one value at each of its steps, or one box at the right for a value per sequence. Coordinates
are in pixels; y grows upward from the inputs here, and is turned around by `rnnc.drawing.svg`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from rnnc.checking.networks import Kind
from rnnc.ir.stacks import Direction
from rnnc.layers import Activation, Embedding, recurrent

if TYPE_CHECKING:
    from rnnc.checking.networks import Entry
    from rnnc.graph import Graph
    from rnnc.specs import Spec

STEP, LANE = 104.0, 62.0
"""Between the middles of two steps, and of two lanes."""
WIDTH, HEIGHT, SHIFT = 56.0, 28.0, 20.0
"""Of a box; how far the cells of the two directions are moved apart, so that arrows pass between them."""
BUS = 9.0
"""How far the line that gathers all steps of a value lies above them."""
LEFT, RIGHT = 310.0, 130.0
"""The room for the names of lanes, and for values per sequence."""


class Box(NamedTuple):
    """A value at a step. kind: "input", "cell", "reverse", "join", "layer" or "once"; a class of the style.

    site: where its equations are in dumps (`rnnc.ir.graph.Site`), or "". step: of these dumps.
    """

    x: float
    y: float
    width: float
    text: str
    kind: str
    title: str
    site: str = ""
    step: int = 0


class Arrow(NamedTuple):
    """From a point to another. kind: "data", "state", or "line", which has no head. bent: it goes around boxes."""

    start: tuple[float, float]
    end: tuple[float, float]
    kind: str
    bent: bool = False


class Label(NamedTuple):
    """Text at a point. anchor: SVG's text-anchor. kind: "name", "shape" or "state"."""

    x: float
    y: float
    text: str
    kind: str
    anchor: str = "start"


class Lane(NamedTuple):
    """A value: its boxes, one per step, or a single one, and the lane's height."""

    boxes: Sequence[Box]
    timed: bool
    y: float


class Layout:
    """Boxes, arrows and labels of a network over so many steps."""

    def __init__(self, graph: Graph, steps: int) -> None:
        self.graph, self.steps = graph, steps
        self.boxes: list[Box] = []
        self.arrows: list[Arrow] = []
        self.labels: list[Label] = []
        self.lanes: dict[str, Lane] = {}
        self._y, self._depth = HEIGHT, 0
        for name, width in graph.inputs.items():
            self._input(name, width)
        for name, entry in graph.entries.items():
            if spec := recurrent(entry.layer):
                self._recurrent(name, entry, spec)
                self._depth += spec.num_layers
            else:
                self._layer(name, entry)
                self._depth += 1
        self._outputs()

    @property
    def size(self) -> tuple[float, float]:
        """Width and height of the picture."""
        return LEFT + self.steps * STEP + RIGHT, self._y

    # ---- lanes

    def _lane(
        self, name: str, what: str, kind: Kind, style: str, text: str, shift: float = 0.0, site: str = ""
    ) -> Lane:
        """A new lane on top of the others."""
        frames = self.steps // self.graph.frame
        y, self._y = self._y, self._y + LANE
        named = Label(12, y + 3, f"{name}: {what}" if what else name, "name")
        self.labels += [named, Label(12, y - 13, _shape(kind), "shape")]
        if kind.timed:
            count = int(kind.rate * self.steps)
            pitch = self.steps * STEP / max(count, 1)
            width = min(WIDTH, pitch * 0.8)
            places = [LEFT + (t + 0.5) * pitch + shift for t in range(count)]
        else:
            places, width, style = [LEFT + self.steps * STEP + RIGHT / 2], WIDTH, "once"
        steps = [f"[{t}]" if kind.timed else "" for t in range(len(places))]
        boxes = [
            Box(x, y, width, text, style, f"{name}{step}: {what or 'input'}", site, n * frames // len(places))
            for n, (x, step) in enumerate(zip(places, steps, strict=True))
        ]
        self.boxes += boxes
        return Lane(boxes, kind.timed, y)

    def _input(self, name: str, width: int) -> None:
        lane = self._lane(name, "", Kind(width, True), "input", "")
        named = [box._replace(text=f"{name}[{t}]") for t, box in enumerate(lane.boxes)]
        self.boxes[-len(named) :] = named
        self.lanes[name] = Lane(named, True, lane.y)

    def _layer(self, name: str, entry: Entry) -> None:
        what = type(entry.layer).__name__ + ("" if entry.shares == name else f" of {entry.shares}")
        text = _short(entry.layer.name if isinstance(entry.layer, Activation) else type(entry.layer).__name__)
        kind = self.graph.kinds[name]
        style = "input" if isinstance(entry.layer, Embedding) else "layer"
        lane = self.lanes[name] = self._lane(name, what, kind, style, text, site=f"l{self._depth}")
        for source in entry.inputs:
            self._read(self.lanes[source], lane)

    def _read(self, source: Lane, lane: Lane) -> None:
        """The arrows from a value to the layer that reads it, at each step or at those that its rate gives it."""
        bent = lane.y - source.y > LANE * 1.5
        if source.timed and not lane.timed:
            self._gather(source, lane.boxes[0])
            return
        for number, box in enumerate(lane.boxes):
            many = len(source.boxes) / len(lane.boxes)
            first = min(int(number * many), len(source.boxes) - 1)
            for read in source.boxes[first : max(first + 1, int((number + 1) * many))]:
                self._arrow(read, box, bent)

    def _gather(self, source: Lane, box: Box) -> None:
        """A line above all steps of a value, which ends in what reads them all."""
        y = source.y + HEIGHT / 2 + BUS
        for step in source.boxes:
            self.arrows.append(Arrow((step.x + BUS, source.y + HEIGHT / 2), (step.x + BUS, y), "line"))
        self.arrows.append(Arrow((source.boxes[0].x + BUS, y), (box.x, y), "line"))
        self.arrows.append(Arrow((box.x, y), (box.x, box.y - HEIGHT / 2), "data"))

    def _arrow(self, source: Box, box: Box, bent: bool) -> None:
        start, end = (source.x, source.y + HEIGHT / 2), (box.x, box.y - HEIGHT / 2)
        self.arrows.append(Arrow(start, end, "data", bent))

    # ---- recurrent layers

    def _recurrent(self, name: str, entry: Entry, spec: Spec) -> None:
        source = self.lanes[entry.inputs[0]]
        layers, number = spec.stack().layers, 0
        for k, directions in enumerate(layers):
            lanes = []
            for direction in directions:
                lanes.append(self._cells(name, spec, direction, len(directions) > 1, number))
                self._enter(source, lanes[-1])
                number += 1
            source = lanes[0]
            if len(lanes) > 1:
                width = sum(direction.output_size for direction in directions)
                what = f"layer {k}, both directions" if len(layers) > 1 else "both directions"
                kind, site = Kind(width, True, self.graph.kinds[name].paces), f"l{self._depth + k}"
                source = self._lane(name, what, kind, "join", "concat", site=site)
                for lane in lanes:
                    self._join(lane, source)
        self.lanes[name] = source
        for state in spec.states:
            self.lanes[f"{name}.{state}"] = Lane([source.boxes[-1]], False, source.y)

    def _enter(self, source: Lane, cells: Lane) -> None:
        """The arrows into cells, which pass between those of the other direction."""
        if cells.y - source.y > LANE * 2.5:
            self._read(source, cells)
            return
        for read, cell in zip(source.boxes, cells.boxes, strict=True):
            x = min(max(cell.x, read.x - read.width / 2), read.x + read.width / 2)
            self.arrows.append(Arrow((x, read.y + HEIGHT / 2), (cell.x, cell.y - HEIGHT / 2), "data"))

    def _cells(self, name: str, spec: Spec, direction: Direction, both: bool, number: int) -> Lane:
        """The cells of one direction, with the states that go from step to step."""
        way = "backward" if direction.reverse else "forward"
        parts = [spec.cell.name.upper() if len(spec.cell.name) < 5 else spec.cell.name]
        parts += [f"layer {number // spec.num_directions}"] if spec.num_layers > 1 else []
        parts += [way] if both or direction.reverse else []
        shift = (SHIFT if direction.reverse else -SHIFT) if both else 0.0
        style = "reverse" if direction.reverse else "cell"
        kind = Kind(direction.output_size, True, self.graph.kinds[name].paces)
        site = f"l{self._depth + number // spec.num_directions}.{'bwd' if direction.reverse else 'fwd'}"
        text = "\u2190" if direction.reverse else "\u2192"
        lane = self._lane(name, ", ".join(parts), kind, style, text, shift, site)
        for left, right in zip(lane.boxes, lane.boxes[1:], strict=False):
            ends = (left.x + left.width / 2, left.y), (right.x - right.width / 2, right.y)
            self.arrows.append(Arrow(*(ends[::-1] if direction.reverse else ends), "state"))
        self._ends(lane, spec, direction, number)
        return lane

    def _ends(self, lane: Lane, spec: Spec, direction: Direction, number: int) -> None:
        """What the states start at, and where the last ones are found."""
        left, right, y = lane.boxes[0], lane.boxes[-1], lane.y
        outer = left.x - left.width / 2 - 26, right.x + right.width / 2 + 26
        edges = left.x - left.width / 2, right.x + right.width / 2
        first, last = (1, 0) if direction.reverse else (0, 1)
        self.arrows.append(Arrow((outer[first], y), (edges[first], y), "state"))
        self.arrows.append(Arrow((edges[last], y), (outer[last], y), "state"))
        anchors = ("end", "start")
        finals = ", ".join(f"{state}_n[{number}]" for state in spec.states)
        starts = ", ".join(f"{state}_0[{number}]" for state in spec.states)
        self.labels.append(Label(outer[first] + (4, -4)[first == 0], y + 9, starts, "state", anchors[first]))
        self.labels.append(Label(outer[last] + (4, -4)[last == 0], y + 9, finals, "state", anchors[last]))

    def _join(self, lane: Lane, joined: Lane) -> None:
        for cell, box in zip(lane.boxes, joined.boxes, strict=True):
            self.arrows.append(Arrow((cell.x, cell.y + HEIGHT / 2), (cell.x, box.y - HEIGHT / 2), "data"))

    # ---- outputs

    def _outputs(self) -> None:
        for name, source in self.graph.outputs.items():
            lane = self.lanes[source]
            for box in lane.boxes:
                self.arrows.append(Arrow((box.x, box.y + HEIGHT / 2), (box.x, box.y + HEIGHT / 2 + 16), "data"))
            x = lane.boxes[-1].x + lane.boxes[-1].width / 2
            self.labels.append(Label(x + 6, lane.y + HEIGHT / 2 + 8, name, "state"))


def _shape(kind: Kind) -> str:
    if not kind.width:
        return "(T, B) integers"
    if not kind.timed:
        return f"(B, {kind.width})"
    times, of = kind.rate.numerator, kind.rate.denominator
    steps = ("T" if times == 1 else f"{times} T") + ("" if of == 1 else f" / {of}")
    return f"({steps}, B, {kind.width})"


def _short(name: str) -> str:
    return name if len(name) <= 8 else name[:7] + "."
