"""The verifier accepts what lowering and the passes make, and names each rule when it is broken once."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from rnnc.ir import pipeline
from rnnc.ir import verify as verifier
from rnnc.ir.computation import Computation
from rnnc.ir.errors import VerifyError
from rnnc.ir.graph import Graph, Node
from rnnc.ir.lower import lower
from rnnc.ir.passes import PASSES
from rnnc.ir.pipeline import PIPELINE, Artefacts
from rnnc.ir.shape_rules import BATCH
from rnnc.ir.text import parse_graph, print_graph
from rnnc.ir.verify import verify
from rnnc.specs import GRU, LSTM, RNN, Spec

FORWARD = """\
graph float32 steps=3
%0 = input "x" : float32[B, 4] @ t=0
%1 = input "x" : float32[B, 4] @ t=1
%2 = input "x" : float32[B, 4] @ t=2
%3 = input "w" : float32[4, 4]
%4 = input "h_0" : float32[B, 4]
%5 = const 0.5 : float32[]
%6 = input "mask" : bool[4, 4]
%7 = input "odd" : float32[3, B]
%8 = input "row" : float32[1, 4]
%9 = carry(%4) {state="h", delta=1} : float32[B, 4] @ l0.fwd t=0
%10 = matmul(%9, %3) {transpose_b=true} : float32[B, 4] @ l0.fwd t=0
%11 = add(%0, %10, %5) : float32[B, 4] @ l0.fwd t=0
%12 = carry(%11) {state="h", delta=1} : float32[B, 4] @ l0.fwd t=1
%13 = matmul(%12, %3) {transpose_b=true} : float32[B, 4] @ l0.fwd t=1
%14 = add(%1, %13, %5) : float32[B, 4] @ l0.fwd t=1
%15 = carry(%14) {state="h", delta=1} : float32[B, 4] @ l0.fwd t=2
%16 = matmul(%15, %3) {transpose_b=true} : float32[B, 4] @ l0.fwd t=2
%17 = add(%2, %16, %5) : float32[B, 4] @ l0.fwd t=2
%18 = reduce_sum(%17) : float32[B, 1] @ l0.fwd t=2
%19 = exit(%17) {state="h", delta=1} : float32[B, 4] @ l0.fwd
%20 = add(%3, %5) : float32[4, 4]
output "output" = [%11, %14, %17]
output "h_n" = %19
"""
# The same loop from the last step to the first.
BACKWARD = re.sub(r"t=(\d)", lambda found: f"t={2 - int(found[1])}", FORWARD).replace("delta=1", "delta=-1")
BACKWARD = BACKWARD.replace("[%11, %14, %17]", "[%17, %14, %11]")

SPECS: dict[str, Spec] = {
    "rnn": RNN(3, 4, 2),
    "gru": GRU(3, 4, bidirectional=True),
    "gru_reset_first": GRU(3, 4, 2, reset_after=False, dtype="float64"),
    "lstm_projected": LSTM(3, 4, 2, bidirectional=True, bias=False, proj_size=2),
}


def broken(text: str, *changes: tuple[str, str]) -> Graph:
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    return parse_graph(text)


def assert_breaks(graph: Graph, rule: str, name: str, message: str) -> None:
    """The message begins with the node's name and the rule, and says what is wrong."""
    with pytest.raises(VerifyError) as caught:
        verify(graph)
    text = str(caught.value)
    assert text.startswith(f"{name} = " if name else f"rule '{rule}'"), text
    assert f"rule '{rule}': " in text and message in text, text


# -- what is accepted ---------------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("name", SPECS)
def test_lowered_graphs_and_every_pass_verify(name: str, steps: int, lengths: bool) -> None:
    graph = verify(lower(SPECS[name].stack(), steps, lengths=lengths))
    for transform in PASSES:
        graph = verify(transform(graph))


@pytest.mark.parametrize("text", [FORWARD, BACKWARD])
def test_the_graphs_that_are_broken_below_are_whole(text: str) -> None:
    graph = parse_graph(text)
    assert verify(graph) is graph


def test_odd_but_legal_graphs() -> None:
    verify(Graph("float64", 1))
    loose = Graph("float32", 2)
    state = loose.input("s", ("B", 1))
    for t in range(2):  # a state that is kept as it is, and one chained behind it, without an exit
        state = loose.carry(state, "s", 1, t)
        loose.carry(loose.input("u", ("B", 1)) if t == 0 else loose.nodes[-2], "u", 1, t)
    loose.exit(state, "s", 1)
    verify(loose)
    decoder = Graph("float32", 1)  # an initial state may be another loop's last one
    first = decoder.exit(decoder.carry(decoder.input("h", ("B", 2)), "a", 1, 0), "a", 1)
    decoder.exit(decoder.carry(first, "b", -1, 0), "b", -1)
    verify(decoder)


