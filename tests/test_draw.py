"""Drawings hold every node, edge and output of the graph, once."""

from __future__ import annotations

import re

import networkx as nx
import pytest

from rnnc.ir.autodiff import vjp
from rnnc.ir.draw import _DOT_STYLES, _MERMAID_SHAPES, to_dot, to_mermaid, to_networkx
from rnnc.ir.graph import Graph
from rnnc.ir.lower import lower
from rnnc.ir.ops import Kind
from rnnc.ir.passes import PASSES
from rnnc.specs import GRU, LSTM


def graphs() -> list[Graph]:
    graph = lower(LSTM(3, 4, 2, bidirectional=True).stack(), 2, lengths=True)
    optimised = lower(GRU(3, 4).stack(), 3)
    for transform in PASSES:
        optimised = transform(optimised)
    odd = Graph("float64", 1)
    x = odd.input('a "quoted"\nname\\ #1', ("B", 2), 0)
    odd.outputs['o"'] = (odd.add("mul", (odd.add("reduce_sum", (x,)), x)),)
    gradient = vjp(lower(LSTM(3, 4).stack(), 2, lengths=True), ["x", "weight_hh_l0"], {"output": "d_output"})
    return [graph, optimised, odd, Graph("float32", 1), gradient]


def test_every_kind_of_op_has_a_form() -> None:
    assert set(_DOT_STYLES) == set(_MERMAID_SHAPES) == set(Kind)
    assert len({n.spec.kind for n in graphs()[-1].nodes}) == len(Kind) - 1, (
        "the gradient graph shows all but sums of rows"
    )


def edges(graph: Graph) -> list[tuple[int, int]]:
    return sorted((operand.index, node.index) for node in graph.nodes for operand in node.inputs)


@pytest.mark.parametrize("graph", graphs())
def test_dot(graph: Graph) -> None:
    text = to_dot(graph)
    assert sorted(map(int, re.findall(r"(?m)^ +n(\d+) \[label", text))) == list(range(len(graph.nodes)))
    assert sorted((int(a), int(b)) for a, b in re.findall(r"n(\d+) -> n(\d+)", text)) == edges(graph)
    assert len(re.findall(r"-> out\d+;", text)) == len(list(graph.roots()))
    assert text.count("{") == text.count("}")


@pytest.mark.parametrize("graph", graphs())
def test_mermaid(graph: Graph) -> None:
    text = to_mermaid(graph)
    assert text.startswith("flowchart TD\n")
    assert sorted(map(int, re.findall(r"(?m)^ +n(\d+)[(>\[]", text))) == list(range(len(graph.nodes)))
    arrows = re.findall(r'n(\d+) (?:-->|-\. "[^"]*" \.->) n(\d+)', text)
    assert sorted((int(a), int(b)) for a, b in arrows) == edges(graph)
    assert len(re.findall(r"--> out\d+", text)) == len(list(graph.roots()))
    assert len(re.findall(r"(?m)^ *subgraph", text)) == len(re.findall(r"(?m)^ *end$", text))


def test_boxes_are_sites_and_steps() -> None:
    text = to_dot(lower(GRU(3, 4, bidirectional=True).stack(), 2))
    boxes = re.findall(r"(?m)^( *)subgraph \w+ \{ label=\"(.*)\";", text)
    assert [(len(margin), label) for margin, label in boxes] == [
        *[(2, "t=0"), (2, "t=1")],  # the inputs x
        *[(2, "l0.fwd"), (4, "t=0"), (4, "t=1")],
        *[(2, "l0.bwd"), (4, "t=1"), (4, "t=0")],
        *[(2, "l0"), (4, "t=0"), (4, "t=1")],
    ]
    assert len(set(re.findall(r"subgraph (\w+)", text))) == len(boxes)


def test_edges_of_a_state_are_dashed_and_named() -> None:
    graph = lower(GRU(3, 4, bidirectional=True).stack(), 2)
    assert len(re.findall(r'\[style=dashed, label="h_l0"\]', to_dot(graph))) == 3
    assert len(re.findall(r'-\. "h_l0_reverse" \.->', to_mermaid(graph))) == 3


@pytest.mark.parametrize("graph", graphs())
def test_networkx(graph: Graph) -> None:
    result = to_networkx(graph)
    assert [result.nodes[i]["node"] for i in result] == graph.nodes
    assert sorted((a, b) for a, b, _ in result.edges(keys=True)) == edges(graph)
    for a, b, position in result.edges(data="operand"):
        assert graph.nodes[b].inputs[position] is graph.nodes[a]
    assert nx.is_directed_acyclic_graph(result)
