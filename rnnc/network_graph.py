"""Lowering a `rnnc.Sequential`: its layers -> one Graph, for any number of unrolled steps.

Inputs: "x" (B, I) a step (rows of an embedding are looked up outside), the parameters by their names in
`Sequential.parameter_shapes`, initial states "1.h.0_l0", ..., in training the masks of `masks`, with lengths "valid",
and with a readout "mean" the input "scale" (B, 1), one over each row's number of steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import SimpleNamespace
from typing import Any

from rnnc.ir import names
from rnnc.ir.equations import Value, greater, linear, select
from rnnc.ir.graph import Graph, Node, Site
from rnnc.ir.lower import Direction, Names, Step, check_returned, lower_direction, values_of
from rnnc.ir.ops import BATCH
from rnnc.layers import Dropout, Layer, Linear, Regularized
from rnnc.sequential import Sequential, recurrent
from rnnc.specs import Spec

States = Mapping[str, Value]


@dataclass(frozen=True)
class Mask:
    """Random numbers a training step needs as an input: one a step, row and unit, (T, B, width).

    number: tells the masks of a network apart; the random numbers depend on it.
    keep: True: 1/(1-p) with probability 1-p, else 0 (dropout). False: 1 with probability p, else 0 (zoneout).
    fixed: the same at all steps of a sequence.
    timed: False for a layer behind a readout, whose mask is (B, width).
    """

    number: int
    name: str
    width: int
    p: float
    keep: bool = True
    fixed: bool = False
    timed: bool = True


def masks(model: Sequential) -> tuple[Mask, ...]:
    """All masks of a training step, in the order of the layers; those with p = 0 are left out."""
    found: list[Mask] = []

    def add(name: str, width: int, p: float, **options: bool) -> None:
        found.append(Mask(len(found), name, width, p, **options))

    width = model.input_size
    for number, layer in enumerate(model.layers):
        if isinstance(layer, Dropout):
            add(f"mask_{number}", width, layer.p, fixed=layer.variational, timed=_timed(model, number))
        elif spec := recurrent(layer):
            noise = _noise(layer)
            for k, directions in enumerate(spec.stack().layers):
                if k:
                    add(f"mask_{number}_l{k}", spec.output_size, spec.dropout, fixed=noise.variational)
                for direction in directions:
                    for state, size in direction.states.items():
                        place = f"{number}_{state}{direction.suffix}"
                        add(f"recurrent_mask_{place}", size, noise.recurrent_dropout, fixed=True)
                        add(f"zoneout_{place}", size, noise.zoneout, keep=False)
            width = spec.output_size
        elif isinstance(layer, Linear):
            width = layer.output_size
    return tuple(mask for mask in found if mask.p > 0)


def state_shapes(model: Sequential) -> dict[str, tuple[str, str, int]]:
    """For each state of each direction: its name -> the names of its initial and last value, and its width."""
    return {
        f"{number}.{state}{direction.suffix}": (
            names.initial(names.in_layer(number, state), direction.suffix),
            names.final(names.in_layer(number, state), direction.suffix),
            width,
        )
        for number, spec in model.specs.items()
        for direction in spec.stack().flat
        for state, width in direction.states.items()
    }


def lower_network(model: Sequential, steps: int, *, lengths: bool = False, training: bool = False) -> Graph:
    """Unrolls `steps` steps. Outputs: "output", one value a step or, behind a readout, a single one; last states."""
    return _Lowering(model, steps, lengths, training).run()


Flow = tuple[Node, ...] | Node
"""What goes from layer to layer: a value of each step, or behind a readout one without a step."""


class _Lowering:
    def __init__(self, model: Sequential, steps: int, lengths: bool, training: bool) -> None:
        self.model = model
        self.graph = Graph(model.dtype, steps, share=False)
        self.training = training
        self.depth = 0  # recurrent layers so far, for sites
        self.outputs: dict[str, str] = {}  # the state that is a direction's output, by suffix
        self.masks = {mask.name: mask for mask in masks(model)} if training else {}
        self.lengths = lengths

    @cached_property
    def valid(self) -> list[Node] | None:
        """Which rows still run, at each step."""
        if not self.lengths:
            return None
        return [self.graph.input(names.VALID, (BATCH, 1), t, dtype="bool") for t in range(self.graph.steps)]

    def run(self) -> Graph:
        graph, model = self.graph, self.model
        flow: Flow = tuple(graph.input(names.X, (BATCH, model.input_size), t) for t in range(graph.steps))
        flow = self._ended(flow)
        for number, layer in enumerate(model.layers):
            flow = self._layer(number, layer, flow)
        graph.outputs[names.OUTPUT] = self._ended(flow)
        return graph

    def _layer(self, number: int, layer: Layer | Spec, flow: Flow) -> Flow:
        if isinstance(layer, Dropout):
            return self._masked(f"mask_{number}", flow)
        if isinstance(layer, Linear):
            return self._each(flow, self._linear(number, layer))
        if spec := recurrent(layer):
            assert isinstance(flow, tuple)
            return self._recurrent(number, layer, spec, flow)
        return flow

    def _each(self, flow: Flow, equations: Callable[[Value], Value]) -> Flow:
        if isinstance(flow, tuple):
            return tuple(equations(Value(self.graph, node)).node for node in flow)
        return equations(Value(self.graph, flow)).node

    def _ended(self, flow: Flow) -> Flow:
        """Zeros in rows past their end: a NaN in the padding must not reach anything, not even as 0 * NaN."""
        if self.valid is None or not isinstance(flow, tuple):
            return flow
        zero = self.graph.const(0.0)
        return tuple(self.graph.add("select", (v, node, zero)) for v, node in zip(self.valid, flow, strict=True))

    def _mask(self, name: str, step: int | None) -> Value | None:
        mask = self.masks.get(name)
        return Value(self.graph, self.graph.input(name, (BATCH, mask.width), step)) if mask else None

    def _masked(self, name: str, flow: Flow) -> Flow:
        def drop(x: Value) -> Value:
            mask = self._mask(name, x.node.step)
            return x if mask is None else x * mask

        return self._each(flow, drop)

    def _linear(self, number: int, layer: Linear) -> Callable[[Value], Value]:
        shapes = layer.parameter_shapes().items()
        given = {
            name: Value(self.graph, self.graph.input(names.in_layer(number, name), shape)) for name, shape in shapes
        }
        return lambda x: linear(x, given["weight"], given.get("bias"))

    # ---- recurrent layers

    def _recurrent(self, number: int, layer: Layer | Spec, spec: Spec, flow: tuple[Node, ...]) -> Flow:
        layers = spec.stack().layers
        columns: list[list[Node]] = []
        for k, directions in enumerate(layers):
            if k:
                flow = self._masked(f"mask_{number}_l{k}", flow)  # type: ignore[assignment]
            columns = [
                lower_direction(
                    self.graph, self._numbered(number, layer, d), list(flow), self.valid, Site(self.depth, i)
                )
                for i, d in enumerate(directions)
            ]
            self.graph.site = Site(self.depth)
            self.depth += 1
            flow = tuple(self.graph.concat(column, -1) for column in zip(*columns, strict=True))
        if number != self.model.last_recurrent or self.model.readout == "every":
            return flow
        return self._mean(flow) if self.model.readout == "mean" else self._last(number, layers[-1], columns)

    def _numbered(self, number: int, layer: Layer | Spec, direction: Direction) -> Direction:
        """The direction with the layer's number before all names; its equations get them without."""

        def numbered(values: Mapping[str, Any]) -> dict[str, Any]:
            return {names.in_layer(number, name): value for name, value in values.items()}

        def plain(given: SimpleNamespace, declared: Iterable[str]) -> dict[str, object]:
            values = values_of(given)
            return {name: values[names.in_layer(number, name)] for name in declared}

        def step(x: Value, state: SimpleNamespace, p: SimpleNamespace) -> tuple[Value, dict[str, Value]]:
            given = Names("parameter", plain(p, direction.parameters) | dict.fromkeys(direction.optional))
            output, new = self._step(number, layer, direction, x, plain(state, direction.states), given)
            return output, numbered(new)

        step.__wrapped__ = direction.step  # type: ignore[attr-defined]  # where the equations are written
        return replace(
            direction,
            parameters=numbered(direction.parameters),
            states=numbered(direction.states),
            optional=(),
            step=step,
        )

    def _step(
        self,
        number: int,
        layer: Layer | Spec,
        direction: Direction,
        x: Value,
        states: Mapping[str, object],
        parameters: Names,
    ) -> tuple[Value, States]:
        """One step of the cell, with the noise of a `Regularized` around it."""
        old = {name: value for name, value in states.items() if isinstance(value, Value)}
        step, place = x.node.step, {name: f"{number}_{name}{direction.suffix}" for name in old}
        dropped = {n: m for n in old if (m := self._mask(f"recurrent_mask_{place[n]}", step)) is not None}

        def checked(x: Value, state: SimpleNamespace, p: SimpleNamespace) -> tuple[Value, States]:
            return check_returned(direction, direction.step(x, state, p))

        output, new = _with_masked_products(self.graph, checked, x, old, parameters, dropped)
        kept = _noise(layer).zoneout
        if kept:
            zoned: dict[str, Value] = {}
            for name, value in new.items():
                mask = self._mask(f"zoneout_{place[name]}", step)
                if mask is None:
                    zoned[name] = value + kept * (old[name] - value)
                else:
                    zoned[name] = select(greater(mask, 0.5), old[name], value)
            same = [name for name, value in new.items() if value.node is output.node]
            output, new = (zoned[same[0]] if same else output), zoned
        for name, value in new.items():
            if value.node is output.node:
                self.outputs.setdefault(f"{number}{direction.suffix}", name)
        return output, new

    # ---- readouts

    def _last(self, number: int, directions: Sequence[Direction], columns: list[list[Node]]) -> Node:
        """The last output of each row in each direction: that of a state, where the output is one."""
        parts = []
        for direction, column in zip(directions, columns, strict=True):
            state = self.outputs.get(f"{number}{direction.suffix}")
            if state is not None:
                last = self.graph.outputs[names.final(names.in_layer(number, state), direction.suffix)]
                assert isinstance(last, Node)
            else:
                last = self._kept(f"last{direction.suffix}", column, -1 if direction.reverse else 1, lambda old, y: y)
            parts.append(last)
        return self.graph.concat(parts, -1)

    def _mean(self, flow: tuple[Node, ...]) -> Node:
        """The sum over each row's steps, carried along, times one over their number."""
        total = self._kept("sum", list(flow), 1, lambda old, y: self.graph.add("add", (old, y)))
        return self.graph.add("mul", (total, self.graph.input(names.SCALE, (BATCH, 1))))

    def _kept(self, state: str, column: list[Node], delta: int, update: Callable[[Node, Node], Node]) -> Node:
        """The last value of a state that starts at zeros, changes by `update`, and stays once a row has ended."""
        value = self.graph.zeros(column[0].shape)
        for t in range(len(column))[::delta]:
            old = self.graph.carry(value, state, delta, t)
            value = update(old, column[t])
            if self.valid is not None:
                value = self.graph.add("select", (self.valid[t], value, old))
        return self.graph.exit(value, state, delta)