# -- each rule broken once ----------------------------------------------------------------------------

Change = tuple[str, str]
LAST = "%20 = add(%3, %5) : float32[4, 4]"


def last(node: str) -> Change:
    """Another last node."""
    return LAST, f"%20 = {node}"


CASES: list[tuple[str, str, str, list[Change]]] = [
    # rule, node, message, what is changed in FORWARD
    ("dtype", "", "the graph's dtype is 'float16'", [("graph float32", "graph float16")]),
    ("time", "", "the graph has 0 steps", [("steps=3", "steps=0")]),
    ("operands", "%20", "it has 0 operands, add takes one or more", [("add(%3, %5)", "add()")]),
    ("operands", "%20", "it has 2 operands, tanh takes 1", [("add(%3, %5)", "tanh(%3, %5)")]),
    ("operands", "%5", "it has 1 operands, const takes 0", [("const 0.5", "const(%3) {value=0.5}")]),
    ("attributes", "%20", "it has the attributes ['a'], add declares []", [last("add(%3) {a=1} : float32[4, 4]")]),
    ("attributes", "%9", "['delta', 'state']", [('state="h", delta=1', 'delta=1, state="h"')]),
    ("attributes", "%10", "transpose_b is 1 (int), expected bool", [("transpose_b=true", "transpose_b=1")]),
    ("attributes", "%5", "value is 1 (int), expected float", [("const 0.5", "const 1")]),
    ("attributes", "%9", "delta is 2, expected 1 or -1", [("delta=1", "delta=2")]),
    ("shape", "%3", "has the size 0, expected 'B' or a positive int", [("[4, 4]", "[0, 4]")]),
    ("shape", "%3", "has the size 'N', expected 'B' or a positive int", [("[4, 4]", "[N, 4]")]),
    ("shape", "%20", "its shape is (4,), add of its operands gives (4, 4)", [last("add(%3, %5) : float32[4]")]),
    ("shape", "%10", "inner sizes 4 and 3 differ", [("[4, 4]", "[4, 3]")]),
    ("shape", "%20", "do not broadcast", [last("add(%3, %7) : float32[4, 4]")]),
    ("shape", "%20", "operand has a batch axis", [last("matmul(%7, %7) {transpose_b=true} : float32[3, 3]")]),
    ("shape", "%20", "index out of range", [last("slice(%3) {axis=2, start=0, stop=1} : float32[4, 4]")]),
    ("shape", "%20", "slice 3:9 does not fit", [last("slice(%3) {axis=0, start=3, stop=9} : float32[4, 4]")]),
    ("shape", "%20", "rule 'shape': ", [last("concat(%4, %4) {axis=0} : float32[B, 4]")]),
    ("shape", "%20", "rule 'shape': ", [last("reduce_sum(%5) : float32[]")]),
    ("dtype", "%20", "its dtype is bool, add of its operands gives float32", [last("add(%3, %5) : bool[4, 4]")]),
    ("dtype", "%3", "its dtype is 'float64', expected 'float32' or 'bool'", [('"w" : float32', '"w" : float64')]),
    ("dtype", "%20", "add needs operands of one dtype, got bool, float32", [last("add(%6, %5) : float32[4, 4]")]),
    ("dtype", "%20", "select needs a bool condition", [last("select(%3, %3, %3) : float32[4, 4]")]),
    ("dtype", "%5", "its dtype is bool", [("const 0.5 : float32", "const 0.5 : bool")]),
    ("time", "%2", "its step is 3, the graph has the steps 0 to 2", [("@ t=2", "@ t=3")]),
    ("time", "%0", "its step is -1, the graph has the steps 0 to 2", [("@ t=0", "@ t=-1")]),
    ("time", "%11", "of several steps; only a carry may read another step", [("add(%0", "add(%1")]),
    ("time", "%18", "it lies at step 1, its operands say step 2", [("1] @ l0.fwd t=2", "1] @ l0.fwd t=1")]),
    ("time", "%18", "it lies at no step, its operands say step 2", [("1] @ l0.fwd t=2", "1] @ l0.fwd")]),
    ("time", "%5", "it lies at step 0, its operands say no step", [("float32[]", "float32[] @ t=0")]),
    ("inputs", "%20", "'x' exists twice at step 1", [last('input "x" : float32[B, 4] @ t=1')]),
    ("inputs", "%20", "'w' exists twice at no step", [last('input "w" : float32[4, 4]')]),
    ("inputs", "%4", "'x' lies at no step, but %0 = input (t=0) at step 0", [('"h_0"', '"x"')]),
    ("inputs", "%2", "'x' is float32[1, 4] here, float32[B, 4] at %0", [("[B, 4] @ t=2", "[1, 4] @ t=2")]),
    (
        "carry",
        "%12",
        "'h' has delta=-1 here, 1 at %9",
        [('carry(%11) {state="h", delta=1', 'carry(%11) {state="h", delta=-1')],
    ),
    ("carry", "%9", "it reads %0 = input (t=0), expected a time-free value at its", [("carry(%4)", "carry(%0)")]),
    ("carry", "%15", "it reads %11 = add (l0.fwd, t=0), expected a value of step 1", [("carry(%14)", "carry(%11)")]),
    ("carry", "%12", "it reads %4 = input, expected a value of step 0", [("carry(%11)", "carry(%4)")]),
    (
        "carry",
        "%20",
        "'h' is carried twice at step 0, also by %9",
        [last('carry(%4) {state="h", delta=1} : float32[B, 4] @ t=0')],
    ),
    (
        "carry",
        "%9",
        "'h' has no carry at the steps [1], expected one per step",
        [('carry(%11) {state="h", delta=1} : float32[B, 4]', "add(%1) : float32[B, 4]")],
    ),
    ("carry", "%20", "it has no step", [last('carry(%4) {state="g", delta=1} : float32[B, 4]')]),
    (
        "carry",
        "%12",
        "'h' is float32[B, 4] here, float32[1, 4] at %9",
        [
            ('carry(%4) {state="h", delta=1} : float32[B, 4]', 'carry(%8) {state="h", delta=1} : float32[1, 4]'),
            ("matmul(%9, %3) {transpose_b=true} : float32[B, 4]", "matmul(%9, %3) {transpose_b=true} : float32[1, 4]"),
        ],
    ),
    ("exit", "%20", "'h' has another exit, %19", [last('exit(%17) {state="h", delta=1} : float32[B, 4]')]),
    ("exit", "%19", "it lies at step 2, expected no step", [("[B, 4] @ l0.fwd\n", "[B, 4] @ l0.fwd t=2\n")]),
    ("exit", "%19", "it reads %14 = add (l0.fwd, t=1), expected a value of step 2", [("exit(%17)", "exit(%14)")]),
    ("exit", "%19", "it reads %4 = input, expected a value of step 2", [("exit(%17)", "exit(%4)")]),
    (
        "exit",
        "%19",
        "'h' has delta=-1 here, 1 at %9",
        [('exit(%17) {state="h", delta=1', 'exit(%11) {state="h", delta=-1')],
    ),
    (
        "exit",
        "%19",
        "'h' is float32[B, 1] here, float32[B, 4] at %9",
        [('exit(%17) {state="h", delta=1} : float32[B, 4]', 'exit(%18) {state="h", delta=1} : float32[B, 1]')],
    ),
    ("operands", "%20", "it has 0 operands, tsum takes one or more", [last("tsum() : float32[4, 4]")]),
    ("shape", "%20", "a sum over time needs operands of one shape", [last("tsum(%11, %18) : float32[B, 4]")]),
    ("shape", "%20", "its shape is (4, 4), tsum of its operands gives ('B', 4)", [last("tsum(%11) : float32[4, 4]")]),
    ("time", "%20", "it lies at step 0, expected no step", [last("tsum(%11, %14) : float32[B, 4] @ t=0")]),
    ("time", "%20", "it reads %4 = input, which has no step", [last("tsum(%11, %4) : float32[B, 4]")]),
    ("operands", "%20", "it has 1 operands, zeros takes 0", [last("zeros(%3) : float32[4, 4]")]),
    ("shape", "%20", "has the size 'N', expected 'B' or a positive int", [last("zeros() : float32[N, 4]")]),
    ("dtype", "%20", "its dtype is bool", [last("zeros() : bool[4, 4]")]),
    ("time", "%20", "its step is 3, the graph has the steps 0 to 2", [last("zeros() : float32[4, 4] @ t=3")]),
    ("shape", "%20", "two matrices with the same rows", [last("outer(%11, %3) : float32[4, 4] @ t=0")]),
    ("time", "%20", "of several steps; only a carry may", [last("outer(%11, %14) : float32[4, 4] @ t=1")]),
    ("attributes", "%20", "keep is 1 (int), expected bool", [last("reduce_rows(%3) {keep=1} : float32[1, 4]")]),
    ("shape", "%20", "reduce_rows needs a matrix", [last("reduce_rows(%5) {keep=true} : float32[1]")]),
    ("shape", "%20", "reduce_rows of its operands gives (4,)", [last("reduce_rows(%3) {keep=false} : float32[1, 4]")]),
    ("outputs", "", "'output' has 2 nodes, expected one for each of 3 steps", [("[%11, %14, %17]", "[%11, %14]")]),
    ("outputs", "%17", "it is number 1 of 'output', but lies at step 2", [("%14, %17]", "%17, %14]")]),
    ("outputs", "%3", "it is number 0 of 'output', but lies at no step", [("[%11", "[%3")]),
    ("outputs", "%18", "'output' is float32[B, 1] here, float32[B, 4] at %11", [("%17]", "%18]")]),
]


