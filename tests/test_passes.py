"""Each pass on graphs of a few nodes, before and after, as text; and what it must leave alone.

Texts are compared without comments and alignment, and however their nodes are numbered.
"""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from rnnc.ir.graph import Graph, Node, remap_outputs
from rnnc.ir.passes import PASSES, Pass, optimize
from rnnc.ir.passes.common_subexpressions import common_subexpressions
from rnnc.ir.passes.dead_code import dead_code
from rnnc.ir.passes.flatten_sums import flatten_sums
from rnnc.ir.passes.fold_constants import fold_constants
from rnnc.ir.passes.gate_fusion import gate_fusion
from rnnc.ir.passes.hoist_invariants import hoist_invariants
from rnnc.ir.passes.join_parts import join_parts
from rnnc.ir.passes.sink_slices import sink_slices
from rnnc.ir.text import parse_graph, print_graph
from rnnc.ir.verify import verify


def made(text: str, steps: int = 1) -> Graph:
    return verify(parse_graph(f"graph float64 steps={steps}\n{text}"))


def compact(graph: Graph) -> list[str]:
    """The lines of a graph's text, its nodes numbered as its outputs reach them."""
    lines = (re.sub(r"\s+", " ", line) for line in print_graph(renumbered(graph)).splitlines()[1:])
    return [line for line in lines if line and not line.startswith("#")]


def renumbered(graph: Graph) -> Graph:
    result = Graph(graph.dtype, graph.steps, share=False)
    new: dict[Node, Node] = {}

    def visit(node: Node) -> None:
        if node not in new:
            for operand in node.inputs:
                visit(operand)
            new[node] = result.copy_node(node, [new[i] for i in node.inputs])

    for root in graph.roots():
        visit(root)
    result.outputs = remap_outputs(graph.outputs, new)
    return result


def check_rewrite(run: Pass, graph: Graph, expected: str) -> None:
    assert compact(verify(run(graph))) == compact(made(expected, graph.steps))


def check_unchanged(run: Pass, graph: Graph) -> None:
    assert compact(verify(run(graph))) == compact(graph)


# ------------------------------------------------------------------------------------------ common_subexpressions


def test_equal_values_are_merged() -> None:
    graph = made(
        """
        %0 = input "x" : float64[B, 4] @ t=0
        %1 = input "w" : float64[4]
        %2 = slice(%1) {axis=0, start=0, stop=1} : float64[1]
        %3 = slice(%1) {axis=0, start=0, stop=1} : float64[1]
        %4 = slice(%1) {axis=0, start=1, stop=2} : float64[1]
        %5 = mul(%0, %2) : float64[B, 4] @ t=0
        %6 = mul(%3, %0) : float64[B, 4] @ t=0
        %7 = sub(%5, %4) : float64[B, 4] @ t=0
        %8 = sub(%4, %6) : float64[B, 4] @ t=0
        output "a" = [%7]
        output "b" = [%8]
        """
    )
    check_rewrite(
        common_subexpressions,
        graph,
        """
        %0 = input "w" : float64[4]
        %3 = input "x" : float64[B, 4] @ t=0
        %1 = slice(%0) {axis=0, start=0, stop=1} : float64[1]
        %2 = slice(%0) {axis=0, start=1, stop=2} : float64[1]
        %4 = mul(%3, %1) : float64[B, 4] @ t=0
        %5 = sub(%4, %2) : float64[B, 4] @ t=0
        %6 = sub(%2, %4) : float64[B, 4] @ t=0
        output "a" = [%5]
        output "b" = [%6]
        """,
    )


def test_values_of_two_steps_two_states_and_two_zeros_are_not_merged() -> None:
    graph = made(
        """
        %0 = input "start" : float64[B, 4]
        %1 = const 0.0 : float64[]
        %2 = const -0.0 : float64[]
        %3 = carry(%0) {state="a", delta=1} : float64[B, 4] @ t=0
        %4 = carry(%0) {state="b", delta=1} : float64[B, 4] @ t=0
        %5 = div(%3, %1) : float64[B, 4] @ t=0
        %6 = div(%4, %2) : float64[B, 4] @ t=0
        %7 = carry(%5) {state="a", delta=1} : float64[B, 4] @ t=1
        %8 = carry(%6) {state="b", delta=1} : float64[B, 4] @ t=1
        %9 = div(%7, %1) : float64[B, 4] @ t=1
        %10 = div(%8, %2) : float64[B, 4] @ t=1
        output "a" = [%5, %9]
        output "b" = [%6, %10]
        """,
        steps=2,
    )
    check_unchanged(common_subexpressions, graph)


# ------------------------------------------------------------------------------------------ dead_code