def _noise(layer: Layer | Spec) -> Regularized:
    if isinstance(layer, Regularized):
        return layer
    assert isinstance(layer, Spec)
    return Regularized(layer)


def _timed(model: Sequential, number: int) -> bool:
    return model.readout == "every" or number < model.last_recurrent


def _with_masked_products(
    graph: Graph, equations: Step, x: Value, states: States, parameters: Names, dropped: States
) -> tuple[Value, States]:
    """Runs a cell's equations; where a state in `dropped` goes into a matrix product, it is masked.

    What is on the way from the state to a product is computed of the masked state, all else of the state itself:

        %1 = mul(%r, %h);  %2 = matmul(%1, %u);  %3 = mul(%z, %h)
    ->
        %4 = mul(%h, %mask);  %5 = mul(%r, %4);  %2 = matmul(%5, %u);  %3 = mul(%z, %h)
    """
    if not dropped:
        output, new = equations(x, Names("state", states), parameters)
        return output, new
    scratch = Graph(graph.dtype, graph.steps, share=False)
    start: dict[Node, Node] = {}

    def outside(value: Value) -> Value:
        """A leaf of the scratch graph that stands for a value of the real one."""
        node = value.node
        leaf = scratch.input(f"%{node.index}", node.shape, node.step, node.dtype)
        start[leaf] = node
        return Value(scratch, leaf)

    inside = {name: outside(value) for name, value in states.items()}
    given = {name: outside(v) if isinstance(v, Value) else v for name, v in values_of(parameters).items()}
    output, new = equations(outside(x), Names("state", inside), Names("parameter", given))
    plain = dict(start)
    masked = plain | {inside[name].node: (states[name] * mask).node for name, mask in dropped.items()}
    for node in scratch.nodes:
        if node not in plain and not node.inputs:
            plain[node] = masked[node] = graph.copy_node(node, [])
        elif node.inputs:
            noisy = [masked[i] for i in node.inputs]
            exact = noisy if node.op == "matmul" else [plain[i] for i in node.inputs]
            plain[node] = graph.copy_node(node, exact)
            masked[node] = plain[node] if noisy == exact else graph.copy_node(node, noisy)
    return Value(graph, plain[output.node]), {name: Value(graph, plain[value.node]) for name, value in new.items()}
