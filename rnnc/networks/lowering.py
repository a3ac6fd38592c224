"""Lowering a network: its layers -> one Graph of unrolled steps, for any number of them.

Inputs: those of the network at each step ("x", or "x:name" where there are several; rows of an embedding are looked up
outside), the parameters by their names, initial states "lstm.h.0_l0", "pool.sum.0", ..., in training the masks of
`rnnc.networks.noise`, with lengths "valid", and "span" in the form that has it. Outputs: "output" (or "output:name"),
one value per step or per sequence, and the last states.

A step of the graph is a frame of one or more steps of the inputs, which lie side by side (`rnnc.networks.timing`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import cycle
from types import SimpleNamespace
from typing import Any

from rnnc.checking.networks import MEMORY, PAST, Entry
from rnnc.ir import names
from rnnc.ir.equations import Value, greater, select
from rnnc.ir.errors import IRError
from rnnc.ir.graph import Graph, Node, Site
from rnnc.ir.locating import located
from rnnc.ir.lower import Names, check_returned, lower_direction, values_of
from rnnc.ir.shape_rules import BATCH
from rnnc.ir.stacks import Direction
from rnnc.layered import Layered
from rnnc.layers import Embedding, Layer, Readout, recurrent
from rnnc.layers.base import EVEN
from rnnc.networks.flows import Column, Flow, Nodes, framed, join_outputs
from rnnc.networks.lines import FrameStates
from rnnc.networks.names import moments, output_state, reads_directions, state_shapes
from rnnc.networks.noise import Mask, States, between, masks, noise_of, of_layer, with_masked_products
from rnnc.networks.returned import checked
from rnnc.networks.spans import INSIDE, SpanCodes, Spans
from rnnc.networks.starts import starts
from rnnc.networks.statistics import Statistics
from rnnc.networks.timing import DURING, HERE, LATE_OUTPUT, LATE_SPAN, WHOLE, Form, late
from rnnc.specs import Spec

__all__ = ["Mask", "lower_network", "masks", "state_shapes"]


def lower_network(
    model: Layered,
    frames: int,
    *,
    lengths: bool = False,
    training: bool = False,
    joined: bool = False,
    form: Form = WHOLE,
    memory: int = 0,
    renewed: Collection[str] = (),
) -> Graph:
    """Unrolls so many frames.

    joined: the outputs are columns of one, where they can be (`rnnc.Graph.columns`).
    memory: the number of states in the memories that layers read; each is an input "layer.memory" with one value per
    sequence, the states side by side and then 1 for each that the row has, (B, memory * (M + 1)).
    renewed: the names of statistics that the graph renews (`rnnc.networks.statistics`).
    """
    lowering = _Lowering(model, frames, lengths, training, form, memory, renewed)
    graph = lowering.run()
    if joined and lowering.model.columns is not None:
        join_outputs(graph, lowering.ended)
    return graph


class _Lowering:
    def __init__(
        self,
        model: Layered,
        frames: int,
        lengths: bool,
        training: bool,
        form: Form,
        memory: int,
        renewed: Collection[str],
    ) -> None:
        self.model = model.graph()
        self.timing = self.model.timing(form.streamed)
        self.spanned = form.spanned and self.timing.spanned
        self.graph = Graph(self.model.dtype, frames, share=False)
        self.frames = FrameStates(self.graph, lengths)
        self.codes = SpanCodes(self.graph, self.frames, self.timing)
        self.depth = 0  # layers so far; each layer of a recurrent one counts (`rnnc.networks.names.layer_names`)
        self.masks = {mask.name: mask for mask in masks(model)} if training else {}
        self.memory = memory
        self.statistics = Statistics(self.graph, renewed, self._zeroed)
        self.memories: dict[str, tuple[Node, ...]] = {}
        self.flows: dict[str, Flow] = {}
        self.ended: dict[str, Nodes] = {}

    def run(self) -> Graph:
        """All layers, one after the other, each at all steps."""
        spans = self._spans_of_inputs()
        for name, width in self.model.inputs.items():
            if name in self.model.static:
                self.flows[name] = Flow(self.graph.input(self.model.x_names[name], (BATCH, width)))
            elif width:
                self.flows[name] = self._input(self.model.x_names[name], width, spans)
        for name, entry in self.model.entries.items():
            self.graph.site = Site(self.depth)
            if isinstance(entry.layer, Embedding):
                self.flows[name] = self._input(self.model.tables[name][1], entry.layer.size, spans)
            else:
                self.flows[name] = self._entry(name, entry)
            self.depth += recurrent(entry.layer) is None
        self.graph.site = None
        for name, source in self.model.outputs.items():
            nodes = self.ended[self.model.output_names[name]] = self._output(source)
            steps = framed(self.graph, nodes) if isinstance(nodes, tuple) else nodes
            self.graph.outputs[self.model.output_names[name]] = steps
        return self.graph

    def _spans_of_inputs(self) -> tuple[Node, ...] | None:
        if self.spanned:
            return self._positions(names.SPAN, 1)
        if not any(self.timing.delays.values()):
            return None
        each = [self.graph.spread(self.graph.const(DURING), (BATCH, 1), t) for t in range(self.graph.steps)]
        return tuple(node for node in each for _ in range(self.timing.frame))

    def _input(self, name: str, width: int, spans: tuple[Node, ...] | None) -> Flow:
        flow = Flow(self._positions(name, width), spans)
        return Flow(self._zeroed(flow), spans)

    def _positions(self, name: str, width: int) -> tuple[Node, ...]:
        """The steps of an input: columns of its frames."""
        size, graph = self.timing.frame, self.graph
        frames = [graph.input(name, (BATCH, size * width), t) for t in range(graph.steps)]
        return tuple(graph.slice(frame, -1, j * width, (j + 1) * width) for frame in frames for j in range(size))

    def _entry(self, name: str, entry: Entry) -> Flow:
        flows = self._aligned(name, entry, [self._flow(source) for source in entry.inputs])
        if spec := recurrent(entry.layer):
            return self._recurrent(name, entry, spec, flows[0])
        assert isinstance(entry.layer, Layer)
        if reads_directions(self.model, entry):
            return Flow(self._lasts(name, entry.inputs[0], flows[0].columns))
        return self._equations(name, entry, flows)

    def _flow(self, source: str) -> Flow:
        """The value of an input or layer, or the last values of a state."""
        if source in self.flows:
            return self.flows[source]
        layer, _, state = source.rpartition(".")
        spec = recurrent(self.model.entries[layer].layer)
        assert spec is not None
        ends = [self.graph.outputs[moments(layer, state, d.suffix, 0)[1]] for d in spec.stack().flat]
        return Flow(self.graph.concat([end for end in ends if isinstance(end, Node)], -1))

    def _aligned(self, name: str, entry: Entry, flows: list[Flow]) -> list[Flow]:
        """What a layer reads, all as late as the latest of it."""
        delay, found = self.timing.joined(name), list(flows)
        for number, (source, flow) in enumerate(zip(entry.inputs, flows, strict=True)):
            wait = delay - self.timing.delays.get(source, delay)
            if not flow.timed or not wait:
                continue
            spans = flow.spans
            if spans and not any(earlier.timed for earlier in flows[:number]):
                spans = self._delayed(name, LATE_SPAN, spans, wait)
            found[number] = Flow(self._delayed(name, late(number), self._zeroed(flow), wait), spans)
        return found

    def _delayed(self, name: str, state: str, nodes: Sequence[Node], wait: int) -> tuple[Node, ...]:
        """Each position as that which is `wait` positions earlier."""
        rate, line = len(nodes) // self.graph.steps, self.frames.line(name, state, nodes, wait)
        return tuple(line.read(t, j - wait, j - wait + 1) for t in range(self.graph.steps) for j in range(rate))

    def _output(self, source: str) -> Nodes:
        """An output: zeros where it is no step of the row's own, and as late as all outputs are."""
        flow = self._flow(source)
        if not flow.timed:
            return flow.nodes
        nodes = self._zeroed(flow)
        if not (wait := self.timing.late(source)):
            return nodes
        return self._zeroed(Flow(self._delayed(source, LATE_OUTPUT, nodes, wait)))

    def _zeroed(self, flow: Flow) -> tuple[Node, ...]:
        """Zeros in rows past their end: a NaN in the padding must not reach anything, not even as 0 * NaN."""
        nodes, zero, valid = flow.listed, None, self.frames.valid
        if flow.spans or valid:
            zero = self.graph.const(0.0)
        if flow.spans and zero:
            during = self.codes.during(flow.spans)
            nodes = tuple(self.graph.add("select", (d, n, zero)) for d, n in zip(during, nodes, strict=True))
        if valid and zero:
            rate = len(nodes) // self.graph.steps
            nodes = tuple(self.graph.add("select", (valid[u // rate], n, zero)) for u, n in enumerate(nodes))
        return nodes

    def _mask(self, name: str, step: int | None, position: int = 0) -> Value | None:
        """The random numbers of a mask at a position of a frame."""
        mask = self.masks.get(name)
        if mask is None:
            return None
        frame = self.graph.input(name, (BATCH, mask.positions * mask.width), step)
        at = position % mask.positions * mask.width
        return Value(self.graph, self.graph.slice(frame, -1, at, at + mask.width))

    # ---- layers that are equations

    def _equations(self, name: str, entry: Entry, flows: Sequence[Flow]) -> Flow:
        layer, widths = entry.layer, self.model.widths(name)
        assert isinstance(layer, Layer)
        parameters = self.statistics.of(entry, flows[0], self._parameters(entry))
        if not any(flow.timed for flow in flows):
            return Flow(self._step(name, entry, [flow.first for flow in flows], {}, parameters, None)[0])
        calls = self._calls(name, layer, flows)
        timed = next(flow for flow in flows if flow.timed)
        spans = self.codes.of(name, layer, timed, len(calls) // self.graph.steps)
        states = {state: self.frames.initial(name, state, n) for state, n in layer.states(*widths).items()}
        outputs: list[Node] = []
        rate = len(calls) // self.graph.steps
        for t in range(self.graph.steps):
            old = {state: self.graph.carry(node, names.in_layer(name, state), 1, t) for state, node in states.items()}
            states = old
            for u in range(t * rate, (t + 1) * rate):
                given = self._with_inside(parameters, spans, u)
                output, new = self._step(name, entry, calls[u], states, given, t, u - t * rate)
                states = self._passed(spans, u, new, states)
                outputs.append(output)
            states = {state: self.frames.kept(t, node, old[state]) for state, node in states.items()}
        ends = {state: self.frames.final(name, state, node) for state, node in states.items()}
        if not isinstance(layer, Readout):
            return Flow(self._cut(outputs, layer.pace.factor), spans.after if spans else None)
        with located(layer.result):
            result = layer.result(self._names("state", ends), parameters)
        return Flow(result.as_numbers().node)

    def _calls(self, name: str, layer: Layer, flows: Sequence[Flow]) -> list[list[Node]]:
        """What each call of a layer's equations reads."""
        timed = next(flow for flow in flows if flow.timed)
        rate = len(timed.listed) // self.graph.steps
        reading = self.timing.reading(name)
        if reading == HERE and layer.pace == EVEN:
            each = [self._over_time(f"{name}:{i}", flow, rate) for i, flow in enumerate(flows)]
            return [list(xs) for xs in zip(*each, strict=True)]
        line = self.frames.line(name, PAST, self._zeroed(timed), reading.past, reading.ahead)
        calls = [(t, reading.at(c)) for t in range(self.graph.steps) for c in range(rate // layer.pace.stride)]
        return [[line.read(t, *window)] for t, window in calls]

    def _with_inside(self, parameters: Names, spans: Spans | None, u: int) -> Names:
        if spans is None or not spans.inside:
            return parameters
        return Names("parameter", values_of(parameters) | {INSIDE: Value(self.graph, spans.inside[u])})

    def _passed(self, spans: Spans | None, u: int, new: Mapping[str, Node], old: Mapping[str, Node]) -> dict[str, Node]:
        """The states behind a call; those before it, if it belongs to no step of the row's own."""
        if spans is None or spans.during is None:
            return dict(new)
        return {state: self.graph.add("select", (spans.during[u], new[state], old[state])) for state in new}

    def _cut(self, outputs: Sequence[Node], factor: int) -> tuple[Node, ...]:
        """What calls give, each of several steps side by side, step by step."""
        width = int(outputs[0].shape[-1]) // factor
        return tuple(self.graph.slice(o, -1, j * width, (j + 1) * width) for o in outputs for j in range(factor))

    def _parameters(self, entry: Entry) -> Names:
        shapes = entry.layer.parameter_shapes()
        made = {base: self.graph.input(entry.parameter(base), tuple(s)) for base, s in shapes.items()}
        return self._names("parameter", made)

    def _names(self, what: str, nodes: Mapping[str, Node]) -> Names:
        return Names(what, {name: Value(self.graph, node) for name, node in nodes.items()})

    def _step(
        self,
        name: str,
        entry: Entry,
        xs: Sequence[Node],
        old: Mapping[str, Node],
        parameters: Names,
        t: int | None,
        call: int = 0,
    ) -> tuple[Node, dict[str, Node]]:
        """The equations of a layer once, for a call of frame t: its output and its new states.

        A readout has no output of its own: the result is its first input.
        """
        layer = entry.layer
        assert isinstance(layer, Layer)
        noise = {base: self._mask(of_layer(base, name), t, call) for base in layer.noise(*self.model.widths(name))}
        given = Names("parameter", values_of(parameters) | noise | self._memory(name, layer, t))
        values = tuple(Value(self.graph, x) for x in xs)
        with located(layer.step):
            returned = layer.step(values[0] if layer.inputs == 1 else values, self._names("state", old), given)
            widths = self.model.widths(name)
            width = layer.pace.factor * layer.output_width(*widths)
            return checked(layer, returned, values[0], width, layer.states(*widths))

    def _memory(self, name: str, layer: Layer, t: int | None) -> dict[str, Value]:
        """What a layer reads of an encoder, if it does: all its states, and which of them a row has."""
        if layer.memory is None:
            return {}
        if not self.memory or t is None:
            raise IRError(f"layer {name!r}: it reads all states of an encoder, which rnnc.Decoder gives to its steps")
        count, width = self.memory, layer.memory
        if name not in self.memories:
            whole = self.graph.input(names.in_layer(name, MEMORY), (BATCH, count * (width + 1)))
            self.memories[name] = self._over_time(f"{name}:{MEMORY}", Flow(whole), 1)
        both = Value(self.graph, self.memories[name][t])
        states, valid = both.split((count * width, count))
        return {"memory": states.reshape(-1, count, width), "valid": valid > 0.5}

    def _over_time(self, state: str, flow: Flow, rate: int) -> tuple[Node, ...]:
        """A value at each of `rate` positions of each frame; one per sequence is a state that never changes."""
        if isinstance(flow.nodes, tuple):
            return flow.nodes
        found: list[Node] = []
        for t in range(self.graph.steps):
            found.append(self.graph.carry(found[-1] if found else flow.nodes, state, 1, t))
        self.graph.exit(found[-1], state, 1)
        return tuple(node for node in found for _ in range(rate))

    # ---- recurrent layers

    def _recurrent(self, name: str, entry: Entry, spec: Spec, flow: Flow) -> Flow:
        nodes, during = flow.listed, self.codes.during(flow.spans) if flow.spans else None
        found = starts(self.model, self.frames, name, lambda source: self._flow(source).first)
        columns: list[Column] = []
        for k, directions in enumerate(spec.stack().layers):
            if k:
                nodes = self._masked(between(name, k), nodes)
            columns = []
            for i, direction in enumerate(directions):
                named = self._named(name, entry, direction, len(nodes) // self.graph.steps)
                site = Site(self.depth, i)
                start = found.get(direction.suffix)
                made = lower_direction(self.graph, named, list(nodes), self.frames.valid, site, start, during)
                columns.append(Column(made, direction, flow.spans))
            self.graph.site = Site(self.depth)
            self.depth += 1
            nodes = tuple(self.graph.concat(list(step), -1) for step in zip(*(c.nodes for c in columns), strict=True))
        return Flow(nodes, flow.spans, columns)

    def _masked(self, name: str, nodes: tuple[Node, ...]) -> tuple[Node, ...]:
        if name not in self.masks:
            return nodes
        masked, rate = [], len(nodes) // self.graph.steps
        for u, node in enumerate(nodes):
            mask = self._mask(name, u // rate, u % rate)
            assert mask is not None
            masked.append((Value(self.graph, node) * mask).node)
        return tuple(masked)

    def _named(self, name: str, entry: Entry, direction: Direction, rate: int) -> Direction:
        """The direction with the layer's name before all names; its equations get them without.

        rate: the positions of a frame, at which they run one after the other.
        """
        visited = cycle(range(rate)[:: -1 if direction.reverse else 1])

        def named(values: Mapping[str, Any], owner: str) -> dict[str, Any]:
            return {names.in_layer(owner, base): value for base, value in values.items()}

        def plain(given: SimpleNamespace, declared: Iterable[str], owner: str) -> dict[str, object]:
            values = values_of(given)
            return {base: values[names.in_layer(owner, base)] for base in declared}

        def step(x: Value, state: SimpleNamespace, p: SimpleNamespace) -> tuple[Value, dict[str, Value]]:
            read = plain(p, direction.parameters, entry.shares) | dict.fromkeys(direction.optional)
            old = plain(state, direction.states, name)
            p = Names("parameter", read)
            output, new = self._cell_step(name, entry, direction, x, old, p, next(visited))
            return output, named(new, name)

        step.__wrapped__ = direction.step  # type: ignore[attr-defined]  # where the equations are written
        return direction._replace(
            parameters=named(direction.parameters, entry.shares),
            tied=named(_tied(entry, direction), entry.shares),
            states=named(direction.states, name),
            optional=(),
            step=step,
        )

    def _cell_step(
        self,
        name: str,
        entry: Entry,
        direction: Direction,
        x: Value,
        states: Mapping[str, object],
        parameters: Names,
        position: int,
    ) -> tuple[Value, States]:
        """One step of the cell, at a position of its frame, with the noise of a `Regularized` around it."""
        old = {state: value for state, value in states.items() if isinstance(value, Value)}
        step, place = x.node.step, {state: f"{name}_{state}{direction.suffix}" for state in old}
        dropped = {n: m for n in old if (m := self._mask(f"recurrent_mask_{place[n]}", step)) is not None}

        def checked(x: Value, state: SimpleNamespace, p: SimpleNamespace) -> tuple[Value, States]:
            return check_returned(direction, direction.step(x, state, p))

        output, new = with_masked_products(self.graph, checked, x, old, parameters, dropped)
        kept = noise_of(entry.layer).zoneout
        if kept:
            zoned: dict[str, Value] = {}
            for state, value in new.items():
                mask = self._mask(f"zoneout_{place[state]}", step, position)
                if mask is None:
                    zoned[state] = value + kept * (old[state] - value)
                else:
                    zoned[state] = select(greater(mask, 0.5), old[state], value)
            same = [state for state, value in new.items() if value.node is output.node]
            output, new = (zoned[same[0]] if same else output), zoned
        return output, new

    # ---- the last outputs of directions

    def _lasts(self, name: str, source: str, columns: Sequence[Column]) -> Node:
        """The last output of each direction of a recurrent layer, side by side."""
        spec = recurrent(self.model.entries[source].layer)
        assert spec is not None
        found = []
        for column in columns:
            state, suffix = output_state(spec, column.direction), column.direction.suffix
            last = self.graph.outputs[moments(source, state, suffix, 0)[1]] if state else self._last(name, column)
            assert isinstance(last, Node)
            found.append(last)
        return self.graph.concat(found, -1)

    def _last(self, name: str, column: Column) -> Node:
        """The last output of each row, kept by a state of its own."""
        delta, state = (-1 if column.direction.reverse else 1), f"{name}:last{column.direction.suffix}"
        value, rate = self.graph.zeros(column.nodes[0].shape), len(column.nodes) // self.graph.steps
        during = self.codes.during(column.spans) if column.spans else None
        for t in range(self.graph.steps)[::delta]:
            old = self.graph.carry(value, state, delta, t)
            value = old
            for u in range(t * rate, (t + 1) * rate)[::delta]:
                new = column.nodes[u]
                value = self.graph.add("select", (during[u], new, value)) if during else new
            value = self.frames.kept(t, value, old)
        return self.graph.exit(value, state, delta)


def _tied(entry: Entry, direction: Direction) -> dict[str, str]:
    """The parameters of a direction that are another layer's: base name -> full name."""
    ties = dict(entry.ties)
    return {base: ties[full] for base in direction.parameters if (full := base + direction.suffix) in ties}