TWO_STATES = """
    %0 = input "a_0" : float64[B, 4]
    %1 = input "b_0" : float64[B, 4]
    %2 = input "x" : float64[B, 4] @ t=0
    %3 = carry(%0) {state="a", delta=1} : float64[B, 4] @ t=0
    %4 = carry(%1) {state="b", delta=1} : float64[B, 4] @ t=0
    %5 = add(%3, %2) : float64[B, 4] @ t=0
    %6 = tanh(%4) : float64[B, 4] @ t=0
    %7 = tanh(%4) : float64[B, 4] @ t=0
    %8 = exit(%5) {state="a", delta=1} : float64[B, 4]
    %9 = exit(%6) {state="b", delta=1} : float64[B, 4]
"""


def test_what_no_output_reads_goes() -> None:
    """A state that nothing reads goes too, its exit included; but the exit of a live carry stays."""
    graph = dead_code(made(TWO_STATES + 'output "y" = [%5]'))
    assert compact(graph) == compact(made(TWO_STATES + 'output "y" = [%5]'))
    assert [n.op for n in graph.nodes] == ["input", "input", "carry", "add", "exit"]
    assert {n.attr("state") for n in graph.nodes if n.op in ("carry", "exit")} == {"a"}


def test_dead_code_merges_nothing() -> None:
    graph = dead_code(made(TWO_STATES + 'output "one" = [%6]  output "other" = [%7]'))
    assert [n.op for n in graph.nodes] == ["input", "carry", "tanh", "tanh", "exit"]


def test_a_final_state_keeps_its_carry() -> None:
    graph = dead_code(made(TWO_STATES + 'output "a_n" = %8'))
    assert [n.op for n in graph.nodes] == ["input", "input", "carry", "add", "exit"]


# ------------------------------------------------------------------------------------------ fold_constants


def expression(formula: str, dtype: str = "float64") -> Graph:
    """A formula over x, y: (B, 4), a vector v: (4,), and numbers, such as "add(x, mul(1.0, y))"; one step."""
    graph = Graph(dtype, 1)
    names = {n: graph.input(n, ("B", 4), 0) for n in "xy"} | {"v": graph.input("v", (4,))}
    made_of: list[list[str]] = [[]]
    values = []
    for token in re.findall(r"[\w.+-]+(?=\()|[\w.+-]+|[()]", formula):
        if token == ")":
            op, *operands = made_of.pop()
            values.append(graph.add(op, [names[o] for o in operands]))
            names[f"#{len(values)}"] = values[-1]
            made_of[-1].append(f"#{len(values)}")
        elif token in names or re.fullmatch(r"[+-]?(\d.*|inf|nan)", token):
            if token not in names:
                names[token] = graph.const(float(token))
            made_of[-1].append(token)
        elif token != "(":
            made_of.append([token])
    graph.outputs["value"] = names[made_of[0][0]]
    return graph


def shown(graph: Graph) -> str:
    """A graph of one output as a formula again."""

    def show(node: Node) -> str:
        if node.op in ("input", "const"):
            return str(node.attrs[0][1])
        return f"{node.op}({', '.join(map(show, node.inputs))})"

    (output,) = graph.roots()
    return show(output)


FOLDED = {
    "mul(x, 1.0)": "x",
    "mul(1.0, x)": "x",
    "add(x, 0.0)": "x",
    "add(0.0, x)": "x",
    "add(x, -0.0)": "x",
    "add(x, 0.0, y)": "add(x, y)",
    "add(0.0, x, 0.0)": "x",
    "sub(x, 0.0)": "x",
    "div(x, 1.0)": "x",
    "neg(neg(x))": "x",
    "neg(neg(neg(x)))": "neg(x)",
    "mul(mul(x, 1.0), add(1.0, 0.0))": "x",
    "sub(2.0, 0.5)": "1.5",
    "neg(2.0)": "-2.0",
    "add(1.0, 2.0, 3.0)": "6.0",
    "sqrt(4.0)": "2.0",
    "rsqrt(4.0)": "0.5",
    "sigmoid(0.0)": "0.5",
    "relu(-3.0)": "0.0",
    "maximum(1.0, 2.0)": "2.0",
    "div(1.0, 0.0)": "inf",
    "log(-1.0)": "nan",
    "tanh(mul(x, sub(2.0, 1.0)))": "tanh(x)",
}
NOT_FOLDED = (
    "mul(x, 0.0)",  # NaN for an infinite x
    "mul(0.0, x)",
    "sub(0.0, x)",  # not -x for x = 0
    "sub(x, x)",
    "div(x, x)",
    "div(0.0, x)",
    "div(1.0, x)",
    "mul(x, -1.0)",
    "mul(x, 1.0000000000000002)",
    "add(x, 5e-324)",
    "neg(x)",
    "exp(log(x))",
    "sqrt(mul(x, x))",
    "minimum(x, x)",
    "maximum(x, -inf)",  # a NaN stays one
    "select(greater(2.0, 1.0), x, y)",
)


@pytest.mark.parametrize("formula", FOLDED)
def test_folded(formula: str) -> None:
    assert shown(fold_constants(expression(formula))) == FOLDED[formula]


@pytest.mark.parametrize("formula", NOT_FOLDED)
def test_not_folded(formula: str) -> None:
    assert shown(fold_constants(expression(formula))) == formula


