"""Plain calls of specs and networks, as a backend's quick call takes them (`rnnc.backends.call_forms.PlainCall`)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from rnnc.array_names import ArrayNames, Slabs, state_names
from rnnc.backends.call_forms import BATCH, STEPS, CallArray, CallGroup, PlainCall
from rnnc.ir import names

if TYPE_CHECKING:
    from rnnc.backends.arrays import Array
    from rnnc.backends.tables import NarrowTable
    from rnnc.graph import Graph
    from rnnc.specs import Spec

__all__ = ["plain_call", "plain_network_call", "plain_network_vjp", "plain_piece", "plain_vjp"]

NOTHING = CallGroup("none", optional=True)

States = Mapping[str, tuple[str, str, int]]
"""For each state: its initial name, its final name, its width (`rnnc.networks.names.state_shapes`)."""


def plain_call(spec: Spec) -> PlainCall:
    """The call of a spec's model, (x, state) -> (output, state)."""
    called = ArrayNames.of(spec)
    x = _timed(names.X, spec.input_size, spec.batch_first)
    output = _timed(names.OUTPUT, spec.output_size, spec.batch_first)
    return PlainCall(
        (CallGroup("bare", (x,)), _states(spec, called.initial, optional=True)),
        (CallGroup("bare", (output,)), _states(spec, called.final)),
        unbatched=True,
        lengths=True,
    )


def plain_piece(spec: Spec) -> PlainCall:
    """The call of a piece of a stream, (x, state) -> (output, state), where a state is a dict of its slabs."""
    call, called, keys = plain_call(spec), ArrayNames.of(spec), state_names(spec)

    def named(slabs: Slabs) -> tuple[CallArray, ...]:
        each = zip(spec.states.values(), slabs, keys, strict=True)
        return tuple(
            CallArray((BATCH, width), (name,), key)
            for width, names_, keys_ in each
            for name, key in zip(names_, keys_, strict=True)
        )

    initial = CallGroup("dict", named(called.initial), optional=True)
    results = (call.results[0], CallGroup("dict", named(called.final)))
    return PlainCall((call.arguments[0], initial), results, lengths=True)


def plain_network_call(
    graph: Graph, states: States, tables: Mapping[str, Array | NarrowTable], *, stateful: bool
) -> PlainCall:
    """The call of a network, (x, state) -> (output, state) if it is stateful, otherwise (x, None) -> output.

    tables: the arrays of the embeddings, by the name of the rows that are looked up. Outputs of one kind are columns of
    one array (`rnnc.Graph.columns`). The arrays are in frames (`rnnc.networks.timing`): the steps of one side by side.
    """
    x, outputs = _group([_input(graph, name, tables) for name in graph.inputs]), _group(_outputs(graph))
    if not stateful:
        return PlainCall((x, NOTHING), (outputs,))
    initial, final = _network_states(states)
    return PlainCall((x, CallGroup("dict", initial, optional=True)), (outputs, CallGroup("dict", final)))


Shapes = Mapping[str, tuple[int, ...]]


def plain_vjp(spec: Spec, shapes: Shapes, wrt: Collection[str]) -> tuple[PlainCall, PlainCall]:
    """The calls of a spec's vjp and of its pullback: (params, x, state) -> (output, state); (d_output, d_state) ->
    (d_params, d_x, d_state). shapes: those of the parameters. wrt: the arguments that have gradients.
    """
    call, called = plain_call(spec), ArrayNames.of(spec)
    return _halves(call, shapes, _states(spec, called.initial), _states(spec, called.final, optional=True), wrt)


def plain_network_vjp(
    graph: Graph, states: States, shapes: Shapes, wrt: Collection[str]
) -> tuple[PlainCall, PlainCall] | None:
    """Those of a network, as `plain_vjp`; None if it has tables."""
    if graph.tables:
        return None
    x, outputs = _group([_input(graph, name, {}) for name in graph.inputs]), _group(_outputs(graph, joined=False))
    initial, final = _network_states(states)
    call = PlainCall((x, CallGroup("dict", initial, optional=True)), (outputs, CallGroup("dict", final)))
    return _halves(call, shapes, CallGroup("dict", initial), CallGroup("dict", final, optional=True), wrt)


