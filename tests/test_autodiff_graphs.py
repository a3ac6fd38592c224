"""Differentiation as a transform of graphs: what it gives is a graph like any other, and each op's rule is right."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import assume, given, settings

from rnnc.backends.reference.interpreter import evaluate_bind, run_graph, run_program
from rnnc.ir.autodiff import jvp, vjp
from rnnc.ir.computation import Computation
from rnnc.ir.errors import IRError, RollError
from rnnc.ir.graph import Graph, Node
from rnnc.ir.lower import lower
from rnnc.ir.ops import OPS, Kind
from rnnc.ir.passes import optimize
from rnnc.ir.program import Loop, Program
from rnnc.ir.roll import roll
from rnnc.ir.shape_rules import Shape
from rnnc.ir.stacks import Stack
from rnnc.ir.text import parse_graph, print_graph
from rnnc.ir.verify import verify
from tests.derivative_oracles import Point, assert_points_agree, difference, inner, size_of_terms
from tests.golden import check_golden
from tests.networks import CELLS, lengths_of, stack_of
from tests.random_cells import stacks
from tests.refusals import raises_saying

Transform = Callable[[Graph], Graph]
BATCH = 4


# ------------------------------------------------------------------------------------------ graphs and their data


def smooth_inputs(graph: Graph) -> tuple[str, ...]:
    return tuple(dict.fromkeys(n.attr("name") for n in graph.nodes if n.op == "input" and n.dtype != "bool"))


def only(graph: Graph, prefix: str) -> Graph:
    graph.outputs = {name: output for name, output in graph.outputs.items() if name.startswith(prefix)}
    return graph


def reverse(graph: Graph) -> Graph:
    return vjp(graph, smooth_inputs(graph))


def gradients(graph: Graph) -> Graph:
    return only(reverse(graph), "d:")


def forward(graph: Graph) -> Graph:
    return jvp(graph, smooth_inputs(graph))


def twice_reverse(graph: Graph) -> Graph:
    return vjp(gradients(graph), smooth_inputs(graph), prefix="dd_")


FIRST: dict[str, Transform] = {"vjp": reverse, "jvp": forward}
SECOND: dict[str, Transform] = {
    "jvp of vjp": lambda graph: forward(gradients(graph)),
    "vjp of vjp": twice_reverse,
    "vjp of jvp": lambda graph: vjp(forward(graph), smooth_inputs(graph)),
}


def data_for(graph: Graph, steps: int, seed: int = 0) -> Point:
    """An array for each input; with a mask, NaN wherever it says that a row has ended."""
    rng = np.random.default_rng(seed)
    valid = np.arange(steps)[:, None, None] < lengths_of(steps, BATCH)[None, :, None]
    masked = any(n.op == "input" and n.dtype == "bool" for n in graph.nodes)
    result: Point = {}
    for node in graph.nodes:
        if node.op != "input" or node.attr("name") in result:
            continue
        sizes = [BATCH if size == "B" else int(size) for size in node.shape]
        data = rng.uniform(-1, 1, [steps] * (node.step is not None) + sizes)
        if masked and node.step is not None:
            data = np.where(valid, data, np.nan)
        result[node.attr("name")] = valid if node.dtype == "bool" else data
    return result


def check(graph: Graph) -> None:
    verify(graph)


def computation(stack: Stack, transform: Transform) -> Computation:
    return Computation(lambda steps, lengths: transform(lower(stack, steps, lengths=lengths)))


def run_rolled(program: Program, feeds: Point, steps: int) -> Point:
    return run_program(program, evaluate_bind(program, feeds), feeds, steps)


# ------------------------------------------------------------------------------------------ graphs like any other

SOME = ("gru", "simple_recurrent_unit", "independent_rnn")
"""One that differs in most ways from each other, for what is tested of a few cells."""
CHOSEN = [
    *((cell, name, (1, True, True)) for cell in CELLS for name in FIRST if cell in SOME or name == "vjp"),
    *((cell, name, (1, False, True)) for cell in ("lstm", "peephole_lstm", "elman_network") for name in SECOND),
    *((cell, "vjp", network) for cell in SOME for network in ((1, False, False), (2, False, True), (2, True, False))),
    *((cell, name, (2, False, False)) for cell in SOME[1:] for name in SECOND),
]
each_graph = pytest.mark.parametrize(
    ("cell", "name", "network"), CHOSEN, ids=lambda v: "-".join(map(str, v)) if isinstance(v, tuple) else v
)
Network = tuple[int, bool, bool]


@pytest.mark.sampled(5)
@each_graph
def test_it_verifies_prints_optimises_and_rolls(cell: str, name: str, network: Network) -> None:
    """Valid after each pass, and rolled from three template steps or four it is the same program."""
    num_layers, bidirectional, ragged = network
    stack = stack_of(cell, num_layers, bidirectional)
    texts = []
    for steps in (3, 4):
        lowered = lower(stack, steps, lengths=ragged)
        before = print_graph(lowered)
        graph = verify((FIRST | SECOND)[name](lowered))
        assert print_graph(lowered) == before, "the transform changed its argument"
        assert parse_graph(print_graph(graph)) == graph
        texts.append(roll(optimize(graph, check)[0]).text())
    assert texts[0] == texts[1]


@pytest.mark.sampled(3)
@each_graph
def test_rolled_it_gives_what_the_unrolled_graph_does(cell: str, name: str, network: Network) -> None:
    num_layers, bidirectional, ragged = network
    made = computation(stack_of(cell, num_layers, bidirectional), (FIRST | SECOND)[name])
    program = made.program(lengths=ragged)
    for steps in (1, 2, 5) if name in FIRST else (1, 4):
        graph = made.build(steps, ragged)
        feeds = data_for(graph, steps, seed=steps)
        assert_points_agree(run_rolled(program, feeds, steps), run_graph(graph, feeds), 1e-12)


# ------------------------------------------------------------------------------------------ random cells


def near_a_kink(graph: Graph, feeds: Point) -> bool:
    """Whether rounding alone decides a comparison: then two correct evaluations may differ."""
    compared = [n for n in graph.nodes if n.op == "greater" and n.inputs[0] is not n.inputs[1]]
    probe = Graph(graph.dtype, graph.steps, nodes=graph.nodes)
    probe.outputs = {f"{n.index} {side}": n.inputs[side] for n in compared for side in (0, 1)}
    found = run_graph(probe, feeds)
    gaps = (np.abs(found[f"{n.index} 0"] - found[f"{n.index} 1"]) for n in compared)
    return any(bool(np.any(gap < 1e-9)) for gap in gaps)


@pytest.mark.rare
@settings(max_examples=40)
@given(stacks())
def test_gradients_of_random_cells_survive_rolling(stack: Stack) -> None:
    for ragged in (False, True):
        made = computation(stack, reverse)
        program = made.program(lengths=ragged)
        for steps in (1, 2, 5):
            graph = made.build(steps, ragged)
            feeds = data_for(graph, steps, seed=steps)
            assume(not near_a_kink(graph, feeds))
            assert_points_agree(run_rolled(program, feeds, steps), run_graph(graph, feeds), 1e-11)


@settings(max_examples=25)
@given(stacks())
def test_random_cells_in_both_modes(stack: Stack) -> None:
    """<u, J v> = <J' u, v>, and J v is a difference; at the same point both modes stand on the same side of a kink."""
    lowered = lower(stack, 3)
    pushed, pulled = forward(lowered), reverse(lowered)
    feeds = data_for(lowered, 3, seed=2) | data_for(pulled, 3, seed=3)
    along = {name: value / 10 for name, value in data_for(lowered, 3, seed=4).items()}
    tangents = run_graph(pushed, feeds | {"t:" + name: value for name, value in along.items()})
    gradient = run_graph(pulled, feeds)
    found = {n: gradient.get("d:" + n, np.zeros_like(value)) for n, value in along.items()}
    adjoints = {n: feeds["d:" + n] for n in lowered.outputs if "d:" + n in feeds}
    moving = {n: tangents.get("t:" + n, np.zeros_like(value)) for n, value in adjoints.items()}
    assert abs(inner(adjoints, moving) - inner(found, along)) <= 1e-12 * size_of_terms(found, along)
    assume(not any(near_a_kink(pulled, feeds | shifted(feeds, along, h)) for h in (-2e-4, 0, 2e-4)))
    assume(signs(pulled, feeds | shifted(feeds, along, -2e-4)) == signs(pulled, feeds | shifted(feeds, along, 2e-4)))
    at = {name: feeds[name] for name in along}
    expected = difference(lambda point: run_graph(lowered, point), at, along)
    assert_points_agree(moving, {name: expected[name] for name in moving}, 1e-7)