def test_numbers_are_folded_in_the_precision_of_the_graph() -> None:
    assert shown(fold_constants(expression("add(0.1, 0.2)"))) == "0.30000000000000004"
    assert shown(fold_constants(expression("add(0.1, 0.2)", "float32"))) == "0.30000001192092896"


def test_a_number_beside_a_vector_and_a_batch() -> None:
    assert shown(fold_constants(expression("add(mul(v, 1.0), add(x, 0.0))"))) == "add(v, x)"


def test_nothing_looks_through_a_carry() -> None:
    """The first step would lose what the others keep, and the steps were no longer alike."""
    graph = made(
        """
        %0 = const 0.0 : float64[]
        %1 = const 1.0 : float64[]
        %2 = carry(%0) {state="n", delta=1} : float64[] @ t=0
        %3 = add(%2, %1) : float64[] @ t=0
        %4 = carry(%3) {state="n", delta=1} : float64[] @ t=1
        %5 = add(%4, %1) : float64[] @ t=1
        output "n" = [%3, %5]
        """,
        steps=2,
    )
    check_unchanged(fold_constants, graph)


VECTOR = """
    %0 = input "v" : float64[4]
    %1 = input "x" : float64[B, 4] @ t=0
    %2 = zeros() : float64[B, 4] @ t=0
    %3 = add(%0, %2) : float64[B, 4] @ t=0
"""


def test_zeros_that_only_broadcast_go_where_another_operand_gives_the_shape() -> None:
    check_rewrite(
        fold_constants,
        made(VECTOR + '%4 = mul(%3, %1) : float64[B, 4] @ t=0 output "y" = [%4]'),
        """
        %0 = input "v" : float64[4]
        %1 = input "x" : float64[B, 4] @ t=0
        %2 = mul(%0, %1) : float64[B, 4] @ t=0
        output "y" = [%2]
        """,
    )


@pytest.mark.parametrize(
    "reader",
    (
        'output "y" = [%3]',  # it is what gives the result its shape and its step
        '%4 = input "w" : float64[B, 4] %5 = mul(%3, %4) : float64[B, 4] @ t=0 output "y" = [%5]',
    ),
)
def test_zeros_that_give_a_shape_or_a_step_stay(reader: str) -> None:
    check_unchanged(fold_constants, made(VECTOR + reader))


def test_a_mask_is_not_computed_before_it_is_broadcast() -> None:
    """Zeros cannot be added to truth values."""
    check_unchanged(
        fold_constants,
        made(
            """
            %0 = const 1.0 : float64[]
            %1 = zeros() : float64[B, 1] @ t=0
            %2 = add(%0, %1) : float64[B, 1] @ t=0
            %3 = const 0.5 : float64[]
            %4 = greater(%2, %3) : bool[B, 1] @ t=0
            %5 = input "x" : float64[B, 1] @ t=0
            %6 = select(%4, %5, %3) : float64[B, 1] @ t=0
            output "y" = [%6]
            """
        ),
    )


def test_what_has_no_step_is_computed_before_it_is_broadcast() -> None:
    """Through two broadcasts, too: over units, at a step; over rows."""
    text = """
        %0 = input "s"                   : float64[1]
        %1 = zeros()                     : float64[4]     @ t=0
        %2 = add(%0, %1)                 : float64[4]     @ t=0
        %3 = zeros()                     : float64[B, 4]
        %4 = add(%2, %3)                 : float64[B, 4]  @ t=0
        %5 = tanh(%4)                    : float64[B, 4]  @ t=0
        %6 = mul(%5, %2)                 : float64[B, 4]  @ t=0
        output "y" = [%6]
        """
    expected = """
        %0 = input "s"    : float64[1]
        %1 = tanh(%0)     : float64[1]
        %2 = mul(%1, %0)  : float64[1]
        %3 = zeros()      : float64[B, 4] @ t=0
        %4 = add(%2, %3)  : float64[B, 4] @ t=0
        output "y" = [%4]
        """
    check_rewrite(fold_constants, made(text), expected)


def test_zeros_of_the_same_shape_are_nothing_to_add() -> None:
    graph = made(VECTOR + '%4 = add(%1, %2, %1) : float64[B, 4] @ t=0 output "y" = [%4]')
    expected = '%0 = input "x" : float64[B, 4] @ t=0 %1 = add(%0, %0) : float64[B, 4] @ t=0 output "y" = [%1]'
    check_rewrite(fold_constants, graph, expected)


# ------------------------------------------------------------------------------------------ join_parts

PARTS = """
    %0 = input "a" : float64[B, 2] @ t=0
    %1 = input "b" : float64[B, 3] @ t=0
    %2 = input "c" : float64[B, 5] @ t=0
    %3 = zeros() : float64[B, 2]
    %4 = zeros() : float64[B, 3]
"""


