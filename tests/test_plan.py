"""The plan: phases by a rule, buffers where a value crosses a barrier, tiles that fit, weights where kernels look."""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest

import rnnc
from rnnc.backends.llvm import compile
from rnnc.backends.llvm.asm.target import ISAS, legalized
from rnnc.backends.llvm.kernels import plan_memory
from rnnc.backends.llvm.packing.layout import Layout
from rnnc.backends.llvm.packing.tile import Tile, TileWork, _best, blocks_of, choose_tile
from rnnc.backends.planning.plan import Phase, Space
from rnnc.backends.planning.planner import plan
from rnnc.backends.planning.reading import Reading
from rnnc.backends.reference.interpreter import evaluate_bind
from rnnc.ir.computation import Computation
from rnnc.ir.equations import Value, linear, mean, tanh
from tests import user_cells
from tests.forward_calls import run_stack
from tests.golden import check_golden

# spec -> matmul accumulators of each step phase, and values kept from phase to phase within a step
SCHEDULES = {
    rnnc.RNN(3, 4): ([1], 0),
    rnnc.LSTM(3, 4): ([4], 0),
    rnnc.GRU(3, 4): ([3], 0),
    rnnc.GRU(3, 4, reset_after=False): ([1, 2], 1),  # r * h, then the candidate and, as late as it may be, z
    rnnc.LSTM(3, 4, proj_size=2): ([4, 1], 1),
    rnnc.Recurrent(user_cells.MinimalGatedUnit(), 3, 4): ([1, 1], 2),
    rnnc.Recurrent(user_cells.SimpleRecurrentUnit(), 3, 4): ([0], 0),
    rnnc.Recurrent(user_cells.IndependentRNN(), 3, 4): ([0], 0),
}


@pytest.mark.parametrize("spec", SCHEDULES, ids=repr)
def test_a_step_is_scheduled_into_as_few_phases_as_its_barriers_allow(spec: rnnc.Spec) -> None:
    made = plan(Computation.of_stack(spec.stack()).program())
    (region,) = (r for r in made.regions if r.steps)
    accumulators, kept = SCHEDULES[spec]
    assert [len(p.accumulators) for p in region.steps] == accumulators
    assert sum(b.space is Space.STEP for b in made.buffers) == kept


class Doubling(rnnc.Cell):
    """A value that reads the one before it twice, 14 times over, and its mean."""

    name = "doubling"

    def parameters(self, input_size: int, hidden_size: int, bias: bool) -> dict[str, tuple[int, ...]]:
        return {"weight": (hidden_size, input_size)}

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> tuple[Value, dict[str, Value]]:
        a = state.h
        for _ in range(14):
            a = a * tanh(a)
        h = a - mean(a) + linear(x, p.weight)
        return h, {"h": h}


def test_what_is_shared_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    computed = Reading.computed
    monkeypatch.setattr(Reading, "computed", lambda self, family: asked.append(family) or computed(self, family))
    program = Computation.of_stack(rnnc.Recurrent(Doubling(), 3, 4).stack()).program()
    plan(program)
    assert len(asked) < 50 * len(Reading(program).all)


@pytest.mark.parametrize("bias", [True, False])
def test_products_with_the_input_stay_outside_the_loop(bias: bool) -> None:
    for spec in (rnnc.RNN(3, 4, bias=bias), rnnc.GRU(3, 4, bias=bias), rnnc.LSTM(3, 4, bias=bias)):
        (region,) = plan(Computation.of_stack(spec.stack()).program()).regions
        assert all(feed.lhs.buffer.space is Space.INPUT for p in region.batched for feed in p.feeds)
        assert all(feed.lhs.buffer.space is Space.STATE for p in region.steps for feed in p.feeds)


@pytest.mark.parametrize(
    ("name", "spec"),
    [
        ("plan_lstm", rnnc.LSTM(3, 4)),
        ("plan_gru_before", rnnc.GRU(3, 4, reset_after=False)),
        ("plan_layer_norm_lstm", rnnc.Recurrent(user_cells.LayerNormLSTM(), 3, 4)),
    ],
)
def test_plan_texts(name: str, spec: rnnc.Spec) -> None:
    check_golden(name, plan(Computation.of_stack(spec.stack()).program()).text())


def phases(spec: rnnc.Spec) -> list[Phase]:
    return [phase for _, phase in plan(Computation.of_stack(spec.stack()).program()).phases()]


@pytest.mark.parametrize("isa", ISAS)
def test_tiles_fit_the_registers(isa: str) -> None:
    target = legalized(isa)
    for spec, hidden, dtype in product((rnnc.RNN, rnnc.GRU, rnnc.LSTM), (1, 50, 128, 1024), ("float32", "float64")):
        for phase in phases(spec(hidden, hidden)):
            tile = choose_tile(phase, target, dtype)
            held = min(tile.rows, tile.group * tile.vectors) + 1
            assert tile.group * tile.vectors * tile.rows + held <= target.registers
            assert tile.panels(hidden) * tile.units >= hidden > (tile.panels(hidden) - 1) * tile.units


