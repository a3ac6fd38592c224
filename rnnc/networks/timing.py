"""When the steps of a network's values are there: frames, delays, and the delay lines that follow from them.

A layer with a stride makes one step of several. So that one loop serves all layers, a step of the lowered graph is a
*frame*: the fewest steps of the inputs for which every value has a whole number of steps, its *positions* in the frame.

    x          0 1 2 3 | 4 5 6 7          4 positions in a frame
    stride 2   0   1   | 2   3            2
    stride 2   0       | 1                1: one step of the slowest layer per frame

Whole sequences are computed in place: where a layer reads later steps, it reads the frames that follow. A stream has no
later frames, so there the layer waits: position u of its output is that of step u - delay, and all that it is joined
with is delayed alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from rnnc.checking.networks import LATE, PAST, PAST_SPAN, Entry, Kind
from rnnc.layers import Layer, recurrent
from rnnc.layers.base import Pace

if TYPE_CHECKING:
    from rnnc.graph import Graph

BEFORE, DURING, AFTER = 0.0, 1.0, -1.0
"""Where a position lies: before a row's own steps (a late value is not there yet), on one of them, or past its end."""
LATE_SPAN, LATE_OUTPUT = f"{LATE}_span", f"{LATE}_output"


def late(number: int) -> str:
    """The state that delays what a layer reads as its input number `number`."""
    return f"{LATE}_{number}"


class Form(NamedTuple):
    """The form in which a network is lowered.

    spanned: it reads where the steps of each frame lie; else all of them are the row's own. streamed: its layers wait
    for later steps instead of reading them.
    """

    spanned: bool = False
    streamed: bool = False


WHOLE = Form()


class Reading(NamedTuple):
    """The positions of a value that call u of a layer's equations reads: u * stride + low .. u * stride + high.

    Positions count from the start of the frame; those before it are kept in a state, those behind it come from the
    frames that follow.
    """

    low: int
    high: int
    stride: int = 1

    @property
    def past(self) -> int:
        """The number of positions before the frame."""
        return max(0, -self.low)

    @property
    def ahead(self) -> int:
        """The number of positions behind the frame."""
        return max(0, self.high - self.stride + 1)

    def at(self, call: int) -> tuple[int, int]:
        """The first position that a call in the frame reads, and the one behind the last."""
        return call * self.stride + self.low, call * self.stride + self.high + 1


class Register(NamedTuple):
    """A state that holds positions before the frame. state: its name. width: of one of its `places`."""

    state: str
    width: int
    places: int


LONG = 2**32
"""Frames of a stream that is so long that the differences at its ends are as in any other."""
HERE = Reading(0, 0)
"""A call reads its own step alone."""


