"""Drawings of a Graph: Graphviz DOT and Mermaid text, and a networkx graph for everything else.

Nodes lie in boxes: one box per site (layer and direction), which holds one box per step. Edges that cross
steps, into `carry` and `exit`, are dashed and are labelled with the name of the state.

    dot -Tsvg graph.dot > graph.svg         # to_dot; Mermaid text renders inside Markdown on code hosts
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from rnnc.ir.graph import Graph, Node, Site
from rnnc.ir.ops import Kind

if TYPE_CHECKING:
    import networkx as nx

_DOT_STYLES = {
    Kind.LEAF: "shape=ellipse, fillcolor=white",
    Kind.CARRY: 'shape=cds, fillcolor="#fff2b3"',
    Kind.ELEMENTWISE: 'shape=box, fillcolor="#e3f0e3"',
    Kind.MATMUL: 'shape=box, penwidth=2, fillcolor="#f6d5c9"',
    Kind.VIEW: 'shape=box, style="rounded,filled", fillcolor="#eeeeee"',
    Kind.REDUCE: 'shape=invtrapezium, fillcolor="#dbe4f5"',
    Kind.OUTER: 'shape=box, penwidth=2, fillcolor="#f0d5e8"',
    Kind.TIME_SUM: 'shape=cylinder, fillcolor="#dbe4f5"',
}
_MERMAID_SHAPES = {
    Kind.LEAF: ("([", "])"),
    Kind.CARRY: (">", "]"),
    Kind.ELEMENTWISE: ("[", "]"),
    Kind.MATMUL: ("[[", "]]"),
    Kind.VIEW: ("(", ")"),
    Kind.REDUCE: ("[\\", "/]"),
    Kind.OUTER: ("[/", "\\]"),
    Kind.TIME_SUM: ("[(", ")]"),
}

Boxes = Mapping[Site | None, Mapping[int | None, list[Node]]]


def to_dot(graph: Graph) -> str:
    """Graphviz DOT text."""

    def node(n: Node) -> str:
        return f"n{n.index} [label={_dot_string(_label(n))}, {_DOT_STYLES[n.spec.kind]}];"

    def box(name: str, label: str) -> str:
        return f"subgraph cluster_{name} {{ label={_dot_string(label)};"

    lines = ["digraph rnnc {", '  node [style=filled, fontname="monospace", fontsize=10];']
    lines += _nested(graph, node, box, "}")
    for reader, source in _edges(graph):
        carried = reader.spec.kind is Kind.CARRY
        style = f" [style=dashed, label={_dot_string(reader.attr('state'))}]" if carried else ""
        lines.append(f"  n{source.index} -> n{reader.index}{style};")
    for position, (name, source) in enumerate(_results(graph)):
        lines.append(f"  out{position} [label={_dot_string(name)}, shape=plaintext, fillcolor=white];")
        lines.append(f"  n{source.index} -> out{position};")
    return "\n".join([*lines, "}"]) + "\n"


def to_mermaid(graph: Graph) -> str:
    """Mermaid flowchart text."""

    def node(n: Node) -> str:
        start, end = _MERMAID_SHAPES[n.spec.kind]
        return f"n{n.index}{start}{_mermaid_string(_label(n))}{end}"

    def box(name: str, label: str) -> str:
        return f"subgraph {name} [{_mermaid_string(label)}]"

    lines = ["flowchart TD", *_nested(graph, node, box, "end")]
    for reader, source in _edges(graph):
        carried = reader.spec.kind is Kind.CARRY
        arrow = f"-. {_mermaid_string(reader.attr('state'))} .->" if carried else "-->"
        lines.append(f"  n{source.index} {arrow} n{reader.index}")
    for position, (name, source) in enumerate(_results(graph)):
        lines.append(f"  n{source.index} --> out{position}{{{{{_mermaid_string(name)}}}}}")
    return "\n".join(lines) + "\n"


def to_networkx(graph: Graph) -> nx.MultiDiGraph:
    """The graph as a networkx graph: one node per index, and one edge per operand, from the operand to its reader.

    Nodes have `node` (the `Node` of the graph) and `label`. Edges have `operand`, the position among the reader's
    operands.
    """
    import networkx as nx  # slow to import, and needed here only

    result = nx.MultiDiGraph(dtype=graph.dtype, steps=graph.steps)
    for node in graph.nodes:
        result.add_node(node.index, node=node, label=_label(node))
    for node in graph.nodes:
        for position, operand in enumerate(node.inputs):
            result.add_edge(operand.index, node.index, operand=position)
    return result


def _nested(graph: Graph, node: Callable[[Node], str], box: Callable[[str, str], str], end: str) -> Iterator[str]:
    """The lines of all nodes, in boxes by site and step. A node without a site or a step lies outside such a box."""
    for site, steps in _boxes(graph).items():
        name = "free" if site is None else str(site).replace(".", "_")
        margin = "  "
        if site is not None:
            yield f"{margin}{box(name, str(site))}"
            margin += "  "
        for step, nodes in steps.items():
            inner = margin if step is None else margin + "  "
            if step is not None:
                yield f"{margin}{box(f'{name}_t{step}', f't={step}')}"
            yield from (inner + node(n) for n in nodes)
            if step is not None:
                yield f"{margin}{end}"
        if site is not None:
            yield f"  {end}"


def _boxes(graph: Graph) -> Boxes:
    boxes: dict[Site | None, dict[int | None, list[Node]]] = {}
    for node in graph.nodes:
        boxes.setdefault(node.site, {}).setdefault(node.step, []).append(node)
    return boxes


def _edges(graph: Graph) -> Iterator[tuple[Node, Node]]:
    return ((reader, operand) for reader in graph.nodes for operand in reader.inputs)


def _results(graph: Graph) -> Iterator[tuple[str, Node]]:
    for name, output in graph.outputs.items():
        if isinstance(output, Node):
            yield name, output
        else:
            yield from ((f"{name}[{position}]", node) for position, node in enumerate(output))


def _label(node: Node) -> str:
    leaf = str(node.attrs[0][1]) if node.spec.kind is Kind.LEAF and node.attrs else node.op
    return f"%{node.index} {leaf}\n{node.dtype}[{', '.join(map(str, node.shape))}]"


def _dot_string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _mermaid_string(text: str) -> str:
    return '"' + text.replace("#", "#35;").replace('"', "#quot;").replace("\n", "<br/>") + '"'
