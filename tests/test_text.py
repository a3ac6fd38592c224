"""The text of a graph: printing and parsing are inverse, and a wrong text is refused with its line."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnnc.ir.draw import to_dot
from rnnc.ir.errors import IRError, ParseError
from rnnc.ir.graph import Graph, Node, Site
from rnnc.ir.lower import lower
from rnnc.ir.passes import PASSES
from rnnc.ir.text import parse_graph, print_graph
from rnnc.ir.verify import verify
from rnnc.specs import GRU, LSTM, RNN, Spec
from tests.random_graphs import FLOATS, MARKS, graphs

TEXT = """\
graph float32 steps=2
%0 = input "x" : float32[B, 3] @ t=0
%1 = input "x" : float32[B, 3] @ t=1
%2 = input "w" : float32[4, 3] @ l0.fwd
%3 = matmul(%0, %2) {transpose_b=true} : float32[B, 4] @ l0.fwd t=0
%4 = matmul(%1, %2) {transpose_b=true} : float32[B, 4] @ l0.fwd t=1
output "y" = [%3, %4]
"""

SPECS: dict[str, Spec] = {
    "rnn": RNN(3, 4, nonlinearity="relu"),
    "gru": GRU(3, 4, 2, bidirectional=True),
    "gru_reset_first": GRU(3, 4, reset_after=False, dtype="float64"),
    "lstm_projected": LSTM(3, 4, bidirectional=True, proj_size=2),
}


def exact(graph: Graph) -> list[str]:
    """All float attributes, bit by bit."""
    return [value.hex() for node in graph.nodes for _, value in node.attrs if isinstance(value, float)]


def assert_round_trip(graph: Graph) -> None:
    text = print_graph(graph)
    parsed = parse_graph(text)
    assert parsed == graph
    assert exact(parsed) == exact(graph)
    assert print_graph(parsed) == text
    bare = re.sub(r"(?m)^#.*\n", "", text)  # comments hold nothing that is not said elsewhere
    assert parse_graph(bare) == graph


# -- round trip ---------------------------------------------------------------------------------------


@pytest.mark.sampled(3)
@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("name", SPECS)
def test_lowered_and_optimised_graphs_come_back(name: str, steps: int, lengths: bool) -> None:
    graph = lower(SPECS[name].stack(), steps, lengths=lengths)
    assert_round_trip(graph)
    for transform in PASSES:
        graph = transform(graph)
        assert_round_trip(graph)


@given(graphs())
def test_random_graphs_come_back_and_verify(graph: Graph) -> None:
    verify(graph)
    assert_round_trip(graph)
    assert verify(parse_graph(print_graph(graph))).share


@given(st.lists(FLOATS, max_size=6))
def test_constants_come_back_bit_by_bit(values: list[float]) -> None:
    graph = Graph("float64", 1)
    made = [graph.const(v) for v in values]
    parsed = parse_graph(print_graph(graph))
    assert parsed == graph
    for value, node in zip(values, made, strict=True):
        found = parsed.nodes[node.index].attr("value")
        assert math.isnan(value) and math.isnan(found) or found.hex() == value.hex()


def test_zero_and_minus_zero_are_two_constants() -> None:
    graph = Graph("float32", 1)
    assert graph.const(0.0) is not graph.const(-0.0)
    assert exact(parse_graph(print_graph(graph))) == ["0x0.0p+0", "-0x0.0p+0"]


@given(st.text(), st.text())
def test_any_name_comes_back(name: str, output: str) -> None:
    graph = Graph("float32", 1)
    graph.outputs[output] = graph.input(name, ("B", 1))
    assert_round_trip(graph)


@given(
    st.none() | st.builds(Site, st.integers(0, 99), st.sampled_from([None, 0, 1]), MARKS),
    st.none() | st.integers(0, 9),
)
def test_site_and_step_come_back(site: Site | None, step: int | None) -> None:
    graph = Graph("float32", 10)
    graph.site = site
    graph.input("x", ("B", 1), step)
    assert_round_trip(graph)


def test_what_differentiation_adds_is_written_like_all_else() -> None:
    """Marks behind the direction, leaves without an attribute, and sums over time that lie at no step."""
    graph = Graph("float64", 2)
    xs = [graph.input("x", ("B", 3), t) for t in range(2)]
    graph.site = Site(1, 0).marked("grad").marked("tangent")
    products = [graph.add("outer", (x, x)) for x in xs]
    graph.site = Site(0).marked("grad")
    graph.outputs["d"] = graph.sum([graph.tsum(products), graph.zeros((3, 3))])
    assert_round_trip(verify(graph))
    lines = [" ".join(line.split()) for line in print_graph(graph).splitlines()]
    for line in (
        "%2 = outer(%0, %0) : float64[3, 3] @ l1.fwd.grad.tangent t=0",
        "%4 = tsum(%2, %3) : float64[3, 3] @ l0.grad",
        "%5 = zeros() : float64[3, 3] @ l0.grad",
    ):
        assert line in lines


def test_graphs_that_break_rules_come_back() -> None:
    """The text shows a graph to someone who looks for its fault, so it must not lose it."""
    graph = Graph("float99", 0)
    attrs = (("a", 1), ("b", -2.5), ("c", False), ("d", "e"))
    graph.nodes.append(Node(0, "const", (), attrs, (0, "K", -3), "int8", -7, None))
    graph.nodes.append(Node(1, "tanh", (), (("value", 1.0),), (), "bool", None, None))
    graph.outputs["none"] = ()
    assert_round_trip(graph)


def test_empty_graph() -> None:
    text = print_graph(Graph("float64", 3))
    assert text == "graph float64 steps=3\n# no nodes\n"
    assert parse_graph(text) == Graph("float64", 3)


def test_unprintable_attribute() -> None:
    graph = Graph("float32", 1)
    graph.nodes.append(Node(0, "const", (), (("value", None),), (), "float32", None, None))  # type: ignore[arg-type]
    with pytest.raises(IRError, match="cannot print the attribute value None of type NoneType"):
        print_graph(graph)


# -- what the text looks like -------------------------------------------------------------------------


def test_lines_are_aligned_and_grouped() -> None:
    lines = print_graph(lower(GRU(3, 4, bidirectional=True).stack(), 2)).splitlines()
    nodes = [line for line in lines if line.startswith("%")]
    assert {line.index(" = ") for line in nodes} == {4}
    assert len({line.index(" : ") for line in nodes}) == 1
    assert len({line.index("  @ ") for line in nodes}) == 1
    assert [line for line in lines if line.startswith("#")][1:] == [
        "# inputs",
        "# constants",
        "# l0.fwd t=0",
        "# l0.fwd t=1",
        "# l0.fwd",
        "# l0.bwd t=1",
        "# l0.bwd t=0",
        "# l0.bwd",
        "# l0 t=0",
        "# l0 t=1",
    ]
    assert lines[0] == "graph float32 steps=2"
    assert lines[1].startswith("# 105 nodes: 12 input, 4 carry, 8 matmul,")


def test_one_long_line_does_not_push_the_others() -> None:
    graph = Graph("float32", 1)
    x = graph.input("x", ("B", 3), 0)
    graph.add("add", [x] * 40)
    graph.add("tanh", [x])
    *_, wide, narrow = print_graph(graph).splitlines()
    assert len(wide) > 160 and len(narrow) < 50


def test_long_outputs_wrap() -> None:
    graph = Graph("float32", 100)
    graph.outputs["a  name  with  spaces"] = tuple(graph.input("x", ("B", 1), t) for t in range(100))
    assert max(map(len, print_graph(graph).splitlines())) <= 100
    assert_round_trip(graph)


def test_line_ends_and_blanks_only_separate() -> None:
    packed = " ".join(line for line in TEXT.splitlines())
    spread = re.sub(r"([=:,(){}\[\]@])", r"\n  \1 # comment\n", TEXT)
    assert parse_graph(packed) == parse_graph(spread) == parse_graph(TEXT.replace("\n", "\r\n")) == parse_graph(TEXT)


# -- errors -------------------------------------------------------------------------------------------

WRONG = [
    # replaced, by, line, message
    ("graph float32", "graf float32", 1, "expected 'graph', found 'graf'"),
    ("graph float32", "graph 32", 1, "expected a dtype, found '32'"),
    ("steps=2", "steps 2", 1, "expected '=', found '2'"),
    ("steps=2", "steps=two", 1, "expected the number of steps, found 'two'"),
    ('input "x" : float32[B, 3] @ t=1', 'inputt "x" : float32[B, 3]', 3, "unknown op 'inputt' (did you mean input?)"),
    ("= matmul(%0, %2)", "= zzzz(%0, %2)", 5, "unknown op 'zzzz', in:"),
    ("%1 = input", "%0 = input", 3, "%0 is defined twice"),
    ("%4 = matmul", "%7 = matmul", 7, "%4 is read before it is defined"),
    ("matmul(%1, %2)", "matmul(%1, %9)", 6, "%9 is read before it is defined"),
    ("matmul(%1, %2)", "matmul(%1 %2)", 6, "expected ',' or ')', found '%2'"),
    ("matmul(%1, %2)", "matmul(%1, 2)", 6, "expected a node such as %0, found '2'"),
    ("matmul(%1, %2) {transpose_b=true}", "matmul", 6, "expected '(', found ':'"),
    ("@ l0.fwd t=1", "@ l0.up t=1", 6, "expected a site such as l0, l0.fwd or l0.bwd, found 'l0.up'"),
    (
        "@ l0.fwd t=1",
        "@ l0.fwd.gradient t=1",
        6,
        "expected a site such as l0, l0.fwd or l0.bwd, found 'l0.fwd.gradient'",
    ),
    ("@ l0.fwd t=1", "@ l0.grad.fwd t=1", 6, "expected a site such as l0, l0.fwd or l0.bwd, found 'l0.grad.fwd'"),
    ("@ l0.fwd t=1", "@ l0.fwd t=B", 6, "expected a time step, found 'B'"),
    ("[B, 4] @ l0.fwd t=0", "[B, 4.0]", 5, "expected a size, or B, found '4.0'"),
    (": float32[B, 4] @ l0.fwd t=0", "", 6, "expected ':', found '%4'"),
    (
        "{transpose_b=true} : float32[B, 4] @ l0.fwd t=0",
        "{transpose_b=yes} : float32[B, 4]",
        5,
        "expected a number, a string, true or false, found 'yes'",
    ),
    ('input "w"', 'input "w', 4, "unexpected '\"'"),
    ('input "w"', r'input "\x"', 4, r'"\x" is no JSON string (Invalid \escape)'),
    ("[4, 3]", "[4; 3]", 4, "unexpected ';'"),
    ("[4, 3]", "[4, 999999999999999999999999]", 4, "999999999999999999999999 is too large"),
    ('output "y"', "output y", 7, "expected the name of the output in quotes, found 'y'"),
    ('output "y"', 'outputs "y"', 7, "expected a node or an output, found 'outputs'"),
    ("[%3, %4]", '%3 output "y" = %4', 7, 'the output "y" is defined twice'),
    ("%4]\n", "%4", 7, "expected ',' or ']', found the end of the text"),
]


@pytest.mark.parametrize(("old", "new", "line", "message"), WRONG, ids=[w[3][:40] for w in WRONG])
def test_errors_name_the_line_and_what_is_wrong(old: str, new: str, line: int, message: str) -> None:
    assert old in TEXT
    text = TEXT.replace(old, new, 1)
    with pytest.raises(ParseError) as caught:
        parse_graph(text)
    assert str(caught.value).startswith(f"line {line}: {message.removesuffix(', in:')}")
    assert str(caught.value).endswith(f", in: {text.splitlines()[line - 1].strip()}")


def test_a_gap_in_the_numbering() -> None:
    with pytest.raises(ParseError, match=r"%1 is not defined: nodes are numbered from %0 without gaps"):
        parse_graph('graph float32 steps=1\n%0 = input "x" : float32[]\n%2 = tanh(%0) : float32[]\n')


@given(st.data())
def test_damaged_text_raises_nothing_but_a_parse_error(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(TEXT) - 1))
    length = data.draw(st.integers(0, 12))
    nasty = ['"', "%", "{", "inf", "1e999", "#", "9" * 30, "@ t=", "²"]
    insert = data.draw(st.text(max_size=4) | st.sampled_from(nasty))
    text = TEXT[:at] + insert + TEXT[at + length :]
    try:
        graph = parse_graph(text)
    except ParseError as error:
        assert re.match(r"line \d+: ", str(error))
    else:
        assert_round_trip(graph)
        assert to_dot(graph)