def test_parts_beside_zeros_become_one_concat() -> None:
    check_rewrite(
        join_parts,
        made(
            PARTS
            + """
            %5 = concat(%0, %4) {axis=-1} : float64[B, 5] @ t=0
            %6 = concat(%3, %1) {axis=-1} : float64[B, 5] @ t=0
            %7 = add(%5, %2, %6) : float64[B, 5] @ t=0
            output "y" = [%7]
            """
        ),
        """
        %0 = input "a" : float64[B, 2] @ t=0
        %1 = input "b" : float64[B, 3] @ t=0
        %2 = input "c" : float64[B, 5] @ t=0
        %3 = concat(%0, %1) {axis=-1} : float64[B, 5] @ t=0
        %4 = add(%3, %2) : float64[B, 5] @ t=0
        output "y" = [%4]
        """,
    )


def test_parts_that_overlap_are_added_where_they_do() -> None:
    """a a 0 0 0 + b b b 0 0: two columns of both, one of b, and two that stay empty."""
    check_rewrite(
        join_parts,
        made(
            PARTS
            + """
            %5 = concat(%0, %4) {axis=-1} : float64[B, 5] @ t=0
            %6 = concat(%1, %3) {axis=-1} : float64[B, 5] @ t=0
            %7 = add(%5, %6) : float64[B, 5] @ t=0
            output "y" = [%7]
            """
        ),
        """
        %0 = input "a" : float64[B, 2] @ t=0
        %1 = input "b" : float64[B, 3] @ t=0
        %2 = slice(%1) {axis=-1, start=0, stop=2} : float64[B, 2] @ t=0
        %3 = add(%0, %2) : float64[B, 2] @ t=0
        %4 = slice(%1) {axis=-1, start=2, stop=3} : float64[B, 1] @ t=0
        %5 = zeros() : float64[B, 2]
        %6 = concat(%3, %4, %5) {axis=-1} : float64[B, 5] @ t=0
        output "y" = [%6]
        """,
    )


def test_parts_of_a_parameter_are_joined_along_its_first_axis() -> None:
    check_rewrite(
        join_parts,
        made(
            """
            %0 = input "a" : float64[2, 3]
            %1 = zeros() : float64[2, 3]
            %2 = concat(%0, %1) {axis=0} : float64[4, 3]
            %3 = concat(%1, %0) {axis=0} : float64[4, 3]
            %4 = add(%2, %3) : float64[4, 3]
            output "y" = %4
            """
        ),
        """
        %0 = input "a" : float64[2, 3]
        %1 = concat(%0, %0) {axis=0} : float64[4, 3]
        output "y" = %1
        """,
    )


@pytest.mark.parametrize(
    "rest",
    (
        "%5 = concat(%0, %4) {axis=-1} : float64[B, 5] @ t=0 %6 = add(%5, %2) : float64[B, 5] @ t=0",  # one part
        "%5 = concat(%0, %1) {axis=-1} : float64[B, 5] @ t=0 %6 = add(%5, %5) : float64[B, 5] @ t=0",  # no zeros
        "%5 = concat(%0, %4) {axis=-1} : float64[B, 5] @ t=0 %6 = mul(%5, %5) : float64[B, 5] @ t=0",  # no sum
    ),
)
def test_other_sums_are_not_joined(rest: str) -> None:
    check_unchanged(join_parts, made(f'{PARTS} {rest} output "y" = [%6]'))


def test_parts_along_two_axes_are_not_joined() -> None:
    graph = made(
        """
        %0 = input "a" : float64[1, 2]
        %1 = input "b" : float64[2, 1]
        %2 = zeros() : float64[1, 2]
        %3 = zeros() : float64[2, 1]
        %4 = concat(%0, %2) {axis=0} : float64[2, 2]
        %5 = concat(%1, %3) {axis=-1} : float64[2, 2]
        %6 = add(%4, %5) : float64[2, 2]
        output "y" = %6
        """
    )
    check_unchanged(join_parts, graph)


# ------------------------------------------------------------------------------------------ sink_slices

AFFINE = """
    %0 = input "x" : float64[B, 3] @ t=0
    %1 = input "w" : float64[8, 3]
    %2 = input "b" : float64[8]
    %3 = matmul(%0, %1) {transpose_b=true} : float64[B, 8] @ t=0
    %4 = add(%3, %2) : float64[B, 8] @ t=0
    %5 = slice(%4) {axis=-1, start=4, stop=8} : float64[B, 4] @ t=0
    %6 = tanh(%5) : float64[B, 4] @ t=0
"""


def test_a_slice_moves_to_the_weights() -> None:
    check_rewrite(
        sink_slices,
        made(AFFINE + 'output "y" = [%6]'),
        """
        %0 = input "w" : float64[8, 3]
        %1 = input "b" : float64[8]
        %2 = input "x" : float64[B, 3] @ t=0
        %3 = slice(%0) {axis=0, start=4, stop=8} : float64[4, 3]
        %4 = matmul(%2, %3) {transpose_b=true} : float64[B, 4] @ t=0
        %5 = slice(%1) {axis=-1, start=4, stop=8} : float64[4]
        %6 = add(%4, %5) : float64[B, 4] @ t=0
        %7 = tanh(%6) : float64[B, 4] @ t=0
        output "y" = [%7]
        """,
    )


