"""Code of a phase whose weights and activations are bytes: exact sums of 32-bit integers.

for each ROWS_AT_ONCE rows:
  for each feed, for each row: its scale, and its codes, four per word          (`packing.activations`)
  for each panel of units, for each block of rows:
    for each feed: for each word: sums += dot products of bytes                 (`asm.dots`)
                   accumulators += sums * (the row's scale * the unit's scale)
    for each row: epilogue (the equations), stores
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from rnnc.backends.llvm.asm.builder import Function, Val, i64, like, mangle, vector
from rnnc.backends.llvm.asm.dots import BIAS, Dots, add_dots
from rnnc.backends.llvm.kernels.epilogue import PhaseSignature, signature
from rnnc.backends.llvm.kernels.narrow_phase import NarrowPhase
from rnnc.backends.llvm.kernels.phase import PREFETCH_ROWS, Stream
from rnnc.backends.llvm.packing.activations import CODES_AT, LINE_WORDS, ROWS_AT_ONCE
from rnnc.backends.llvm.packing.tile import Tile
from rnnc.backends.planning.plan import Phase
from rnnc.backends.products import STEPS

MAGNITUDE = 0x7FFFFFFF
"""The bits of a float without its sign. As integers, they are in the order of magnitudes, infinity and NaN last."""
ROUNDER = 1.5 * 2**23
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
            with f.loop(0, self.arg("panels")) as panels:
                self._panel(self._in_turn(panels.index), block.index, count)
        f.ret()
        return f

    def _workspace(self, number: int, row: Val) -> Val:
        """Where a row of a left side has its scale and its codes."""
        f = self.f
        words = f.add(self._depth(number), LINE_WORDS - 1)
        size = f.add(f.binary("and", words, i64(-LINE_WORDS)), CODES_AT)
        return f.element(self.arg(f"codes{number}"), f.mul(f.sub(row, self.first), size), "i32")

    # ---- activations

    def _quantize(self, number: int, row: Val, target: Val) -> None:
        """Writes the scale and the codes of a row. A row with NaN or an infinity has the scale NaN."""
        f, inner = self.f, self.arg(f"inner{number}")
        largest = self._largest(row, inner)
        inverse = f.binary("fdiv", f.constant(STEPS, self.scalar), largest)
        endless = f.value("i1", f"fcmp oeq {inverse}, {f.constant(float('inf'), self.scalar).name}")
        inverse = f.select(endless, f.constant(0.0, self.scalar), inverse)
        finite = f.value("i1", f"fcmp olt {largest}, {f.constant(float('inf'), self.scalar).name}")
        scale = f.binary("fmul", largest, f.constant(1 / STEPS, self.scalar))
        f.store(f.select(finite, scale, f.constant(float("nan"), self.scalar)), target, self.bytes)
        factor, codes = f.splat(inverse, self.tile.lanes), f.element(target, CODES_AT, "i32")
        for start, stop, mask in self._spans(inner):
            with f.loop(start, stop, self.tile.lanes) as k:
                values = f.binary("fmul", self._load(row, k.index, mask), factor)
                self._store_codes(values, f.element(codes, k.index, "i8"))

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
        return f.value(
            self.scalar, f"bitcast {f.call('i32', f'llvm.vector.reduce.smax.{suffix}', most)} to {self.scalar}"
        )

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

    def _store_codes(self, values: Val, pointer: Val) -> None:
        """Rounds a vector of floats to bytes. Lanes past the end of a row are zeros, and become the code of zero."""
        f, bytes_ = self.f, vector(self.tile.lanes, "i8")
        moved = f.binary("fadd", values, f.constant(ROUNDER, self.type))
        codes = f.value(bytes_, f"trunc {f.value(self.integers, f'bitcast {moved} to {self.integers}')} to {bytes_}")
        if self.dots.biased:
            codes = f.binary("xor", codes, f.integer(-BIAS, bytes_))
        f.store(codes, pointer, self.tile.lanes)

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
            factor = f.splat(f.load(self.scalar, side, self.bytes), self.tile.lanes)
            for j, scale in enumerate(scales):
                place = n * len(scales) + j
                whole = f.value(self.type, f"sitofp {sums[place]} to {self.type}")
                added.append(f.fma(whole, f.binary("fmul", factor, scale), flat[place]))
        return added

    def _sums(self, sides: list[Val], number: int, groups: list[range], panel: Val) -> list[Val]:
        """The sums of integers of rows, in the order [row][vector]."""
        f, integers = self.f, self.integers
        streams = self._streams(number, groups, panel)
        codes = [f.element(side, CODES_AT, "i32") for side in sides]
        start = [Val(integers, "zeroinitializer")] * sum(stream.vectors for stream in streams)
        if self.dots.biased:
            less = self._per_unit(number, groups, panel, 1)
            start = [f.value(integers, f"bitcast {value} to {integers}") for value in less]
        with f.loop(0, self._depth(number), carried=start * len(sides)) as loop:
            word = loop.index
            if len(sides) >= PREFETCH_ROWS:
                self._prefetch(streams, word)
            rows = [partial(self._four_codes, row, word) for row in codes]
            loads = [partial(self._word, stream, j, word) for stream in streams for j in range(stream.vectors)]
            loop.next(self._add_products(rows, loads, loop.values, self._add_dots))
        return loop.values

    def _four_codes(self, row: Val, word: Val) -> Val:
        """Four successive codes of a row, in each lane."""
        return self.f.splat(self.f.load("i32", self.f.element(row, word, "i32"), 4), self.tile.lanes)

    def _word(self, stream: Stream, number: int, word: Val) -> Val:
        return self.f.value(self.integers, f"bitcast {self._weight(stream, number, word)} to {self.integers}")

    def _add_dots(self, codes: Val, weights: Val, sums: Val) -> Val:
        return add_dots(self.f, self.dots, sums, codes, weights)
