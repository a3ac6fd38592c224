"""The whole way from equations to a Program keeps every number, and finds the loops: held against the unrolled graph.

A program rolled from three template steps, after all passes, must give what the graph as written gives for any number
of steps. Both are interpreted in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings

from rnnc.backends.reference.interpreter import evaluate_bind, run_graph, run_program
from rnnc.ir.computation import Computation
from rnnc.ir.equations import Value, linear, sigmoid, tanh
from rnnc.ir.errors import RollError
from rnnc.ir.graph import Graph, Node
from rnnc.ir.lower import lower
from rnnc.ir.passes import PASSES, Pass
from rnnc.ir.passes.common_subexpressions import common_subexpressions
from rnnc.ir.passes.dead_code import dead_code
from rnnc.ir.passes.sink_slices import sink_slices
from rnnc.ir.pipeline import TEMPLATE_STEPS
from rnnc.ir.program import Loop, Program
from rnnc.ir.roll import roll
from rnnc.ir.stacks import Direction, Stack
from rnnc.ir.text import print_graph
from rnnc.ir.verify import verify
from tests.cases import error
from tests.networks import CELLS, Feeds, data_of, lengths_of, parameters_of, stack_of
from tests.random_cells import stacks
from tests.refusals import raises_saying

STEPS = (1, 2, 3, 7)
BATCH = 4
TOLERANCE = 1e-12

each_cell = pytest.mark.parametrize("cell", CELLS)
each_network = pytest.mark.parametrize(
    ("num_layers", "bidirectional", "ragged"),
    ((1, False, False), (1, True, True), (2, False, True), (2, True, False)),  # all pairs of the three
)


def run_rolled(program: Program, feeds: Feeds, steps: int) -> Feeds:
    return run_program(program, evaluate_bind(program, feeds), feeds, steps)


def assert_agree(found: Feeds, expected: Feeds, tolerance: float = TOLERANCE) -> None:
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert error(found[name], value) <= tolerance, name


def feeds_of(stack: Stack, steps: int, ragged: bool) -> Feeds:
    rng = np.random.default_rng(steps)
    lengths = lengths_of(steps, BATCH) if ragged else None
    return parameters_of(stack, rng) | data_of(stack, steps, BATCH, rng, lengths)


# ------------------------------------------------------------------------------------------ the numbers


@pytest.mark.sampled(3)
@each_network
@each_cell
def test_a_program_of_three_steps_is_the_graph_of_any(
    cell: str, num_layers: int, bidirectional: bool, ragged: bool
) -> None:
    stack = stack_of(cell, num_layers, bidirectional)
    program = Computation.of_stack(stack).program(lengths=ragged)
    for steps in STEPS:
        feeds = feeds_of(stack, steps, ragged)
        expected = run_graph(lower(stack, steps, lengths=ragged), feeds)
        assert all(np.isfinite(value).all() for value in expected.values())
        assert_agree(run_rolled(program, feeds, steps), expected)


@pytest.mark.parametrize("cell", ("gru", "layer_norm_lstm", "fast_and_slow"))
def test_other_sizes_and_no_bias(cell: str) -> None:
    for input_size, hidden_size in ((1, 1), (1, 5), (5, 1), (7, 12)):
        stack = stack_of(cell, 2, True, input_size=input_size, hidden_size=hidden_size, bias=False)
        feeds = feeds_of(stack, 5, True)
        expected = run_graph(lower(stack, 5, lengths=True), feeds)
        assert_agree(run_rolled(Computation.of_stack(stack).program(lengths=True), feeds, 5), expected)


@settings(max_examples=60)
@given(stacks())
def test_random_cells(stack: Stack) -> None:
    """Random equations, made of every op, in stacks of random sizes."""
    for ragged in (False, True):
        program = Computation.of_stack(stack).program(lengths=ragged)
        for steps in (1, 2, 5):
            feeds = feeds_of(stack, steps, ragged)
            expected = run_graph(lower(stack, steps, lengths=ragged), feeds)
            assert_agree(run_rolled(program, feeds, steps), expected)


# ------------------------------------------------------------------------------------------ the steps


def assert_same_program(stack: Stack, ragged: bool) -> None:
    computation = Computation.of_stack(stack)
    graphs = (computation.optimized(TEMPLATE_STEPS + n, lengths=ragged).graph for n in (0, 1))
    one, other = (roll(graph).text() for graph in graphs)
    assert one == other


@pytest.mark.sampled(3)
@each_network
@each_cell
def test_the_program_does_not_depend_on_the_template_steps(
    cell: str, num_layers: int, bidirectional: bool, ragged: bool
) -> None:
    stack = stack_of(cell, num_layers, bidirectional)
    assert_same_program(stack, ragged)


@settings(max_examples=30)
@given(stacks())
def test_the_program_of_random_cells_does_not_depend_on_the_template_steps(stack: Stack) -> None:
    assert_same_program(stack, False)


# ------------------------------------------------------------------------------------------ what is in a loop

MATMULS: dict[str, tuple[tuple[int, ...], int]] = {
    "rnn": ((1,), 0),
    "gru": ((1,), 0),
    "gru_reset_first": ((2,), 0),
    "lstm": ((1,), 0),
    "lstm_projected": ((2,), 0),
    "minimal_gated_unit": ((2,), 0),
    "peephole_lstm": ((1,), 0),
    "layer_norm_lstm": ((1,), 0),
    "simple_recurrent_unit": ((0,), 0),
    "independent_rnn": ((0,), 0),
    "nested_lstm": ((3,), 0),
    "elman_network": ((1,), 1),
    "fast_and_slow": ((0, 1), 1),
}
"""Of one layer and direction: the matmuls in the body of each loop, and those after a loop, over all steps at once.