@pytest.mark.parametrize("reader", ('output "whole" = [%4]', "%7 = reduce_sum(%4) : float64[B, 1] @ t=0"))
def test_not_through_a_value_that_somebody_reads_whole(reader: str) -> None:
    outputs = "" if reader.startswith("output") else ' output "z" = [%7]'
    check_unchanged(sink_slices, made(AFFINE + reader + outputs + ' output "y" = [%6]'))


def test_as_far_as_a_value_that_somebody_reads_whole() -> None:
    """The sum is narrowed, its matmul is not: the work would be done twice."""
    check_rewrite(
        sink_slices,
        made(AFFINE + 'output "whole" = [%3]  output "y" = [%6]'),
        """
        %0 = input "w" : float64[8, 3]
        %1 = input "b" : float64[8]
        %2 = input "x" : float64[B, 3] @ t=0
        %3 = matmul(%2, %0) {transpose_b=true} : float64[B, 8] @ t=0
        %4 = slice(%3) {axis=-1, start=4, stop=8} : float64[B, 4] @ t=0
        %5 = slice(%1) {axis=-1, start=4, stop=8} : float64[4]
        %6 = add(%4, %5) : float64[B, 4] @ t=0
        %7 = tanh(%6) : float64[B, 4] @ t=0
        output "whole" = [%3]
        output "y" = [%7]
        """,
    )


def test_a_value_whose_only_whole_reader_is_itself_sliced() -> None:
    """tanh(x) is read by its slices alone, and so nobody needs x whole either."""
    check_rewrite(
        sink_slices,
        made(
            """
            %0 = input "x" : float64[B, 3] @ t=0
            %1 = input "w" : float64[3, 8]
            %2 = matmul(%0, %1) {transpose_b=false} : float64[B, 8] @ t=0
            %3 = reduce_sum(%0) : float64[B, 1] @ t=0
            %4 = mul(%2, %3) : float64[B, 8] @ t=0
            %5 = tanh(%4) : float64[B, 8] @ t=0
            %6 = slice(%5) {axis=-1, start=0, stop=6} : float64[B, 6] @ t=0
            %7 = slice(%6) {axis=-1, start=2, stop=4} : float64[B, 2] @ t=0
            output "y" = [%7]
            """
        ),
        """
        %0 = input "w" : float64[3, 8]
        %1 = input "x" : float64[B, 3] @ t=0
        %2 = reduce_sum(%1) : float64[B, 1] @ t=0
        %3 = slice(%0) {axis=-1, start=2, stop=4} : float64[3, 2]
        %4 = matmul(%1, %3) {transpose_b=false} : float64[B, 2] @ t=0
        %5 = mul(%4, %2) : float64[B, 2] @ t=0
        %6 = tanh(%5) : float64[B, 2] @ t=0
        output "y" = [%6]
        """,
    )


LEAVES = """
    %0 = input "x" : float64[B, 3] @ t=0
    %1 = input "y" : float64[B, 5] @ t=0
"""
CONCAT = f"""
    {LEAVES}
    %2 = concat(%0, %1) {{axis=-1}} : float64[B, 8] @ t=0
"""


@pytest.mark.parametrize(
    ("start", "stop", "expected"),
    (
        (0, 3, 'output "y" = [%0]'),
        (3, 8, 'output "y" = [%1]'),
        (4, 6, '%2 = slice(%1) {axis=-1, start=1, stop=3} : float64[B, 2] @ t=0 output "y" = [%2]'),
    ),
)
def test_a_slice_of_a_concat_is_a_slice_of_its_part(start: int, stop: int, expected: str) -> None:
    piece = f"%3 = slice(%2) {{axis=-1, start={start}, stop={stop}}} : float64[B, {stop - start}] @ t=0"
    check_rewrite(sink_slices, made(CONCAT + piece + ' output "y" = [%3]'), LEAVES + expected)


def test_a_slice_over_two_parts_of_a_concat_stays() -> None:
    piece = "%3 = slice(%2) {axis=-1, start=2, stop=4} : float64[B, 2] @ t=0"
    check_unchanged(sink_slices, made(CONCAT + piece + ' output "y" = [%3]'))


def test_slices_of_the_first_axis_stay() -> None:
    graph = made(
        """
        %0 = input "v" : float64[8]
        %1 = tanh(%0) : float64[8]
        %2 = slice(%1) {axis=0, start=0, stop=4} : float64[4]
        output "y" = %2
        """
    )
    check_unchanged(sink_slices, graph)


# ------------------------------------------------------------------------------------------ flatten_sums

SUMS = """
    %0 = input "x" : float64[B, 4] @ t=0
    %1 = input "y" : float64[B, 4] @ t=0
    %2 = input "a" : float64[4]
    %3 = input "b" : float64[4]
    %4 = add(%0, %2) : float64[B, 4] @ t=0
    %5 = add(%1, %3) : float64[B, 4] @ t=0
    %6 = add(%4, %5) : float64[B, 4] @ t=0
"""