@pytest.mark.parametrize(("rule", "node", "message", "changes"), CASES)
def test_broken_once(rule: str, node: str, message: str, changes: list[Change]) -> None:
    assert_breaks(broken(FORWARD, *changes), rule, node, message)


@pytest.mark.parametrize(
    ("node", "message", "change"),
    [
        ("%9", "it reads %0 = input (t=2), expected a time-free value", ("carry(%4)", "carry(%0)")),
        ("%15", "it reads %11 = add (l0.fwd, t=2), expected a value of step 1", ("carry(%14)", "carry(%11)")),
    ],
)
def test_the_reverse_direction_starts_at_the_last_step(node: str, message: str, change: Change) -> None:
    assert_breaks(broken(BACKWARD, change), "carry", node, message)
    with pytest.raises(VerifyError, match="expected a value of step 0, its loop's last"):
        verify(broken(BACKWARD, ("exit(%17)", "exit(%14)")))


# What no text can say: nodes out of order, and nodes of other graphs.


def changed(position: int, change: Callable[[Node, Graph], Node]) -> Graph:
    graph = parse_graph(FORWARD)
    graph.nodes[position] = change(graph.nodes[position], graph)
    return graph


def test_index_is_not_the_position() -> None:
    graph = changed(20, lambda node, _: replace(node, index=21))
    assert_breaks(graph, "order", "%21", "it is node number 20 of the graph, but its index is 21")


