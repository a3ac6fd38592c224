"""Lowering a network: its layers -> one Graph of unrolled steps, for any number of them.

Inputs: those of the network at each step ("x", or "x:name" where there are several; rows of an embedding are looked up
outside), the parameters by their names, initial states "lstm.h.0_l0", "pool.sum.0", ..., in training the masks of
`rnnc.network_noise`, and with lengths "valid". Outputs: "output" (or "output:name"), one value per step or per
sequence, and the last states.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import SimpleNamespace
from typing import Any

from rnnc.checking.networks import MEMORY, PAST, Entry
from rnnc.ir import names
from rnnc.ir.equations import Value, greater, select
from rnnc.ir.errors import IRError
from rnnc.ir.graph import Graph, Node, Site
from rnnc.ir.locating import located
from rnnc.ir.lower import Direction, Names, check_returned, lower_direction, values_of
from rnnc.ir.shape_rules import BATCH
from rnnc.layered import Layered
from rnnc.layers import Embedding, Layer, Readout, recurrent
from rnnc.network_names import moments, output_state, reads_directions, state_shapes
from rnnc.network_noise import Mask, States, between, masks, noise_of, of_layer, with_masked_products
from rnnc.specs import Spec

__all__ = ["Mask", "lower_network", "masks", "state_shapes"]


def lower_network(
    model: Layered,
    steps: int,
    *,
    lengths: bool = False,
    training: bool = False,
    joined: bool = False,
    memory: int = 0,
) -> Graph:
    """Unrolls `steps` steps. joined: the outputs are columns of one, where they can be (`rnnc.Graph.columns`).

    memory: the number of states in the memories that layers read; each is an input "layer.memory" with one value per
    sequence, the states side by side and then 1 for each that the row has, (B, memory * (M + 1)).
    """
    lowering = _Lowering(model, steps, lengths, training, memory)
    graph = lowering.run()
    if joined and lowering.model.columns is not None:
        _join_outputs(graph, tuple(lowering.model.output_names.values()))
    return graph


def _join_outputs(graph: Graph, parts: Sequence[str]) -> None:
    """Puts outputs of one kind side by side, as "output"."""
    ended = [graph.outputs.pop(name) for name in parts]
    timed = [nodes for nodes in ended if isinstance(nodes, tuple)]
    alone = [node for node in ended if isinstance(node, Node)]
    each = zip(*timed, strict=True)
    graph.outputs[names.OUTPUT] = tuple(graph.concat(step, -1) for step in each) if timed else graph.concat(alone, -1)


Nodes = tuple[Node, ...] | Node
"""A value per step, or one per sequence."""


@dataclass(frozen=True)
class Column:
    """The output of one direction of a recurrent layer."""

    nodes: list[Node]
    direction: Direction


@dataclass(frozen=True)
class Flow:
    """What goes from layer to layer. columns: the directions that a recurrent layer's output is made of."""

    nodes: Nodes
    columns: list[Column] = field(default_factory=list)

    @property
    def timed(self) -> bool:
        """Whether there is a value per step."""
        return isinstance(self.nodes, tuple)

    def at(self, step: int) -> Node:
        """The value at a step."""
        return self.nodes[step] if isinstance(self.nodes, tuple) else self.nodes


