"""What the tests remember of the compiler: equal graphs are optimised once, and others are not taken for equal."""

from __future__ import annotations

import pytest

from rnnc.ir.graph import Graph, Site
from rnnc.ir.passes import optimize
from tests.remembered import KEPT, remembering


def graph_of(number: float = 1.0, name: str = "x", site: Site | None = None) -> Graph:
    graph = Graph("float32", 1, site=site)
    x = graph.input(name, ("B", 2), 0)
    graph.outputs["y"] = (graph.add("mul", (graph.add("tanh", (x,)), graph.const(number))),)
    return graph


@pytest.mark.parametrize("other", (graph_of(-0.0), graph_of(name="z"), graph_of(0.0, site=Site(1))), ids=repr)
def test_another_graph_is_another(other: Graph) -> None:
    seen: list[Graph] = []
    run = remembering(lambda graph: (seen.append(graph), optimize(graph))[1])
    for graph in (graph_of(0.0), other, graph_of(0.0), other):
        assert run(graph)[0] == optimize(graph)[0]
    assert len(seen) == 2


def test_it_forgets_the_oldest() -> None:
    seen: list[Graph] = []
    run = remembering(lambda graph: (seen.append(graph), optimize(graph))[1])
    for number in (*range(KEPT + 1), KEPT, 0):
        run(graph_of(float(number)))
    assert len(seen) == KEPT + 2
