"""Code of a phase whose weights and activations are bytes: exact sums of 32-bit integers.

    for each ROWS_AT_ONCE rows:
      for each feed, for each row: its scale, and its codes, four per word            (`packing.activations`)
      for each panel of units, for each block of rows:
        for each feed: for each word: sums += dot products of bytes                   (`asm.dots`)
                       accumulators += sums * (the row's scale * the unit's scale)
        for each row: epilogue (the equations), stores
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from rnnc.backends.llvm.asm.builder import Function, Val, i64, like, mangle, vector
from rnnc.backends.llvm.asm.dots import add_dots, planes_of
from rnnc.backends.llvm.asm.target import Dots
from rnnc.backends.llvm.kernels.epilogue import PhaseSignature, signature
from rnnc.backends.llvm.kernels.narrow_phase import NarrowPhase
from rnnc.backends.llvm.kernels.phase import Stream
from rnnc.backends.llvm.packing.activations import CODES_AT, LINE_WORDS, ROWS_AT_ONCE, SCALE_AT, START_AT
from rnnc.backends.llvm.packing.tile import Tile
from rnnc.backends.planning.plan import Phase
from rnnc.backends.products import STEPS

MAGNITUDE = 0x7FFFFFFF
"""The bits of a float without its sign. As integers, they are in the order of magnitudes, infinity and NaN last."""
ROUNDER, ROUNDER_BITS = 1.5 * 2**23, 0x4B400000
"""Added to a small float, it leaves the nearest integer, ties to even, in the lowest bits."""


@dataclass(frozen=True)
class IntegerSignature(PhaseSignature):
    """The order of the arguments. Each feed has a workspace for the codes of its left side."""

    def weights(self, feed: int) -> list[str]:
        return [f"ptr %weights{feed}", f"ptr %codes{feed}"]


class IntegerPhase(NarrowPhase):
    """Matmuls of bytes, and their epilogues."""

    def __init__(self, phase: Phase, name: str, tile: Tile, dtype: str, dots: Dots) -> None:
        super().__init__(phase, name, tile, dtype)
        self.dots = dots
        self.integers = like(self.type, "i32")

    def _signature(self, phase: Phase) -> PhaseSignature:
        known = signature(phase)
        return IntegerSignature(known.feeds, known.places)

    def emit(self) -> Function:
        f, rows = self.f, self.arg("rows")
        self.stack = self._stack_tile()
        with f.loop(0, rows, ROWS_AT_ONCE) as block:
            self.first = block.index
            count = f.minimum(f.sub(rows, block.index), i64(ROWS_AT_ONCE))
            for number in range(len(self.phase.feeds)):
                with f.loop(0, count) as each:
                    row = f.add(block.index, each.index)
                    self._quantize(number, self._lhs(number, row), self._workspace(number, row))
            blocks = self._blocks(block.index, count)
            with self._panels() as panel:
                self._panel(panel, blocks)
        f.ret()
        return f

    def _workspace(self, number: int, row: Val) -> Val:
        """Where a row of a left side has its scale, the start of its sums, and its codes."""
        f, planes = self.f, self.dots.planes
        size = f.add(f.mul(self._plane_words(number), planes), CODES_AT)
        return f.element(self.arg(f"codes{number}"), f.mul(f.sub(row, self.first), size), "i32")

    def _plane_words(self, number: int) -> Val:
        """The number of words of a plane of codes."""
        f = self.f
        return f.binary("and", f.add(self._depth(number), LINE_WORDS - 1), i64(-LINE_WORDS))

    # ---- activations

    def _quantize(self, number: int, row: Val, target: Val) -> None:
        """Writes the scale and the codes of a row. A row with NaN or an infinity has the scale NaN."""
        f, inner, infinity = self.f, self.arg(f"inner{number}"), self.f.constant(float("inf"), self.scalar)
        largest = self._largest(row, inner)
        inverse = f.binary("fdiv", f.constant(STEPS, self.scalar), largest)
        endless = f.value("i1", f"fcmp oeq {inverse}, {infinity.name}")
        inverse = f.select(endless, f.constant(0.0, self.scalar), inverse)
        finite = f.value("i1", f"fcmp olt {largest}, {infinity.name}")
        scale = f.binary("fmul", largest, f.constant(1 / STEPS, self.scalar))
        scale = f.select(finite, scale, f.constant(float("nan"), self.scalar))
        f.store(scale, f.element(target, SCALE_AT, "i32"), self.bytes)
        self._write_codes(number, row, f.splat(inverse, self.tile.lanes), target)

    def _write_codes(self, number: int, row: Val, factor: Val, target: Val) -> None:
        """Writes a row's planes of codes, and the start of its sums, if it has one.

        Lanes past the end of the row are zeros, and get the code of zero.
        """
        f, planes = self.f, self.dots.planes
        codes, plane = f.element(target, CODES_AT, "i32"), self._plane_words(number)
        masked = Val(self.integers, "zeroinitializer")
        for start, stop, mask in self._spans(self.arg(f"inner{number}")):
            with f.loop(start, stop, self.tile.lanes, carried=[masked]) as k:
                values = f.binary("fmul", self._load(row, k.index, mask), factor)
                made = planes_of(f, self.dots, self._rounded(values))
                for place, each in enumerate(made):
                    self._store_bytes(each, f.element(f.element(codes, f.mul(plane, place), "i32"), k.index, "i8"))
                k.next([f.binary("add", k.values[0], f.binary("and", made[0], made[-1])) if planes > 1 else masked])
            masked = k.values[0]
        if planes > 1:
            total = f.call("i32", f"llvm.vector.reduce.add.{mangle(self.integers)}", masked)
            f.store(total, f.element(target, START_AT, "i32"), self.bytes)

    def _largest(self, row: Val, inner: Val) -> Val:
        """The largest magnitude of a row; NaN if it holds one."""
        f, most = self.f, Val(self.integers, "zeroinitializer")
        suffix = mangle(self.integers)
        for start, stop, mask in self._spans(inner):
            with f.loop(start, stop, self.tile.lanes, carried=[most]) as k:
                loaded = self._load(row, k.index, mask)
                bits = f.value(self.integers, f"bitcast {loaded} to {self.integers}")
                bits = f.binary("and", bits, f.integer(MAGNITUDE, self.integers))
                k.next([f.call(self.integers, f"llvm.smax.{suffix}", k.values[0], bits)])
            most = k.values[0]
        largest = f.call("i32", f"llvm.vector.reduce.smax.{suffix}", most)
        return f.value(self.scalar, f"bitcast {largest} to {self.scalar}")

    def _spans(self, inner: Val) -> list[tuple[Val, Val, Val | None]]:
        """A row as whole vectors, and as one that is not full, with its mask: start, stop, mask."""
        f, lanes = self.f, self.tile.lanes
        whole = f.binary("and", inner, i64(-lanes))
        return [(i64(0), whole, None), (whole, inner, f.lanes_below(f.sub(inner, whole), lanes))]

    def _load(self, row: Val, k: Val, mask: Val | None) -> Val:
        place = self.f.element(row, k, self.scalar)
        if mask is None:
            return self.f.load(self.type, place, self.bytes)
        return self.f.load_masked(self.type, place, mask, self.bytes)

    def _rounded(self, values: Val) -> Val:
        """The nearest integers of small floats."""
        f = self.f
        moved = f.binary("fadd", values, f.constant(ROUNDER, self.type))
        bits = f.value(self.integers, f"bitcast {moved} to {self.integers}")
        return f.binary("sub", bits, f.integer(ROUNDER_BITS, self.integers))

    def _store_bytes(self, integers: Val, pointer: Val) -> None:
        """Stores the lowest byte of each lane."""
        form = vector(self.tile.lanes, "i8")
        self.f.store(self.f.value(form, f"trunc {integers} to {form}"), pointer, self.tile.lanes)

    # ---- products

    def _accumulate(
        self, numbers: list[int], groups: list[range], row: Val, count: int, panel: Val, flat: list[Val]
    ) -> list[Val]:
        f, first = self.f, numbers[0]
        sides = [self._workspace(number, f.add(row, r)) for r in range(count) for number in numbers]
        sums = self._sums(sides, first, groups, panel)
        scales = self._per_unit(first, groups, panel, 0)
        added = []
        for n, side in enumerate(sides):
            scale_of_row = f.load(self.scalar, f.element(side, SCALE_AT, "i32"), self.bytes)
            factor = f.splat(scale_of_row, self.tile.lanes)
            for j, scale in enumerate(scales):
                place = n * len(scales) + j
                whole = f.value(self.type, f"sitofp {sums[place]} to {self.type}")
                added.append(f.fma(whole, f.binary("fmul", factor, scale), flat[place]))
        return added

    def _sums(self, sides: list[Val], number: int, groups: list[range], panel: Val) -> list[Val]:
        """The sums of integers of rows, in the order [row][vector]."""
        f = self.f
        streams = self._streams(number, groups, panel)
        count = sum(stream.vectors for stream in streams)
        starts = [start for side in sides for start in self._starts(side, number, groups, panel, count)]
        codes = [f.element(side, CODES_AT, "i32") for side in sides]
        plane = self._plane_words(number)
        with f.loop(0, self._depth(number), carried=starts) as loop:
            word = loop.index
            self._prefetch(streams, word, len(sides))
            rows = [partial(self._planes, row, plane, word) for row in codes]
            loads = [partial(self._word, stream, j, word) for stream in streams for j in range(stream.vectors)]
            loop.next(self._add_products(rows, loads, loop.values, partial(add_dots, f, self.dots)))
        return loop.values

    def _starts(self, side: Val, number: int, groups: list[range], panel: Val, count: int) -> list[Val]:
        """What the sums of a row start at (`asm.dots`)."""
        f, integers = self.f, self.integers
        if self.dots.biased:
            less = self._per_unit(number, groups, panel, 1)
            return [f.value(integers, f"bitcast {value} to {integers}") for value in less]
        if self.dots.planes == 1:
            return [Val(integers, "zeroinitializer")] * count
        return [f.splat(f.load("i32", f.element(side, START_AT, "i32"), self.bytes), self.tile.lanes)] * count

    def _planes(self, row: Val, plane: Val, word: Val) -> list[Val]:
        """Four successive codes of a row, in each lane, from each plane."""
        f = self.f
        places = [f.add(f.mul(plane, number), word) for number in range(self.dots.planes)]
        return [f.splat(f.load("i32", f.element(row, place, "i32"), self.bytes), self.tile.lanes) for place in places]

    def _word(self, stream: Stream, number: int, word: Val) -> Val:
        return self.f.value(self.integers, f"bitcast {self._weight(stream, number, word)} to {self.integers}")