def test_a_tile_counts_the_weights_of_all_feeds_of_a_pass() -> None:
    """Two products of k = 256 into four accumulators: a pass over all four would read 48 KiB of weights."""
    both = TileWork(256, 4, ((256, ((0,), (1,), (2,))), (256, ((0,), (1,), (3,)))))
    assert _best(both, legalized("avx2"), 8).group < 4


def test_a_small_phase_with_equations_is_one_panel_of_vectors_that_take_turns() -> None:
    """The same matmuls have the tile with the least code where no equations follow, or where weights take longer."""
    loops = ((32, ((0,), (1,), (2,), (3,))),)
    assert _best(TileWork(32, 4, loops, equations=True), legalized("avx2"), 8) == Tile(8, 4, 3, 1, quick=True)
    assert _best(TileWork(32, 4, loops), legalized("avx2"), 8) == Tile(8, 1, 3, 4)
    large = ((128, ((0,), (1,), (2,), (3,))),)
    assert not _best(TileWork(128, 4, large, equations=True), legalized("avx2"), 8).quick


def test_weights_of_a_single_row_are_one_stream_if_that_is_what_it_waits_for() -> None:
    """Two gates of eight rows are best for a batch; a smaller network, which is often a stream, takes all four."""
    gates = ((0,), (1,), (2,), (3,))
    for inner, group, far in ((128, 4, False), (256, 2, False), (512, 2, True)):
        tile = _best(TileWork(inner, 4, ((inner, gates),), equations=True), legalized("avx512"), 16)
        assert (tile.group, tile.far, tile.quick) == (group, far, False), inner


def test_fewer_rows_share_their_groups_evenly_among_passes() -> None:
    tile = Tile(8, 4, 3, 1)
    assert [[len(g) for g in groups] for groups in tile.passes(4, 1)] == [[1, 1], [1, 1]]
    assert [len(groups) for groups in tile.passes(4, 3)] == [1, 1, 1, 1]


@pytest.mark.parametrize("tile", [Tile(8, 1, 6, 2), Tile(4, 2, 3, 1), Tile(16, 1, 6, 4), Tile(8, 3, 4, 3)])
@pytest.mark.parametrize("spec", [rnnc.LSTM(5, 33), rnnc.GRU(7, 20, reset_after=False)], ids=repr)
def test_packed_weights_are_where_the_kernel_reads_them(spec: rnnc.Spec, tile: Tile) -> None:
    """Multiplies by walking the arena just as the generated loops do."""
    program = Computation.of_stack(spec.stack()).program()
    params = spec.init(seed=0)
    values = evaluate_bind(program, params)
    layout = Layout(spec.dtype)
    packed = [layout.add(phase, tile) for _, phase in plan(program).phases() if phase.feeds]
    arena = layout.pack(values)
    assert arena.ctypes.data % 64 == 0
    for one in packed:
        for feed, start in zip(one.phase.feeds, one.weights, strict=True):
            x = np.random.default_rng(0).standard_normal(feed.inner).astype(spec.dtype)
            blocks = len(feed.blocks)
            for panel in range(tile.panels(one.phase.width)):
                pointer = start + panel * feed.inner * blocks * tile.units
                for group in tile.groups(len(one.phase.accumulators)):
                    members = blocks_of(feed, group)
                    for place, member in enumerate(members):
                        total = np.zeros(tile.units, spec.dtype)
                        for k in range(feed.inner):
                            at = pointer + (k * len(members) + place) * tile.units
                            total += x[k] * arena[at : at + tile.units]
                        weight = feed.blocks[member][1]
                        matrix = values[weight.family].T if weight.transposed else values[weight.family]
                        columns = (x @ matrix[:, weight.start : weight.stop])[panel * tile.units :][: tile.units]
                        np.testing.assert_allclose(total[: len(columns)], columns, atol=1e-5)
                        assert not total[len(columns) :].any()
                    pointer += feed.inner * len(members) * tile.units


@pytest.mark.parametrize("room", [1, 1000, 10_000])
def test_the_size_of_a_chunk_changes_nothing(room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = rnnc.LSTM(6, 10, 2, bidirectional=True)
    params = spec.init(seed=0)
    x = np.random.default_rng(0).standard_normal((17, 3, 6)).astype("float32")
    want = rnnc.compile(spec, params)(x)[0]
    monkeypatch.setattr(plan_memory, "CHUNK_BYTES", room)
    stack = spec.stack()
    got, _ = run_stack(compile(Computation.of_stack(stack), threads=1).bind(params), stack, x)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)
