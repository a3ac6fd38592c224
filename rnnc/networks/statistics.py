"""Statistics of training: mean and variance over all rows and steps of a batch, and what is made of them.

    mean = sum(x) / n        variance = sum((x - c)^2) / n - (mean - c)^2,  where c is the mean, held constant

The second is the variance for any c, so its derivatives of every order are right; and with c at the mean it is exact
where x lies far from zero. The adjoint of the variance then is a sum over rows that waits for no other such sum.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from rnnc.checking.networks import Entry
from rnnc.ir import names
from rnnc.ir.equations import Value, maximum, stop_gradient
from rnnc.ir.graph import Graph, Node
from rnnc.ir.locating import located
from rnnc.ir.lower import Names, values_of
from rnnc.ir.shape_rules import BATCH
from rnnc.layered import Layered
from rnnc.layers import Layer
from rnnc.networks.flows import Flow

MOMENTS = ("mean", "variance", "count")
"""What a layer with statistics reads beside its parameters."""


def statistics(model: Layered, frozen: Collection[str] = ()) -> frozenset[str]:
    """The names of the parameters of a network that are statistics; without those of layers that have a frozen one."""
    entries = model.graph().entries.values()
    layers = [(entry, entry.layer) for entry in entries if isinstance(entry.layer, Layer)]
    found = [{entry.parameter(base) for base in layer.statistics} for entry, layer in layers]
    return frozenset[str]().union(*(named for named in found if named.isdisjoint(frozen)))


class Statistics:
    """The statistics of a network's layers, while it is lowered to a graph.

    renewed: the names of those that the graph renews, as outputs; layers use the others as in inference. zeroed: gives
    the values of a flow at all positions, with zeros where a row has no step of its own.
    """

    def __init__(self, graph: Graph, renewed: Collection[str], zeroed: Callable[[Flow], Sequence[Node]]) -> None:
        self.graph, self.renewed, self.zeroed = graph, frozenset(renewed), zeroed

    def of(self, entry: Entry, flow: Flow, parameters: Names) -> Names:
        """The parameters of a layer that reads a flow; with the moments of the flow if it has statistics."""
        layer = entry.layer
        if not isinstance(layer, Layer) or not layer.statistics:
            return parameters
        named = {base: entry.parameter(base) for base in layer.statistics}
        given: dict[str, object] = values_of(parameters)
        if not self.renewed.issuperset(named.values()):
            return Names("parameter", given | dict.fromkeys(MOMENTS))
        given |= self._moments(flow)
        with located(layer.renewed):
            new = layer.renewed(Names("parameter", given | self._known(named)))
        self.graph.outputs |= {names.renewed(named[base]): value.node for base, value in new.items()}
        return Names("parameter", given)

    def _known(self, named: Mapping[str, str]) -> dict[str, Value]:
        """The statistics that another layer, with the same parameters, has renewed before."""
        found = {base: self.graph.outputs.get(names.renewed(name)) for base, name in named.items()}
        return {base: Value(self.graph, node) for base, node in found.items() if isinstance(node, Node)}

    def _moments(self, flow: Flow) -> dict[str, Value]:
        """The mean and the variance of a flow, (N,), and the number of steps that they are over, (1,)."""
        graph = self.graph
        nodes = flow.listed if isinstance(flow.nodes, tuple) else (flow.nodes,)
        count = self._total(flow, [graph.spread(graph.const(1.0), (BATCH, 1), node.step) for node in nodes])
        share = 1.0 / maximum(count, 1.0)
        mean = self._total(flow, nodes) * share
        centre = stop_gradient(mean)
        centred = [Value(graph, node) - centre for node in nodes]
        squares = self._total(flow, [(x * x).node for x in centred])
        variance = squares * share - (mean - centre) * (mean - centre)
        return dict(zip(MOMENTS, (mean, variance, count), strict=True))

    def _total(self, flow: Flow, nodes: Sequence[Node]) -> Value:
        """The sum over all rows, and over all steps that they have, of values at the positions of a flow."""
        if not flow.timed:
            return Value(self.graph, self.graph.add("reduce_rows", tuple(nodes), keep=False))
        own, rate = self.zeroed(Flow(tuple(nodes), flow.spans)), len(nodes) // self.graph.steps
        frames = [self.graph.sum(own[u : u + rate]) for u in range(0, len(own), rate)]
        sums = [self.graph.add("reduce_rows", (frame,), keep=False) for frame in frames]
        return Value(self.graph, self.graph.tsum(sums))