def shifted(feeds: Point, along: Point, step: float) -> Point:
    return {name: feeds[name] + step * value for name, value in along.items()}


def signs(graph: Graph, feeds: Point) -> list[bytes]:
    """All masks of a graph: the pieces of its functions that are in force."""
    probe = Graph(graph.dtype, graph.steps, nodes=graph.nodes)
    probe.outputs = {str(n.index): n for n in graph.nodes if n.op == "greater"}
    return [value.tobytes() for value in run_graph(probe, feeds).values()]


# ------------------------------------------------------------------------------------------ every op

Build = Callable[[Graph], Node | tuple[Node, ...]]
B3: Shape = ("B", 3)
STEPS = 2


def operand(graph: Graph, name: str, shape: Shape, timed: bool) -> list[Node]:
    """The same operand at all steps, or one of each."""
    return [graph.input(name, shape, t if timed else None) for t in range(graph.steps)]


def applied(op: str, *shapes: tuple[Shape, bool], **attrs: int | bool | str) -> Build:
    """The op at each step, of operands a, b, ... of a shape, each timed or not."""

    def build(graph: Graph) -> tuple[Node, ...] | Node:
        operands = [operand(graph, "abc"[n], shape, timed) for n, (shape, timed) in enumerate(shapes)]
        made = [graph.add(op, list(at), **attrs) for at in zip(*operands, strict=True)]
        return tuple(made) if made[0].step is not None else made[0]

    return build


