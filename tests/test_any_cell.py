"""Any cell on the llvm backend: random equations, and concats in all places, held against the unrolled graph.

A plan that forgets to write a value reads whatever lies in memory, and may be right by chance: so plans are also
checked by themselves, for every column that is read to have been written before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings

from rnnc.backends.llvm import compile
from rnnc.backends.llvm.kernels.epilogue import signature
from rnnc.backends.planning.plan import Buffer, Phase, Place, Plan, Space
from rnnc.backends.planning.planner import plan
from rnnc.backends.reference.interpreter import run_graph
from rnnc.ir.computation import Computation
from rnnc.ir.equations import Value, concat, linear, mean, sigmoid, tanh
from rnnc.ir.lower import Direction, Stack, lower
from tests.cases import TOLERANCE, error
from tests.forward_calls import run_stack
from tests.networks import CELLS, Feeds, data_of, lengths_of, parameters_of, stack_of
from tests.random_cells import GRID_RECIPES, stacks

STEPS, BATCH = 5, 4


def run_llvm(stack: Stack, feeds: Feeds, ragged: bool) -> Feeds:
    """Outputs by the names of the graph's; what is not written stays NaN."""
    shapes = parameters_of(stack, np.random.default_rng(0))
    bound = compile(Computation.of_stack(stack), threads=1).bind({name: feeds[name] for name in shapes})
    states = tuple(np.stack([feeds[f"{name}.0{layer.suffix}"] for layer in stack.flat]) for name in stack.states)
    output, finals = run_stack(bound, stack, feeds["x"], states, lengths_of(STEPS, BATCH) if ragged else None)
    found = {"output": output}
    for name, final in zip(stack.states, finals, strict=True):
        found |= {f"{name}.n{layer.suffix}": row for layer, row in zip(stack.flat, final, strict=True)}
    return found


def assert_llvm_is_right(stack: Stack) -> None:
    for ragged in (False, True):
        rng = np.random.default_rng(7)
        lengths = lengths_of(STEPS, BATCH) if ragged else None
        feeds = parameters_of(stack, rng) | data_of(stack, STEPS, BATCH, rng, lengths)
        double = {k: v.astype("float64") if v.dtype.kind == "f" else v for k, v in feeds.items()}
        expected = run_graph(lower(replace(stack, dtype="float64"), STEPS, lengths=ragged), double)
        found = run_llvm(stack, feeds, ragged)
        assert set(found) == set(expected)
        for name, value in expected.items():
            assert error(found[name], value) <= TOLERANCE[stack.dtype], name


@settings(max_examples=20)
@given(stacks())
def test_random_cells(stack: Stack) -> None:
    assert_llvm_is_right(stack)


@settings(max_examples=20)
@given(stacks(recipe=GRID_RECIPES))
def test_random_cells_of_several_axes(stack: Stack) -> None:
    assert_llvm_is_right(stack)


# ------------------------------------------------------------------------------------------ plans


def columns(place: Place, width: int) -> set[int]:
    return set(range(place.column, place.column + width))


def reads(phase: Phase) -> list[tuple[Place, int]]:
    """Places a phase reads, with their widths."""
    loads = [(place, read_columns(place) or int(family.shape[-1])) for family, place in phase.loads.items()]
    return loads + [(feed.lhs, feed.inner) for feed in phase.feeds]


def read_columns(place: Place) -> int:
    """The columns that a grid covers; 0 for a place that is read one column after the other."""
    return sum((size - 1) * step for size, step in place.grid) + 1 if place.grid else 0


def assert_all_is_written_before_it_is_read(made: Plan) -> None:
    written: dict[Buffer, set[int]] = {buffer: set() for buffer in made.buffers}
    for buffer in made.buffers:
        if buffer.space is Space.INPUT:
            written[buffer] = set(range(buffer.width))
    for region in made.regions:
        for phase in (*region.batched, *region.steps):
            assert all(place in signature(phase).places for place in phase.loads.values())
            for place, width in reads(phase):
                missing = columns(place, width) - written[place.buffer]
                assert place.previous or not missing, f"{phase.name} reads {place}, never written: {sorted(missing)}"
            for family, place in phase.stores:
                assert place.column + int(family.shape[-1]) <= place.buffer.width
                written[place.buffer] |= columns(place, int(family.shape[-1]))
        for state in region.states:
            changes = state.carry.source is not state.carry
            assert written[state.buffer] == (set(range(state.buffer.width)) if changes else set())
    for output in made.outputs.values():
        assert written[output] == set(range(output.width))