def test_later_operand() -> None:
    graph = changed(18, lambda node, graph: replace(node, inputs=(graph.nodes[19],)))
    assert_breaks(graph, "order", "%18", "it reads %19 = exit (l0.fwd), which is not before it")


@pytest.mark.parametrize("index", [3, 99, -1])
def test_operand_of_another_graph(index: int) -> None:
    stranger = replace(parse_graph(FORWARD).nodes[3], index=index)
    graph = changed(20, lambda node, graph: replace(node, inputs=(stranger, graph.nodes[5])))
    assert_breaks(graph, "operands", "%20", f"it reads %{index} = input, which is not a node of this graph")


def test_unknown_op() -> None:
    graph = changed(20, lambda node, _: replace(node, op="atan"))
    assert_breaks(graph, "operands", "%20", "there is no op 'atan'")


@pytest.mark.parametrize("value", [None, 1j, [1], b"x"])
def test_unknown_attribute_type(value: object) -> None:
    graph = changed(5, lambda node, _: replace(node, attrs=(("value", value),)))  # type: ignore[arg-type]
    assert_breaks(graph, "attributes", "%5", f"value is {value!r} ({type(value).__name__}), expected float")


def test_output_of_another_graph() -> None:
    graph = parse_graph(FORWARD)
    graph.outputs["h_n"] = parse_graph(FORWARD).nodes[19]
    assert_breaks(graph, "outputs", "%19", "the output 'h_n' names it, but it is not a node of this graph")


def test_every_rule_of_the_docstring_is_broken_above() -> None:
    """And no message names a rule that the docstring does not explain."""
    explained = set(re.findall(r"(?m)^    (\w+) {2,}\S", str(verifier.__doc__)))
    assert explained == {rule for rule, *_ in CASES} | {"order"}


def test_a_graph_that_breaks_a_rule_prints() -> None:
    graph = broken(FORWARD, ("carry(%4)", "carry(%0)"))
    assert parse_graph(print_graph(graph)) == graph


@pytest.mark.parametrize("stage", ("lowered", "optimized"))
def test_the_pipeline_verifies_if_it_is_told_to(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph whose value has another shape than its op gives, as written or as a pass left it."""

    def broken(graph: Graph) -> Graph:
        (node, *_) = (n for n in graph.nodes if n.op == "matmul")
        object.__setattr__(node, "shape", (BATCH, 99))
        return graph

    def build(steps: int, lengths: bool) -> Graph:
        graph = lower(RNN(3, 4).stack(), steps)
        return broken(graph) if stage == "lowered" else graph

    if stage == "optimized":
        passed = pipeline.optimize
        monkeypatch.setattr(pipeline, "optimize", lambda graph: (broken(passed(graph)[0]), []))
    monkeypatch.setenv("RNNC_VERIFY", "1")
    with pytest.raises(VerifyError, match="99"):
        Artefacts(PIPELINE, Computation(build))["optimized"]
    monkeypatch.setenv("RNNC_VERIFY", "0")
    assert Artefacts(PIPELINE, Computation(build))[stage]