def test_sums_become_one_and_biases_are_added_once() -> None:
    check_rewrite(
        flatten_sums,
        made(SUMS + 'output "z" = [%6]'),
        """
        %0 = input "a" : float64[4]
        %1 = input "b" : float64[4]
        %2 = input "x" : float64[B, 4] @ t=0
        %3 = input "y" : float64[B, 4] @ t=0
        %4 = add(%0, %1) : float64[4]
        %5 = add(%2, %3, %4) : float64[B, 4] @ t=0
        output "z" = [%5]
        """,
    )


def test_a_sum_with_another_reader_stays_whole() -> None:
    check_rewrite(
        flatten_sums,
        made(SUMS + 'output "z" = [%6]  output "part" = [%4]'),
        """
        %0 = input "a" : float64[4]
        %1 = input "b" : float64[4]
        %2 = input "x" : float64[B, 4] @ t=0
        %3 = input "y" : float64[B, 4] @ t=0
        %4 = add(%2, %0) : float64[B, 4] @ t=0
        %5 = add(%4, %3, %1) : float64[B, 4] @ t=0
        output "z" = [%5]
        output "part" = [%4]
        """,
    )


def test_a_sum_that_is_added_to_itself_is_read_twice() -> None:
    graph = made(
        """
        %0 = input "x" : float64[B, 4] @ t=0
        %1 = input "y" : float64[B, 4] @ t=0
        %2 = add(%0, %1) : float64[B, 4] @ t=0
        %3 = add(%2, %2) : float64[B, 4] @ t=0
        output "z" = [%3]
        """
    )
    check_unchanged(flatten_sums, graph)


@pytest.mark.parametrize(
    "narrow",
    (
        "%2 = add(%0, %0) : float64[B, 1] @ t=0 %3 = add(%1, %2) : float64[B, 4] @ t=0",  # fewer columns
        "%2 = sub(%1, %0) : float64[B, 4] @ t=0 %3 = add(%1, %2) : float64[B, 4] @ t=0",  # a difference
    ),
)
def test_only_sums_of_the_same_shape(narrow: str) -> None:
    leaves = '%0 = input "n" : float64[B, 1] @ t=0  %1 = input "x" : float64[B, 4] @ t=0'
    check_unchanged(flatten_sums, made(f'{leaves} {narrow} output "z" = [%3]'))


def test_time_free_sums_stay_time_free() -> None:
    check_rewrite(
        flatten_sums,
        made(
            """
            %0 = input "a" : float64[4]
            %1 = input "b" : float64[4]
            %2 = input "x" : float64[B, 4] @ t=0
            %3 = add(%0, %1) : float64[4]
            %4 = add(%2, %3) : float64[B, 4] @ t=0
            output "z" = [%4]
            """
        ),
        """
        %0 = input "a" : float64[4]
        %1 = input "b" : float64[4]
        %3 = input "x" : float64[B, 4] @ t=0
        %2 = add(%0, %1) : float64[4]
        %4 = add(%3, %2) : float64[B, 4] @ t=0
        output "z" = [%4]
        """,
    )


TALL = """
    %0 = input "x" : float64[B, 3] @ t=0
    %1 = input "x" : float64[B, 3] @ t=1
    %2 = input "w" : float64[3, 3]
    %3 = tanh(%0) : float64[B, 3] @ t=0
    %4 = tanh(%1) : float64[B, 3] @ t=1
"""


def test_a_sum_over_time_of_sums_is_one() -> None:
    """Its terms have no batch axis: each is a product over rows, and together with its sum over time one Gemm."""
    check_rewrite(
        flatten_sums,
        made(
            TALL
            + """
            %5 = outer(%0, %3) : float64[3, 3] @ t=0
            %6 = outer(%3, %0) : float64[3, 3] @ t=0
            %7 = outer(%1, %4) : float64[3, 3] @ t=1
            %8 = outer(%4, %1) : float64[3, 3] @ t=1
            %9 = add(%5, %6) : float64[3, 3] @ t=0
            %10 = add(%7, %8) : float64[3, 3] @ t=1
            %11 = tsum(%9, %10) : float64[3, 3]
            output "y" = %11
            """,
            steps=2,
        ),
        """
        %0 = input "x" : float64[B, 3] @ t=0
        %2 = tanh(%0) : float64[B, 3] @ t=0
        %3 = outer(%0, %2) : float64[3, 3] @ t=0
        %4 = outer(%2, %0) : float64[3, 3] @ t=0
        %1 = input "x" : float64[B, 3] @ t=1
        %5 = tanh(%1) : float64[B, 3] @ t=1
        %6 = outer(%1, %5) : float64[3, 3] @ t=1
        %7 = outer(%5, %1) : float64[3, 3] @ t=1
        %8 = tsum(%3, %4, %6, %7) : float64[3, 3]
        output "y" = %8
        """,
    )