def twin(op: str) -> Build:
    """The op of one value, as both operands."""

    def build(graph: Graph) -> Node:
        a = graph.input("a", B3)
        return graph.add(op, [a, a])

    return build


def selected(a: Shape, b: Shape) -> Build:
    def build(graph: Graph) -> tuple[Node, ...]:
        c = [graph.add("greater", (graph.input("m", B3, t), graph.const(0.0))) for t in range(graph.steps)]
        other = graph.input("b", b)
        return tuple(graph.add("select", (c[t], graph.input("a", a, t), other)) for t in range(graph.steps))

    return build


def summed(*shapes: Shape) -> Build:
    def build(graph: Graph) -> Node:
        terms = [graph.input("ab"[n], shape, t) for n, shape in enumerate(shapes) for t in range(graph.steps)]
        return graph.tsum([graph.add("tanh", (term,)) for term in terms])

    return build


def looped(delta: int, last_only: bool) -> Build:
    """h' = tanh(h a), whose steps or last value are the result."""

    def build(graph: Graph) -> tuple[Node, ...] | Node:
        state, made = graph.input("b", B3), {}
        for t in range(graph.steps)[::delta]:
            state = graph.add("tanh", (graph.add("mul", (graph.carry(state, "h", delta, t), graph.input("a", B3, t))),))
            made[t] = state
        last = graph.exit(state, "h", delta)
        return last if last_only else tuple(made[t] for t in range(graph.steps))

    return build


def pieces(axis: int, shape: Shape, timed: bool) -> Build:
    def build(graph: Graph) -> tuple[Node, ...] | Node:
        a, b = operand(graph, "a", shape, timed), operand(graph, "b", shape, timed)
        made = [graph.add("concat", (a[t], b[t], a[t]), axis=axis) for t in range(graph.steps)]
        return tuple(made) if timed else made[0]

    return build