class _Lowering:
    def __init__(self, model: Layered, steps: int, lengths: bool, training: bool, memory: int) -> None:
        self.model = model.graph()
        self.graph = Graph(self.model.dtype, steps, share=False)
        self.depth = 0  # layers with a site of their own so far
        self.masks = {mask.name: mask for mask in masks(model)} if training else {}
        self.lengths, self.memory = lengths, memory
        self.memories: dict[str, tuple[Node, ...]] = {}
        self.flows: dict[str, Flow] = {}

    @cached_property
    def valid(self) -> list[Node] | None:
        """Which rows still run, at each step."""
        if not self.lengths:
            return None
        return [self.graph.input(names.VALID, (BATCH, 1), t, dtype="bool") for t in range(self.graph.steps)]

    def run(self) -> Graph:
        """All layers, one after the other, each at all steps."""
        for name, width in self.model.inputs.items():
            if width:
                self.flows[name] = self._input(self.model.x_names[name], width)
        for name, entry in self.model.entries.items():
            self.flows[name] = self._entry(name, entry)
        for name, source in self.model.outputs.items():
            self.graph.outputs[self.model.output_names[name]] = self._ended(self._flow(source).nodes)
        return self.graph

    def _input(self, name: str, width: int) -> Flow:
        return Flow(self._ended(tuple(self.graph.input(name, (BATCH, width), t) for t in range(self.graph.steps))))

    def _entry(self, name: str, entry: Entry) -> Flow:
        if isinstance(entry.layer, Embedding):
            return self._input(self.model.tables[name][1], entry.layer.size)
        if spec := recurrent(entry.layer):
            return self._recurrent(name, entry, spec)
        flows = [self._flow(source) for source in entry.inputs]
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

    def _ended(self, nodes: Nodes) -> Nodes:
        """Zeros in rows past their end: a NaN in the padding must not reach anything, not even as 0 * NaN."""
        if self.valid is None or not isinstance(nodes, tuple):
            return nodes
        zero = self.graph.const(0.0)
        return tuple(self.graph.add("select", (v, node, zero)) for v, node in zip(self.valid, nodes, strict=True))

    def _mask(self, name: str, step: int | None) -> Value | None:
        mask = self.masks.get(name)
        return Value(self.graph, self.graph.input(name, (BATCH, mask.width), step)) if mask else None

    # ---- layers that are equations

    def _equations(self, name: str, entry: Entry, flows: Sequence[Flow]) -> Flow:
        layer, widths = entry.layer, self.model.widths(name)
        assert isinstance(layer, Layer)
        parameters = self._parameters(entry)
        if not any(flow.timed for flow in flows):
            return Flow(self._step(name, entry, [flow.at(0) for flow in flows], {}, parameters, None)[0])
        xs = [list(self._over_time(f"{name}:{i}", flow)) for i, flow in enumerate(flows)]
        if layer.window != (0, 0):
            xs = [self._windows(name, xs[0], layer.window)]
        states = {state: self._initial(name, state, width) for state, width in layer.states(*widths).items()}
        outputs: list[Node] = []
        for t in range(self.graph.steps):
            old = {state: self.graph.carry(node, names.in_layer(name, state), 1, t) for state, node in states.items()}
            output, new = self._step(name, entry, [x[t] for x in xs], old, parameters, t)
            states = {state: self._kept(t, node, old[state]) for state, node in new.items()}
            outputs.append(output)
        ends = {state: self._final(name, state, node) for state, node in states.items()}
        if not isinstance(layer, Readout):
            return Flow(tuple(outputs))
        with located(layer.result):
            result = layer.result(self._names("state", ends), parameters)
        return Flow(result.as_numbers().node)

    def _parameters(self, entry: Entry) -> Names:
        shapes = entry.layer.parameter_shapes()
        made = {base: self.graph.input(names.in_layer(entry.shares, base), tuple(s)) for base, s in shapes.items()}
        return self._names("parameter", made)

    def _names(self, what: str, nodes: Mapping[str, Node]) -> Names:
        return Names(what, {name: Value(self.graph, node) for name, node in nodes.items()})

    def _step(
        self, name: str, entry: Entry, xs: Sequence[Node], old: Mapping[str, Node], parameters: Names, t: int | None
    ) -> tuple[Node, dict[str, Node]]:
        """The equations of a layer once: its output (of a readout, none: its first input) and its new states."""
        layer = entry.layer
        assert isinstance(layer, Layer)
        noise = {base: self._mask(of_layer(base, name), t) for base in layer.noise(*self.model.widths(name))}
        given = Names("parameter", values_of(parameters) | noise | self._memory(name, layer, t))
        values = tuple(Value(self.graph, x) for x in xs)
        with located(layer.step):
            returned = layer.step(values[0] if layer.inputs == 1 else values, self._names("state", old), given)
            widths = self.model.widths(name)
            return _checked(layer, returned, values[0], layer.output_width(*widths), layer.states(*widths))

    def _memory(self, name: str, layer: Layer, t: int | None) -> dict[str, Value]:
        """What a layer reads of an encoder, if it does: all its states, and which of them a row has."""
        if layer.memory is None:
            return {}
        if not self.memory or t is None:
            raise IRError(f"layer {name!r}: it reads all states of an encoder, which rnnc.Decoder gives to its steps")
        count, width = self.memory, layer.memory
        if name not in self.memories:
            whole = self.graph.input(names.in_layer(name, MEMORY), (BATCH, count * (width + 1)))
            self.memories[name] = self._over_time(f"{name}:{MEMORY}", Flow(whole))
        both = Value(self.graph, self.memories[name][t])
        states, valid = both.split((count * width, count))
        return {"memory": states.reshape(-1, count, width), "valid": valid > 0.5}

    def _initial(self, name: str, state: str, width: int) -> Node:
        return self.graph.input(moments(name, state, "", width)[0], (BATCH, width))

    def _final(self, name: str, state: str, node: Node) -> Node:
        """The last value of a state, which is an output."""
        end = self.graph.exit(node, names.in_layer(name, state), 1)
        self.graph.outputs[moments(name, state, "", 0)[1]] = end
        return end

    def _kept(self, t: int, new: Node, old: Node) -> Node:
        """What a state becomes: in a row past its end it stays."""
        return new if self.valid is None else self.graph.add("select", (self.valid[t], new, old))

    def _over_time(self, state: str, flow: Flow) -> tuple[Node, ...]:
        """A value at each step; one per sequence is a state that never changes."""
        if isinstance(flow.nodes, tuple):
            return flow.nodes
        found: list[Node] = []
        for t in range(self.graph.steps):
            found.append(self.graph.carry(found[-1] if found else flow.nodes, state, 1, t))
        self.graph.exit(found[-1], state, 1)
        return tuple(found)

    def _windows(self, name: str, xs: Sequence[Node], window: tuple[int, int]) -> list[Node]:
        """Each step with the steps around it, side by side, the oldest first: shift registers that run both ways."""
        before, after = window
        width = int(xs[0].shape[-1])
        xs = list(self._ended(tuple(xs)))  # type: ignore[arg-type]
        parts = [[x] for x in xs]
        if before:
            state = self._initial(name, PAST, before * width)
            for t, x in enumerate(xs):
                past = self.graph.carry(state, names.in_layer(name, PAST), 1, t)
                parts[t].insert(0, past)
                moved = self.graph.slice(self.graph.concat([past, x], -1), -1, width, (before + 1) * width)
                state = self._kept(t, moved, past)
            self._final(name, PAST, state)
        if after:
            state, register = self.graph.zeros((BATCH, after * width)), f"{name}:ahead"
            for t in reversed(range(len(xs))):
                ahead = self.graph.carry(state, register, -1, t)
                parts[t].append(ahead)
                moved = self.graph.slice(self.graph.concat([xs[t], ahead], -1), -1, 0, after * width)
                state = self._kept(t, moved, ahead)
            self.graph.exit(state, register, -1)
        return [self.graph.concat(part, -1) for part in parts]

    # ---- recurrent layers

    def _recurrent(self, name: str, entry: Entry, spec: Spec) -> Flow:
        nodes = self._over_time(f"{name}:0", self._flow(entry.inputs[0]))
        starts = self._starts(name, entry, spec)
        columns: list[Column] = []
        for k, directions in enumerate(spec.stack().layers):
            if k:
                nodes = self._masked(between(name, k), nodes)
            columns = []
            for i, direction in enumerate(directions):
                named = self._named(name, entry, direction)
                site = Site(self.depth, i)
                made = lower_direction(self.graph, named, list(nodes), self.valid, site, starts.get(direction.suffix))
                columns.append(Column(made, direction))
            self.graph.site = Site(self.depth)
            self.depth += 1
            nodes = tuple(self.graph.concat(list(step), -1) for step in zip(*(c.nodes for c in columns), strict=True))
        return Flow(nodes, columns)

    def _starts(self, name: str, entry: Entry, spec: Spec) -> dict[str, dict[str, Node]]:
        """For each direction, by its suffix: what its states start at, where values of the network do."""
        found: dict[str, dict[str, Node]] = {}
        for state, source in entry.states:
            whole, at = self._flow(source).at(0), 0
            for direction in spec.stack().flat:
                stop = at + direction.states[state]
                full = names.in_layer(name, state)
                found.setdefault(direction.suffix, {})[full] = self.graph.slice(whole, -1, at, stop)
                at = stop
        return found

    def _masked(self, name: str, nodes: tuple[Node, ...]) -> tuple[Node, ...]:
        if name not in self.masks:
            return nodes
        masked = []
        for t, node in enumerate(nodes):
            mask = self._mask(name, t)
            assert mask is not None
            masked.append((Value(self.graph, node) * mask).node)
        return tuple(masked)

    def _named(self, name: str, entry: Entry, direction: Direction) -> Direction:
        """The direction with the layer's name before all names; its equations get them without."""

        def named(values: Mapping[str, Any], owner: str) -> dict[str, Any]:
            return {names.in_layer(owner, base): value for base, value in values.items()}

        def plain(given: SimpleNamespace, declared: Iterable[str], owner: str) -> dict[str, object]:
            values = values_of(given)
            return {base: values[names.in_layer(owner, base)] for base in declared}

        def step(x: Value, state: SimpleNamespace, p: SimpleNamespace) -> tuple[Value, dict[str, Value]]:
            read = plain(p, direction.parameters, entry.shares) | dict.fromkeys(direction.optional)
            old = plain(state, direction.states, name)
            output, new = self._cell_step(name, entry, direction, x, old, Names("parameter", read))
            return output, named(new, name)

        step.__wrapped__ = direction.step  # type: ignore[attr-defined]  # where the equations are written
        return replace(
            direction,
            parameters=named(direction.parameters, entry.shares),
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
    ) -> tuple[Value, States]:
        """One step of the cell, with the noise of a `Regularized` around it."""
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
                mask = self._mask(f"zoneout_{place[state]}", step)
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
        value = self.graph.zeros(column.nodes[0].shape)
        for t in range(len(column.nodes))[::delta]:
            old = self.graph.carry(value, state, delta, t)
            value = self._kept(t, column.nodes[t], old)
        return self.graph.exit(value, state, delta)