@pytest.mark.parametrize(
    "sums",
    (
        """
        %5 = add(%0, %3) : float64[B, 3] @ t=0
        %6 = add(%1, %4) : float64[B, 3] @ t=1
        %7 = tsum(%5, %6) : float64[B, 3]
        output "y" = %7
        """,  # a value of each row is summed in its loop
        """
        %5 = outer(%0, %3) : float64[3, 3] @ t=0
        %6 = outer(%1, %4) : float64[3, 3] @ t=1
        %7 = add(%5, %2) : float64[3, 3] @ t=0
        %8 = add(%6, %2) : float64[3, 3] @ t=1
        %9 = tsum(%7, %8) : float64[3, 3]
        output "y" = %9
        """,  # w has no step
        """
        %5 = outer(%0, %3) : float64[3, 3] @ t=0
        %6 = outer(%1, %4) : float64[3, 3] @ t=1
        %7 = add(%5, %5) : float64[3, 3] @ t=0
        %8 = add(%6, %6) : float64[3, 3] @ t=1
        %9 = tsum(%7, %8) : float64[3, 3]
        output "y" = %9
        output "z" = [%7, %8]
        """,  # read by another
    ),
)
def test_other_sums_over_time_stay(sums: str) -> None:
    check_unchanged(flatten_sums, made(TALL + sums, steps=2))


# ------------------------------------------------------------------------------------------ hoist_invariants


def recurrence(*lines: str, outputs: str = "") -> Graph:
    """h'[t] = tanh(%6), where %6 may read h_0 = %0, b = %1, w = %2, x[t] = %3, h = %4 and h @ w' = %5."""
    text = """
        %0 = input "h_0" : float64[B, 4]
        %1 = input "b" : float64[4]
        %2 = input "w" : float64[4, 4]
        %3 = input "x" : float64[B, 4] @ t=0
        %4 = carry(%0) {state="h", delta=1} : float64[B, 4] @ t=0
        %5 = matmul(%4, %2) {transpose_b=true} : float64[B, 4] @ t=0
    """
    for number, line in enumerate((*lines, f"tanh(%{5 + len(lines)})"), 6):
        text += f"%{number} = {line} : float64[B, 4] @ t=0\n"
    last = 6 + len(lines)
    text += f'%{last + 1} = exit(%{last}) {{state="h", delta=1}} : float64[B, 4] output "h_n" = %{last + 1} {outputs}'
    return made(text)


def test_what_is_on_no_cycle_is_added_before() -> None:
    split = recurrence("add(%3, %1)", "add(%6, %5)")
    assert compact(verify(hoist_invariants(recurrence("add(%3, %5, %1)")))) == compact(split)


@pytest.mark.parametrize("sum_", ("add(%3, %5)", "add(%5, %1)", "add(%5, %1, %1)", "add(%5, %4)"))
def test_a_single_term_or_biases_alone_stay(sum_: str) -> None:
    """Biases alone start the accumulators of the step; to add them over time would cost a buffer."""
    check_unchanged(hoist_invariants, recurrence(sum_))


def test_sums_on_no_cycle_stay() -> None:
    check_unchanged(hoist_invariants, made(SUMS + 'output "z" = [%6]'))


# ------------------------------------------------------------------------------------------ gate_fusion


def test_matmuls_of_one_input_become_one() -> None:
    """In the order of their weights, however they are used: the packed parameter is then the parameter itself."""
    check_rewrite(
        gate_fusion,
        made(
            """
            %0 = input "x" : float64[B, 3] @ t=0
            %1 = input "w" : float64[8, 3]
            %2 = slice(%1) {axis=0, start=4, stop=8} : float64[4, 3]
            %3 = slice(%1) {axis=0, start=0, stop=4} : float64[4, 3]
            %4 = matmul(%0, %2) {transpose_b=true} : float64[B, 4] @ t=0
            %5 = matmul(%0, %3) {transpose_b=true} : float64[B, 4] @ t=0
            %6 = sub(%4, %5) : float64[B, 4] @ t=0
            output "y" = [%6]
            """
        ),
        """
        %0 = input "w" : float64[8, 3]
        %1 = input "x" : float64[B, 3] @ t=0
        %2 = matmul(%1, %0) {transpose_b=true} : float64[B, 8] @ t=0
        %3 = slice(%2) {axis=-1, start=4, stop=8} : float64[B, 4] @ t=0
        %4 = slice(%2) {axis=-1, start=0, stop=4} : float64[B, 4] @ t=0
        %5 = sub(%3, %4) : float64[B, 4] @ t=0
        output "y" = [%5]
        """,
    )