ONE = [applied_to for shape in (B3, (3,), ("B", 1)) for applied_to in [(shape, True), (shape, False)]]
PAIRS: list[tuple[tuple[Shape, bool], ...]] = [
    ((B3, True), (B3, True)),
    ((B3, True), (B3, False)),
    ((B3, False), (B3, True)),
    ((B3, True), ((3,), False)),
    (((3,), False), (B3, True)),
    ((("B", 1), True), (B3, True)),
    ((B3, True), (("B", 1), False)),
    (((1, 3), False), (B3, True)),
    ((B3, True), ((1,), False)),
    (((1,), False), (("B", 1), True)),
    ((("B", 1), True), ((3,), False)),
    (((2, 3), False), ((3,), False)),
    (((2, 1), False), ((1, 3), False)),
    (((3,), False), ((1,), False)),
]
EXAMPLES: dict[str, list[Build]] = {
    "carry": [looped(1, False), looped(-1, False)],
    "exit": [looped(1, True), looped(-1, True)],
    "tsum": [summed(B3), summed((2, 3), (2, 3))],
    "add": [applied("add", (B3, True), ((3,), False), (("B", 1), True)), applied("add", (B3, True)), twin("add")],
    "mul": [twin("mul")],
    "select": [selected(B3, B3), selected(("B", 1), (3,)), selected(B3, (1,))],
    "matmul": [
        applied("matmul", (B3, True), ((3, 2), False), transpose_b=False),
        applied("matmul", (B3, True), ((2, 3), False), transpose_b=True),
        applied("matmul", (B3, False), ((2, 3), True), transpose_b=True),
        applied("matmul", ((4, 3), False), ((2, 3), False), transpose_b=True),
    ],
    "outer": [
        applied("outer", (B3, True), (("B", 2), True)),
        applied("outer", (B3, False), (("B", 2), True)),
        applied("outer", ((4, 3), False), ((4, 1), False)),
    ],
    "slice": [
        applied("slice", (("B", 5), True), axis=-1, start=1, stop=3),
        applied("slice", (("B", 5), False), axis=-1, start=0, stop=3),
        applied("slice", ((4, 2), False), axis=0, start=2, stop=4),
        applied("slice", ((4,), False), axis=0, start=1, stop=2),
    ],
    "transpose": [applied("transpose", ((4, 3), False)), applied("transpose", ((1, 3), False))],
    "permute": [applied("permute", ((4, 3, 2), False), axes=axes) for axes in ("1x2x0", "0x2x1")],
    "reshape": [applied("reshape", ((4, 3, 2), False), shape=shape) for shape in ("4x6", "24", "2x3x4")],
    "concat": [pieces(-1, B3, True), pieces(-1, B3, False), pieces(0, (2, 3), False), pieces(0, (2,), False)],
    **{
        op: [
            applied(op, (("B", 12), True), size=3, inner=2),
            applied(op, (("B", 12), False), size=4, inner=1),
            applied(op, ((2, 12), False), size=3, inner=4),
            applied(op, ((12,), False), size=2, inner=3),
        ]
        for op in ("expand", "group_sum", "group_max")
    },
    "reduce_sum": [applied("reduce_sum", (shape, timed)) for shape in (B3, ("B", 1)) for timed in (True, False)],
    "reduce_max": [applied("reduce_max", (shape, timed)) for shape in (B3, ("B", 1)) for timed in (True, False)],
    "reduce_rows": [applied("reduce_rows", (B3, True), keep=keep) for keep in (True, False)]
    + [applied("reduce_rows", ((2, 3), False), keep=keep) for keep in (True, False)],
}
for _op in OPS.values():
    if _op.kind is Kind.ELEMENTWISE and _op.vjp is not None and _op.arity in (1, 2):
        EXAMPLES.setdefault(_op.name, []).extend(
            applied(_op.name, *shapes) for shapes in (PAIRS if _op.arity == 2 else [(one,) for one in ONE])
        )
HELD = tuple(op.name for op in OPS.values() if op.kind is Kind.ELEMENTWISE and op.vjp is None)
"""Masks, steps, and what is held constant."""
WITHOUT = {"input", "const", "zeros", "iota", *HELD}
"""Ops nothing flows through."""
POSITIVE = {"log", "sqrt", "rsqrt", "div", "power", "log1p"}


def built(build: Build) -> Graph:
    graph = Graph("float64", STEPS)
    graph.outputs["y"] = build(graph)
    return verify(graph)


def values_for(graph: Graph, positive: bool) -> Point:
    """Away from 0 and from each other, where rules have kinks or poles."""
    rng = np.random.default_rng(1)
    feeds = data_for(graph, STEPS, seed=2)
    result = {}
    for name, value in feeds.items():
        sizes = rng.permutation(np.linspace(0.5, 1.5, max(value.size, 2)))[: value.size].reshape(value.shape)
        result[name] = sizes if positive else sizes * np.sign(value) + (0.01 if name == "b" else 0)
    return result


