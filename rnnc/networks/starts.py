"""What the states of recurrent layers start at, where that is not zeros."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from rnnc.checking.networks import BEGUN
from rnnc.ir import names
from rnnc.ir.graph import Graph, Node
from rnnc.ir.shape_rules import BATCH
from rnnc.layers import recurrent, starts_of
from rnnc.networks.lines import FrameStates
from rnnc.networks.names import moments

if TYPE_CHECKING:
    from rnnc.graph import Graph as Network

Starts = dict[str, dict[str, Node]]
"""For each direction of a layer, by its suffix: the nodes that its states start at, by the states' full names."""


def starts(network: Network, frames: FrameStates, name: str, value: Callable[[str], Node]) -> Starts:
    """Those of a recurrent layer. value: gives a value of the network that is one per sequence."""
    found = _given(network, frames.graph, name, value)
    return _at_first(network, frames, name, found) if network.starts_early(name) else found


def _given(network: Network, graph: Graph, name: str, value: Callable[[str], Node]) -> Starts:
    """Slices of values of the network, or parameters."""
    entry, found = network.entries[name], Starts()
    spec = recurrent(entry.layer)
    assert spec is not None
    for direction in spec.stack().flat:
        for state, base in starts_of(entry.layer, direction).items():
            parameter = graph.input(entry.parameter(base), (direction.states[state],))
            found.setdefault(direction.suffix, {})[names.in_layer(name, state)] = parameter
    for state, source in entry.states:
        whole, at = value(source), 0
        for direction in spec.stack().flat:
            stop = at + direction.states[state]
            found.setdefault(direction.suffix, {})[names.in_layer(name, state)] = graph.slice(whole, -1, at, stop)
            at = stop
    return found


def _at_first(network: Network, frames: FrameStates, name: str, given: Starts) -> Starts:
    """Starts that hold where sequences begin; elsewhere a state goes on from the piece before.

    A state of its own, which is 0 at the beginning and 1 ever after, tells the two apart.
    """
    graph, found = frames.graph, Starts()
    spec = recurrent(network.entries[name].layer)
    assert spec is not None
    goes_on = graph.add("greater", (frames.initial(name, BEGUN, 1), graph.const(0.5)))
    graph.outputs[moments(name, BEGUN, "", 1)[1]] = graph.spread(graph.const(1.0), (BATCH, 1))
    for direction in spec.stack().flat:
        for state, width in direction.states.items():
            full = names.in_layer(name, state)
            if (start := given.get(direction.suffix, {}).get(full)) is not None:
                old = graph.input(names.initial(full, direction.suffix), (BATCH, width))
                start = graph.add("select", (goes_on, old, graph.spread(start, (BATCH, width))))
                found.setdefault(direction.suffix, {})[full] = start
    return found