def _halves(
    call: PlainCall, shapes: Shapes, initial: CallGroup, final: CallGroup, wrt: Collection[str]
) -> tuple[PlainCall, PlainCall]:
    """The two calls of a vjp. call: that of the forward pass, without parameters. Each adjoint is as what it is of."""
    params = CallGroup("dict", tuple(CallArray(shape, (name,), name) for name, shape in shapes.items()))
    first = call._replace(arguments=(params, *call.arguments))
    arguments = {"params": params, "x": call.arguments[0], "state": initial}
    gradients = tuple(_adjoint(group) if name in wrt else NOTHING for name, group in arguments.items())
    return first, PlainCall((_adjoint(call.results[0]), _adjoint(final)), gradients, unbatched=call.unbatched)


def _adjoint(group: CallGroup) -> CallGroup:
    arrays = (array._replace(names=tuple(map(names.gradient, array.names))) for array in group.arrays)
    return group._replace(arrays=tuple(arrays))


def _network_states(states: States) -> tuple[tuple[CallArray, ...], tuple[CallArray, ...]]:
    """The arrays of initial and of final states."""
    initial, final = (
        tuple(CallArray((BATCH, state[2]), (str(state[moment]),), key) for key, state in states.items())
        for moment in (0, 1)
    )
    return initial, final


def _states(spec: Spec, slabs: Slabs, *, optional: bool = False) -> CallGroup:
    """The states of a spec: one array (layers * directions, B, width) for each state of the cell."""
    widths = spec.states.values()
    arrays = tuple(CallArray((len(each), BATCH, width), each) for each, width in zip(slabs, widths, strict=True))
    return CallGroup("bare" if len(arrays) == 1 else "tuple", arrays, optional)


def _input(graph: Graph, name: str, tables: Mapping[str, Array | NarrowTable]) -> CallArray:
    """An input of vectors, or of integers that embeddings read."""
    if name in graph.static:
        return CallArray((BATCH, graph.inputs[name]), (graph.x_names[name],), name)
    if graph.inputs[name]:
        return _timed(graph.x_names[name], graph.inputs[name] * graph.frame, graph.batch_first, name)
    read = tuple((rows, tables[rows]) for source, rows in graph.tables.values() if source == name)
    return CallArray(_lead(graph.batch_first), key=name, tables=read)


def _outputs(graph: Graph, *, joined: bool = True) -> list[CallArray]:
    """joined: those of one kind are columns of one array."""
    widths = {name: graph.kinds[source].width for name, source in graph.outputs.items()}
    if graph.columns is None or not joined:
        return [
            _output(graph, graph.output_names[name], width, graph.outputs[name], name) for name, width in widths.items()
        ]
    first = next(iter(graph.outputs.values()))
    return [_output(graph, names.OUTPUT, sum(widths.values()), first)]


def _output(graph: Graph, name: str, width: int, source: str, key: str = "") -> CallArray:
    if not graph.kinds[source].timed:
        return CallArray((BATCH, width), (name,), key)
    return _timed(name, width * graph.timing(False).positions(source), graph.batch_first, key)


def _group(arrays: list[CallArray]) -> CallGroup:
    """A single array, or several in a dict."""
    return CallGroup("bare" if len(arrays) == 1 else "dict", tuple(arrays))


def _timed(name: str, width: int, batch_first: bool, key: str = "") -> CallArray:
    return CallArray((*_lead(batch_first), width), (name,), key)


def _lead(batch_first: bool) -> tuple[str, str]:
    return (BATCH, STEPS) if batch_first else (STEPS, BATCH)