@pytest.mark.parametrize("name", OPS)
def test_every_op_has_an_example(name: str) -> None:
    assert (name in EXAMPLES) != (name in WITHOUT)
    assert (name in EXAMPLES) == (OPS[name].vjp is not None or OPS[name].kind is Kind.CARRY)
    for build in EXAMPLES.get(name, []):
        assert any(node.op == name for node in built(build).nodes)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("name", "number"), [(name, n) for name in EXAMPLES for n in range(len(EXAMPLES[name]))])
def test_the_rule_of_an_op_is_right(name: str, number: int) -> None:
    """Both modes and second order against differences, for each operand alone."""
    graph = built(EXAMPLES[name][number])
    feeds = values_for(graph, name in POSITIVE)
    for operand in smooth_inputs(graph):
        if operand == "m":
            continue
        pulled, pushed = vjp(graph, [operand]), jvp(graph, [operand])
        seed = {"d:y": data_for(pulled, STEPS, seed=3)["d:y"]}
        along = {operand: data_for(pushed, STEPS, seed=4)["t:" + operand]}
        for made in (pulled, pushed):
            assert_it_is_well_formed(made)
        tangent = run_graph(pushed, feeds | {"t:" + operand: along[operand]})["t:y"]
        expected = difference(lambda point: run_graph(graph, feeds | point), {operand: feeds[operand]}, along)
        assert_points_agree({"y": tangent}, {"y": expected["y"]}, 1e-9)
        d = run_graph(pulled, feeds | seed)["d:" + operand]
        assert d.shape == feeds[operand].shape
        assert inner({"": d}, {"": along[operand]}) == pytest.approx(inner({"": seed["d:y"]}, {"": tangent}), rel=1e-12)
        assert_second_order(pulled, operand, feeds | seed, along)


def assert_it_is_well_formed(graph: Graph) -> None:
    verify(graph)
    assert parse_graph(print_graph(graph)) == graph
    feeds = data_for(graph, STEPS)
    feeds = {name: np.abs(value) + 0.5 for name, value in feeds.items()}
    assert_points_agree(run_graph(optimize(graph, check)[0], feeds), run_graph(graph, feeds), 1e-13)


def assert_second_order(pulled: Graph, operand: str, feeds: Point, along: Point) -> None:
    twice = jvp(pulled, [operand])
    verify(twice)
    found = run_graph(twice, feeds | {"t:" + operand: along[operand]})
    expected = difference(lambda point: run_graph(pulled, feeds | point), {operand: feeds[operand]}, along)
    change = found.get("t:d:" + operand, np.zeros_like(feeds[operand]))  # left out if the op is linear
    assert_points_agree({"": change}, {"": expected["d:" + operand]}, 1e-8)


def test_masks_and_steps_are_held() -> None:
    assert set(HELD) == {"greater", "greater_equal", "stop_gradient", "floor", "rint", "sign"}


@pytest.mark.parametrize("op", HELD)
def test_nothing_flows_through_a_comparison_or_what_is_held_constant(op: str) -> None:
    graph = Graph("float64", 1)
    a, b = graph.input("a", B3), graph.input("b", B3)
    held = graph.add(op, (a, b)[: OPS[op].arity])
    graph.outputs["y"] = graph.add("select", (held, b, b)) if held.dtype == "bool" else graph.add("mul", (held, b))
    assert set(vjp(graph, ["a"]).outputs) == set(jvp(graph, ["a"]).outputs) == {"y"}
    assert set(vjp(graph, ["a", "b"]).outputs) == {"y", "d:b"}
    feeds = {"a": np.full((2, 3), 3.0), "b": np.ones((2, 3)), "d:y": np.full((2, 3), 5.0)}
    d_b = run_graph(vjp(graph, ["a", "b"]), feeds)["d:b"]
    np.testing.assert_array_equal(d_b, np.full((2, 3), 15.0 if op in ("floor", "rint", "stop_gradient") else 5.0))


# ------------------------------------------------------------------------------------------ ties and kinks


