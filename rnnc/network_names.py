"""What the arrays of a network's calls are called in its graphs: states, inputs and outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rnnc.checking.networks import Entry
from rnnc.ir import names
from rnnc.layers import Layer, recurrent
from rnnc.layers.readouts import Last
from rnnc.network_noise import Layered


def state_shapes(model: Layered) -> dict[str, tuple[str, str, int]]:
    """For each state that goes on to the next piece of a sequence: its initial name, its final name, its width."""
    graph = model.graph()
    found: dict[str, tuple[str, str, int]] = {}
    for name, entry in graph.entries.items():
        if spec := recurrent(entry.layer):
            if not entry.states:
                widths = [(s, d.suffix, width) for d in spec.stack().flat for s, width in d.states.items()]
                found |= {f"{name}.{s}{suffix}": moments(name, s, suffix, width) for s, suffix, width in widths}
            continue
        assert isinstance(entry.layer, Layer)
        own = _window_state(entry.layer, graph.widths(name)) | _own_states(graph.entries, entry, graph.widths(name))
        found |= {f"{name}.{state}": moments(name, state, "", width) for state, width in own.items()}
    return found


class NetworkNames(NamedTuple):
    """What the arrays of a network's calls are called in its graphs."""

    inputs: tuple[str, ...]
    results: tuple[str, ...]

    @property
    def gradients(self) -> tuple[str, ...]:
        """Those of the inputs."""
        return tuple(map(names.gradient, self.inputs))

    @property
    def adjoints(self) -> tuple[str, ...]:
        """Those of outputs and final states."""
        return tuple(map(names.gradient, self.results))


def network_names(model: Layered) -> NetworkNames:
    """Those of a network. A table is none of the inputs: its rows are."""
    graph, states = model.graph(), state_shapes(model).values()
    tables = {names.in_layer(graph.entries[name].shares, "weight") for name in graph.tables}
    xs = [graph.x_names[name] for name, width in graph.inputs.items() if width]
    rows = [rows for _, rows in graph.tables.values()]
    inputs = [name for name in graph.parameter_shapes() if name not in tables]
    inputs += [*xs, *rows, *(initial for initial, _, _ in states)]
    return NetworkNames(tuple(inputs), (*graph.output_names.values(), *(final for _, final, _ in states)))


def moments(name: str, state: str, suffix: str, width: int) -> tuple[str, str, int]:
    full = names.in_layer(name, state)
    return names.initial(full, suffix), names.final(full, suffix), width


def _window_state(layer: Layer, widths: Sequence[int]) -> dict[str, int]:
    """The steps before the next one that a layer will read, side by side: state `PAST`."""
    before = layer.window[0]
    return {PAST: before * widths[0]} if before else {}


def _own_states(entries: Mapping[str, Entry], entry: Entry, widths: Sequence[int]) -> dict[str, int]:
    """The states of a layer's equations; `Last` right behind a recurrent layer reads that layer's states instead."""
    assert isinstance(entry.layer, Layer)
    return {} if reads_directions(entries, entry) else entry.layer.states(*widths)


def reads_directions(entries: Mapping[str, Entry], entry: Entry) -> bool:
    source = entries.get(entry.inputs[0])
    return isinstance(entry.layer, Last) and source is not None and recurrent(source.layer) is not None


PAST = "past"
"""The state of a layer that reads steps before its own."""
