"""Code of one phase: a function over (panels x rows) with sizes, strides and pointers as arguments.

    for each panel of units:                          weights of a panel stay in cache
      for each balanced block of at most R rows:      R x (vectors x accumulators) registers
        for each feed: for k: accumulators += broadcast(lhs[row, k]) * packed[k]
        for each row: epilogue (the equations), stores

If a tile is `quick`, a single row has a loop over panels of its own, without blocks.

The code contains only the structure (accumulators, equations, tile, the last panel's width), so phases that differ in
sizes alone share one function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from rnnc.backends.llvm.asm.builder import Function, Val, i64, lane_mask
from rnnc.backends.llvm.kernels.epilogue import Epilogue, Spot, number_of
from rnnc.backends.llvm.packing.sharing import loops_of
from rnnc.backends.llvm.packing.tile import FMA_LATENCY, FMA_PER_CYCLE, blocks_of
from rnnc.backends.planning.plan import Feed, Space
from rnnc.ir.families import Family

UNROLL = 4
CACHE_LINE = 64
PREFETCH_ROWS = 4
PREFETCH_PER_ROW = 1536
"""Weights from the third-level cache are prefetched if at least PREFETCH_ROWS rows share them, so many bytes ahead per
row: the more rows, the longer a loop takes per byte. (Measured on Zen 5, 8 rows: this gains 3 to 16 %, 2 KiB ahead
gain nothing. Fewer rows are bound by the bandwidth of the cache, and lose up to 9 %.)"""

Operand = TypeVar("Operand")
"""A row's part in a product: a vector, or several."""

Accumulators = dict[int, list[Val]]
"""Number of an accumulator -> its vectors, for one row."""


@dataclass(frozen=True)
class Stream:
    """Packed weights that are read with unit stride, `vectors` vectors per step of k."""

    pointer: Val
    vectors: int


@dataclass(frozen=True)
class Blocks:
    """The blocks of rows from `first` on: `larger` blocks of least + 1 rows, then blocks of `least` rows."""

    first: Val
    count: Val
    least: Val
    larger: Val