@pytest.mark.parametrize("op", ("maximum", "minimum"))
def test_where_two_operands_are_equal_each_gets_half(op: str) -> None:
    graph = built(applied(op, ((3,), False), ((3,), False)))
    feeds = {"a": np.array([1.0, 2.0, 3.0]), "b": np.array([1.0, 3.0, 2.0]), "d:y": np.array([8.0, 8.0, 8.0])}
    found = run_graph(vjp(graph, ["a", "b"]), feeds)
    first = [4.0, 0.0, 8.0] if op == "maximum" else [4.0, 8.0, 0.0]
    np.testing.assert_array_equal(found["d:a"], first)
    np.testing.assert_array_equal(found["d:a"] + found["d:b"], feeds["d:y"])
    tangent = run_graph(jvp(graph, ["a", "b"]), feeds | {"t:a": np.ones(3), "t:b": np.full(3, 5.0)})["t:y"]
    np.testing.assert_array_equal(tangent, [3.0, 5.0, 1.0] if op == "maximum" else [3.0, 1.0, 5.0])
    same = vjp(built(twin(op)), ["a"])
    a = np.ones((2, 3))
    np.testing.assert_array_equal(run_graph(same, {"a": a, "d:y": 3 * a})["d:a"], 3 * a)


@pytest.mark.parametrize(("op", "slopes"), (("relu", [0.0, 0.0, 0.0, 1.0]), ("abs", [-1.0, 0.0, 0.0, 1.0])))
def test_at_a_kink_the_slope_is_0(op: str, slopes: list[float]) -> None:
    graph = built(applied(op, ((4,), False)))
    feeds = {"a": np.array([-1.0, -0.0, 0.0, 1.0]), "d:y": np.full(4, 3.0)}
    np.testing.assert_array_equal(run_graph(vjp(graph, ["a"]), feeds)["d:a"], 3.0 * np.array(slopes))


# ------------------------------------------------------------------------------------------ names


def test_a_part_of_the_gradients_is_computed_alone() -> None:
    """wrt and seeds choose; what is not asked for is not computed."""
    stack = stack_of("lstm", 1, True)
    graph = lower(stack, 3, lengths=True)
    whole = reverse(graph)
    feeds = data_for(whole, 3)
    expected = run_graph(whole, feeds)
    for wrt in (["x"], ["h.0_l0"], ["weight_hh_l0_reverse", "bias_ih_l0"], []):
        part = vjp(graph, wrt)
        assert set(part.outputs) == {*graph.outputs, *("d:" + name for name in wrt)}
        found = run_graph(verify(part), feeds)
        assert_points_agree(found, {name: expected[name] for name in found}, 1e-14)
    assert vjp(graph, ["h.0_l0"]).counts()["matmul"] < vjp(graph, ["x"]).counts()["matmul"]
    assert "outer" not in vjp(graph, ["x"]).counts()
    assert_points_agree(run_graph(vjp(graph, [], {}), feeds), run_graph(graph, feeds), 0.0)


def test_seeds_choose_what_is_differentiated() -> None:
    graph = lower(stack_of("lstm", 1, True), 3)
    wrt = smooth_inputs(graph)
    part = verify(vjp(graph, wrt, {"h.n_l0_reverse": "seed"}, prefix="g_"))
    assert {name for name in part.outputs if name not in graph.outputs} == {
        "g_" + name for name in wrt if name.endswith("_reverse") or name == "x"
    }  # the other direction has no part in it, and its parameters get no gradient
    assert set(smooth_inputs(part)) == {*wrt, "seed"}
    feeds = data_for(part, 3)
    whole = reverse(graph)
    zeros = {"d:" + name: np.zeros_like(value) for name, value in run_graph(graph, feeds).items()}
    expected = run_graph(whole, feeds | zeros | {"d:h.n_l0_reverse": feeds["seed"]})
    found = {name: value for name, value in run_graph(part, feeds).items() if name.startswith("g_")}
    assert_points_agree(found, {name: expected["d:" + name.removeprefix("g_")] for name in found}, 1e-14)
    assert set(vjp(graph, wrt, {}).outputs) == set(graph.outputs)


def test_wrong_names_are_named() -> None:
    graph = lower(stack_of("rnn"), 2, lengths=True)
    for transform in (vjp, jvp):
        with raises_saying(IRError, "wrt", "no input 'weight'", "'weight_ih_l0'"):
            transform(graph, ["x", "weight"])
        with raises_saying(IRError, "wrt", "'valid'", "mask"):
            transform(graph, ["valid"])
    with raises_saying(IRError, "seeds", "no output 'out'", "'h.n_l0'", "'output'"):
        vjp(graph, ["x"], {"out": "seed"})
    with raises_saying(IRError, "prefix", "output 'd:x'", "another prefix"):
        vjp(vjp(graph, ["x"]), ["x"])
    with raises_saying(IRError, "prefix", "output 't:", "another prefix"):
        jvp(jvp(graph, ["x"]), ["bias_ih_l0"])
    assert {"d:x", "e_x"} <= set(vjp(vjp(graph, ["x"]), ["x"], {"output": "e_output"}, prefix="e_").outputs)