@dataclass(frozen=True)
class Timing:
    """The timing of a network. streamed: without later frames, else whole sequences."""

    graph: Graph
    streamed: bool

    # ---- frames

    @cached_property
    def frame(self) -> int:
        """The number of steps of the inputs in a frame."""
        kinds = self.graph.kinds
        rates = [kind.rate for kind in kinds.values() if kind.timed]
        for name, entry in self.graph.entries.items():
            if isinstance(entry.layer, Layer) and kinds[name].timed:
                rates.append(kinds[name].rate / entry.layer.pace.factor)  # a whole number of calls, too
        return math.lcm(*(rate.denominator for rate in rates))

    def positions(self, source: str) -> int:
        """The number of positions in a frame of an input, or of a layer's output."""
        return self._positions[source]

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {name: int(kind.rate * self.frame) for name, kind in self._timed.items()}

    def calls(self, name: str) -> int:
        """How often the equations of a layer run in a frame; 0 for one that reads values per sequence alone."""
        entry = self.graph.entries[name]
        source = next((s for s in entry.inputs if self.graph.kinds[s].timed), None)
        if source is None:
            return 0
        return self.positions(source) // (entry.layer.pace.stride if isinstance(entry.layer, Layer) else 1)

    def frames(self, steps: int) -> int:
        """The number of frames in which every value has room for its steps, for so many steps of the inputs."""
        room = [-(-int(kind.steps(steps)) // self.positions(name)) for name, kind in self._timed.items()]
        return max(-(-steps // self.frame), *room)

    def fills(self, steps: int) -> bool:
        """Whether every value has a step at each position, for so many steps of the inputs."""
        frames = self.frames(steps)
        return all(kind.steps(steps) == frames * self.positions(name) for name, kind in self._timed.items())

    @cached_property
    def _timed(self) -> dict[str, Kind]:
        return {name: kind for name, kind in self.graph.kinds.items() if kind.timed}

    # ---- delays

    @cached_property
    def delays(self) -> dict[str, int]:
        """How many positions late each value per step is."""
        found = dict.fromkeys(self.graph.inputs, 0)
        for name, entry in self.graph.entries.items():
            factor = entry.layer.pace.factor if isinstance(entry.layer, Layer) else 1
            timed = self.graph.kinds[name].timed
            found[name] = self._calls_late(entry, self._joined(entry, found)) * factor if timed else 0
        return found

    def joined(self, name: str) -> int:
        """How many positions late all values that a layer reads are, once they are delayed alike."""
        return self._joined(self.graph.entries[name], self.delays)

    def _joined(self, entry: Entry, delays: dict[str, int]) -> int:
        return max((delays[source] for source in entry.inputs if self.graph.kinds[source].timed), default=0)

    def _calls_late(self, entry: Entry, delay: int) -> int:
        """How many calls late a layer runs: the fewest for which it reads no later frame."""
        if not self.streamed:
            return 0
        if not isinstance(entry.layer, Layer):
            return delay
        pace = entry.layer.pace
        return max(0, -(-(_looks_ahead(entry.layer) + delay - pace.stride + 1) // pace.stride))

    @cached_property
    def latency(self) -> int:
        """How many steps of the inputs late all outputs are."""
        timed = [(self.delays[source], self.graph.kinds[source].rate) for source in self._outputs]
        step = math.lcm(*((1 / rate).numerator for _, rate in timed))
        return max((-(-delay // (rate * step)) * step for delay, rate in timed), default=0)

    @cached_property
    def spanned(self) -> bool:
        """Whether values have steps that are none of the row's own, other than those past the end of all."""
        return not self.graph.even or any(self.delays.values())

    def late(self, source: str) -> int:
        """How many more positions an output waits, so that all are equally late."""
        kind = self.graph.kinds[source]
        return int(self.latency * kind.rate) - self.delays[source] if kind.timed else 0

    # ---- the end of a stream

    @cached_property
    def frames_left(self) -> int:
        """In how many frames behind the end of a stream there are still steps of its values."""
        found = [-(-self._left(name, self.delays[name]) // self.positions(name)) for name in self._timed]
        outputs = [-(-self.steps_left(name) // self.positions(name)) for name in self._outputs]
        return max(0, *found, *outputs)

    def steps_left(self, source: str) -> int:
        """How many steps of an output are left at the end of a stream."""
        return max(0, self._left(source, int(self.latency * self.graph.kinds[source].rate)))

    def _left(self, source: str, delay: int) -> int:
        steps = int(self.graph.kinds[source].steps(LONG * self.frame))
        return steps - LONG * self.positions(source) + delay

    @property
    def _outputs(self) -> list[str]:
        return [source for source in self.graph.outputs.values() if self.graph.kinds[source].timed]

    # ---- what layers read

    def reading(self, name: str) -> Reading:
        """What the equations of a layer read of its input."""
        entry = self.graph.entries[name]
        assert isinstance(entry.layer, Layer)
        before, after = entry.layer.window
        here = self.here(name)
        return Reading(here - before, here + after, entry.layer.pace.stride)

    def span_reading(self, name: str) -> Reading:
        """Where the equations of a layer look up whether their output is one of the row's own steps."""
        entry = self.graph.entries[name]
        assert isinstance(entry.layer, Layer)
        pace = entry.layer.pace
        ends = [self.end(name, phase) for phase in range(pace.factor)]
        found = Reading(min(self.here(name), *ends), max(self.here(name), *ends), pace.stride)
        if entry.layer.sees_padding:
            window = self.reading(name)
            found = Reading(min(found.low, window.low), max(found.high, window.high), pace.stride)
        return found

    def end(self, name: str, phase: int) -> int:
        """The position, relative to a call, from which on its output number `phase` is past the row's end."""
        entry = self.graph.entries[name]
        assert isinstance(entry.layer, Layer)
        pace = entry.layer.pace
        return self.here(name) + _end(pace, phase)

    def here(self, name: str) -> int:
        """The position, relative to call u at u * stride, of the step that the call belongs to."""
        entry = self.graph.entries[name]
        delay = self.joined(name)
        assert isinstance(entry.layer, Layer)
        return delay - self._calls_late(entry, delay) * entry.layer.pace.stride

    # ---- states

    def registers(self, name: str) -> Iterator[Register]:
        """The states that a layer's delay lines keep, besides those of its equations."""
        entry, graph = self.graph.entries[name], self.graph
        delay = self.joined(name)
        for number, source in enumerate(entry.inputs):
            if graph.kinds[source].timed and (wait := delay - self.delays[source]):
                yield Register(late(number), graph.widths(name)[number], wait)
        if self.spanned and (wait := delay - self._first_delay(entry)):
            yield Register(LATE_SPAN, 1, wait)
        if isinstance(entry.layer, Layer) and graph.kinds[entry.inputs[0]].timed:
            if places := self.reading(name).past:
                yield Register(PAST, graph.widths(name)[0], places)
            if self.spanned and (places := self.span_reading(name).past):
                yield Register(PAST_SPAN, 1, places)

    def _first_delay(self, entry: Entry) -> int:
        return next((self.delays[s] for s in entry.inputs if self.graph.kinds[s].timed), 0)


def _looks_ahead(layer: Layer) -> int:
    """How many steps later than its own a call reads: values, or whether the row still has steps."""
    ends = [_end(layer.pace, phase) for phase in range(layer.pace.factor)]
    return max(layer.window[1], *ends)


def _end(pace: Pace, phase: int) -> int:
    """The step, relative to a call's, past the row's end if and only if output number `phase` of the call is.

    Output p = call * factor + phase is one of the row's n steps if p < ceil((n - fewer) / stride) * factor + more.
    """
    return (phase - pace.more) // pace.factor * pace.stride + pace.fewer


def runs_backward(entry: Entry) -> bool:
    """Whether a layer goes from the last step to the first."""
    spec = recurrent(entry.layer)
    return spec is not None and spec.reads_ahead
