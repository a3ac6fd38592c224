"""What the arrays of a network's calls are called in its graphs: states, inputs and outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from rnnc.checking.networks import BEGUN, Entry
from rnnc.ir import names
from rnnc.ir.graph import Graph as IRGraph
from rnnc.ir.graph import Node, Site
from rnnc.ir.lower import lower_direction
from rnnc.ir.shape_rules import BATCH
from rnnc.ir.stacks import Direction
from rnnc.layered import Layered
from rnnc.layers import Layer, recurrent
from rnnc.layers.readouts import Last
from rnnc.networks.timing import LATE_OUTPUT
from rnnc.specs import Spec

if TYPE_CHECKING:
    from rnnc.graph import Graph


def state_shapes(model: Layered, *, streamed: bool = False) -> dict[str, tuple[str, str, int]]:
    """For each state that goes on to the next piece of a sequence: its initial name, its final name, its width.

    streamed: of the network that waits for later steps instead of reading them (`rnnc.networks.timing`).
    """
    graph = model.graph()
    timing = graph.timing(streamed)
    found: dict[str, tuple[str, str, int]] = {}
    for name, entry in graph.entries.items():
        early = graph.starts_early(name)
        if (spec := recurrent(entry.layer)) and (early or not entry.states):
            widths = [(s, d.suffix, width) for d in spec.stack().flat for s, width in d.states.items()]
            found |= {f"{name}.{s}{suffix}": moments(name, s, suffix, width) for s, suffix, width in widths}
        if early:
            found[f"{name}.{BEGUN}"] = moments(name, BEGUN, "", 1)
        own = {register.state: register.width * register.places for register in timing.registers(name)}
        own |= _own_states(graph, entry, graph.widths(name))
        found |= {f"{name}.{state}": moments(name, state, "", width) for state, width in own.items()}
    for source in dict.fromkeys(graph.outputs.values()):
        if wait := timing.late(source):
            width = wait * graph.kinds[source].width
            found[f"{source}.{LATE_OUTPUT}"] = moments(source, LATE_OUTPUT, "", width)
    return found


def layer_names(graph: Graph) -> tuple[str, ...]:
    """What the layers of a network's sites (`rnnc.ir.graph.Site`) are called: l0 is the first of these, and so on.

    Each layer of a recurrent one has a site: "rnn.0", "rnn.1", or "rnn" if it is the only one.
    """
    found: list[str] = []
    for name, entry in graph.entries.items():
        count = spec.num_layers if (spec := recurrent(entry.layer)) else 1
        found += [f"{name}.{k}" for k in range(count)] if count > 1 else [name]
    return tuple(found)


class NetworkNames(NamedTuple):
    """What the arrays of a network's calls are called in its graphs."""

    groups: dict[str, tuple[str, ...]]
    results: tuple[str, ...]

    @property
    def adjoints(self) -> tuple[str, ...]:
        """Those of outputs and final states."""
        return tuple(map(names.gradient, self.results))


def network_names(model: Layered) -> NetworkNames:
    """Those of a network. A table is none of the inputs, unless a layer reads it whole: its rows are."""
    graph, states = model.graph(), state_shapes(model).values()
    whole = [name for name in graph.parameter_shapes() if name in graph.read_whole]
    groups = {
        "params": (*whole, *(rows for _, rows in graph.tables.values())),
        "x": tuple(graph.x_names[name] for name, width in graph.inputs.items() if width),
        "state": tuple(initial for initial, _, _ in states),
    }
    return NetworkNames(groups, (*graph.output_names.values(), *(final for _, final, _ in states)))


def moments(name: str, state: str, suffix: str, width: int) -> tuple[str, str, int]:
    """The initial name and the final name of a layer's state, and its width."""
    full = names.in_layer(name, state)
    return names.initial(full, suffix), names.final(full, suffix), width


def _own_states(graph: Graph, entry: Entry, widths: Sequence[int]) -> dict[str, int]:
    """The states of a layer's equations. A layer that `reads_directions` has none."""
    if not isinstance(entry.layer, Layer) or reads_directions(graph, entry):
        return {}
    return entry.layer.states(*widths)


def reads_directions(graph: Graph, entry: Entry) -> bool:
    """Whether a layer is a `Last` that reads a recurrent layer's directions, each at its own last step.

    Not where the layer runs forward and an output is no state: `Last` then keeps it, from piece to piece.
    """
    source = graph.entries.get(entry.inputs[0])
    spec = recurrent(source.layer) if source else None
    if not isinstance(entry.layer, Last) or spec is None:
        return False
    return spec.reads_ahead or all(output_state(spec, direction) for direction in spec.stack().layers[-1])


def output_state(spec: Spec, direction: Direction) -> str | None:
    """The state that is the output of a direction of the top layer, if one is: one step of its equations tells."""
    graph = IRGraph(str(spec.dtype), 1, share=False)
    width = spec.input_size if spec.num_layers == 1 else spec.output_size
    x = graph.input(names.X, (BATCH, width), 0)
    (output,) = lower_direction(graph, direction, [x], None, Site(0))
    for state in direction.states:
        end = graph.outputs[names.final(state, direction.suffix)]
        assert isinstance(end, Node)
        if end.inputs[0] is output:
            return state
    return None