def test_a_seed_is_no_input_that_is_there_already() -> None:
    graph = Graph("float64", 1)
    a, b = graph.input("a", B3), graph.input("b", B3)
    graph.outputs["y"] = graph.add("mul", (a, b))
    with raises_saying(IRError, "seeds", "input 'b'", "adjoint of 'y'"):
        vjp(graph, ["a"], {"y": "b"})
    assert smooth_inputs(vjp(graph, ["a"], {"y": "c"})) == ("a", "b", "c")


def carried_without_exit(steps: int, delta: int) -> Graph:
    """h = tanh(x + w h'), of which every step is an output and the last one no more than that."""
    graph = Graph("float64", steps)
    w, h, ys = graph.input("w", (3,)), graph.input("h_0", B3), {}
    for t in range(steps)[::delta]:
        read = graph.carry(h, "h", delta, t)
        h = graph.add("tanh", (graph.add("add", (graph.input("x", B3, t), graph.add("mul", (w, read)))),))
        ys[t] = h
    graph.outputs["y"] = tuple(ys[t] for t in range(steps))
    return graph


@pytest.mark.parametrize("delta", (1, -1))
def test_a_state_without_an_exit_has_derivatives(delta: int) -> None:
    """The same as with an exit that nothing reads; they roll, too."""
    made = verify(vjp(carried_without_exit(4, delta), ["x", "w", "h_0"]))
    feeds = data_for(made, 4)
    found = run_graph(made, feeds)
    other = carried_without_exit(4, delta)
    last = other.outputs["y"][3 if delta > 0 else 0]  # type: ignore[index]
    other.outputs["h_n"] = other.exit(last, "h", delta)
    expected = run_graph(verify(vjp(other, ["x", "w", "h_0"], {"y": "d:y"})), feeds)
    assert {"d:x", "d:w", "d:h_0"} <= set(found)
    assert_points_agree(found, {name: expected[name] for name in found}, 1e-14)
    rolled = roll(optimize(vjp(carried_without_exit(3, delta), ["x", "w", "h_0"]))[0])
    assert_points_agree(run_rolled(rolled, feeds, 4), found, 1e-14)


def test_a_state_that_only_another_unread_state_reads_has_equal_steps() -> None:
    """h' = tanh(w sum(c)), c' = w x: but for the last step, adjoints of c come through h, whose carry nothing reads."""

    def build(steps: int) -> Graph:
        graph = Graph("float64", steps)
        w, h, c = graph.input("w", (3,)), graph.input("h_0", B3), graph.input("c_0", B3)
        for t in range(steps):
            read = graph.carry(c, "c", 1, t)
            graph.carry(h, "h", 1, t)
            h = graph.add("tanh", (graph.add("mul", (w, graph.add("reduce_sum", (read,)))),))
            c = graph.add("mul", (w, graph.input("x", B3, t)))
        graph.outputs |= {"h_n": graph.exit(h, "h", 1), "c_n": graph.exit(c, "c", 1)}
        return verify(vjp(graph, ["w", "x", "h_0", "c_0"]))

    rolled = roll(optimize(build(3))[0])
    for steps in (1, 2, 4):
        whole = build(steps)
        feeds = data_for(whole, steps)
        assert_points_agree(run_rolled(rolled, feeds, steps), run_graph(whole, feeds), 1e-14)


def test_of_one_step_without_an_exit_nothing_says_what_the_state_becomes() -> None:
    with raises_saying(IRError, "carry", "exit", "two steps"):
        vjp(carried_without_exit(1, 1), ["h_0"])


def test_an_output_that_is_an_input_has_its_seed_as_gradient() -> None:
    graph = Graph("float64", 2)
    xs = tuple(graph.input("x", B3, t) for t in range(2))
    graph.outputs |= {"y": xs, "z": graph.input("w", (3,))}
    made = verify(vjp(graph, ["x", "w"]))
    feeds = data_for(made, 2)
    found = run_graph(made, feeds)
    np.testing.assert_array_equal(found["d:x"], feeds["d:y"])
    np.testing.assert_array_equal(found["d:w"], feeds["d:z"])