Beside them each layer has one matmul of its input, for all gates of both directions. A number that grows in a body is
work pulled back into a recurrence, which no other test sees: the results stay right.
"""


def matmuls(program: Program) -> tuple[list[int], int]:
    bodies = [sum(f.op == "matmul" for f in loop.body) for loop in program.loops()]
    return bodies, sum(not isinstance(s, Loop) and s.op == "matmul" for s in program.statements)


@each_network
@each_cell
def test_matmuls_in_each_loop(cell: str, num_layers: int, bidirectional: bool, ragged: bool) -> None:
    bodies, outside = matmuls(Computation.of_stack(stack_of(cell, num_layers, bidirectional)).program(lengths=ragged))
    one_body, after = MATMULS[cell]
    copies = num_layers * (2 if bidirectional else 1)
    assert sorted(bodies) == sorted(one_body * copies)
    assert outside == num_layers + after * copies


# ------------------------------------------------------------------------------------------ the passes


def check_each_pass(graph: Graph, feeds: Feeds, idempotent: Sequence[Pass] = PASSES) -> None:
    """Each pass in its place: valid before, valid after, the same numbers, and nothing left to do but dead code."""
    expected = run_graph(graph, feeds)
    verify(graph)
    for run in PASSES:
        before = print_graph(graph)
        after = verify(run(graph))
        assert print_graph(graph) == before, f"{run.__name__} changed its argument"
        assert_agree(run_graph(after, feeds), expected)
        once = dead_code(after)
        if run in idempotent:
            assert print_graph(dead_code(run(once))) == print_graph(once), f"{run.__name__} is not idempotent"
        graph = after


@pytest.mark.sampled(3)
@each_network
@each_cell
def test_each_pass(cell: str, num_layers: int, bidirectional: bool, ragged: bool) -> None:
    stack = stack_of(cell, num_layers, bidirectional)
    check_each_pass(lower(stack, 3, lengths=ragged), feeds_of(stack, 3, ragged))


@pytest.mark.rare
@settings(max_examples=30)
@given(stacks())
def test_each_pass_over_random_cells(stack: Stack) -> None:
    """A slice of a concat may free its other parts of a reader, so that they can be narrowed the next time."""
    idempotent = [run for run in PASSES if run is not sink_slices]
    check_each_pass(lower(stack, 3, lengths=True), feeds_of(stack, 3, True), idempotent)


# ------------------------------------------------------------------------------------------ what cannot be rolled

Equations = Callable[[Value, SimpleNamespace, SimpleNamespace], tuple[Value, dict[str, Value]]]


def stack_from(step: Equations) -> Stack:
    """One layer that computes `step`, which may use the weights w and v."""
    layer = Direction("_l0", {"w": (4, 3), "v": (4, 4)}, {"h": 4}, 4, False, step)
    return Stack(3, "float64", ((layer,),))


@pytest.mark.parametrize(
    ("odd", "named", "steps"),
    ((0, "sigmoid (l0.fwd, t=0)", [0]), (1, "tanh (l0.fwd, t=0)", [0, 2]), (2, "tanh (l0.fwd, t=0)", [0, 1])),
)
def test_equations_that_count_their_calls(odd: int, named: str, steps: list[int]) -> None:
    """The first node without an equal at every step is named."""
    calls = count()

    def step(x: Value, state: SimpleNamespace, p: SimpleNamespace) -> tuple[Value, dict[str, Value]]:
        h = linear(x, p.w) + linear(state.h, p.v)
        h = sigmoid(h) if next(calls) == odd else tanh(h)
        return h, {"h": h}

    with raises_saying(RollError, f"{named} has no equal at every step", f"at steps {steps} of 3"):
        roll(common_subexpressions(lower(stack_from(step), 3)))


def test_numbers_that_differ_by_step() -> None:
    calls = count(1)

    def step(x: Value, state: SimpleNamespace, p: SimpleNamespace) -> tuple[Value, dict[str, Value]]:
        h = tanh(linear(x, p.w)) + state.h / next(calls)
        return h, {"h": h}

    with raises_saying(RollError, "div (l0.fwd, t=0)", "no equal at every step", "at steps [0] of 3"):
        roll(common_subexpressions(lower(stack_from(step), 3)))


def unrolled(steps: int) -> tuple[Graph, list[Node], list[Node]]:
    """A graph with an input x and y = tanh(x) a step, but for the outputs."""
    graph = Graph("float64", steps)
    xs = [graph.input("x", ("B", 4), t) for t in range(steps)]
    return graph, xs, [graph.add("tanh", (x,)) for x in xs]


@pytest.mark.parametrize("chosen", ((0, 1), (1, 2)))
def test_an_output_of_some_steps(chosen: tuple[int, ...]) -> None:
    graph, _, ys = unrolled(3)
    graph.outputs["output"] = tuple(ys[t] for t in chosen)
    with raises_saying(RollError, f"input (t={chosen[0]}) has no equal at every step", f"steps {list(chosen)} of 3"):
        roll(graph)


@pytest.mark.parametrize("chosen", ((0, 1), (2, 1, 0), (0, 1, 1), (1, 2)))
def test_an_output_of_some_steps_of_a_value_at_all(chosen: tuple[int, ...]) -> None:
    graph, _, ys = unrolled(3)
    graph.outputs["output"] = tuple(ys[t] for t in chosen)
    graph.outputs["other"] = tuple(ys)
    with raises_saying(RollError, "output 'output' is not one value over time", "tanh (t="):
        roll(graph)


def test_an_output_of_two_kinds() -> None:
    graph, xs, ys = unrolled(3)
    graph.outputs["output"] = (ys[0], ys[1], xs[2])
    with raises_saying(RollError, "tanh (t=0) has no equal at every step", "steps [0, 1] of 3"):
        roll(graph)


def test_an_output_of_two_kinds_that_both_exist_at_every_step() -> None:
    graph, xs, ys = unrolled(3)
    graph.outputs["output"] = (ys[0], ys[1], xs[2])
    graph.outputs["other"] = tuple(ys)
    with raises_saying(RollError, "output 'output' is not one value over time"):
        roll(graph)


def test_a_recurrence_in_both_directions() -> None:
    """It cannot be unrolled over more than one step, since each step would wait for the other."""
    graph = Graph("float64", 1)
    start = graph.input("start", ("B", 4))
    forward, backward = (graph.carry(start, name, delta, 0) for name, delta in (("f", 1), ("b", -1)))
    graph.outputs["f_n"] = graph.exit(graph.add("tanh", (backward,)), "f", 1)
    graph.outputs["b_n"] = graph.exit(graph.add("sigmoid", (forward,)), "b", -1)
    verify(graph)
    with raises_saying(RollError, "one recurrence runs both forward and backward in time", "carry", "carry"):
        roll(graph)


def test_a_carry_that_reads_another_value_at_one_step() -> None:
    graph, xs, ys = unrolled(3)
    start = graph.input("start", ("B", 4))
    carries = [graph.carry(start, "h", 1, 0), graph.carry(xs[0], "h", 1, 1), graph.carry(ys[1], "h", 1, 2)]
    graph.outputs["output"] = tuple(graph.sum([c, x, y]) for c, x, y in zip(carries, xs, ys, strict=True))
    with raises_saying(RollError, "carry (t=2) reads", "tanh", "at other steps", "input"):
        roll(graph)


def test_a_carry_that_starts_in_the_middle_of_time() -> None:
    graph, xs, _ = unrolled(2)
    carries = [graph.carry(xs[1], "h", 1, 0), graph.carry(xs[0], "h", 1, 1)]
    graph.outputs["output"] = tuple(carries)
    with raises_saying(RollError, "carry (t=0)", "first step of a carry must read a time-free value"):
        roll(graph)


def test_a_carry_that_skips_a_step() -> None:
    graph, xs, _ = unrolled(3)
    start = graph.input("start", ("B", 4))
    carries = [graph.carry(start, "h", 1, 0), graph.carry(xs[0], "h", 1, 1), graph.carry(xs[0], "h", 1, 2)]
    graph.outputs["output"] = tuple(graph.sum([c, x]) for c, x in zip(carries, xs, strict=True))
    with raises_saying(RollError, "carry (t=2) must read step 1", "input (t=0)"):
        roll(graph)


def test_an_exit_that_ends_another_value() -> None:
    graph, xs, ys = unrolled(3)
    start = graph.input("start", ("B", 4))
    carries = [graph.carry(n, "h", 1, t) for t, n in enumerate([start, *xs[:2]])]
    graph.outputs["output"] = tuple(carries)
    graph.outputs["h_n"] = graph.exit(ys[2], "h", 1)
    graph.outputs["y"] = tuple(ys)
    with raises_saying(RollError, "exit", "does not read what the carry of its state reads"):
        roll(graph)


def test_equal_values_of_one_step() -> None:
    graph, xs, _ = unrolled(2)
    graph.share = False
    graph.outputs["output"] = tuple(graph.sum([graph.add("exp", (x,)), graph.add("exp", (x,))]) for x in xs)
    with raises_saying(RollError, "exp (t=0) repeats", "exp (t=0)", "common_subexpressions"):
        roll(graph)


def test_operands_of_a_product_in_either_order_are_one_value() -> None:
    """A cell may write x * h and h * x; neither the program nor value numbering tells them apart."""

    def step(x: Value, state: SimpleNamespace, p: SimpleNamespace) -> tuple[Value, dict[str, Value]]:
        u = linear(x, p.w)
        h = tanh(u * state.h) + sigmoid(state.h * u) + (u + 1) + (1 + u)
        return h, {"h": h}

    stack = stack_from(step)
    program = Computation.of_stack(stack).program()
    assert sum(f.op == "mul" for loop in program.loops() for f in loop.body) == 1
    feeds = feeds_of(stack, 4, False)
    assert_agree(run_rolled(program, feeds, 4), run_graph(lower(stack, 4), feeds))


def test_a_state_that_is_written_but_never_read_keeps_its_carry() -> None:
    """Its last value is returned, so it must start somewhere and be kept; its loop is the one that makes it."""

    def step(x: Value, state: SimpleNamespace, p: SimpleNamespace) -> tuple[Value, dict[str, Value]]:
        c = tanh(linear(x, p.w) + state.c)
        return c, {"c": c, "seen": 2 * c}

    layer = Direction("_l0", {"w": (4, 3)}, {"c": 4, "seen": 4}, 4, False, step)
    program = Computation.of_stack(Stack(3, "float64", ((layer,),))).program()
    (loop,) = program.loops()
    assert sorted(f.attr("state") for f in loop.carries) == ["c_l0", "seen_l0"]