def finals(made: Plan) -> set[str]:
    ends = [*made.lines, *(state for region in made.regions for state in region.states)]
    return {final for end in ends for final in end.finals}


def assert_plan_is_complete(stack: Stack) -> None:
    made = plan(Computation.of_stack(stack).program())
    assert_all_is_written_before_it_is_read(made)
    assert finals(made) == {name for name in made.program.outputs if name != "output"}


@pytest.mark.parametrize("bidirectional", (False, True))
@pytest.mark.parametrize("cell", CELLS)
def test_plans_of_cells(cell: str, bidirectional: bool) -> None:
    assert_plan_is_complete(stack_of(cell, 2, bidirectional))


@pytest.mark.rare
@settings(max_examples=300)
@given(stacks())
def test_plans_of_random_cells(stack: Stack) -> None:
    assert_plan_is_complete(stack)


# ------------------------------------------------------------------------------------------ concats

H = 6
Stepped = tuple[Value, dict[str, Value]]
Equations = Callable[[Value, SimpleNamespace, SimpleNamespace], Stepped]


def new(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> Value:
    return tanh(linear(x, p.ih) + linear(s.h, p.hh))


def pair(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> tuple[Value, Value]:
    """Two values in sequence, from a state that is twice as wide."""
    a = tanh(linear(x, p.ih) + linear(s.h, p.wide))
    return a, sigmoid(linear(a, p.hh))


def a_state_of_two_parts(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> Stepped:
    a, b = pair(x, s, p)
    return a, {"h": concat(a, b)}


def a_state_of_two_parts_out(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> Stepped:
    a, b = pair(x, s, p)
    return concat(a, b), {"h": concat(a, b)}


def parts_that_read_old_parts(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> Stepped:
    """The second part reads the first one's old value after its new one is known."""
    old_a, old_b = s.h.split(2)
    a = tanh(linear(x, p.ih) + old_a * old_b)
    b = sigmoid(linear(a, p.hh) + old_a)
    return b, {"h": concat(a, b)}


def a_part_that_reads_the_other_ones_old_value(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> Stepped:
    """As above, but nobody reads the second part of the old state, so that no column is out of place."""
    old, _ = s.h.split(2)
    a = tanh(linear(x, p.ih) + old)
    b = sigmoid(linear(a, p.hh) + old)
    return b, {"h": concat(a, b)}


def a_queue(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> Stepped:
    _, newer = s.h.split(2)
    a = tanh(linear(x, p.ih) + linear(s.h, p.wide))
    return a, {"h": concat(newer, a)}


def one_concat_two_states(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> Stepped:
    a, b = pair(x, s, p)
    return a, {"h": concat(a, b), "c": concat(a, b)}


def read_in_and_after_the_loop(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> Stepped:
    a = new(x, s, p)
    both = concat(a, sigmoid(linear(a, p.hh)))
    return linear(both, p.wide), {"h": tanh(linear(both, p.wide2))}


def out_and_read_in_the_loop(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> Stepped:
    a = new(x, s, p)
    both = concat(a, sigmoid(linear(a, p.hh)))
    return both, {"h": tanh(linear(both, p.wide))}


def nested(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> Stepped:
    a = new(x, s, p)
    three = concat(concat(a, sigmoid(linear(a, p.hh))), s.h)
    return three, {"h": tanh(linear(three, p.wide3))}


def one_inside_two_others(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> Stepped:
    a = new(x, s, p)
    inner = concat(a, s.h)
    h = tanh(linear(concat(inner, a), p.wide3) + linear(concat(a, inner), p.wide3))
    return h, {"h": h}


def one_inside_two_others_of_the_input(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> Stepped:
    u = linear(x, p.ih)
    inner = concat(u, tanh(u))
    one, other = concat(inner, u), concat(u, inner)
    h = tanh(linear(one, p.wide3) + linear(other, p.wide3) + s.h)
    return concat(one, other), {"h": h}


def twice_the_old_state(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> Stepped:
    both = concat(s.h, s.h)
    return linear(both, p.wide2), {"h": tanh(linear(both, p.wide) + linear(x, p.ih))}


def summed_and_split(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> Stepped:
    both = tanh(concat(new(x, s, p), s.h))
    a, b = both.split(2)
    return both, {"h": a * b + mean(both)}


def two_states_alike(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> Stepped:
    """Value numbering makes them one value; each still has a last value of its own."""
    return s.c, {"h": tanh(s.c + 1), "c": tanh(1 + s.c)}


def a_state_that_stays_and_one_that_nobody_reads(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> Stepped:
    return tanh(linear(x, p.ih)), {"h": s.h, "c": linear(x, p.ih)}


def an_old_state_out_and_read_after_the_loop(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> Stepped:
    return s.c, {"h": tanh(linear(s.c, p.hh)), "c": tanh(linear(x, p.ih) + s.c)}


def a_product_out_and_split(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> Stepped:
    u = linear(x, p.tall)
    return u, {"h": tanh(u.split(2)[1] + s.h)}


def a_product_of_one_unit_in_a_wide_sum(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> Stepped:
    h = tanh(linear(x, p.ih) + linear(s.h, p.hh.split(H)[0]))
    return h, {"h": h}


ODD: dict[Equations, tuple[int, dict[str, int]]] = {
    a_state_of_two_parts: (H, {"h": 2 * H}),
    a_state_of_two_parts_out: (2 * H, {"h": 2 * H}),
    parts_that_read_old_parts: (H, {"h": 2 * H}),
    a_part_that_reads_the_other_ones_old_value: (H, {"h": 2 * H}),
    a_queue: (H, {"h": 2 * H}),
    one_concat_two_states: (H, {"h": 2 * H, "c": 2 * H}),
    read_in_and_after_the_loop: (H, {"h": H}),
    out_and_read_in_the_loop: (2 * H, {"h": H}),
    nested: (3 * H, {"h": H}),
    one_inside_two_others: (H, {"h": H}),
    one_inside_two_others_of_the_input: (6 * H, {"h": H}),
    twice_the_old_state: (H, {"h": H}),
    summed_and_split: (2 * H, {"h": H}),
    a_product_of_one_unit_in_a_wide_sum: (H, {"h": H}),
    two_states_alike: (H, {"h": H, "c": H}),
    a_state_that_stays_and_one_that_nobody_reads: (H, {"h": H, "c": H}),
    an_old_state_out_and_read_after_the_loop: (H, {"h": H, "c": H}),
    a_product_out_and_split: (2 * H, {"h": H}),
}
"""Equations -> the width of their output, and of their states."""


@pytest.mark.sampled(3)
@pytest.mark.parametrize("step", ODD, ids=lambda step: str(step.__name__))
def test_odd_cells_in_two_layers_and_directions(step: Equations) -> None:
    output_size, states = ODD[step]
    layers = []
    width = 3
    for k in range(2):
        shapes = {"ih": (H, width), "tall": (2 * H, width), "hh": (H, H)}
        shapes |= {"wide": (H, 2 * H), "wide2": (H, 2 * H), "wide3": (H, 3 * H)}
        names = (f"_l{k}", f"_l{k}_reverse")
        layers.append(tuple(Direction(n, shapes, states, output_size, n.endswith("reverse"), step) for n in names))
        width = 2 * output_size
    for stack in (Stack(3, "float32", tuple(layers)), Stack(3, "float32", (layers[0][:1],))):
        assert_plan_is_complete(stack)
    assert_llvm_is_right(Stack(3, "float32", tuple(layers)))
