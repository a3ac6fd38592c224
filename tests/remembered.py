"""Optimised graphs, remembered: the tests compile many graphs several times, for other backends and in other tests.

The passes are functions of a graph, and nodes are immutable: an equal graph has the same result. Graphs are compared
node by node, sites included. The verifier still checks each result.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable

from rnnc.ir.graph import Graph, Node
from rnnc.ir.passes import PassRecord

Optimize = Callable[[Graph], tuple[Graph, list[PassRecord]]]
KEPT = 200
"""Results that are kept. Most have 100 to 2,000 nodes, of about 1 KB each."""


def remembering(optimize: Optimize) -> Optimize:
    """The function, which is called only for graphs whose result is not among the last `KEPT`."""
    known: OrderedDict[Hashable, tuple[Graph, list[PassRecord]]] = OrderedDict()

    def remembered(graph: Graph) -> tuple[Graph, list[PassRecord]]:
        key = _identity(graph)
        if key not in known:
            known[key] = optimize(graph)
        known.move_to_end(key)
        if len(known) > KEPT:
            known.popitem(last=False)
        made, records = known[key]
        return made, list(records)

    return remembered


def _identity(graph: Graph) -> Hashable:
    """All that a graph holds, as a key."""
    outputs = tuple(
        (name, tuple(n.index for n in output) if isinstance(output, tuple) else output.index)
        for name, output in graph.outputs.items()
    )
    return graph.dtype, graph.steps, graph.share, tuple(map(_plain, graph.nodes)), outputs


def _plain(node: Node) -> Hashable:
    """All that a node holds. Numbers are spelt out: 0.0 is not -0.0, nor is 1 True."""
    attrs = tuple((name, repr(value)) for name, value in node.attrs)
    return node.op, tuple(i.index for i in node.inputs), attrs, node.shape, node.dtype, node.step, node.site