class TilePhase(Epilogue):
    """Matmuls and elementwise phases."""

    def emit(self) -> Function:
        f = self.f
        if not self.phase.accumulators:
            self._row_by_row()
            f.ret()
            return f
        self.stack = self._stack_tile()
        if self.tile.quick:
            alone = f.value("i64", f"zext {f.compare('eq', self.arg('rows'), 1)} to i64")
            with f.switch(alone, (1, 0)) as cases:
                for case in cases:
                    self._one_row() if case else self._many_rows()
        else:
            self._many_rows()
        f.ret()
        return f

    def _one_row(self) -> None:
        """All panels of the only row. All of its addresses are known without a product of a row and a stride."""
        with self._panels() as panel:
            self._rows(i64(0), panel, 1)
            self._finish(*self._from_stack(i64(0), i64(0)), panel)

    def _many_rows(self) -> None:
        """All panels of any number of rows."""
        blocks = self._blocks(i64(0), self.arg("rows"))
        with self._panels() as panel:
            self._panel(panel, blocks)

    @contextmanager
    def _panels(self) -> Iterator[Val]:
        """A loop over panels from `first` to `stop`, the last one first if the argument `backward` is set."""
        f, first, stop = self.f, self.arg("first"), self.arg("stop")
        ends = f.sub(f.add(first, stop), 1)
        with f.loop(first, stop) as loop:
            mirrored = f.sub(ends, loop.index)
            yield f.select(f.compare("eq", self.arg("backward"), 0), loop.index, mirrored)

    def _row_by_row(self) -> None:
        """Rows from end to end, as they lie in memory: a phase without weights has nothing to keep in the cache."""
        f, tail = self.f, self.tile.tail(self.phase.width)
        first, stop = self.arg("first"), self.arg("stop")
        whole = f.minimum(stop, f.sub(self.arg("panels"), 1)) if tail else stop
        with f.part("epilogue"), f.loop(0, self.arg("rows")) as rows:
            with f.loop(first, whole) as panels:
                self._epilogue(rows.index, [], panels.index, 0)
            if tail:
                with f.loop(whole, stop) as last:
                    self._epilogue(rows.index, [], last.index, tail)

    def _stack_tile(self) -> Val:
        """Stack memory for the accumulators of all rows of a tile, so that one epilogue serves any number of rows."""
        count = self.tile.rows * len(self.phase.accumulators) * self.tile.vectors
        return self.f.alloca(self.type, count, 64)

    def _blocks(self, first: Val, rows: Val) -> Blocks:
        """How `rows` rows from `first` on are divided, which is the same for all panels."""
        f, most = self.f, self.tile.rows
        count = f.udiv(f.add(rows, most - 1), most)
        least = f.udiv(rows, f.maximum(count, i64(1)))  # a ragged batch may have no rows at all
        return Blocks(first, count, least, f.sub(rows, f.mul(least, count)))

    def _panel(self, panel: Val, blocks: Blocks) -> None:
        """A panel of all rows, block by block."""
        f = self.f
        with f.loop(0, blocks.count, carried=[blocks.first]) as block:
            row = block.values[0]
            extra = f.value("i64", f"zext {f.compare('ult', block.index, blocks.larger)} to i64")
            count = f.add(blocks.least, extra)
            with f.switch(count, range(1, self.tile.rows + 1)) as cases:
                for case in cases:
                    self._rows(row, panel, case)
            with f.part("epilogue"), f.loop(0, count) as each:
                self._finish(*self._from_stack(row, each.index), panel)
            block.next([f.add(row, count)])

    def _rows(self, row: Val, panel: Val, count: int) -> None:
        """The loops over k of one block of rows. The accumulators are left in the stack tile."""
        if count > 1:
            self._prefetch_ends(row, panel, count)
        for groups in self.tile.passes(len(self.phase.accumulators), count):
            members = [a for group in groups for a in group]
            accumulators = [self._start(self.f.add(row, r), panel, members) for r in range(count)]
            for feeds in loops_of(self.phase, self.tile, groups):
                accumulators = self._feed(feeds, groups, row, panel, accumulators)
            self._keep(accumulators)

    def _prefetch_ends(self, row: Val, panel: Val, count: int) -> None:
        """Prefetches the lines of buffers over time that the epilogue will read and write, before the loops over k."""
        f = self.f
        far = (Space.TIMED, Space.OUTPUT, Space.INPUT)
        written = {place for _, place in self.phase.stores}
        for place in self.signature.places:
            if place.buffer.space in far:
                for r in range(count):
                    pointer = self.place_pointer(place, f.add(row, r), panel, self.phase.width)
                    for line in range(0, self.tile.units, CACHE_LINE // self.bytes):
                        f.prefetch(pointer, i64(line), self.scalar, write=place in written)

    def _keep(self, accumulators: list[Accumulators]) -> None:
        """Stores a pass's accumulators in the stack tile, [row][accumulator][vector]."""
        for r, row in enumerate(accumulators):
            for a, vectors in row.items():
                for v, value in enumerate(vectors):
                    slot = (r * len(self.phase.accumulators) + a) * self.tile.vectors + v
                    self.f.store(value, self.f.element(self.stack, slot, self.type), self.bytes * self.tile.lanes)

    def _start(self, row: Val, panel: Val, members: list[int]) -> Accumulators:
        """The initial values of a row's accumulators."""
        zero = Val(self.type, "zeroinitializer")
        started: Accumulators = {}
        for number in members:
            family = self.phase.accumulators[number]
            vectors = []
            for v in range(self.tile.vectors):
                terms = [self._initial(term, row, panel, v) for term in self.phase.initial[family]]
                total = terms[0] if terms else zero
                for term in terms[1:]:
                    total = self.math.add(total, term)
                vectors.append(total)
            started[number] = vectors
        return started

    def _initial(self, term: Family, row: Val, panel: Val, v: int) -> Val:
        if term.op in ("const", "zeros"):
            return self.math.constant(number_of(term))
        if term in self.phase.loads:
            return self._load_start(term, row, panel, v)
        return self.vector_at(term, panel, v)

    def _load_start(self, term: Family, row: Val, panel: Val, v: int) -> Val:
        """Loads an initial value. Padded buffers are read in whole vectors, a caller's array only up to its end."""
        width, tail = self.phase.width, self.tile.tail(self.phase.width)
        padded = self.phase.loads[term].buffer.padded
        if padded or not tail or self.phase.loads[term].grid:
            return self.load_at(term, row, panel, v, self.tile.lanes)
        pointer = self.place_pointer(self.phase.loads[term], row, panel, width)
        pointer = self.f.element(pointer, v * self.tile.lanes, self.scalar)
        return self._load_up_to(pointer, panel, v)

    def _load_up_to(self, pointer: Val, panel: Val, v: int) -> Val:
        """A masked load whose mask depends on whether the panel is the last one."""
        f, lanes = self.f, self.tile.lanes
        valid = self.lanes_of(v, self.tile.tail(self.phase.width))
        mask = f.select(self._is_last(panel), lane_mask(lanes, valid), lane_mask(lanes, lanes))
        return f.load_masked(self.type, pointer, mask, self.bytes)

    def _feed(
        self, numbers: list[int], groups: list[range], row: Val, panel: Val, accumulators: list[Accumulators]
    ) -> list[Accumulators]:
        """accumulators += lhs[rows, :] @ packed weights of the panel, for feeds that read the same weights.

        To the weights, the left sides of several feeds are what several rows of one are.
        """
        feeds = [self.phase.feeds[number] for number in numbers]
        each = [[feed.blocks[b][0] for group in groups for b in blocks_of(feed, group)] for feed in feeds]
        flat = [vector for one in accumulators for targets in each for a in targets for vector in one[a]]
        with self.f.part(f"feed{'_'.join(map(str, numbers))}x{len(accumulators)}"):
            values = iter(self._accumulate(numbers, groups, row, len(accumulators), panel, flat))
        result = [dict(one) for one in accumulators]
        for one in result:
            for a in (a for targets in each for a in targets):
                one[a] = [next(values) for _ in range(self.tile.vectors)]
        return result

    def _accumulate(
        self, numbers: list[int], groups: list[range], row: Val, count: int, panel: Val, flat: list[Val]
    ) -> list[Val]:
        """The products of `count` rows from `row` on, added to accumulators in the order [row][feed][vector]."""
        lhs = [self._lhs(number, self.f.add(row, r)) for r in range(count) for number in numbers]
        weights = self._streams(numbers[0], groups, panel)
        return self._loop_over_k(lhs, weights, self.arg(f"inner{numbers[0]}"), flat)

    def _lhs(self, number: int, row: Val) -> Val:
        """The address of a row of a feed's left side."""
        f = self.f
        return f.element(self.arg(f"lhs{number}"), f.mul(row, self.arg(f"lhs_stride{number}")), self.scalar)

    def _streams(self, number: int, groups: list[range], panel: Val) -> list[Stream]:
        """A feed's packed weights of some groups: where each starts in the panel, and its vectors per step of k."""
        f, feed = self.f, self.phase.feeds[number]
        inner = self._depth(number)
        total = len(feed.blocks) * self.tile.units
        start = f.mul(f.mul(panel, inner), total)
        before = self._blocks_before(feed, groups)
        streams = []
        for group in groups:
            blocks = len(blocks_of(feed, group))
            offset = f.add(start, f.mul(inner, before * self.tile.units))
            pointer = f.element(self.arg(f"weights{number}"), offset, self.scalar)
            if blocks:
                streams.append(Stream(pointer, blocks * self.tile.vectors))
            before += blocks
        return streams

    def _depth(self, number: int) -> Val:
        """The number of packed elements per unit and block of a feed."""
        return self.arg(f"inner{number}")

    def _blocks_before(self, feed: Feed, groups: Sequence[range]) -> int:
        """The number of a feed's blocks that are packed before those of some groups."""
        return sum(len(blocks_of(feed, group)) for group in self.tile.groups(groups[0].start))

    def _loop_over_k(self, lhs: list[Val], weights: list[Stream], inner: Val, flat: list[Val]) -> list[Val]:
        """The inner loop over k. A small number of accumulators is split into several chains to hide their latency."""
        f, size = self.f, len(flat)
        chains = self._chains(size)
        if chains == 1:
            with f.loop(0, inner, carried=flat) as loop:
                loop.next(self._multiply(lhs, weights, loop.index, loop.values))
            return loop.values
        zero = Val(self.type, "zeroinitializer")
        start = flat + [zero] * (size * (chains - 1))
        whole = f.binary("and", inner, i64(-UNROLL))
        with f.loop(0, whole, UNROLL, carried=start) as loop:
            current = [loop.values[n * size : (n + 1) * size] for n in range(chains)]
            for u in range(UNROLL):
                current[u % chains] = self._multiply(lhs, weights, f.add(loop.index, u), current[u % chains])
            loop.next([a for chain in current for a in chain])
        sets = [loop.values[n * size : (n + 1) * size] for n in range(chains)]
        totals = [self._total(values) for values in zip(*sets, strict=True)]
        with f.loop(whole, inner, carried=totals) as rest:
            rest.next(self._multiply(lhs, weights, rest.index, rest.values))
        return rest.values

    def _chains(self, independent: int) -> int:
        """The number of chains: enough independent fused multiply-adds to hide their latency; one in small code."""
        chains = 1
        while not self.tile.small and chains < UNROLL and independent * chains < FMA_LATENCY * FMA_PER_CYCLE:
            chains *= 2
        return chains

    def _multiply(self, lhs: list[Val], weights: list[Stream], k: Val, flat: Sequence[Val]) -> list[Val]:
        """The products of one k."""
        self._prefetch(weights, k, len(lhs))
        loads = [partial(self._weight, stream, j, k) for stream in weights for j in range(stream.vectors)]
        return self._add_products([partial(self._broadcast, row, k) for row in lhs], loads, flat, self.f.fma)

    def _weight(self, stream: Stream, number: int, k: Val) -> Val:
        """A vector of packed weights."""
        f, lanes = self.f, self.tile.lanes
        index = f.add(f.mul(k, stream.vectors * lanes), number * lanes)
        return f.load(self.type, f.element(stream.pointer, index, self.scalar), lanes * self.bytes)

    def _broadcast(self, row: Val, k: Val) -> Val:
        """A number of a left side, in all lanes."""
        return self.f.splat(self.f.load(self.scalar, self.f.element(row, k, self.scalar), self.bytes), self.tile.lanes)

    def _add_products(
        self,
        lhs: Sequence[Callable[[], Operand]],
        weights: Sequence[Callable[[], Val]],
        flat: Sequence[Val],
        add: Callable[[Operand, Val, Val], Val],
    ) -> list[Val]:
        """Adds to the accumulators, in the order [row][weight], what `add` does of a row's operand and a weight.

        The fewer of the rows' operands and the weights stay in registers.
        """
        result, count = list(flat), len(weights)
        if len(lhs) <= count:
            rows = [load() for load in lhs]
            for j, load_weight in enumerate(weights):
                w = load_weight()
                for r, x in enumerate(rows):
                    result[r * count + j] = add(x, w, result[r * count + j])
        else:
            held = [load_weight() for load_weight in weights]
            for r, load in enumerate(lhs):
                x = load()
                for j, w in enumerate(held):
                    result[r * count + j] = add(x, w, result[r * count + j])
        return result

    def _prefetch(self, weights: list[Stream], k: Val, rows: int) -> None:
        """Prefetches the weights of a later k, one cache line at a time, where this pays for so many rows."""
        f = self.f
        if not self.tile.far or rows < PREFETCH_ROWS:
            return
        for stream in weights:
            count = stream.vectors * self.tile.lanes
            ahead = f.add(f.mul(k, count), rows * PREFETCH_PER_ROW // self.bytes)
            for line in range(0, count, CACHE_LINE // self.bytes):
                f.prefetch(stream.pointer, f.add(ahead, line), self.scalar)

    def _total(self, values: Sequence[Val]) -> Val:
        total = values[0]
        for value in values[1:]:
            total = self.math.add(total, value)
        return total

    def _from_stack(self, row: Val, slot: Val) -> tuple[Val, list[list[Val]]]:
        """A row of a block, and its accumulators in the stack tile."""
        f, count, vectors = self.f, len(self.phase.accumulators), self.tile.vectors
        base = f.mul(slot, count * vectors)
        places = [f.element(self.stack, f.add(base, n), self.type) for n in range(count * vectors)]
        flat = [f.load(self.type, place, self.bytes * self.tile.lanes) for place in places]
        return f.add(row, slot), [flat[a * vectors : (a + 1) * vectors] for a in range(count)]

    def _is_last(self, panel: Val) -> Val:
        return self.f.compare("eq", panel, self.f.sub(self.arg("panels"), 1))

    def _finish(self, row: Val, accumulators: list[list[Val]], panel: Val) -> None:
        """The epilogue of one row. A last panel that is not full has an epilogue of its own."""
        f, tail = self.f, self.tile.tail(self.phase.width)
        if not tail or self.phase.width < self.tile.units:
            self._epilogue(row, accumulators, panel, tail)
            return
        with f.switch(f.value("i64", f"zext {self._is_last(panel)} to i64"), (0, 1)) as cases:
            for case in cases:
                self._epilogue(row, accumulators, panel, tail if case else 0)

    def _epilogue(self, row: Val, accumulators: list[list[Val]], panel: Val, tail: int) -> None:
        """The equations and stores of a row. accumulators: the vectors of each."""
        sizes = [self.lanes_of(v, tail) for v in range(self.tile.vectors)]
        spots = [Spot(row, panel, v, lanes) for v, lanes in enumerate(sizes) if lanes]
        known = [{family: accumulators[a][s.vector] for a, family in enumerate(self.phase.accumulators)} for s in spots]
        for spot, values in zip(spots, self.values(spots, known), strict=True):
            self._store(spot, values)

    def _store(self, spot: Spot, known: Mapping[Family, Val]) -> None:
        for family, place in self.phase.stores:
            pointer = self.place_pointer(place, spot.row, spot.panel, self.phase.width)
            pointer = self.f.element(pointer, spot.vector * self.tile.lanes, self.scalar)
            ends = place.column + self.phase.width == place.buffer.width
            count = self.tile.lanes if place.buffer.padded and ends else spot.lanes
            value = known[family] if family in known else self.math.constant(number_of(family))
            if family.dtype == "bool":
                value = self.math.select(value, self.math.constant(1.0), self.math.constant(0.0))
            self.f.store_lanes(value, pointer, count, self.bytes)