def _checked(
    layer: Layer, returned: object, x: Value, width: int, states: Mapping[str, int]
) -> tuple[Node, dict[str, Node]]:
    """What a layer's equations return, if it is what the layer declares. Raises IRError."""
    if isinstance(layer, Readout):
        output, new = x, returned
    elif isinstance(returned, Value):
        output, new = returned, {}
    elif isinstance(returned, tuple) and len(returned) == 2:
        output, new = returned
        _expect(layer, "its output", output, width)
    else:
        raise IRError(f"{type(layer).__name__} must return a value, or (value, {{state: new value}}); got {returned!r}")
    if not isinstance(new, Mapping) or set(new) != set(states):
        came = sorted(new) if isinstance(new, Mapping) else new
        raise IRError(f"{type(layer).__name__} returned the states {came}, it declared {sorted(states)}")
    if isinstance(returned, Value):
        _expect(layer, "its output", output, width)
    for state, size in states.items():
        _expect(layer, f"state {state!r}", new[state], size)
    return output.as_numbers().node, {state: new[state].as_numbers().node for state in states}


def _expect(layer: Layer, what: str, value: object, width: int) -> None:
    if not isinstance(value, Value) or value.as_numbers().shape != (BATCH, width):
        came = f"shape {value.shape}" if isinstance(value, Value) else repr(value)
        raise IRError(f"{type(layer).__name__} returned {what} as {came}; it declared ('B', {width})")
