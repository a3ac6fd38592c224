"""Generated packers: bit for bit what `Layout.pack` makes of the same values, and not a byte read or written beyond."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from math import prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rnnc
from rnnc.backends import llvm
from rnnc.backends.llvm.asm.builder import Module
from rnnc.backends.llvm.asm.jit import MachineCode, compile_assembly
from rnnc.backends.llvm.asm.target import ISAS, Target, host, legalized
from rnnc.backends.llvm.kernels import packers
from rnnc.backends.llvm.kernels.packers import emit_packer, sources, sweeps_of, tables
from rnnc.backends.llvm.packing.layout import Layout, aligned
from rnnc.backends.llvm.packing.rectangles import Rectangle, resolve, window
from rnnc.backends.llvm.packing.sharing import arranged, loops_of
from rnnc.backends.llvm.packing.tile import Tile, choose_tile
from rnnc.backends.planning.plan import Buffer, Feed, Phase, Place, Plan, Space, Weight
from rnnc.backends.planning.planner import plan
from rnnc.backends.reference.interpreter import evaluate_bind
from rnnc.computations import forward
from rnnc.ir.computation import Computation
from rnnc.ir.families import Family
from rnnc.ir.ops import OPS, Array
from rnnc.onnx.layers import PositionConv
from tests import user_cells

GUARD = 64
DTYPES = ("float32", "float64")


def family(op: str, inputs: Sequence[Family], shape: tuple[int, ...], **attrs: object) -> Family:
    return Family(0, op, tuple(inputs), tuple(attrs.items()), shape, "float32", None, False)  # type: ignore[arg-type]


def parameter(*shape: int, name: str = "w") -> Family:
    return family("input", (), shape, name=name)


def cut(x: Family, axis: int, start: int, stop: int) -> Family:
    shape = list(x.shape)
    shape[axis] = stop - start
    return family("slice", [x], tuple(map(int, shape)), axis=axis, start=start, stop=stop)


def join(axis: int, *xs: Family) -> Family:
    shape = list(map(int, xs[0].shape))
    shape[axis] = sum(int(x.shape[axis]) for x in xs)
    return family("concat", xs, tuple(shape), axis=axis)


def evaluate(value: Family, arrays: Mapping[Family, Array]) -> Array:
    if value in arrays:
        return arrays[value]
    meaning = OPS[value.op].meaning
    assert meaning is not None
    return np.ascontiguousarray(meaning(*(evaluate(i, arrays) for i in value.inputs), **dict(value.attrs)))


def leaves(value: Family) -> list[Family]:
    found = [value] if value.op not in ("slice", "concat") else [x for i in value.inputs for x in leaves(i)]
    return list(dict.fromkeys(found))


# Pieces


def test_a_slice_of_a_concat_of_slices_is_parts_of_parameters() -> None:
    w, v = parameter(12, 5), parameter(8, 5, name="v")
    value = cut(join(0, cut(w, 0, 4, 8), cut(v, 0, 2, 6)), 0, 3, 7)
    assert resolve(value) == [Rectangle(w, 7, 0, 1, 5, 0, 0), Rectangle(v, 2, 0, 3, 5, 1, 0)]


def test_axes_of_a_matrix_and_of_a_vector() -> None:
    w, b = parameter(4, 6), parameter(6, name="b")
    assert resolve(cut(w, -1, 2, 5)) == [Rectangle(w, 0, 2, 4, 3)]
    assert resolve(cut(w, 0, 2, 3)) == [Rectangle(w, 2, 0, 1, 6)]
    assert resolve(cut(b, 0, 2, 5)) == resolve(cut(b, -1, 2, 5)) == [Rectangle(b, 0, 2, 1, 3)]
    assert resolve(join(0, b, b)) == [Rectangle(b, 0, 0, 1, 6), Rectangle(b, 0, 0, 1, 6, 0, 6)]
    number = parameter()
    assert resolve(number) == [Rectangle(number, 0, 0, 1, 1)]


def test_arithmetic_is_a_source_of_its_own() -> None:
    a, b = parameter(6, name="a"), parameter(6, name="b")
    total = family("add", [a, b], (6,))
    (piece,) = resolve(cut(total, -1, 2, 5))
    assert piece == Rectangle(total, 0, 2, 1, 3)
    assert piece.computed
    assert not resolve(a)[0].computed


@st.composite
def values(draw: st.DrawFn, rows: int, columns: int, depth: int = 3) -> Family:
    """A matrix of slices and concats."""
    how = draw(st.sampled_from(["parameter", "slice", "concat"])) if depth else "parameter"
    axis = draw(st.sampled_from([0, -1]))
    size = (rows, columns)[axis]
    if how == "slice":
        before, after = draw(st.integers(0, 9)), draw(st.integers(0, 9))
        whole = size + before + after
        inner = draw(values(*((whole, columns) if axis == 0 else (rows, whole)), depth - 1))
        return cut(inner, axis, before, before + size)
    if how == "concat" and size > 1:
        at = draw(st.integers(1, size - 1))
        parts = [(n, columns) if axis == 0 else (rows, n) for n in (at, size - at)]
        return join(axis, *(draw(values(*part, depth - 1)) for part in parts))
    return parameter(rows, columns)


def filled(families: Sequence[Family], dtype: str) -> dict[Family, Array]:
    """Different numbers everywhere, some of them not finite."""
    arrays = {}
    for number, one in enumerate(families):
        array = 1000 * number + np.arange(prod(map(int, one.shape)), dtype=dtype) + 1
        array[::7] *= -1
        array[3:4] = np.inf
        arrays[one] = array.reshape(tuple(map(int, one.shape)))
    return arrays


@given(data=st.data(), rows=st.integers(1, 20), columns=st.integers(1, 20))
def test_pieces_cover_a_value_once(data: st.DataObject, rows: int, columns: int) -> None:
    value = data.draw(values(rows, columns))
    arrays = filled(leaves(value), "float64")
    got, times = np.full((rows, columns), np.nan), np.zeros((rows, columns), int)
    for p in resolve(value):
        to = np.s_[p.at_row : p.at_row + p.rows, p.at_column : p.at_column + p.columns]
        got[to] = arrays[p.source][p.row : p.row + p.rows, p.column : p.column + p.columns]
        times[to] += 1
    assert (times == 1).all()
    np.testing.assert_array_equal(got, evaluate(value, arrays))


def test_a_window_has_no_empty_pieces() -> None:
    w = parameter(4, 4)
    assert window([Rectangle(w, 0, 0, 2, 4), Rectangle(w, 2, 0, 2, 4, 2, 0)], 2, 1, 2, 2) == [Rectangle(w, 2, 1, 2, 2)]


# Packing


@cache
def kernels(isa: str, dtype: str) -> MachineCode:
    module, target = Module(), legalized(isa)
    emit_packer(module, dtype, target)
    return compile_assembly(module.text(), target)


def function(code: MachineCode, name: str, parameters: str) -> Callable[..., None]:
    types = [{"p": ctypes.c_void_p, "i": ctypes.c_int64}[p] for p in parameters]
    return ctypes.CFUNCTYPE(None, *types)(code.address(name))


def guarded(count: int, dtype: str) -> tuple[Array, Array]:
    """An arena full of NaN with a guard at both ends, and the part between."""
    whole = aligned(count + 2 * GUARD, np.dtype(dtype))
    whole[:] = np.nan
    return whole, whole[GUARD : GUARD + count]


def check(layout: Layout, values: Mapping[Family, Array], isa: str) -> None:
    """Generated code fills what Layout.pack fills with the same bits, and leaves gaps and guards alone."""
    want = layout.pack(values)
    whole, arena = guarded(layout.size, layout.dtype.name)
    sweeps = sweeps_of(layout)
    arrays = [np.ascontiguousarray(values[source]) for source in sources(sweeps)]
    pointers = np.array([array.ctypes.data for array in arrays], np.int64)
    rows, moves = tables(sweeps, sources(sweeps))
    run = function(kernels(isa, layout.dtype.name), packers.SWEEPS, "pppip")
    run(arena.ctypes.data, pointers.ctypes.data, rows.ctypes.data, len(rows), moves.ctypes.data)
    packed = covered(layout)
    bits = f"u{layout.dtype.itemsize}"
    np.testing.assert_array_equal(arena[packed].view(bits), want[packed].view(bits))
    assert np.isnan(arena[~packed]).all(), "written between operands"
    assert np.isnan(whole[:GUARD]).all() and np.isnan(whole[GUARD + layout.size :]).all(), "written outside the arena"


def covered(layout: Layout) -> Array:
    """Which elements of the arena belong to an operand; the rest rounds operands to cache lines."""
    inside = np.zeros(layout.size, bool)
    for block in layout.blocks:
        phase, tile = block.packed.phase, block.packed.tile
        rows = len(phase.vectors) if block.feed is None else block.feed.inner * len(block.feed.blocks)
        inside[block.start : block.start + rows * tile.panels(phase.width) * tile.units] = True
    return inside


SPECS = [
    rnnc.LSTM(3, 50),
    rnnc.LSTM(17, 130, dtype="float64"),
    rnnc.LSTM(50, 17, 2, bidirectional=True),
    rnnc.LSTM(9, 33, 2, proj_size=5, bidirectional=True, dtype="float64"),
    rnnc.GRU(130, 3),
    rnnc.GRU(17, 50, reset_after=False, dtype="float64"),
    rnnc.RNN(1, 1),
    rnnc.RNN(130, 130, bias=False),
    rnnc.Recurrent(user_cells.LayerNormLSTM(), 4, 21),
    rnnc.Recurrent(user_cells.FastAndSlow(), 5, 50, num_layers=2),
    rnnc.Recurrent(user_cells.PeepholeLSTM(), 17, 3, dtype="float64"),
]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("spec", SPECS, ids=repr)
def test_generated_packing_is_packing(spec: rnnc.Spec, isa: str) -> None:
    program = Computation.of_stack(spec.stack()).program()
    check(layout_of(plan(program), legalized(isa)), evaluate_bind(program, spec.init(seed=0)), isa)


def layout_of(planned: Plan, target: Target) -> Layout:
    layout = Layout(planned.program.dtype)
    for _, phase in planned.phases():
        layout.add(phase, choose_tile(phase, target, planned.program.dtype))
    return layout


def test_what_two_phases_read_alike_lies_there_once() -> None:
    """One matrix, from the same column on, in tiles of one size: the second phase finds it; other columns are new."""
    w, layout = parameter(40, 24), Layout("float32")
    for columns in ((0, 20), (0, 20), (4, 24)):
        phase, place = Phase("p", 0), Place(Buffer("x", Space.INPUT, 1))
        phase.width, phase.accumulators = 20, [family("add", (), (1,))]
        phase.feeds.append(Feed(place, 40, ((0, Weight(w, False, *columns)),)))
        layout.add(phase, Tile(8, 1, 1, 1))
    assert [block.start for block in layout.blocks if block.feed] == [0, 40 * 24]


@pytest.mark.parametrize(("positions", "channels"), [(4, 16), (20, 8), (3, 1)])
def test_positions_share_their_weights(positions: int, channels: int) -> None:
    """Each weight of two convolutions is packed once, also where more positions than registers read it."""
    taps = PositionConv(channels, 24, 3, positions, before=1, after=1)
    net = rnnc.Sequential(taps, rnnc.Activation("relu"), PositionConv(24, 24, 3, positions, 2, 0, 0, bias=True))
    params = net.init(seed=0)
    code = llvm.compile(forward(net), target=legalized("avx2"))
    layout = code.emitted.layout
    assert layout.size < sum(map(np.size, params.values())) + 16 * len(layout.blocks)
    x = np.random.default_rng(0).standard_normal((5, 3, positions * channels)).astype(np.float32)
    expected = net.compile(params, backend="reference")(x)
    np.testing.assert_allclose(net.compile(params)(x), expected, atol=1e-5)
    np.testing.assert_allclose(net.compile(params)(x[:1, :1]), expected[:1, :1], atol=1e-5)


def test_shared_weights_are_read_in_place_by_the_forward_half_of_few_rows() -> None:
    net = rnnc.Sequential(PositionConv(5, 9, 3, 4, before=1, after=1), rnnc.Activation("tanh"), rnnc.Linear(36, 3))
    params = net.init(seed=0)
    for steps in (1, 4):  # rows of two sequences: in place, packed
        x = np.random.default_rng(0).standard_normal((steps, 2, 20)).astype(np.float32)
        found = []
        for backend in ("llvm", "reference"):
            (y, _), pullback = rnnc.vjp(net, backend=backend)(params, x)
            d_params, d_x, _ = pullback(y)
            found.append([y, d_x, *(d_params[name] for name in sorted(params))])
        for a, b in zip(*found, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_weight_that_an_accumulator_adds_twice_has_two_loops() -> None:
    w, one, rows = parameter(6, 8), parameter(8), Buffer("x", Space.INPUT, 12)
    feeds = [Feed(Place(rows, at), 6, ((0, Weight(w, False, 0, 8)), (1, Weight(w, False, 0, 8)))) for at in (0, 6)]
    phase = Phase("p", 8, accumulators=[one, one], feeds=arranged(feeds))
    tile = Tile(8, 1, 1, 2)
    loops = loops_of(phase, tile, tile.groups(2))
    products = [[(phase.feeds[n].lhs.column, a) for n in loop for a, _ in phase.feeds[n].blocks] for loop in loops]
    assert sorted(sum(products, [])) == [(0, 0), (0, 1), (6, 0), (6, 1)]
    assert all(len({a for _, a in loop}) == len(loop) for loop in products)


def test_slices_and_concats_of_parameters_are_never_computed() -> None:
    """Two layers, both directions: one concat a layer joins the input weights of its directions."""
    program = Computation.of_stack(rnnc.LSTM(3, 4, 2, bidirectional=True).stack()).program()
    layout = layout_of(plan(program), host())
    weights = [source for source in sources(sweeps_of(layout)) if len(source.shape) > 1]
    assert len(set(weights)) == 8  # input and recurrent weights of each layer and direction
    assert all(source.op == "input" for source in weights)


def packed_phase(
    tile: Tile, feeds: list[list[tuple[Family, bool]]], vectors: list[Family], dtype: str = "float32"
) -> Layout:
    """A phase that multiplies by all columns of some weights, one accumulator a weight of a feed."""
    phase = Phase("p", 0, vectors=vectors)
    place = Place(Buffer("x", Space.INPUT, 1))
    for feed in feeds:
        blocks = []
        for number, (matrix, transposed) in enumerate(feed):
            inner, phase.width = map(int, matrix.shape[::-1] if transposed else matrix.shape)
            blocks.append((number, Weight(matrix, transposed, 0, phase.width)))
        phase.feeds.append(Feed(place, inner, tuple(blocks)))
    phase.accumulators = [family("add", (), (1,))] * max(map(len, feeds))
    layout = Layout(dtype)
    layout.add(phase, tile)
    return layout


SIZES = st.integers(1, 20) | st.sampled_from([31, 32, 33, 50, 64, 65, 130])


@st.composite
def phases(draw: st.DrawFn, lanes: int) -> tuple[list[list[tuple[Family, bool]]], list[Family], Tile]:
    width, accumulators = draw(SIZES), draw(st.integers(1, 3))
    feeds = []
    for _ in range(draw(st.integers(1, 2))):
        inner = draw(SIZES)
        blocks = []
        for _ in range(accumulators):
            transposed = draw(st.booleans())
            blocks.append((draw(values(*((width, inner) if transposed else (inner, width)))), transposed))
        feeds.append(blocks)
    numbers = [parameter(1), parameter(width), cut(parameter(width + 3), 0, 1, width + 1), parameter(1, width)]
    vectors = draw(st.lists(st.sampled_from(numbers), max_size=3))
    return feeds, vectors, Tile(lanes, draw(st.integers(1, 3)), 1, draw(st.integers(1, accumulators)))


@given(data=st.data(), isa=st.sampled_from(ISAS), dtype=st.sampled_from(DTYPES))
def test_any_phase_of_slices_and_concats(data: st.DataObject, isa: str, dtype: str) -> None:
    feeds, vectors, tile = data.draw(phases(legalized(isa).lanes(dtype)))
    layout = packed_phase(tile, feeds, vectors, dtype)
    wanted = [matrix for feed in feeds for matrix, _ in feed] + vectors
    arrays = filled(list(dict.fromkeys(leaf for value in wanted for leaf in leaves(value))), dtype)
    known = arrays | {value: evaluate(value, arrays) for value in wanted}
    check(layout, known, isa)


# Bounds of the source


def at_the_edge(array: Array, end: bool) -> Array:
    """A copy that ends, or starts, at a page that must not be touched."""
    page = mmap.PAGESIZE
    size = -(-array.nbytes // page) * page
    memory = mmap.mmap(-1, size + page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    forbidden = start + size if end else start
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(forbidden), ctypes.c_size_t(page), 0) == 0
    offset = size - array.nbytes if end else page
    copy = np.frombuffer(memory, array.dtype, array.size, offset).reshape(array.shape)
    ctypes.memmove(start + offset, array.ctypes.data, array.nbytes)
    return copy  # which keeps the memory


@pytest.mark.parametrize("end", [True, False], ids=["end", "start"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
def test_nothing_beside_the_source_is_read(isa: str, dtype: str, end: bool) -> None:
    """The process would end here if it were."""
    run = function(kernels(isa, dtype), packers.PANEL, "pipiiiiii")
    lanes = legalized(isa).lanes(dtype)
    for rows, columns in (
        (3, 5),
        (5, 2),
        (5, 3),
        (lanes, 4),
        (lanes + 1, lanes - 1),
        (1, 2 * lanes - 1),
        (2 * lanes - 1, 9),
    ):
        array = at_the_edge(np.arange(1, rows * columns + 1, dtype=dtype).reshape(rows, columns), end)
        for transposed in (False, True):
            inner, width = (columns, rows) if transposed else (rows, columns)
            steps = (1, columns) if transposed else (columns, 1)
            units = (width // lanes + 2) * lanes
            whole, panel = guarded(inner * units, dtype)
            run(panel.ctypes.data, units, array.ctypes.data, *steps, inner, width, 0, units)
            want = np.zeros((inner, units), dtype)
            want[:, :width] = array.T if transposed else array
            np.testing.assert_array_equal(panel.reshape(inner, units), want)
            assert np.isnan(whole[:GUARD]).all() and np.isnan(whole[-GUARD:]).all()


@given(data=st.data(), isa=st.sampled_from(ISAS), dtype=st.sampled_from(DTYPES), transposed=st.booleans())
def test_only_the_units_asked_for_are_written(data: st.DataObject, isa: str, dtype: str, transposed: bool) -> None:
    """Other units of the panel may hold another piece already."""
    lanes = legalized(isa).lanes(dtype)
    inner, units = data.draw(st.integers(1, 9)), lanes * data.draw(st.integers(1, 3))
    start = data.draw(st.integers(0, units - 1))
    stop = data.draw(st.integers(start + 1, units))
    width = data.draw(st.integers(1, stop - start))
    steps = (1, inner) if transposed else (width, 1)
    source = np.arange(1, inner * width + 1, dtype=dtype)
    panel = np.full((inner, units), np.nan, dtype)
    run = function(kernels(isa, dtype), packers.PANEL, "pipiiiiii")
    run(panel.ctypes.data, units, source.ctypes.data, *steps, inner, width, start, stop)
    want = np.full((inner, units), np.nan, dtype)
    want[:, start:stop] = 0
    want[:, start : start + width] = source.reshape(width, inner).T if transposed else source.reshape(inner, width)
    np.testing.assert_array_equal(panel, want)