def test_weights_that_are_no_neighbours_are_concatenated_once_for_all_steps() -> None:
    check_rewrite(
        gate_fusion,
        made(
            """
            %0 = input "x" : float64[B, 3] @ t=0
            %1 = input "x" : float64[B, 3] @ t=1
            %2 = input "w" : float64[3, 2]
            %3 = input "v" : float64[3, 4]
            %4 = matmul(%0, %2) {transpose_b=false} : float64[B, 2] @ t=0
            %5 = matmul(%0, %3) {transpose_b=false} : float64[B, 4] @ t=0
            %6 = matmul(%1, %2) {transpose_b=false} : float64[B, 2] @ t=1
            %7 = matmul(%1, %3) {transpose_b=false} : float64[B, 4] @ t=1
            output "a" = [%4, %6]
            output "b" = [%5, %7]
            """,
            steps=2,
        ),
        """
        %0 = input "w" : float64[3, 2]
        %1 = input "v" : float64[3, 4]
        %2 = input "x" : float64[B, 3] @ t=0
        %3 = input "x" : float64[B, 3] @ t=1
        %4 = concat(%0, %1) {axis=-1} : float64[3, 6]
        %5 = matmul(%2, %4) {transpose_b=false} : float64[B, 6] @ t=0
        %6 = slice(%5) {axis=-1, start=0, stop=2} : float64[B, 2] @ t=0
        %7 = slice(%5) {axis=-1, start=2, stop=6} : float64[B, 4] @ t=0
        %8 = matmul(%3, %4) {transpose_b=false} : float64[B, 6] @ t=1
        %9 = slice(%8) {axis=-1, start=0, stop=2} : float64[B, 2] @ t=1
        %10 = slice(%8) {axis=-1, start=2, stop=6} : float64[B, 4] @ t=1
        output "a" = [%6, %9]
        output "b" = [%7, %10]
        """,
    )


LOOP = """
    %0 = input "h_0" : float64[B, 4]
    %1 = input "w" : float64[4, 4]
    %2 = input "v" : float64[4, 4]
    %3 = carry(%0) {state="h", delta=1} : float64[B, 4] @ t=0
    %4 = matmul(%3, %1) {transpose_b=true} : float64[B, 4] @ t=0
    %5 = matmul(%3, %2) {transpose_b=true} : float64[B, 4] @ t=0
    %6 = mul(%4, %5) : float64[B, 4] @ t=0
"""


def test_a_matmul_in_a_loop_is_not_joined_with_one_outside() -> None:
    """Both read the carry, but only the first is read by the loop: joined, the second would run step by step too."""
    ends = '%7 = exit(%4) {state="h", delta=1} : float64[B, 4] output "h_n" = %7 output "seen" = [%6]'
    check_unchanged(gate_fusion, made(LOOP + ends))


def test_two_matmuls_in_the_same_loop_are_joined() -> None:
    ends = '%7 = exit(%6) {state="h", delta=1} : float64[B, 4] output "h_n" = %7'
    check_rewrite(
        gate_fusion,
        made(LOOP + ends),
        """
        %0 = input "h_0" : float64[B, 4]
        %1 = input "w" : float64[4, 4]
        %2 = input "v" : float64[4, 4]
        %3 = concat(%1, %2) {axis=0} : float64[8, 4]
        %4 = carry(%0) {state="h", delta=1} : float64[B, 4] @ t=0
        %5 = matmul(%4, %3) {transpose_b=true} : float64[B, 8] @ t=0
        %6 = slice(%5) {axis=-1, start=0, stop=4} : float64[B, 4] @ t=0
        %7 = slice(%5) {axis=-1, start=4, stop=8} : float64[B, 4] @ t=0
        %8 = mul(%6, %7) : float64[B, 4] @ t=0
        %9 = exit(%8) {state="h", delta=1} : float64[B, 4]
        output "h_n" = %9
        """,
    )


@pytest.mark.parametrize(
    "second",
    (
        "matmul(%0, %2) {transpose_b=false}",  # the other form
        "matmul(%4, %2) {transpose_b=true}",  # another operand
    ),
)
def test_other_forms_and_operands_are_not_joined(second: str) -> None:
    graph = made(
        f"""
        %0 = input "x" : float64[B, 4] @ t=0
        %1 = input "w" : float64[4, 4]
        %2 = input "v" : float64[4, 4]
        %3 = matmul(%0, %1) {{transpose_b=true}} : float64[B, 4] @ t=0
        %4 = tanh(%0) : float64[B, 4] @ t=0
        %5 = {second} : float64[B, 4] @ t=0
        output "a" = [%3]
        output "b" = [%5]
        """
    )
    check_unchanged(gate_fusion, graph)


# ------------------------------------------------------------------------------------------ the list


def test_optimize_checks_the_graph_before_and_after_each_pass_and_records_its_effect() -> None:
    checked: list[Graph] = []
    graph = made(AFFINE + 'output "y" = [%6]')
    optimised, records = optimize(graph, checked.append)
    assert checked[0] is graph and checked[-1] is optimised
    assert len(checked) == len(PASSES) + 1
    assert [r.name for r in records] == [run.__name__ for run in PASSES]
    assert [r.nodes for r in records] == [(len(a.nodes), len(b.nodes)) for a, b in pairwise(checked)]
    assert {r.matmuls for r in records} <= {(1, 1), (1, 2), (2, 1)}
