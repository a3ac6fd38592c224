"""The text of a Graph: `print_graph` and its inverse `parse_graph`.

    graph    = "graph" dtype "steps" "=" int { node | output } ;
    node     = ref "=" op ( literal | operands [ attrs ] ) ":" type [ "@" place ] ;
    output   = "output" string "=" ( ref | "[" [ ref { "," ref } ] "]" ) ;
    operands = "(" [ ref { "," ref } ] ")" ;
    attrs    = "{" [ name "=" literal { "," name "=" literal } ] "}" ;
    type     = dtype "[" [ size { "," size } ] "]" ;
    size     = int | name ;
    place    = [ site ] [ "t" "=" int ] ;
    site     = "l" digits [ ".fwd" | ".bwd" ] { ".grad" | ".tangent" } ;
    literal  = int | float | "inf" | "-inf" | "nan" | "true" | "false" | string ;
    ref      = "%" digits ;
    op, dtype, name = ( letter | "_" ) { letter | digit | "_" } ;

Strings are JSON's, ints and floats Python's (a float has a ".", an exponent, or is one of the three words).
White space and line ends only separate. `#` starts a comment, which ends with its line.

A ref is a node's position in the graph. Lines may come in any order that defines a node before it is read:
`print_graph` shows inputs and constants first. A leaf's only attribute stands in the place of operands: `input "x"`,
`const 0.5`. After the `@` comes the site, which says where in the network the node was written, and t, its time step.
A node without t is time-free.

The parser checks this grammar. `rnnc.ir.verify` checks whether the graph makes sense, so that a malformed graph can
also be written down, read and examined.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from rnnc.ir.graph import Graph, Node, Output, Site
from rnnc.ir.ops import OPS, Attrs
from rnnc.ir.parsing import Parser, print_literal
from rnnc.ir.shape_rules import Dim, Shape

MAX_COLUMN = 56
"""The widest expression for which types are aligned. A longer expression only pushes its own type to the right."""

_WRAP = 100

# -- printing -----------------------------------------------------------------------------------------


def print_graph(graph: Graph) -> str:
    """The text of a graph. `parse_graph` reads it back into an equal graph.

    Raises IRError if an attribute is neither an int, a float, a bool nor a str.
    """
    rows = [_row(node) for group in _groups(graph) for node in group[1]]
    widths = [max((len(row[i]) for row in rows if len(row[i]) <= MAX_COLUMN), default=0) for i in range(3)]
    lines = [f"graph {graph.dtype} steps={graph.steps}", "# " + _census(graph)]
    for title, nodes in _groups(graph):
        lines += ["", f"# {title}"]
        lines += [_align(_row(node), widths) for node in nodes]
    lines += [""] if graph.outputs else []
    lines += [_print_output(name, output) for name, output in graph.outputs.items()]
    return "\n".join(lines) + "\n"


def _census(graph: Graph) -> str:
    counts = ", ".join(f"{count} {op}" for op, count in graph.counts().items())
    return f"{len(graph.nodes)} nodes: {counts}" if counts else "no nodes"


def _groups(graph: Graph) -> Iterator[tuple[str, list[Node]]]:
    """The nodes in groups with a title: inputs, constants, then runs of nodes of one site and step."""
    for title, op in (("inputs", "input"), ("constants", "const")):
        leaves = [n for n in graph.nodes if n.op == op]
        if leaves:
            yield title, leaves
    rest = [n for n in graph.nodes if n.op not in ("input", "const")]
    for place, nodes in groupby(rest, _print_place):
        yield place or "no site, no step", list(nodes)


def _row(node: Node) -> tuple[str, str, str, str]:
    """The name, expression, type and place of a node."""
    shape = ", ".join(map(str, node.shape))
    return f"%{node.index}", _print_expression(node), f"{node.dtype}[{shape}]", _print_place(node)


def _align(row: tuple[str, str, str, str], widths: Sequence[int]) -> str:
    name, expression, kind, place = row
    line = f"{name:<{widths[0]}} = {expression:<{widths[1]}} : {kind:<{widths[2]}}"
    return f"{line}  @ {place}" if place else line.rstrip()


def _print_expression(node: Node) -> str:
    if _is_literal(node):
        return f"{node.op} {print_literal(node.attrs[0][1])}"
    operands = ", ".join(f"%{n.index}" for n in node.inputs)
    attrs = ", ".join(f"{name}={print_literal(value)}" for name, value in node.attrs)
    return f"{node.op}({operands})" + (f" {{{attrs}}}" if attrs else "")


def _is_literal(node: Node) -> bool:
    """True if the node is a leaf whose op declares one attribute, and has no other."""
    declared = node.spec.attrs
    return not node.inputs and len(declared) == 1 and tuple(name for name, _ in node.attrs) == tuple(declared)


def _print_place(node: Node) -> str:
    parts = [] if node.site is None else [str(node.site)]
    return " ".join(parts if node.step is None else [*parts, f"t={node.step}"])


def _print_output(name: str, output: Output) -> str:
    head = f"output {json.dumps(name)} = "
    if isinstance(output, Node):
        return f"{head}%{output.index}"
    refs = ", ".join(f"%{n.index}" for n in output)
    # Only the list is wrapped: a name may contain spaces that must stay as they are.
    first, *more = textwrap.wrap(f"[{refs}]", max(_WRAP - len(head), _WRAP // 2))
    return "\n".join([head + first, *("    " + line for line in more)])


# -- parsing ------------------------------------------------------------------------------------------


def parse_graph(text: str) -> Graph:
    """The graph that a text describes.

    Raises ParseError, which names the line, if the text does not follow the grammar or names an unknown op, or if its
    nodes are not %0, %1, ..., each defined once and before it is read.
    """
    return _Parser(text).graph()


_TOKEN = re.compile(
    r"""
    (?P<blank>  [ \t\r]+ | \#.*)
  | (?P<string> "(?:[^"\\] | \\.)*")
  | (?P<float>  -?(?: (?:inf|nan)\b | [0-9]+(?: \.[0-9]* (?:e[+-]?[0-9]+)? | e[+-]?[0-9]+ )))
  | (?P<int>    -?[0-9]+)
  | (?P<ref>    %[0-9]+)
  | (?P<name>   [A-Za-z_][A-Za-z_0-9]*(?:\.[a-z]+)*)
  | (?P<mark>   [=:@,(){}\[\]])
    """,
    re.VERBOSE,
)


class _Parser(Parser):
    """One method per rule of the grammar."""

    tokens = _TOKEN

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.nodes: dict[int, Node] = {}

    def graph(self) -> Graph:
        self.word("graph")
        dtype = self.take("name", "a dtype")
        self.word("steps")
        self.mark("=")
        graph = Graph(dtype, self.integer("the number of steps"))
        while self.token.kind != "end":
            if self.token.kind == "ref":
                self.node()
            else:
                self.output(graph.outputs)
        graph.nodes += self.ordered()
        return graph

    def ordered(self) -> Iterable[Node]:
        for position, index in enumerate(sorted(self.nodes)):
            if position != index:
                self.fail(f"%{position} is not defined: nodes are numbered from %0 without gaps")
        return (self.nodes[i] for i in range(len(self.nodes)))

    def node(self) -> None:
        name = self.token
        index = self.index()
        if index in self.nodes:
            self.fail(f"{name.text} is defined twice", name)
        self.mark("=")
        op = self.op()
        inputs, attrs = self.expression(op)
        self.mark(":")
        dtype, shape = self.type()
        site, step = self.place() if self.accept("@") else (None, None)
        self.nodes[index] = Node(index, op, inputs, attrs, shape, dtype, step, site)

    def expression(self, op: str) -> tuple[tuple[Node, ...], Attrs]:
        declared = OPS[op].attrs
        if self.token.text != "(" and OPS[op].arity == 0 and len(declared) == 1:
            return (), ((next(iter(declared)), self.literal()),)
        self.mark("(")
        inputs = tuple(self.items(")", self.ref))
        return inputs, tuple(self.items("}", self.attr)) if self.accept("{") else ()

    def type(self) -> tuple[str, Shape]:
        dtype = self.take("name", "a dtype")
        self.mark("[")
        return dtype, tuple(self.items("]", self.dim))

    def dim(self) -> Dim:
        return self.integer("a size") if self.token.kind == "int" else self.take("name", "a size, or B")

    def place(self) -> tuple[Site | None, int | None]:
        site = self.site() if self.token.kind == "name" and self.token.text != "t" else None
        if not (self.token.kind == "name" and self.token.text == "t"):
            return site, None
        self.step()
        self.mark("=")
        return site, self.integer("a time step")

    def output(self, outputs: dict[str, Output]) -> None:
        self.word("output", "a node or an output")
        token = self.token
        self.take("string", "the name of the output in quotes")
        name = self.decoded(token)
        if name in outputs:
            self.fail(f"the output {token.text} is defined twice", token)
        self.mark("=")
        outputs[name] = tuple(self.items("]", self.ref)) if self.accept("[") else self.ref()

    def ref(self) -> Node:
        token = self.token
        node = self.nodes.get(self.index())
        if node is None:
            self.fail(f"{token.text} is read before it is defined", token)
        return node
