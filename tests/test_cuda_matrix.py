"""The test matrix on the GPU's own source, run by the emulator: numbers, under every way and several orders of threads.

Each case goes one way (where weights are, how many slices) and one order of threads, chosen by its number so that the
matrix has them all. Every array that a kernel is given lies between guards, and results start as NaN: see
`tests.cuda_ways`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
import pytest

import rnnc
from rnnc.backends.cuda.emit.tensor_products import KINDS
from rnnc.backends.cuda.emulator import find_compiler
from rnnc.backends.cuda.schedule.chip import Chip
from rnnc.backends.cuda.schedule.weight_memory import WeightMemory
from rnnc.backends.reference.interpreter import run_graph
from rnnc.ir.autodiff import vjp
from rnnc.ir.computation import Computation
from rnnc.ir.graph import Graph
from rnnc.ir.lower import lower
from rnnc.ir.stacks import Stack
from tests.cases import TOLERANCE, Array, Case, Result, assert_close, assert_same, worst_error
from tests.cuda_ways import ROOMY, SLICES, Way
from tests.derivative_oracles import (
    UserCase,
    assert_points_agree,
    assert_same_points,
    compiled,
    direction,
    forward,
    primal,
    pull,
    push,
    second,
    seeds,
    small_cases,
    user_cases,
)
from tests.matrix import cases
from tests.networks import data_of, parameters_of, stack_of
from tests.rounded_oracle import RoundedRun, steady
from tests.test_second_order import OTHERS, TORCH

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="running CUDA C on the CPU needs a C++ compiler")

MATRIX = cases(strength=2)
USERS = user_cases()
FIRST_ORDER = [*small_cases()[::3], *USERS[::4], MATRIX[8]]
SECOND_ORDER = [*TORCH[1::6], *OTHERS[1::3]]


def numbered(selection: Sequence[Case]) -> pytest.MarkDecorator:
    """A test's cases, each with its number, which chooses its way."""
    return pytest.mark.parametrize(("number", "case"), list(enumerate(selection)), ids=str)


def test_the_matrix_takes_all_ways() -> None:
    """Each home with each number of slices; in order, reversed and shuffled, each layer by layer and as a wavefront."""
    for selection in (MATRIX, FIRST_ORDER):
        layouts = [Way.of(number) for number in range(len(selection))]
        assert {(layout.weights_in, layout.slices) for layout in layouts} == {
            (weights_in, slices) for weights_in in WeightMemory for slices in SLICES
        }
        assert {(min(layout.order, 2), layout.wave) for layout in layouts} == {
            (n, w) for n in (0, 1, 2) for w in (False, True)
        }


# ------------------------------------------------------------------------------------------ the numbers


