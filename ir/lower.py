"""Lowering: a stack of recurrent layers, given as equations and plain data -> Graph of unrolled steps.

Each layer runs its cell's equations once a step and direction. Both directions number their steps in
absolute time; the reverse direction merely visits them from last to first. A bidirectional layer ends in
one concat node a step, which the next layer reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace

from rnnc.ir import names
from rnnc.ir.equations import Value
from rnnc.ir.errors import IRError, MissingNameError
from rnnc.ir.graph import Graph, Node, Site
from rnnc.ir.locating import located
from rnnc.ir.shape_rules import BATCH, Shape
from rnnc.ir.stacks import Direction, Stack, Step

_WHAT = "what these are"
"""No identifier, so that a value may have any name."""


class Names(SimpleNamespace):
    """Values by name, as attributes. A wrong name is a MissingNameError that lists the right ones."""

    def __init__(self, what: str, values: Mapping[str, object]) -> None:
        super().__init__(**values, **{_WHAT: what})

    def __getattr__(self, name: str) -> Value:
        known = ", ".join(values_of(self))
        raise MissingNameError(f"the cell reads the {vars(self).get(_WHAT)} {name!r}; it declared {known or 'none'}")


def values_of(given: SimpleNamespace) -> dict[str, object]:
    """The values of a `Names`, by name."""
    return {name: value for name, value in vars(given).items() if name != _WHAT}


def lower(stack: Stack, steps: int, *, lengths: bool = False) -> Graph:
    """Unrolls `steps` time steps.

    Inputs: "x" a step, each parameter by its full name, initial states "h.0_l0", ... and, with
    `lengths`, the mask "valid" (B, 1) a step. Outputs: "output", one value a step, and final states
    "h.n_l0", ... (`rnnc.ir.names`). Nothing is optimised: the dump shows the equations as they were written.
    """
    graph = Graph(stack.dtype, steps, share=False)
    xs = [graph.input(names.X, (BATCH, stack.input_size), t) for t in range(steps)]
    valid = [graph.input(names.VALID, (BATCH, 1), t, dtype="bool") for t in range(steps)] if lengths else None
    if valid:  # a NaN in the padding must not reach anything, not even as 0 * NaN
        xs = [graph.add("select", (v, x, graph.const(0.0))) for v, x in zip(valid, xs, strict=True)]
    for number, directions in enumerate(stack.layers):
        columns = [lower_direction(graph, layer, xs, valid, Site(number, d)) for d, layer in enumerate(directions)]
        graph.site = Site(number)
        xs = [graph.concat(column, -1) for column in zip(*columns, strict=True)]
    graph.outputs[names.OUTPUT] = tuple(xs)
    return graph


def lower_direction(
    graph: Graph,
    layer: Direction,
    xs: list[Node],
    valid: list[Node] | None,
    site: Site,
    starts: Mapping[str, Node] | None = None,
    during: Sequence[Node] | None = None,
) -> list[Node]:
    """Lowers one direction of one layer over all steps, and returns its output at each step, in absolute time.

    xs: the input at each step, or at several positions of each step, which the layer visits one after the other.
    starts: initial values of states, by name. The initial values of other states are inputs.
    during: for each position, whether it is one of the row's own; the states pass over the others.
    """
    graph.site = site
    delta, rate = (-1 if layer.reverse else 1), len(xs) // graph.steps
    parameters = _parameters(graph, layer)
    states = dict(starts or {})
    for k, width in layer.states.items():
        if k not in states:
            states[k] = graph.input(names.initial(k, layer.suffix), (BATCH, width))
    outputs: dict[int, Node] = {}
    for t in range(graph.steps)[::delta]:
        states = carried = {k: graph.carry(n, k + layer.suffix, delta, t) for k, n in states.items()}
        for u in range(t * rate, (t + 1) * rate)[::delta]:
            old = states
            outputs[u], states = _step(graph, layer, xs[u], old, parameters)
            if during:
                states = {k: graph.add("select", (during[u], n, old[k])) for k, n in states.items()}
                outputs[u] = graph.add("select", (during[u], outputs[u], graph.const(0.0)))
        if valid:
            states = {k: graph.add("select", (valid[t], n, carried[k])) for k, n in states.items()}
            for u in range(t * rate, (t + 1) * rate):
                outputs[u] = graph.add("select", (valid[t], outputs[u], graph.const(0.0)))
    for k, n in states.items():
        graph.outputs[names.final(k, layer.suffix)] = graph.exit(n, k + layer.suffix, delta)
    return [outputs[u] for u in range(len(xs))]


def _parameters(graph: Graph, layer: Direction) -> Names:
    named: dict[str, Value | None] = dict.fromkeys(layer.optional)
    for base, shape in layer.parameters.items():
        named[base] = Value(graph, graph.input(layer.tied.get(base, base + layer.suffix), shape))
    return Names("parameter", named)


def _step(
    graph: Graph, layer: Direction, x: Node, carried: Mapping[str, Node], parameters: Names
) -> tuple[Node, dict[str, Node]]:
    """Runs the equations once and checks what they return."""
    symbols = Names("state", {k: Value(graph, n) for k, n in carried.items()})
    with located(layer.step):
        output, states = check_returned(layer, layer.step(Value(graph, x), symbols, parameters))
    return output.node, {k: value.node for k, value in states.items()}


def check_returned(layer: Direction, returned: object) -> tuple[Value, dict[str, Value]]:
    """What the equations of a layer return, output and states, if it is what the layer declares. Raises IRError."""
    if not isinstance(returned, tuple) or len(returned) != 2 or not isinstance(returned[1], Mapping):
        raise IRError(f"the cell must return (output, {{state name: new state}}), it returned {returned!r}")
    output, new = returned
    if set(new) != set(layer.states):
        raise IRError(f"the cell returned the states {sorted(new)}, it declared {sorted(layer.states)}")
    states = {k: _expect(f"state {k!r}", new[k], (BATCH, width)) for k, width in layer.states.items()}
    return _expect("output", output, (BATCH, layer.output_size)), states


def with_axes(step: Step, axes: Mapping[str, tuple[int, ...]]) -> Step:
    """The step, wrapped so that some of its states have several axes of units, while its caller sees columns.

    axes: state name -> the sizes of its axes.
    """

    def flat(x: Value, state: SimpleNamespace, p: SimpleNamespace) -> tuple[Value, Mapping[str, Value]]:
        old = values_of(state)
        shaped = {name: old[name].replaced(old[name].node, sizes) for name, sizes in axes.items()}  # type: ignore[attr-defined]
        returned = step(x, Names("state", old | shaped), p)
        if not isinstance(returned, tuple) or len(returned) != 2 or not isinstance(returned[1], Mapping):
            return returned
        output, new = returned
        return output, {name: _flat(name, value, axes.get(name)) for name, value in new.items()}

    flat.__wrapped__ = step  # type: ignore[attr-defined]  # where the equations are written
    return flat


def _flat(name: str, value: Value, axes: tuple[int, ...] | None) -> Value:
    if axes is None or not isinstance(value, Value):
        return value
    if value.shape != (BATCH, *axes):
        raise IRError(f"the cell returned its state {name!r} with shape {value.shape}, it declared {(BATCH, *axes)}")
    return value.as_numbers().replaced(value.as_numbers().node, ())


def _expect(what: str, value: object, shape: Shape) -> Value:
    if not isinstance(value, Value):
        raise IRError(f"the cell returned its {what} as {value!r}, expected a symbolic value of shape {shape}")
    numbers = value.as_numbers()
    if numbers.shape != shape:
        raise IRError(f"the cell returned its {what} with shape {numbers.shape}, it declared {shape}")
    if numbers.node.step is None:
        raise IRError(f"the cell's {what} reads neither the input nor a state")
    return numbers