def test_sites_say_what_a_node_was_made_from() -> None:
    graph = forward(gradients(lower(stack_of("rnn", 2, True), 2)))
    sites = {str(node.site) for node in graph.nodes if node.site}
    marks = {site.split(".", 2)[2] if site.count(".") > 1 else "" for site in sites if "wd" in site}
    assert {"", "grad", "tangent", "grad.tangent"} == marks
    assert {site.split(".")[0] for site in sites} == {"l0", "l1"}


# ------------------------------------------------------------------------------------------ sums over time


def test_a_sum_over_some_of_the_steps_does_not_roll() -> None:
    graph = Graph("float64", 3)
    xs = [graph.input("x", B3, t) for t in range(3)]
    ys = [graph.add("tanh", (x,)) for x in xs]
    graph.outputs["y"] = tuple(ys)
    graph.outputs["sum"] = graph.tsum(ys[:2])
    verify(graph)
    with raises_saying(RollError, "tsum", "tanh", "at the steps [0, 1]", "not equally often"):
        roll(graph)
    graph.outputs["sum"] = graph.tsum([*ys, ys[1]])
    with raises_saying(RollError, "tsum", "at the steps [0, 1, 1, 2]"):
        roll(graph)


def test_a_value_may_stand_in_a_sum_twice() -> None:
    graph = Graph("float64", 3)
    xs = [graph.input("x", B3, t) for t in range(3)]
    graph.outputs["sum"] = graph.tsum([*xs, *xs])
    program = roll(graph)
    x = np.arange(5.0)[:, None, None] * np.ones((BATCH, 3))
    np.testing.assert_array_equal(run_rolled(program, {"x": x}, 5)["sum"], 2 * x.sum(axis=0))


# ------------------------------------------------------------------------------------------ what is in a loop


def products(program: Program) -> tuple[list[int], int, int]:
    """Matmuls in the body of each loop; those over all steps at once; and sums over time that are one Gemm."""
    bodies = [sum(f.op == "matmul" for f in loop.body) for loop in program.loops()]
    alone = [s for s in program.statements if not isinstance(s, Loop)]
    gemms = sum(i.op == "outer" for f in alone if f.op == "tsum" for i in f.inputs)
    assert not any(f.spec.kind is Kind.OUTER for loop in program.loops() for f in loop.body)
    return sorted(bodies), sum(f.op == "matmul" for f in alone), gemms


PRODUCTS: dict[str, tuple[list[int], int, int]] = {
    "rnn": ([1, 1], 2, 2),
    "gru": ([1, 1], 2, 2),
    "gru_reset_first": ([2, 3], 2, 4),
    "lstm": ([1, 1], 2, 2),
    "lstm_projected": ([2, 2], 2, 3),
    "minimal_gated_unit": ([2, 2], 2, 3),
    "peephole_lstm": ([1, 1], 2, 2),
    "layer_norm_lstm": ([1, 1], 2, 2),
    "simple_recurrent_unit": ([0, 0], 2, 1),
    "independent_rnn": ([0, 0], 2, 1),
    "nested_lstm": ([2, 3], 2, 4),
    "elman_network": ([1, 1], 4, 3),
    "fast_and_slow": ([0, 0, 1, 1], 4, 4),
}
"""Of the gradients of one layer and direction: a number that grows in a body is work pulled back into a recurrence."""


@pytest.mark.parametrize("ragged", (False, True))
@pytest.mark.parametrize("cell", CELLS)
def test_products_in_each_loop(cell: str, ragged: bool) -> None:
    program = computation(stack_of(cell), reverse).program(lengths=ragged)
    assert products(program) == PRODUCTS[cell]


@pytest.mark.parametrize(("cell", "bidirectional"), (("lstm", False), ("gru", True)))
def test_golden_texts(cell: str, bidirectional: bool) -> None:
    program = computation(stack_of(cell, 1, bidirectional), reverse).program()
    check_golden(f"rolled_gradients_{cell}" + "_bidirectional" * bidirectional, program.text())
    bodies, _, _ = products(program)
    assert bodies == [1, 1] * (2 if bidirectional else 1)