@pytest.mark.sampled(3)
@numbered(MATRIX)
def test_forward(number: int, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    model = rnnc.compile(case.spec(), case.params, backend=Way.of(number).backend(monkeypatch))
    assert_close(case.call(model), case.expected(), case.dtype)
    if case.row_lengths is not None and number % 2:  # code of its own
        whole = replace(case, lengths="none")
        assert_close(whole.call(model), whole.expected(), case.dtype)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("case", MATRIX[::7], ids=str)
def test_forward_as_the_model_of_the_chip_chooses(case: Case) -> None:
    model = rnnc.compile(case.spec(), case.params, backend="cuda-emulated")
    assert_close(case.call(model), case.expected(), case.dtype)


def double(case: Case) -> Case:
    """What the reference backend is asked, at the very numbers of the case."""
    return replace(case, dtype="float64")


@pytest.mark.sampled(4)
@numbered(FIRST_ORDER)
def test_gradients(number: int, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    adjoints = seeds(case, 1)
    expected = pull(double(case), "reference", adjoints, primal(case))
    found = pull(case, Way.of(number).backend(monkeypatch), adjoints)
    assert_points_agree(found, expected, TOLERANCE[case.dtype], case.dtype)


@pytest.mark.rare
@numbered(FIRST_ORDER[::3])
def test_tangents(number: int, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    along = direction(case, 2)
    expected = push(double(case), "reference", along, primal(case))
    found = push(case, Way.of(number).backend(monkeypatch), along)
    for one, other in zip(found, expected, strict=True):
        assert_points_agree(one, other, TOLERANCE[case.dtype], case.dtype)


@pytest.mark.rare
@numbered(SECOND_ORDER)
def test_second_order(number: int, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    given = seeds(case, 1), direction(case, 2), seeds(case, 3)
    expected = second(double(case), "reference", *given, primal(case))
    found = second(case, Way.of(number).backend(monkeypatch), *given)
    for one, other in zip(found, expected, strict=True):
        assert_points_agree(one, other, TOLERANCE[case.dtype], case.dtype)


# ------------------------------------------------------------------------------------------ orders of threads

SEVERAL = {
    "lengths": Case("lstm", 2, True, steps=4, batch=3, hidden_size=9, lengths="mixed", seed=1),
    "two products": Case("gru_before", 1, False, steps=3, batch=11, hidden_size=7, seed=2),
    "projected": Case("lstm_projected", 1, True, dtype="float64", steps=3, batch=5, hidden_size=20, seed=3),
    "sums over units": UserCase("layer_norm_lstm", 1, steps=3, batch=6, hidden_size=40, lengths="mixed", seed=4),
    "two widths": UserCase("fast_and_slow", 1, dtype="float64", steps=4, batch=6, hidden_size=13, seed=5),
}
ORDERS = (0, 1, 2, 3, 4)


def few_blocks(case: Case) -> Chip:
    """So few that a group takes several tiles of rows, one after the other."""
    return replace(ROOMY, name="few blocks", sms=max(8, 4 * case.num_layers * case.directions))


def ways_of(number: int, case: Case) -> list[Way]:
    """Three, with all homes and all slices among them."""
    return [
        Way(weights_in, list(SLICES)[(n + number) % 3], chip=few_blocks(case))
        for n, weights_in in enumerate(WeightMemory)
    ]


EACH_ORDER = [(name, layout) for number, name in enumerate(SEVERAL) for layout in ways_of(number, SEVERAL[name])]


@pytest.mark.sampled(4)
@pytest.mark.parametrize(("name", "layout"), EACH_ORDER, ids=str)
def test_results_do_not_depend_on_the_order_of_threads(name: str, layout: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    case = SEVERAL[name]
    model: Any = rnnc.compile(case.spec(), case.params, backend=layout.backend(monkeypatch))
    device = model._code.device
    results = []
    for device.order in ORDERS:
        results.append(case.call(model))
    expected = forward(case, primal(case))
    assert_close(results[0], Result(expected.pop("output"), tuple(expected.values())), case.dtype)
    for other in results[1:]:
        assert_same(results[0], other)


@pytest.mark.rare
@pytest.mark.parametrize("name", ("lengths", "sums over units"))
def test_gradients_do_not_depend_on_the_order_of_threads(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = SEVERAL[name]
    backend = Way(WeightMemory.SHARED, "many", chip=few_blocks(case)).backend(monkeypatch)
    adjoints = seeds(case, 1)
    device = compiled("vjp", case.spec(), backend)._code.device
    results = []
    for device.order in ORDERS:
        results.append(pull(case, backend, adjoints))
    assert_points_agree(results[0], pull(double(case), "reference", adjoints, primal(case)), TOLERANCE[case.dtype])
    for other in results[1:]:
        assert_same_points(results[0], other)


# ------------------------------------------------------------------------------------------ operands of tensor cores

ROUNDED = 4e-6
"""Of sums in float32; a rounding too few or too many changes results by some 1e-4, one of the wrong format by more."""
ADJOINTS = 2.0**-16
"""Of a size of which float16 has few bits left and TF32 all."""
OFF = 1e-6
"""What float32, and the device's exp and tanh, leave open of an operand."""


@dataclass(frozen=True)
class Products:
    """A network whose products are rounded: `cell` of `tests.networks.CELLS`. threads: of a block."""

    cell: str
    hidden_size: int
    batch: int
    num_layers: int = 1
    bidirectional: bool = False
    ragged: bool = False
    threads: int = 64
    sms: int = 12

    def stack(self) -> Stack:
        return stack_of(
            self.cell, self.num_layers, self.bidirectional, input_size=5, hidden_size=self.hidden_size, dtype="float32"
        )

    def layout(self, weights_in: WeightMemory, slices: str, order: int) -> Way:
        return Way(
            weights_in, slices, order, chip=replace(ROOMY, name=str(self), block_threads=self.threads, sms=self.sms)
        )


ROUNDED_FORWARD = (
    Products("rnn", 33, 3),  # few columns: both warps take a range of k each
    Products("lstm", 18, 17, sms=3),  # tiles of 16 rows, one after the other
    Products("gru_reset_first", 7, 9, ragged=True, sms=3),  # two products a step, of sizes that are no multiples
    Products("fast_and_slow", 40, 5, bidirectional=True, threads=256),  # two left operands, ranges of k
    Products("lstm_projected", 20, 2, 2),
)
ROUNDED_GRADIENTS = (
    Products("gru", 9, 3),
    Products("lstm", 17, 10, bidirectional=True, sms=6),
    Products("minimal_gated_unit", 12, 4, ragged=True, threads=128),
)


def build(stack: Stack, gradients: bool, steps: int, lengths: bool) -> Graph:
    graph = lower(stack, steps, lengths=lengths)
    return vjp(graph, inputs_of(graph)) if gradients else graph


def inputs_of(graph: Graph) -> tuple[str, ...]:
    names = (str(n.attr("name")) for n in graph.nodes if n.op == "input" and n.dtype != "bool")
    return tuple(dict.fromkeys(names))


def random_feeds(products: Products, graph: Graph, steps: int) -> dict[str, Array]:
    """All inputs, adjoints too, but for lengths."""
    stack, rng = products.stack(), np.random.default_rng(products.hidden_size)
    feeds = parameters_of(stack, rng) | data_of(stack, steps, products.batch, rng)
    for node in graph.nodes:
        if node.op == "input" and node.dtype != "bool" and node.attr("name") not in feeds:
            rows = tuple(products.batch if isinstance(size, str) else int(size) for size in node.shape)
            shape = rows if node.step is None else (steps, *rows)
            feeds[str(node.attr("name"))] = (ADJOINTS * rng.uniform(-1, 1, shape)).astype(np.float32)
    return feeds


def assert_rounded(products: Products, operands: str, layout: Way, *, gradients: bool, steps: int) -> None:
    """More steps would leave hardly a result that does not hang on some operand near the turn of its rounding."""
    graph = build(products.stack(), gradients, steps, products.ragged)
    feeds = random_feeds(products, graph, steps)
    wide: dict[str, Array] = {name: value.astype(np.float64) for name, value in feeds.items()}
    lengths = np.arange(products.batch) % (steps + 1) if products.ragged else None
    if lengths is not None:
        wide["valid"] = np.arange(steps)[:, None, None] < lengths[None, :, None]
    expected = steady(graph, wide, products.batch, operands, OFF)
    bound = layout.code(Computation(partial(build, products.stack(), gradients)), operands).bind({})
    found = {name: np.empty(value.shape, np.float32) for name, value in expected.items()}
    bound.start(feeds, found, steps, products.batch, lengths)
    for name, value in expected.items():
        kept = np.isfinite(value)
        assert kept.mean() > 0.6 and np.isfinite(found[name]).all(), name
        assert relative(found[name][kept], value[kept]) <= ROUNDED, name


def relative(found: Array, expected: Array) -> float:
    """The largest error, relative to the largest number."""
    return float(np.max(np.abs(found - expected), initial=0) / max(np.max(np.abs(expected), initial=0), 1e-30))


def each_way(selection: tuple[Products, ...]) -> list[tuple[Products, str, Way]]:
    """Each kind of operands in each home and with each number of slices; the networks take turns."""
    found: list[tuple[Products, str, Way]] = []
    for kind, operands in enumerate(KINDS):
        for weights_in in WeightMemory:
            for number, slices in enumerate(SLICES):
                products = selection[(len(found) + kind) % len(selection)]
                found.append((products, operands, products.layout(weights_in, slices, (0, 1, 5)[(number + kind) % 3])))
    return found


@pytest.mark.sampled(4)
@pytest.mark.parametrize(("products", "operands", "layout"), each_way(ROUNDED_FORWARD), ids=str)
def test_rounded_operands(products: Products, operands: str, layout: Way) -> None:
    assert_rounded(products, operands, layout, gradients=False, steps=2)


@pytest.mark.rare
@pytest.mark.parametrize(("products", "operands", "layout"), each_way(ROUNDED_GRADIENTS)[::3], ids=str)
def test_rounded_operands_of_gradients(products: Products, operands: str, layout: Way) -> None:
    assert_rounded(products, operands, layout, gradients=True, steps=1)


def test_the_oracle_of_rounded_operands_tells_formats_apart() -> None:
    """And from operands that are not rounded: all are farther off than what passes."""
    products = ROUNDED_GRADIENTS[0]
    graph = build(products.stack(), True, 1, False)
    feeds = random_feeds(products, graph, 1)
    wide = {name: value.astype(np.float64) for name, value in feeds.items()}
    runs = [RoundedRun(graph, wide, products.batch, operands).outputs for operands in KINDS] + [run_graph(graph, wide)]
    for one, other in combinations(runs, 2):
        assert max(relative(one[name], value) for name, value in other.items()) > 10 * ROUNDED


def test_rounded_operands_through_the_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    """compile and vjp hand `matmul` on: float16 results are near those without it, and not the same."""
    case = Case("lstm", bidirectional=True, steps=4, hidden_size=16, lengths="mixed")
    backend = Way(WeightMemory.REGISTERS, "two").backend(monkeypatch)
    model = rnnc.compile(case.spec(), case.params, backend=backend, matmul="float16")
    off = worst_error(case.call(model), case.expected())
    assert 1e-5 < off < 3e-3
