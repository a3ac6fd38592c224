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
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple, NoReturn, TypeVar

from rnnc.ir.errors import IRError, ParseError
from rnnc.ir.graph import Graph, Node, Output, Site
from rnnc.ir.ops import OPS, Attrs
from rnnc.ir.shape_rules import AttrValue, Dim, Shape

MAX_COLUMN = 56
"""The widest expression for which types are aligned. A longer expression only pushes its own type to the right."""

_WRAP = 100
MAX_DIGITS = 20
"""The most characters of an int: enough for 64 bits with a sign."""

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
        return f"{node.op} {_print_literal(node.attrs[0][1])}"
    operands = ", ".join(f"%{n.index}" for n in node.inputs)
    attrs = ", ".join(f"{name}={_print_literal(value)}" for name, value in node.attrs)
    return f"{node.op}({operands})" + (f" {{{attrs}}}" if attrs else "")


def _is_literal(node: Node) -> bool:
    """True if the node is a leaf whose op declares one attribute, and has no other."""
    declared = node.spec.attrs
    return not node.inputs and len(declared) == 1 and tuple(name for name, _ in node.attrs) == tuple(declared)


def _print_literal(value: AttrValue) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return json.dumps(value)
        case int():
            return int.__repr__(value)
        case float():
            return float.__repr__(value)
    raise IRError(f"cannot print the attribute value {value!r} of type {type(value).__name__}")


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


class _Token(NamedTuple):
    kind: str
    text: str
    line: int


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
_SITE = re.compile(r"l(\d+)(?:\.(fwd|bwd))?((?:\.(?:grad|tangent))*)", re.ASCII)
_BOOLS = {"true": True, "false": False}
_DIRECTIONS = {None: None, "fwd": 0, "bwd": 1}
_END = "the end of the text"
_T = TypeVar("_T")


def _tokens(lines: Sequence[str]) -> Iterator[_Token]:
    for number, line in enumerate(lines, 1):
        at = 0
        while at < len(line):
            found = _TOKEN.match(line, at)
            if found is None:
                raise ParseError(f"line {number}: unexpected {line[at]!r}, in: {line.strip()}")
            if found.lastgroup != "blank":
                yield _Token(str(found.lastgroup), found.group(), number)
            at = found.end()
    yield _Token("end", _END, max(len(lines), 1))


@dataclass
class _Parser:
    """Recursive descent: one method per rule of the grammar, each of which reads from `self.token` on."""

    text: str

    def __post_init__(self) -> None:
        self.lines = self.text.split("\n")
        self.rest = _tokens(self.lines)
        self.token = next(self.rest)
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

    def op(self) -> str:
        token = self.token
        op = self.take("name", "an op")
        if op not in OPS:
            from difflib import get_close_matches  # only for this message

            near = get_close_matches(op, OPS, 1)
            self.fail(f"unknown op {op!r}" + (f" (did you mean {near[0]}?)" if near else ""), token)
        return op

    def expression(self, op: str) -> tuple[tuple[Node, ...], Attrs]:
        declared = OPS[op].attrs
        if self.token.text != "(" and OPS[op].arity == 0 and len(declared) == 1:
            return (), ((next(iter(declared)), self.literal()),)
        self.mark("(")
        inputs = tuple(self.items(")", self.ref))
        return inputs, tuple(self.items("}", self.attr)) if self.accept("{") else ()

    def attr(self) -> tuple[str, AttrValue]:
        name = self.take("name", "the name of an attribute")
        self.mark("=")
        return name, self.literal()

    def literal(self) -> AttrValue:
        kind, text, _ = token = self.token
        self.step()
        if kind == "int":
            return self.number(token)
        if kind == "float":
            return float(text)
        if kind == "string":
            return self.decoded(token)
        if kind == "name" and text in _BOOLS:
            return _BOOLS[text]
        self.fail("expected a number, a string, true or false", token, found=True)

    def type(self) -> tuple[str, Shape]:
        dtype = self.take("name", "a dtype")
        self.mark("[")
        return dtype, tuple(self.items("]", self.dim))

    def dim(self) -> Dim:
        return self.integer("a size") if self.token.kind == "int" else self.take("name", "a size, or B")

    def place(self) -> tuple[Site | None, int | None]:
        site = None
        if self.token.kind == "name" and self.token.text != "t":
            token = self.token
            found = _SITE.fullmatch(self.take("name", "a site"))
            if found is None:
                self.fail("expected a site such as l0, l0.fwd or l0.bwd", token, found=True)
            site = Site(int(found[1]), _DIRECTIONS[found[2]], tuple(found[3].split(".")[1:]))
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

    # -- the smallest parts ---------------------------------------------------------------------------

    def items(self, end: str, item: Callable[[], _T]) -> Iterator[_T]:
        """Items separated by commas, up to and including the closing mark."""
        if self.accept(end):
            return
        yield item()
        while not self.accept(end):
            if not self.accept(","):
                self.fail(f"expected ',' or {end!r}", found=True)
            yield item()

    def integer(self, what: str) -> int:
        token = self.token
        self.take("int", what)
        return self.number(token)

    def index(self) -> int:
        token = self.token
        self.take("ref", "a node such as %0")
        return self.number(token)

    def number(self, token: _Token) -> int:
        if len(token.text) > MAX_DIGITS:
            self.fail(f"{token.text} is too large", token)
        return int(token.text.removeprefix("%"))

    def decoded(self, token: _Token) -> str:
        try:
            return str(json.loads(token.text))
        except json.JSONDecodeError as error:
            self.fail(f"{token.text} is no JSON string ({error.msg})", token)

    def take(self, kind: str, what: str) -> str:
        """Steps over the current token and returns its text. Fails unless it is of the given kind."""
        text = self.token.text
        if self.token.kind != kind:
            self.fail(f"expected {what}", found=True)
        self.step()
        return text

    def word(self, word: str, what: str = "") -> None:
        if self.token.kind != "name" or self.token.text != word:
            self.fail(f"expected {what or repr(word)}", found=True)
        self.step()

    def mark(self, mark: str) -> None:
        if not self.accept(mark):
            self.fail(f"expected {mark!r}", found=True)

    def accept(self, mark: str) -> bool:
        """Steps over the mark if it comes next. Returns whether it did."""
        comes = self.token.kind == "mark" and self.token.text == mark
        if comes:
            self.step()
        return comes

    def step(self) -> None:
        if self.token.kind != "end":
            self.token = next(self.rest)

    def fail(self, message: str, token: _Token | None = None, *, found: bool = False) -> NoReturn:
        at = token or self.token
        if found:
            message += f", found {_END if at.kind == 'end' else repr(at.text)}"
        raise ParseError(f"line {at.line}: {message}, in: {self.lines[at.line - 1].strip()}")
