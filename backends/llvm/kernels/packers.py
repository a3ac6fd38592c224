"""Packers: generated code that copies weights into the arena, in the order of `packing.layout`.

A **move** is one rectangle of a caller's array, with two strides, and its place in one block of one feed:

    arena[destination + n // units * panel_stride + k * k_stride + n % units] = source[offset + k * k_step + m * n_step]

for k < inner, n = first + m, m < width. A vector is a weight of one row. A **sweep** is all moves that write to the
same cache lines, such as the gates of a feed that one loop over k reads together. They are done panel by panel, so that
each line is written while it is in the cache. For a feed larger than the cache, this is three times as fast as block
after block. Moves that share no lines and copy rows are done row by row instead, as fast as memory is copied.

The moves of a plan are a table that one function walks, so the code does not depend on the network.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

from rnnc.backends.llvm.asm.builder import Function, Module, Val, define, i64, lanes_of, scalar_of, vector
from rnnc.backends.llvm.asm.dtypes import ELEMENT_BYTES, SCALARS
from rnnc.backends.llvm.asm.records import Record
from rnnc.backends.llvm.asm.target import Target
from rnnc.backends.llvm.packing.layout import Layout, PackedPhase
from rnnc.backends.llvm.packing.rectangles import Rectangle, columns_of, extent, resolve
from rnnc.backends.llvm.packing.tile import blocks_of
from rnnc.backends.planning.plan import Feed
from rnnc.ir.families import Family
from rnnc.ir.ops import Array

SHUFFLE_BYTES = 16
"""The number of bytes within which shuffles are cheap on every machine."""
COPIED_ROWS = 32
"""The number of rows that are copied to all panels before the next rows. A cache line of the source that two panels
share, and a page that all panels share, is then touched once."""

SWEEPS, PANEL, SHARE_OF_SWEEPS = "rnnc_sweep", "rnnc_sweep_panel", "rnnc_sweep_share"

SWEEP = Record("sweep", "i64 panels, i64 inner, i64 depth, i64 start, i64 stop, i64 apart")
"""A sweep. Its moves are the rows start .. stop of the table. apart: see `Sweep.apart`."""
MOVE = Record(
    "move",
    "i64 source, i64 offset, i64 destination, i64 panel_stride, i64 k_stride, i64 units, i64 k_step, i64 n_step, "
    "i64 inner, i64 width, i64 first, i64 fill",
)
SHARE = Record("share", "ptr arena, ptr sources, ptr sweeps, i64 count, ptr moves")
"""The share of one thread: `count` sweeps. sources: an array of pointers to the C-contiguous sources, in their order.
"""


@dataclass(frozen=True)
class Move:
    """A rectangle of a source, and its place in the arena. All numbers are in elements.

    n_step: 0 gives every unit the same number.
    fill: the number of units written, from `first` on, >= width. Units past the width are zeros, the padding of the
    last panel.
    """

    source: Family
    offset: int
    destination: int
    panel_stride: int
    k_stride: int
    units: int
    k_step: int
    n_step: int
    inner: int
    width: int
    first: int
    fill: int


_OF_MOVE = tuple(field for field in MOVE.types if field != "source")


@dataclass(frozen=True)
class Sweep:
    """Moves that write to the same cache lines. depth: the number of k that all panels get before the next k."""

    panels: int
    inner: int
    depth: int
    moves: tuple[Move, ...]

    @property
    def apart(self) -> bool:
        """True if each move copies rows to whole panels that it shares with no other. Its rows are then read in order.

        The weights of a backward pass are such: read from end to end, they are packed as fast as memory is copied.
        """
        return all(m.n_step == 1 and m.k_stride == m.units and m.first % m.units == 0 for m in self.moves)


@dataclass(frozen=True)
class _Block:
    """The place of an operand of a phase in the arena: its first element, and its strides."""

    packed: PackedPhase
    destination: int
    panel_stride: int
    k_stride: int

    def move(self, piece: Rectangle, transposed: bool) -> Move:
        """The move of a piece of the operand. transposed: its rows are units."""
        rows, columns = extent(piece.source)
        inner, width = (piece.columns, piece.rows) if transposed else (piece.rows, piece.columns)
        at_k, first = (piece.at_column, piece.at_row) if transposed else (piece.at_row, piece.at_column)
        k_step, n_step = (1, columns) if transposed else (columns, 1)
        destination = self.destination + at_k * self.k_stride
        return self._move(piece, destination, k_step, n_step, inner, width, first)

    def broadcast(self, piece: Rectangle) -> Move:
        """The move that gives every unit the same number."""
        return self._move(piece, self.destination, 0, 0, 1, self.packed.phase.width, 0)

    def _move(
        self, piece: Rectangle, destination: int, k_step: int, n_step: int, inner: int, width: int, first: int
    ) -> Move:
        tile, total = self.packed.tile, self.packed.phase.width
        offset = piece.row * extent(piece.source)[1] + piece.column
        fill = tile.panels(total) * tile.units - first if first + width == total else width
        strides = (self.panel_stride, self.k_stride, tile.units, k_step, n_step)
        return Move(piece.source, offset, destination, *strides, inner, width, first, fill)


def sweeps_of(layout: Layout, skipped: Container[int] = ()) -> list[Sweep]:
    """The sweeps that fill the arena: one per phase for its vectors, and one per feed and group of accumulators.

    Narrow weights have none (`packing.narrow`).
    """
    sweeps: list[Sweep] = []
    for block in layout.blocks:
        if block.start in skipped or block.narrow:
            continue
        if block.feed is None:
            sweeps.append(_sweep(block.packed, 1, _vector_moves(block.packed)))
        else:
            sweeps += _feed_sweeps(block.packed, block.feed, block.start)
    return [sweep for sweep in sweeps if sweep.moves]


def sources(sweeps: list[Sweep]) -> list[Family]:
    """The arrays that packing reads, inputs and computed values, in the order in which generated code takes them."""
    return list(dict.fromkeys(move.source for sweep in sweeps for move in sweep.moves))


def tables(sweeps: list[Sweep], given: Sequence[Family]) -> tuple[Array, Array]:
    """The rows of SWEEP and the rows of MOVE, as int64 arrays. given: the sources, in the order of their pointers."""
    number = {family: n for n, family in enumerate(given)}
    rows: list[list[int]] = []
    moves: list[list[int]] = []
    for sweep in sweeps:
        rows.append([sweep.panels, sweep.inner, sweep.depth, len(moves), len(moves) + len(sweep.moves), sweep.apart])
        moves += [[number[m.source], *(getattr(m, field) for field in _OF_MOVE)] for m in sweep.moves]
    return SWEEP.table(rows), MOVE.table(moves)


def shares(tables: tuple[Array, Array], count: int) -> list[tuple[int, int]]:
    """`count` runs of sweeps, as (first, stop), that write about the same number of elements each."""
    sweeps, moves = tables
    sizes = moves[:, MOVE.number("inner")] * moves[:, MOVE.number("fill")]
    written = [0]
    for start, stop in sweeps[:, [SWEEP.number("start"), SWEEP.number("stop")]].tolist():
        written.append(written[-1] + int(sizes[start:stop].sum()))
    bounds = [_nearest(written, written[-1] * n / count) for n in range(count)] + [len(sweeps)]
    return list(zip(bounds, bounds[1:], strict=False))


def _nearest(rising: list[int], value: float) -> int:
    return min(range(len(rising)), key=lambda n: abs(rising[n] - value))


def _sweep(packed: PackedPhase, inner: int, moves: list[Move]) -> Sweep:
    copies = all(move.n_step == 1 for move in moves)
    return Sweep(packed.tile.panels(packed.phase.width), inner, COPIED_ROWS if copies else inner, tuple(moves))


def _vector_moves(packed: PackedPhase) -> list[Move]:
    units = packed.tile.units
    panel = len(packed.phase.vectors) * units
    moves = []
    for number, family in enumerate(packed.phase.vectors):
        block = _Block(packed, packed.vectors + number * units, panel, panel)
        alone = extent(family) == (1, 1)
        moves += [block.broadcast(piece) if alone else block.move(piece, False) for piece in resolve(family)]
    return moves


def _feed_sweeps(packed: PackedPhase, feed: Feed, start: int) -> list[Sweep]:
    units = packed.tile.units
    panel = feed.inner * len(feed.blocks) * units
    sweeps = []
    for group in packed.tile.groups(len(packed.phase.accumulators)):
        members = blocks_of(feed, group)
        moves = []
        for place, member in enumerate(members):
            block = _Block(packed, start + place * units, panel, len(members) * units)
            weight = feed.blocks[member][1]
            moves += [block.move(piece, weight.transposed) for piece in columns_of(weight)]
        sweeps.append(_sweep(packed, feed.inner, moves))
        start += feed.inner * len(members) * units
    return sweeps


def emit_packer(module: Module, dtype: str, target: Target) -> None:
    """Adds `rnnc_sweep(arena, sources, sweeps, count, moves)`, `rnnc_sweep_share(share)`, and what they call."""
    for function in [*emit_pack_panel(PANEL, dtype, target), _emit_sweeps(dtype), _emit_share()]:
        module.add(function)


def _emit_share() -> Function:
    """Runs the sweeps of one thread. No two sweeps write to the same place."""
    f = define(f"i32 {SHARE_OF_SWEEPS}(ptr share)")
    f.call_defined("void", SWEEPS, *SHARE.loads(f, f.parameters[0]).values())
    f.ret(Val("i32", "0"))
    return f


def _emit_sweeps(dtype: str) -> Function:
    """Walks a table of sweeps: each move, cut to one panel and `depth` values of k at a time."""
    f = define(f"void {SWEEPS}(ptr arena, ptr sources, ptr sweeps, i64 count, ptr moves)")
    arena, sources_, sweeps, count, moves = f.parameters
    with f.loop(0, count) as number:
        sweep = SWEEP.loads(f, SWEEP.element(f, sweeps, number.index))
        apart = f.compare("ne", sweep["apart"], 0)
        with f.loop(sweep["start"], f.select(apart, sweep["stop"], sweep["start"])) as each:
            _whole_move(f, SCALARS[dtype], arena, sources_, MOVE.loads(f, MOVE.element(f, moves, each.index)))
        inner = f.select(apart, i64(0), sweep["inner"])
        with f.loop(0, inner, sweep["depth"]) as k, f.loop(0, sweep["panels"]) as panel:
            with f.loop(sweep["start"], sweep["stop"]) as each:
                move = MOVE.loads(f, MOVE.element(f, moves, each.index))
                _cut_move(f, SCALARS[dtype], arena, sources_, move, panel.index, k.index, sweep["depth"])
    f.ret()
    return f


def _whole_move(f: Function, scalar: str, arena: Val, sources_: Val, move: dict[str, Val]) -> None:
    """A move that is apart from others: its whole panels row by row, then what is left in the last one."""
    units, inner = move["units"], move["inner"]
    source = f.load("ptr", f.element(sources_, move["source"], "ptr"), 8)
    source = f.element(source, move["offset"], scalar)
    place = f.add(f.mul(f.udiv(move["first"], units), move["panel_stride"]), move["destination"])
    place, panels = f.element(arena, place, scalar), f.udiv(move["width"], units)
    strides = (move["panel_stride"], move["k_stride"], source, move["k_step"])
    f.call_defined("void", f"{PANEL}_rows", place, *strides, inner, panels, units)
    done = f.mul(panels, units)
    with f.when(f.compare("ult", done, move["fill"])):
        place = f.element(place, f.mul(panels, move["panel_stride"]), scalar)
        source = f.element(source, done, scalar)
        sizes, ends = (inner, f.sub(move["width"], done)), (i64(0), f.sub(move["fill"], done))
        steps = (move["k_stride"], source, move["k_step"], i64(1))
        f.call_defined("void", PANEL, place, *steps, *sizes, *ends)


def _cut_move(
    f: Function, scalar: str, arena: Val, sources_: Val, move: dict[str, Val], panel: Val, k: Val, depth: Val
) -> None:
    """The part of a move that lies in a panel, and in k .. k + depth."""
    begin = f.mul(panel, move["units"])
    low = f.maximum(move["first"], begin)
    high = f.minimum(f.add(move["first"], move["fill"]), f.add(begin, move["units"]))
    with f.when(f.binary("and", f.compare("ult", low, high), f.compare("ult", k, move["inner"]))):
        skipped = f.sub(low, move["first"])
        source = f.load("ptr", f.element(sources_, move["source"], "ptr"), 8)
        skip = f.add(f.mul(k, move["k_step"]), f.mul(skipped, move["n_step"]))
        source = f.element(source, f.add(move["offset"], skip), scalar)
        place = f.add(f.mul(panel, move["panel_stride"]), f.mul(k, move["k_stride"]))
        place = f.element(arena, f.add(move["destination"], place), scalar)
        sizes = (f.minimum(depth, f.sub(move["inner"], k)), f.sub(move["width"], skipped))
        ends = (f.sub(low, begin), f.sub(high, begin))
        f.call_defined("void", PANEL, place, move["k_stride"], source, move["k_step"], move["n_step"], *sizes, *ends)


def emit_pack_panel(name: str, dtype: str, target: Target) -> list[Function]:
    """The kernel `name` and the functions it calls: units start:stop of one panel, for all k of a piece.

    Arguments, in elements: destination (unit 0 of the panel, first k), k_stride, source (the element of the first k and
    of unit `start`), k_step, n_step, inner, width (>= 1; units past start + width are zeros), start, stop.
    Rows of units are copied (n_step 1). Rows of k are transposed in registers (k_step 1). Anything else, and ends that
    do not fill a vector, are copied element by element.
    """
    build = _Kernels(name, SCALARS[dtype], ELEMENT_BYTES[dtype], target.lanes(dtype))
    return [build.elements(), build.copy(), build.transpose(), build.panel(), build.rows()]


_PANEL_PARAMETERS = "ptr destination, i64 k_stride, ptr source, i64 k_step, i64 n_step, i64 inner, i64 width"
_VECTOR_PARAMETERS = "ptr destination, i64 k_stride, ptr source, i64 step, i64 inner, i64 count"


class _Kernels:
    def __init__(self, name: str, scalar: str, size: int, lanes: int) -> None:
        self.name = name
        self.scalar = scalar
        self.size = size
        self.lanes = lanes
        self.quad = SHUFFLE_BYTES // size
        self.type = vector(lanes, scalar)

    def panel(self) -> Function:
        """Whole vectors of units where the piece covers them, single elements at its ends."""
        f = define(f"void {self.name}({_PANEL_PARAMETERS}, i64 start, i64 stop)")
        destination, k_stride, source, k_step, n_step, inner, width, start, stop = f.parameters
        copies = f.compare("eq", n_step, 1)
        rows_of_k = f.binary("and", f.compare("eq", k_step, 1), f.compare("uge", inner, self.quad))
        vectors = f.binary("or", copies, rows_of_k)
        low = f.minimum(f.binary("and", f.add(start, self.lanes - 1), i64(-self.lanes)), stop)
        high = f.maximum(f.binary("and", stop, i64(-self.lanes)), low)
        low, high = f.select(vectors, low, stop), f.select(vectors, high, stop)
        for edge in ((start, low), (high, stop)):
            with f.when(f.compare("ult", *edge)):
                f.call_defined("void", f"{self.name}_elements", *f.parameters[:-1], *edge)
        with f.loop(low, high, self.lanes) as unit:
            number = f.sub(unit.index, start)
            row = f.element(source, f.mul(f.minimum(number, f.sub(width, 1)), n_step), self.scalar)
            place = f.element(destination, unit.index, self.scalar)
            count = f.sub(f.maximum(width, number), number)
            with f.when(copies):
                f.call_defined("void", f"{self.name}_copy", place, k_stride, row, k_step, inner, count)
            with f.when(f.binary("xor", copies, Val("i1", "true"))):
                f.call_defined("void", f"{self.name}_transpose", place, k_stride, row, n_step, inner, count)
        f.ret()
        return f

    def elements(self) -> Function:
        """Units low:high of the panel, one element at a time."""
        f = define(f"void {self.name}_elements({_PANEL_PARAMETERS}, i64 start, i64 low, i64 high)")
        destination, k_stride, source, k_step, n_step, inner, width, start, low, high = f.parameters
        with f.loop(low, high) as unit:
            number = f.sub(unit.index, start)
            inside = f.compare("ult", number, width)
            origin = f.element(source, f.mul(f.minimum(number, f.sub(width, 1)), n_step), self.scalar)
            to = f.element(destination, unit.index, self.scalar)
            with f.loop(0, inner) as k:
                value = f.load(self.scalar, f.element(origin, f.mul(k.index, k_step), self.scalar), self.size)
                value = f.select(inside, value, f.constant(0.0, self.scalar))
                self._store(f, value, to, k.index, k_stride)
        f.ret()
        return f

    def copy(self) -> Function:
        """Copies one vector of units per row. The first `count` lanes come from the source, the others are zeros."""
        f = define(f"void {self.name}_copy({_VECTOR_PARAMETERS})")
        destination, k_stride, source, step, inner, count = f.parameters
        whole = f.compare("uge", count, self.lanes)
        with f.loop(0, f.select(whole, inner, i64(0))) as k:
            value = f.load(self.type, f.element(source, f.mul(k.index, step), self.scalar), self.size)
            self._store(f, value, destination, k.index, k_stride)
        with f.loop(0, f.select(whole, i64(0), inner)) as k:
            pointer = f.element(source, f.mul(k.index, step), self.scalar)
            value = f.load_masked(self.type, pointer, self._below(f, count), self.size)
            self._store(f, value, destination, k.index, k_stride)
        f.ret()
        return f

    def rows(self) -> Function:
        """Copies rows of whole panels, one row after the other. `units` is a number of whole vectors."""
        sizes = "i64 inner, i64 panels, i64 units"
        f = define(
            f"void {self.name}_rows(ptr destination, i64 panel_stride, i64 k_stride, ptr source, i64 k_step, {sizes})"
        )
        destination, panel_stride, k_stride, source, k_step, inner, panels, units = f.parameters
        with f.loop(0, inner) as k:
            row = f.element(source, f.mul(k.index, k_step), self.scalar)
            to = f.element(destination, f.mul(k.index, k_stride), self.scalar)
            with f.loop(0, panels, carried=[row, to]) as panel:
                start, place = panel.values
                with f.loop(0, units, self.lanes) as unit:
                    value = f.load(self.type, f.element(start, unit.index, self.scalar), self.size)
                    f.store(value, f.element(place, unit.index, self.scalar), self.size)
                panel.next([f.element(start, units, self.scalar), f.element(place, panel_stride, self.scalar)])
        f.ret()
        return f

    def transpose(self) -> Function:
        """Transposes `lanes` rows by 16 bytes of k per iteration. The last one ends at the last k, and may repeat some.

        The parts of a vector are loaded from different rows, so that no shuffle crosses 16 bytes. Lanes from `count` on
        read the last row again, so that nothing past the source is touched, and are cleared.
        """
        f = define(f"void {self.name}_transpose({_VECTOR_PARAMETERS})")
        destination, k_stride, source, step, inner, count = f.parameters
        last = f.sub(f.maximum(count, i64(1)), 1)
        rows = [f.element(source, f.mul(f.minimum(i64(row), last), step), self.scalar) for row in range(self.lanes)]
        bits = vector(self.lanes, f"i{8 * self.size}")
        # The mask is of integers: LLVM would widen a mask of bits again in every iteration.
        keep = f.value(bits, f"sext {self._below(f, count)} to {bits}")
        final = f.sub(inner, self.quad)
        with f.loop(0, inner, self.quad) as turn:
            first = f.minimum(turn.index, final)
            for number, value in enumerate(self._transposed(f, rows, first)):
                kept = f.binary("and", f.value(bits, f"bitcast {value} to {bits}"), keep)
                value = f.value(self.type, f"bitcast {kept} to {self.type}")
                self._store(f, value, destination, f.add(first, number), k_stride)
        f.ret()
        return f

    def _store(self, f: Function, value: Val, pointer: Val, k: Val, k_stride: Val) -> None:
        f.store(value, f.element(pointer, f.mul(k, k_stride), self.scalar), self.size)

    def _below(self, f: Function, count: Val) -> Val:
        """The mask of the first `count` lanes, for a count that is known only at run time."""
        type_ = vector(self.lanes, "i32")
        limit = f.splat(f.value("i32", f"trunc {f.minimum(count, i64(self.lanes))} to i32"), self.lanes)
        lanes = ", ".join(f"i32 {lane}" for lane in range(self.lanes))
        return f.value(vector(self.lanes, "i1"), f"icmp ult {type_} <{lanes}>, {limit.name}")

    def _transposed(self, f: Function, rows: list[Val], k: Val) -> list[Val]:
        """One vector of units per value of k, for `quad` values."""
        part = vector(self.quad, self.scalar)
        vectors = []
        for row in range(self.quad):
            parts = [f.load(part, f.element(r, k, self.scalar), self.size) for r in rows[row :: self.quad]]
            vectors.append(_joined(f, parts))
        chunk = 1
        while chunk < self.quad:
            pairs = [(b + n, b + n + chunk) for b in range(0, self.quad, 2 * chunk) for n in range(chunk)]
            vectors = [_woven(f, vectors[a], vectors[b], chunk, self.quad, half) for a, b in pairs for half in (0, 1)]
            chunk *= 2
        return vectors


def _joined(f: Function, parts: list[Val]) -> Val:
    """The parts, in order, as one vector."""
    while len(parts) > 1:
        order = range(2 * lanes_of(parts[0].type))
        parts = [_shuffle(f, a, b, order) for a, b in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def _woven(f: Function, a: Val, b: Val, chunk: int, quad: int, half: int) -> Val:
    """Alternating chunks of a and b, from the lower (0) or upper (1) half of each `quad` lanes."""
    lanes = lanes_of(a.type)
    starts = [base + half * quad // 2 + n for base in range(0, lanes, quad) for n in range(0, quad // 2, chunk)]
    return _shuffle(f, a, b, [side + s + n for s in starts for side in (0, lanes) for n in range(chunk)])


def _shuffle(f: Function, a: Val, b: Val, order: range | list[int]) -> Val:
    """The lanes of a and b in a given order. The lanes of b are numbered after those of a."""
    shown = ", ".join(f"i32 {lane}" for lane in order)
    return f.value(vector(len(order), scalar_of(a.type)), f"shufflevector {a}, {b}, <{len(order)} x i32> <{shown}>")
