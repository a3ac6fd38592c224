"""Delay lines: values of other steps are read where they are, and give what a loop that shifts them gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import rnnc
from rnnc.backends.planning.plan import Plan, Space
from rnnc.backends.planning.planner import plan
from rnnc.computations import forward, vjp
from rnnc.ir.equations import Value, total
from rnnc.ir.program import Program

STEPS, ROWS, WIDTH = 12, 3, 6


class Summed(rnnc.Layer):
    """A layer that reads all of its window at once: the sum over the window, and over the columns."""

    @property
    def window(self) -> tuple[int, int]:
        return 2, 0

    def output_width(self, *widths: int) -> int:
        return 1

    def step(self, x: Value, state: Any, p: Any) -> Value:
        return total(x * x)


def network(layers: dict[str, Any], *outputs: str) -> rnnc.Graph:
    return rnnc.Graph({"x": WIDTH}, layers, outputs, dtype="float64")


def conv(inputs: int = WIDTH, outputs: int = WIDTH, taps: int = 3, **options: Any) -> rnnc.Conv1d:
    return rnnc.Conv1d(inputs, outputs, taps, **options)


def gru(inputs: int = WIDTH, **options: Any) -> rnnc.Spec:
    return rnnc.GRU(inputs, WIDTH, dtype="float64", **options)


CAUSAL: dict[str, rnnc.Graph] = {
    "of the input": network({"y": (conv(), "x")}, "y"),
    "wide": network({"y": (conv(outputs=17, taps=5), "x")}, "y"),
    "dilated": network({"y": (conv(taps=4, dilation=5), "x")}, "y"),
    "depthwise": network({"y": (conv(taps=4, groups=WIDTH), "x")}, "y"),
    "in groups": network({"y": (conv(outputs=4, groups=2, dilation=2), "x")}, "y"),
    "one after the other": network(
        {"a": (conv(taps=2), "x"), "r": (rnnc.Activation("relu"), "a"), "b": (conv(dilation=4), "r")}, "b", "r"
    ),
    "two of one input": network({"a": (conv(), "x"), "b": (conv(dilation=2), "x")}, "a", "b"),
    "two of one value": network(
        {"v": (rnnc.Scale(WIDTH), "x"), "a": (conv(), "v"), "b": (conv(taps=2), "v")}, "a", "b"
    ),
    "gated, with a residual": network(
        {
            "f": (conv(dilation=2), "x"),
            "g": (conv(dilation=2), "x"),
            "t": (rnnc.Activation("tanh"), "f"),
            "s": (rnnc.Activation("sigmoid"), "g"),
            "z": (rnnc.Multiply(), "t", "s"),
            "y": (rnnc.Add(), "z", "x"),
            "again": (conv(dilation=4), "y"),
        },
        "again",
    ),
    "before a recurrence": network({"a": (conv(), "x"), "y": (gru(), "a")}, "y"),
    "after a recurrence": network({"h": (gru(), "x"), "y": (conv(), "h")}, "y", "h"),
    "between the steps of recurrences": network(
        {"h": (gru(), "x"), "d": (rnnc.Delay(2), "h"), "s": (rnnc.Add(), "h", "d"), "y": (gru(), "s")}, "y"
    ),
    "of a part": network({"p": (rnnc.Select((2, 3, 4)), "x"), "y": (conv(3), "p")}, "y"),
    "of values side by side": network(
        {"h": (gru(), "x"), "c": (rnnc.Concat(), "h", "x"), "y": (conv(2 * WIDTH), "c")}, "y"
    ),
    "of a delay": network({"d": (rnnc.Delay(3), "x"), "y": (conv(), "d")}, "y", "d"),
    "all of it read at once": network({"y": (Summed(), "x"), "z": (conv(), "x")}, "y", "z"),
    "of a bare product": network(
        {"p": (rnnc.Linear(WIDTH, WIDTH, bias=False), "x"), "d": (rnnc.Delay(2), "p"), "y": (rnnc.Add(), "p", "d")}, "y"
    ),
    "of one column": network({"p": (rnnc.Select((1,)), "x"), "s": (rnnc.Scale(1), "p"), "y": (conv(1), "s")}, "y"),
}
AHEAD: dict[str, rnnc.Graph] = {
    "ahead": network({"y": (conv(taps=5, padding="same"), "x")}, "y"),
    "only ahead": network({"y": (conv(taps=3, padding=(0, 2)), "x")}, "y"),
    "further than the sequence": network({"y": (conv(taps=3, padding=(6, 20), dilation=13), "x")}, "y"),
    "ahead, twice": network(
        {
            "a": (conv(padding="same"), "x"),
            "r": (rnnc.Activation("relu"), "a"),
            "b": (conv(padding=(1, 3), dilation=2), "r"),
            "c": (conv(padding="same", groups=WIDTH), "b"),
        },
        "c",
    ),
    "ahead, around a recurrence": network(
        {"a": (conv(padding="same"), "x"), "h": (gru(bidirectional=True), "a"), "y": (conv(12, padding="same"), "h")},
        "y",
    ),
}


def planned(net: rnnc.Graph) -> tuple[Program, Plan]:
    program = forward(net).program()
    return program, plan(program)


def series(steps: int = STEPS, rows: int = ROWS) -> Any:
    return np.random.default_rng(5).standard_normal((steps, rows, WIDTH))


def agree(found: Any, expected: Any) -> None:
    """Outputs and states of one call, against those of another."""
    assert type(found) is type(expected)
    if isinstance(found, dict):
        assert found.keys() == expected.keys()
        for key in found:
            agree(found[key], expected[key])
    elif isinstance(found, tuple):
        for mine, other in zip(found, expected, strict=True):
            agree(mine, other)
    elif found is not None:
        np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", CAUSAL | AHEAD)
def test_whole_and_ragged_calls_are_those_of_a_loop(name: str) -> None:
    net = (CAUSAL | AHEAD)[name]
    params = net.init(1)
    compiled, oracle = net.compile(params, backend="llvm"), net.compile(params, backend="reference")
    for rows in (1, ROWS):
        x = series(rows=rows)
        agree(compiled(x), oracle(x))
        agree(compiled(x[:2]), oracle(x[:2]))
        for lengths in ([STEPS, 4, 0], [1, 2, STEPS], [7, 7, 7]):
            padded = x.copy()
            for row, length in enumerate(lengths[:rows]):
                padded[length:, row] = np.nan
            agree(compiled(padded, lengths=lengths[:rows]), oracle(padded, lengths=lengths[:rows]))


PIECES = ((0, 1, None), (1, 3, [2, 0, 1]), (3, 4, None), (4, 11, [3, 7, 0]), (11, 12, None))
"""Shorter than what a state holds, and longer, and ragged: first step, last step, lengths."""


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", CAUSAL)
def test_pieces_are_those_of_a_loop(name: str) -> None:
    net = CAUSAL[name]
    params = net.init(1)
    compiled, oracle = net.compile(params, backend="llvm"), net.compile(params, backend="reference")
    for rows in (1, ROWS):
        x, state, expected = series(rows=rows), None, None
        for start, stop, lengths in PIECES:
            given = {} if lengths is None else {"lengths": lengths[:rows]}
            mine, state = compiled.advance(x[start:stop], state, **given)
            other, expected = oracle.advance(x[start:stop], expected, **given)
            agree(mine, other)
            agree(state, expected)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", CAUSAL | AHEAD)
def test_gradients_are_those_of_loops(name: str) -> None:
    net, x, random = (CAUSAL | AHEAD)[name], series(), np.random.default_rng(3)
    params = net.init(1)
    compiled, oracle = rnnc.vjp(net, backend="llvm"), rnnc.vjp(net, backend="reference")
    for lengths in (None, [STEPS, 4, 0], [0, 0, 0], [7, 7, 7]):
        given = {} if lengths is None else {"lengths": lengths}
        result, pullback = compiled(params, x, **given)
        expected, other = oracle(params, x, **given)
        agree(result, expected)
        seeds = [_like(part, random) for part in result]
        agree(pullback(*seeds), other(*seeds))


CONVOLUTIONS = ("of the input", "dilated", "depthwise", "in groups", "gated, with a residual", "of a delay")


@pytest.mark.parametrize("name", (*CONVOLUTIONS, "ahead", "ahead, twice"))
def test_nothing_is_shifted_in_the_derivative_of_a_convolution(name: str) -> None:
    computation = vjp((CAUSAL | AHEAD)[name])
    program = computation.program()
    made = plan(program, computation.late)
    assert all(loop.line is not None for loop in program.loops())
    assert not any(region.states or region.steps for region in made.regions)
    assert {line.late for line in made.lines} == {False, True}


def test_a_register_that_adds_is_a_sum_of_lines_and_so_is_its_last_value() -> None:
    computation = vjp(CAUSAL["dilated"])
    text = computation.program().text()
    assert text.count("a delay line of") == 4  # of x, and of what each tap of an earlier step sends back
    made = plan(vjp(CAUSAL["of the input"]).program(), vjp(CAUSAL["of the input"]).late)
    late = [line for line in made.lines if line.late]
    assert [(line.steps, line.shifts, line.initial) for line in late] == [(2, (-2,), "d:y.past.n"), (1, (-1,), None)]
    assert all(line.kept is not None and not line.finals for line in late)


def _like(value: Any, random: Any) -> Any:
    """Numbers in the shape of an output or a state."""
    if isinstance(value, dict):
        return {key: _like(part, random) for key, part in value.items()}
    return value if value is None else random.standard_normal(np.shape(value))


@pytest.mark.parametrize("name", ("dilated", "depthwise", "two of one value", "before a recurrence", "of a delay"))
def test_kernels_for_a_gpu_read_the_same_rows(name: str) -> None:
    net, x = CAUSAL[name], series()
    params = net.init(1)
    compiled, oracle = net.compile(params, backend="cuda-emulated"), net.compile(params, backend="reference")
    agree(compiled(x), oracle(x))
    (_, state), (_, expected) = compiled.advance(x[:2]), oracle.advance(x[:2])
    agree(compiled.advance(x[2:7], state), oracle.advance(x[2:7], expected))
    agree(compiled(x, lengths=[STEPS, 4, 0]), oracle(x, lengths=[STEPS, 4, 0]))


def test_kernels_for_a_gpu_look_ahead() -> None:
    net, x = AHEAD["ahead, around a recurrence"], series()
    params = net.init(1)
    agree(net.compile(params, backend="cuda-emulated")(x), net.compile(params, backend="reference")(x))


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", [name for name in CAUSAL | AHEAD if name != "all of it read at once"])
def test_a_network_of_delay_lines_has_no_loop_that_shifts(name: str) -> None:
    net = (CAUSAL | AHEAD)[name]
    program, made = planned(net)
    states = [state for region in made.regions for state in region.states]
    assert {loop.line is not None for loop in program.loops() if len(loop.body) <= 3} == {True}
    assert len(states) == sum(loop.line is None for loop in program.loops())
    assert made.lines and all(line.buffer.space is Space.LINE for line in made.lines)


def test_taps_are_feeds_of_one_product_and_their_weights_are_packed_once() -> None:
    net = network({"y": (conv(outputs=16, taps=4, dilation=3), "x")}, "y")
    _, made = planned(net)
    (product,) = [phase for _, phase in made.phases() if phase.feeds]
    assert [feed.lhs.shift for feed in product.feeds] == [9, 6, 3, 0]
    weights = [weight for feed in product.feeds for _, weight in feed.blocks]
    assert len(set(weights)) == len(weights) == 4 and len(product.accumulators) == 1


def test_lines_of_both_directions_share_the_buffer_of_their_source() -> None:
    _, made = planned(AHEAD["ahead"])
    before, after = made.lines
    assert before.buffer is after.buffer and (before.buffer.before, before.buffer.after) == (2, 2)
    _, made = planned(CAUSAL["two of one value"])
    first, second = made.lines
    assert first.buffer is not second.buffer  # they start at states of their own


def test_a_value_that_reads_several_steps_at_once_keeps_the_loop() -> None:
    program, made = planned(CAUSAL["all of it read at once"])
    assert sorted(loop.line is None for loop in program.loops()) == [False, True]
    assert [state.carry.attr("state") for region in made.regions for state in region.states] == ["y.past"]


def test_the_program_says_what_is_a_delay_line() -> None:
    text = forward(CAUSAL["of the input"]).program().text()
    assert "loop t = 0 .. T-1  carries %6: a delay line of x" in text
    assert "line y.past: 2 steps before, from y.past.0 to y.past.n" in planned(CAUSAL["of the input"])[1].text()


def test_a_call_reads_only_the_steps_of_the_state_that_it_needs() -> None:
    """NaN in the other steps of the state must not be read, but must be kept."""
    net = network({"y": (conv(taps=2, dilation=8), "x")}, "y")
    compiled = net.compile(net.init(1), backend="llvm")
    _, state = compiled.advance(series())
    past = state["y.past"].copy()
    past[:, WIDTH:] = np.nan  # all but the oldest step
    output, new = compiled.advance(series()[:1], {**state, "y.past": past})
    assert np.isfinite(output).all()
    assert np.isnan(new["y.past"][:, :-WIDTH]).all() and np.isfinite(new["y.past"][:, -WIDTH:]).all()
