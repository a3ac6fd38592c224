"""Cells whose states are matrices: results against plain NumPy loops, and all derivatives, on every backend."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import rnnc
from rnnc.backends.cuda.emulator import find_compiler
from rnnc.backends.planning.plan import Phase, State
from rnnc.backends.planning.planner import plan
from rnnc.backends.reference.interpreter import run_graph
from rnnc.ir.autodiff import vjp
from rnnc.ir.computation import Computation
from rnnc.ir.errors import BackendError
from rnnc.ir.graph import Graph
from rnnc.ir.lower import lower
from rnnc.ir.stacks import Stack
from tests import oracle
from tests.cases import TOLERANCE, Result, as_result, assert_close
from tests.cuda_ways import Way
from tests.derivative_oracles import (
    Point,
    UserCase,
    assert_points_agree,
    difference,
    direction,
    forward,
    inner,
    primal,
    pull,
    push,
    second,
    seeds,
)
from tests.matrix_cells import DeltaRule, MatrixLSTM, RotatedMatrix, SlotMemory
from tests.oracle import Array, Arrays, sigmoid
from tests.random_cells import GRID_RECIPES, stacks
from tests.refusals import raises_saying
from tests.test_any_derivative import assert_close as assert_near
from tests.test_any_derivative import inputs_of, random_inputs

# ---------------------------------------------------------------------------------------------- plain NumPy, row by row


def softmax(v: Array) -> Array:
    powers = np.exp(v - v.max())
    return np.asarray(powers / powers.sum())


def each_row(x: Array, state: Arrays, one: Callable[..., tuple[Array, Arrays]]) -> tuple[Array, Arrays]:
    """The step of each row by itself."""
    made = [one(x[b], {name: value[b] for name, value in state.items()}) for b in range(len(x))]
    if not made:
        raise AssertionError("a batch of at least one row")
    states = {name: np.stack([new[name].ravel() for _, new in made]) for name in state}
    return np.stack([y for y, _ in made]), states


def matrix_lstm(x: Array, state: Arrays, p: Arrays) -> tuple[Array, Arrays]:
    """Without the division by exp(m) of every state: c, n and m are first multiplied out."""

    def one(x: Array, s: Arrays) -> tuple[Array, Arrays]:
        heads = len(s["m"])
        size = len(s["n"]) // heads
        q, k, v, o = np.split(p["weight"] @ x + p.get("bias", 0.0), 4)
        i, f = np.split(p["gates"] @ x + p.get("gate_bias", 0.0), 2)
        c, n, m = s["c"].reshape(heads, size, size).copy(), s["n"].reshape(heads, size).copy(), s["m"].copy()
        h = np.zeros(heads * size)
        for a in range(heads):
            part = slice(a * size, (a + 1) * size)
            key = k[part] / np.sqrt(size)
            log_f = np.log(sigmoid(f[a]))
            new_m = max(log_f + m[a], i[a])
            full_c = np.exp(m[a]) * sigmoid(f[a]) * c[a] + np.exp(i[a]) * np.outer(v[part], key)
            full_n = np.exp(m[a]) * sigmoid(f[a]) * n[a] + np.exp(i[a]) * key
            h[part] = sigmoid(o[part]) * (full_c @ q[part]) / max(abs(full_n @ q[part]), 1.0)
            c[a], n[a], m[a] = full_c * np.exp(-new_m), full_n * np.exp(-new_m), new_m
        return h, {"c": c, "n": n, "m": m}

    return each_row(x, state, one)


def delta_rule(x: Array, state: Arrays, p: Arrays) -> tuple[Array, Arrays]:
    def one(x: Array, s: Arrays) -> tuple[Array, Arrays]:
        q, k, v = np.split(p["weight"] @ x, 3)
        q, k, w = softmax(q), softmax(k), s["w"].reshape(len(q), len(q))
        w = w + sigmoid(p["weight_beta"] @ x) * np.outer(v - w @ k, k)
        return w @ q, {"w": w}

    return each_row(x, state, one)


def slot_memory(x: Array, state: Arrays, p: Arrays) -> tuple[Array, Arrays]:
    def one(x: Array, s: Arrays) -> tuple[Array, Arrays]:
        size = len(s["h"])
        query, key, erase, add = np.split(p["weight"] @ np.concatenate([s["h"], x]), 4)
        memory = s["memory"].reshape(-1, size)
        read, write = softmax(memory @ query / np.sqrt(size)), softmax(memory @ key / np.sqrt(size))
        r = read @ memory
        memory = np.array([m * (1 - w * sigmoid(erase)) + w * np.tanh(add) for m, w in zip(memory, write, strict=True)])
        h = np.tanh(p["weight_h"] @ np.concatenate([r, query]))
        return h, {"h": h, "memory": memory}

    return each_row(x, state, one)


def rotated_matrix(x: Array, state: Arrays, p: Arrays) -> tuple[Array, Arrays]:
    def one(x: Array, s: Arrays) -> tuple[Array, Arrays]:
        columns = len(p["gain"])
        old = s["s"].reshape(-1, columns)
        turn = np.tanh(p["weight"] @ x).reshape(len(old), len(old))
        new = (turn @ old * p["gain"] + (p["weight_in"] @ x).reshape(old.shape)).reshape(3, -1)
        spread = new - new.mean(axis=1, keepdims=True)
        y = spread / np.sqrt((spread**2).mean(axis=1, keepdims=True) + 0.1)
        return y.ravel(), {"s": np.tanh(y.reshape(old.shape) + 0.1 * old.max(axis=0))}

    return each_row(x, state, one)


@dataclass(frozen=True)
class Subject:
    """A cell, its equations in NumPy, and the sizes that it is tried at."""

    cell: rnnc.Cell
    step: oracle.Step
    sizes: tuple[int, ...]


SUBJECTS: Mapping[str, Subject] = {
    "one_head": Subject(MatrixLSTM(1), matrix_lstm, (5, 16)),
    "three_heads": Subject(MatrixLSTM(3), matrix_lstm, (3, 9, 24)),
    "delta_rule": Subject(DeltaRule(), delta_rule, (1, 6, 17)),
    "slot_memory": Subject(SlotMemory(5), slot_memory, (1, 4, 11)),
    "rotated_matrix": Subject(RotatedMatrix(2, groups=3), rotated_matrix, (3, 6)),
}


@dataclass(frozen=True)
class MatrixCase(UserCase):
    """A case of one of the subjects."""

    cell: str = "three_heads"
    hidden_size: int = 6
    input_size: int = 4

    def spec(self) -> Any:
        sizes, options = (self.input_size, self.hidden_size, self.num_layers), {"bias": self.bias, "dtype": self.dtype}
        options |= {"batch_first": self.batch_first, "bidirectional": self.bidirectional}
        return rnnc.Recurrent(SUBJECTS[self.cell].cell, *sizes, **options)

    def expected(self) -> Result:
        network = oracle.Network(
            SUBJECTS[self.cell].step,
            self.state_widths,
            self.spec().output_size // self.directions,
            self.num_layers,
            self.bidirectional,
        )
        states = self._random["states"] if self.initial else None
        output, last = oracle.run(network, self.params, self._random["x"], states, self.row_lengths)
        return Result(output.swapaxes(0, 1) if self.batch_first else output, tuple(last.values()))


FORWARD = [
    MatrixCase(
        cell=name,
        hidden_size=size,
        num_layers=1 + number % 2,
        bidirectional=number % 3 == 1,
        bias=number % 2 == 0,
        batch_first=number % 4 == 2,
        dtype=("float64", "float32")[number % 2],
        batch=(3, 1, 5)[number % 3],
        steps=(4, 6)[number % 2],
        lengths=("none", "mixed")[(number // 2 + size) % 2],
        initial=number % 5 != 3,
        seed=number,
    )
    for number, (name, size) in enumerate((name, size) for name, s in SUBJECTS.items() for size in s.sizes)
]
DERIVATIVES = [
    MatrixCase(cell=name, hidden_size=SUBJECTS[name].sizes[1], dtype=dtype, lengths=lengths, steps=3, seed=number)
    for number, name in enumerate(SUBJECTS)
    for dtype, lengths in (("float64", "mixed"), ("float32", "none"))
]
COMPILED = ("llvm", "cuda")


def backend_of(name: str, number: int, monkeypatch: pytest.MonkeyPatch) -> str:
    """The kernels of a GPU go another way in each case, between guards."""
    if name != "cuda":
        return name
    if find_compiler() is None:
        pytest.skip("running CUDA C on the CPU needs a C++ compiler")
    return Way.of(number).backend(monkeypatch)


@pytest.mark.parametrize("name", ("reference", *COMPILED))
@pytest.mark.parametrize(("number", "case"), list(enumerate(FORWARD)), ids=str)
def test_results(number: int, case: MatrixCase, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = rnnc.compile(case.spec(), case.params, backend=backend_of(name, number, monkeypatch))
    assert_close(case.call(model), case.expected(), case.dtype)


@pytest.mark.parametrize("name", COMPILED)
@pytest.mark.parametrize("cell", SUBJECTS)
def test_streaming_step_by_step(cell: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = MatrixCase(cell=cell, hidden_size=SUBJECTS[cell].sizes[-1], dtype="float64", steps=3)
    model = rnnc.compile(case.spec(), case.params, backend=backend_of(name, 0, monkeypatch))
    pieces, state = [], case.state
    for t in range(case.steps):
        output, state = model(case.x[t : t + 1], state)
        pieces.append(output)
    assert_close(as_result((np.concatenate(pieces), state)), case.expected(), "float64")


@pytest.mark.parametrize("case", DERIVATIVES[::2], ids=str)
def test_gradients_by_differences(case: MatrixCase) -> None:
    adjoints, along = seeds(case, 1), direction(case, 2)
    expected = inner(difference(lambda point: forward(case, point), primal(case), along), adjoints)
    found = inner(pull(case, "reference", adjoints), along)
    assert abs(found - expected) <= 1e-8 * max(1.0, abs(expected))


def double(case: MatrixCase) -> MatrixCase:
    return replace(case, dtype="float64")


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", COMPILED)
@pytest.mark.parametrize(("number", "case"), list(enumerate(DERIVATIVES)), ids=str)
def test_gradients(number: int, case: MatrixCase, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    adjoints = seeds(case, 1)
    expected = pull(double(case), "reference", adjoints, primal(case))
    found = pull(case, backend_of(name, number, monkeypatch), adjoints)
    assert_points_agree(found, expected, 4 * TOLERANCE[case.dtype], case.dtype)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", COMPILED)
@pytest.mark.parametrize(("number", "case"), list(enumerate(DERIVATIVES))[::3], ids=str)
def test_forward_mode_and_second_order(
    number: int, case: MatrixCase, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = backend_of(name, number, monkeypatch)
    along, adjoints = direction(case, 2), seeds(case, 1)
    pairs: list[tuple[tuple[Point, Point], tuple[Point, Point]]] = [
        (push(case, backend, along), push(double(case), "reference", along, primal(case))),
        (
            second(case, backend, adjoints, along),
            second(double(case), "reference", adjoints, along, None, primal(case)),
        ),
    ]
    for found, expected in pairs:
        for one, other in zip(found, expected, strict=True):
            assert_points_agree(one, other, 4 * TOLERANCE[case.dtype], case.dtype)


# ------------------------------------------------------------------------------------------ what is declared


@pytest.mark.parametrize(
    ("axes", "new", "words"),
    (
        ((2, 0), lambda x, c: c, ("width of state c", ">= 1", "0")),
        ((), lambda x, c: c, ("width of state c", ">= 1")),
        ((2, 3), lambda x, c: c.reshape(-1, 6), ("'c'", "('B', 6)", "('B', 2, 3)")),
        (6, lambda x, c: c.reshape(-1, 2, 3), ("'c'", "('B', 2, 3)", "('B', 6)")),
        ((2, 3), lambda x, c: 1.0, ("'c'", "1.0", "symbolic value")),
        ((2, 3), lambda x, c: c + x, ("('B', 2, 3)", "('B', 4)", "v[:, None, :]")),
        ((2, 4), lambda x, c: c @ x, ("('B', 2, 4)", "('B', 4)", "matvec(m, v)")),
    ),
)
def test_what_does_not_fit_the_declared_axes(axes: Any, new: Callable[..., Any], words: tuple[str, ...]) -> None:
    class Declared(rnnc.Cell):
        name = "declared"

        def states(self, hidden_size: int) -> Any:
            return {"c": axes}

        def output_size(self, hidden_size: int) -> int:
            return hidden_size

        def step(self, x: Any, state: Any, p: Any) -> Any:
            return x, {"c": new(x, state.c)}

    with raises_saying(rnnc.RnncError, *words):
        rnnc.compile(rnnc.Recurrent(Declared(), 4, 4))


# ------------------------------------------------------------------------------------------ what is computed, and where


def walks_of(cell: rnnc.Cell, width: int) -> tuple[list[Phase], list[State]]:
    """The phases of steps that touch a matrix of so many columns, and the states of them."""
    made = plan(Computation.of_stack(rnnc.Recurrent(cell, 4, 16).stack()).program())
    states = [state for region in made.regions for state in region.states if state.buffer.width == width]
    buffers = {state.buffer for state in states}
    steps = [phase for region in made.regions for phase in region.steps]
    return [p for p in steps if buffers & {place.buffer for place in p.loads.values()}], states


def test_a_step_walks_its_matrix_once_and_changes_it_in_place() -> None:
    phases, (state,) = walks_of(MatrixLSTM(1), 256)
    assert [phase.axes for phase in phases] == [(16, 16)] and not state.buffer.double
    assert len(phases[0].sums) == 1 and any(place.buffer is state.buffer for _, place in phases[0].stores)


def test_a_matrix_that_is_read_before_it_changes_is_walked_twice() -> None:
    phases, (state,) = walks_of(DeltaRule(), 256)
    assert [len(phase.sums) for phase in phases] == [1, 1] and not state.buffer.double


@pytest.mark.parametrize("cell", (MatrixLSTM(1), MatrixLSTM(2), DeltaRule(), SlotMemory(16)), ids=repr)
def test_a_gradient_keeps_one_matrix_of_each_step(cell: rnnc.Cell) -> None:
    f, steps, rows = rnnc.vjp(rnnc.Recurrent(cell, 4, 32)), 40, 3
    columns = max(f.spec.states.values())
    assert steps * rows * columns * 4 <= f.saved_bytes(steps, rows) <= 1.9 * steps * rows * columns * 4


# ------------------------------------------------------------------------------------------ random grids on a GPU


def test_results_as_the_model_of_a_chip_chooses() -> None:
    if find_compiler() is None:
        pytest.skip("running CUDA C on the CPU needs a C++ compiler")
    case = MatrixCase(cell="one_head", hidden_size=20, batch=7, lengths="mixed")
    model = rnnc.compile(case.spec(), case.params, backend="cuda-emulated")
    assert_close(case.call(model), case.expected(), case.dtype)


@pytest.mark.rare
@settings(max_examples=6)
@given(stacks(recipe=GRID_RECIPES), st.integers(0, 200), st.booleans())
def test_random_cells_of_several_axes(stack: Stack, number: int, gradients: bool) -> None:
    assume(find_compiler() is not None)

    def build(steps: int, lengths: bool) -> Graph:
        graph = lower(stack, steps, lengths=lengths)
        return vjp(graph, inputs_of(graph)) if gradients else graph

    graph = build(3, False)
    inputs = random_inputs(graph, 3, 4, number)
    expected = run_graph(graph, inputs)
    try:
        code = Way.of(number).code(Computation(build))
    except BackendError:  # not every way has room for every cell
        assume(False)
    found = {name: np.full(value.shape, np.nan, stack.dtype) for name, value in expected.items()}
    code.bind({}).start(inputs, found, 3, 4, None)
    for name, value in expected.items():
        assert_near(found[name], value, 1e-9, name)
