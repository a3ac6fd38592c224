"""Code of one phase: a function over (panels x rows) with sizes, strides and pointers as arguments.

    for each panel of units:                          weights of a panel stay in cache
      for each balanced block of at most R rows:      R x (vectors x accumulators) registers
        for each feed: for k: accumulators += broadcast(lhs[row, k]) * packed[k]
        for each row: epilogue (the equations), stores

Nothing but the structure (accumulators, equations, tile, the last panel's width) is baked in, so phases that differ in
sizes alone share one function.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rnnc.backends.llvm.asm.builder import Function, Val, i64, lane_mask, vector
from rnnc.backends.llvm.asm.dtypes import ELEMENT_BYTES, SCALARS
from rnnc.backends.llvm.asm.vectormath import VectorMath
from rnnc.backends.llvm.kernels.tile import FMA_LATENCY, FMA_PER_CYCLE, Tile, blocks_of
from rnnc.backends.planning.plan import Feed, Phase, Place, Space
from rnnc.ir.families import Family

UNROLL = 4
LINE = 64
PREFETCH_BYTES = 2048
PREFETCH_ROWS = 3
"""Weights are prefetched this far ahead where at least so many rows share them: +2..3% where they come from the
third-level cache. A single row is bound by the caches' bandwidth, and prefetching gains nothing."""

Accumulators = dict[int, list[Val]]
"""The vectors of each accumulator of a row."""


@dataclass(frozen=True)
class Stream:
    """Packed weights that are read with unit stride, `vectors` of them a step of k."""

    pointer: Val
    vectors: int


@dataclass(frozen=True)
class Signature:
    """The order of a phase function's arguments.

    panels, rows, backward (1: the last panel first); then for each feed: lhs, its row stride, the size of k, packed
    weights; the packed vectors; then for each place: pointer, row stride. Strides count elements.
    """

    feeds: int
    places: tuple[Place, ...]

    def parameters(self) -> list[Val]:
        names = ["i64 %panels", "i64 %rows", "i64 %backward"]
        for n in range(self.feeds):
            names += [f"ptr %lhs{n}", f"i64 %lhs_stride{n}", f"i64 %inner{n}", f"ptr %weights{n}"]
        names.append("ptr %vectors")
        for n in range(len(self.places)):
            names += [f"ptr %place{n}", f"i64 %place_stride{n}"]
        return [Val(*name.split(" ")) for name in names]


def signature(phase: Phase) -> Signature:
    """Places in order of first use, each once."""
    used = dict.fromkeys([*phase.loads.values(), *(place for _, place in phase.stores)])
    return Signature(len(phase.feeds), tuple(used))


def _number(family: Family) -> float:
    """The value of a constant, or of zeros."""
    return float(family.attr("value")) if family.op == "const" else 0.0


def emit_phase(phase: Phase, name: str, tile: Tile, dtype: str) -> Function:
    """The function of a phase."""
    emitter = _SumEmitter if phase.sums else _TileEmitter
    return emitter(phase, name, tile, dtype).emit()


class _Emitter:
    """What tiles and sums share: addresses, and the epilogue of one row."""

    def __init__(self, phase: Phase, name: str, tile: Tile, dtype: str) -> None:
        self.phase = phase
        self.tile = tile
        self.scalar = SCALARS[dtype]
        self.bytes = ELEMENT_BYTES[dtype]
        self.type = vector(tile.lanes, self.scalar)
        self.signature = signature(phase)
        self.f = Function(name, self.signature.parameters())
        self.math = VectorMath(self.f, self.scalar, tile.lanes)
        self.named = {p.name: p for p in self.f.parameters}

    def arg(self, name: str) -> Val:
        return self.named["%" + name]

    def place_pointer(self, place: Place, row: Val, panel: Val, width: int) -> Val:
        """The address of a place's first unit of a panel, in a row."""
        number = self.signature.places.index(place)
        start = self.f.mul(row, self.arg(f"place_stride{number}"))
        if width > 1:
            start = self.f.add(start, self.f.mul(panel, self.tile.units))
        return self.f.element(self.arg(f"place{number}"), start, self.scalar)

    def vector_at(self, family: Family, panel: Val, v: int) -> Val:
        """A time-free operand, one number a unit."""
        number = self.phase.vectors.index(family)
        start = self.f.mul(panel, len(self.phase.vectors) * self.tile.units)
        index = self.f.add(start, number * self.tile.units + v * self.tile.lanes)
        loaded = self.f.load(self.type, self.f.element(self.arg("vectors"), index, self.scalar), self.bytes)
        return self._as_kept(family, loaded)

    def load_at(self, family: Family, row: Val, panel: Val, v: int, lanes: int) -> Val:
        """A value kept in a buffer: a vector of units, or one number a row in all lanes."""
        return self._as_kept(family, self._load_floats(family, row, panel, v, lanes))

    def _as_kept(self, family: Family, loaded: Val) -> Val:
        """A mask is kept as 0 and 1."""
        return self.math.greater(loaded, self.math.constant(0.0)) if family.dtype == "bool" else loaded

    def _load_floats(self, family: Family, row: Val, panel: Val, v: int, lanes: int) -> Val:
        place = self.phase.loads[family]
        width = int(family.shape[-1])
        pointer = self.place_pointer(place, row, panel, width)
        if width == 1:
            return self.f.splat(self.f.load(self.scalar, pointer, self.bytes), self.tile.lanes)
        pointer = self.f.element(pointer, v * self.tile.lanes, self.scalar)
        count = self.tile.lanes if place.buffer.padded else lanes
        return self.f.load_lanes(self.type, pointer, count, self.bytes)

    def values(self, row: Val, panel: Val, v: int, lanes: int, known: dict[Family, Val]) -> dict[Family, Val]:
        """Runs the equations on one vector of units of one row; `known` holds the accumulators."""
        known = dict(known)

        def operand(family: Family) -> Val:
            if family not in known:
                if family.op in ("const", "zeros"):
                    return self.math.constant(_number(family))
                loaded = family in self.phase.loads
                known[family] = (
                    self.load_at(family, row, panel, v, lanes) if loaded else self.vector_at(family, panel, v)
                )
            return known[family]

        for value in self.phase.values:
            if value in self.phase.late:
                operands = [known[value], *map(operand, self.phase.late[value])]
            else:
                operands = [operand(i) for i in value.inputs]
            assert value.spec.emit is not None
            known[value] = value.spec.emit(self.math, *operands)
        for family in self.phase.sums:
            operand(family.inputs[0])
        for family, _ in self.phase.stores:  # a value that is only copied
            if family not in self.phase.sums:
                operand(family)
        return known

    def lanes_of(self, v: int, tail: int) -> int:
        """Units in use of vector v of a panel that is full (tail 0) or has `tail` units."""
        return self.tile.lanes if tail == 0 else max(0, min(self.tile.lanes, tail - v * self.tile.lanes))


class _TileEmitter(_Emitter):
    """Matmuls and elementwise phases."""

    def emit(self) -> Function:
        f = self.f
        self.stack = self._stack_tile()
        if not self.phase.accumulators:
            self._row_by_row()
            f.ret()
            return f
        with f.loop(0, self.arg("panels")) as panels:
            mirrored = f.sub(f.sub(self.arg("panels"), 1), panels.index)
            forward = f.compare("eq", self.arg("backward"), 0)
            self._panel(f.select(forward, panels.index, mirrored))
        f.ret()
        return f

    def _row_by_row(self) -> None:
        """No weights to keep in the cache: rows are walked from end to end, as they lie in memory."""
        f, tail = self.f, self.tile.tail(self.phase.width)
        whole = f.sub(self.arg("panels"), 1) if tail else self.arg("panels")
        with f.loop(0, self.arg("rows")) as rows:
            with f.loop(0, whole) as panels:
                self._epilogue(rows.index, panels.index, [], 0)
            if tail:
                self._epilogue(rows.index, whole, [], tail)

    def _stack_tile(self) -> Val | None:
        """Accumulators of all rows of a tile, so that one copy of the epilogue serves every number of rows."""
        count = self.tile.rows * len(self.phase.accumulators) * self.tile.vectors
        return self.f.alloca(self.type, count, 64) if self.tile.rows > 1 else None

    def _panel(self, panel: Val) -> None:
        f, most = self.f, self.tile.rows
        rows = self.arg("rows")
        if most == 1:
            with f.loop(0, rows) as one:
                self._rows(one.index, panel, 1)
            return
        blocks = f.udiv(f.add(rows, most - 1), most)
        least = f.udiv(rows, f.maximum(blocks, i64(1)))  # a ragged batch may have no rows at all
        larger = f.sub(rows, f.mul(least, blocks))
        with f.loop(0, blocks, carried=[i64(0)]) as block:
            row = block.values[0]
            extra = f.value("i64", f"zext {f.compare('ult', block.index, larger)} to i64")
            count = f.add(least, extra)
            with f.switch(count, range(1, most + 1)) as cases:
                for case in cases:
                    self._rows(row, panel, case)
            single = f.compare("eq", count, 1)
            with f.loop(0, f.select(single, i64(0), count)) as each:
                self._finish_from_stack(f.add(row, each.index), each.index, panel)
            block.next([f.add(row, count)])

    def _rows(self, row: Val, panel: Val, count: int) -> None:
        """The loops over k of one block of rows; a single row is finished at once, more go through the stack."""
        if count > 1:
            self._prefetch_ends(row, panel, count)
        single: dict[int, list[Val]] = {}
        for groups in self.tile.passes(len(self.phase.accumulators), count):
            members = [a for group in groups for a in group]
            accumulators = [self._start(self.f.add(row, r), panel, members) for r in range(count)]
            for number, feed in enumerate(self.phase.feeds):
                accumulators = self._feed(number, feed, groups, row, panel, accumulators)
            if count == 1:
                single.update(accumulators[0])
            else:
                self._keep(accumulators)
        if count == 1:
            self._finish(row, panel, [single[a] for a in range(len(self.phase.accumulators))])

    def _prefetch_ends(self, row: Val, panel: Val, count: int) -> None:
        """Asks for the lines that the epilogue will read and write in buffers over time, while the loops over k run."""
        f = self.f
        far = (Space.TIMED, Space.OUTPUT, Space.INPUT)
        written = {place for _, place in self.phase.stores}
        for place in self.signature.places:
            if place.buffer.space in far:
                for r in range(count):
                    pointer = self.place_pointer(place, f.add(row, r), panel, self.phase.width)
                    for line in range(0, self.tile.units, LINE // self.bytes):
                        f.prefetch(pointer, i64(line), self.scalar, write=place in written)

    def _keep(self, accumulators: list[Accumulators]) -> None:
        """Stores a pass's accumulators in the stack tile, [row][accumulator][vector]."""
        assert self.stack is not None
        for r, row in enumerate(accumulators):
            for a, vectors in row.items():
                for v, value in enumerate(vectors):
                    slot = (r * len(self.phase.accumulators) + a) * self.tile.vectors + v
                    self.f.store(value, self.f.element(self.stack, slot, self.type), self.bytes * self.tile.lanes)

    def _start(self, row: Val, panel: Val, members: list[int]) -> Accumulators:
        """What the accumulators of a row start at."""
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
            return self.math.constant(_number(term))
        if term in self.phase.loads:
            return self._load_start(term, row, panel, v)
        return self.vector_at(term, panel, v)

    def _load_start(self, term: Family, row: Val, panel: Val, v: int) -> Val:
        """Padded buffers are read whole; a caller's own array only as far as it goes, in the last panel too."""
        width, tail = self.phase.width, self.tile.tail(self.phase.width)
        padded = self.phase.loads[term].buffer.padded
        if padded or not tail:
            return self.load_at(term, row, panel, v, self.tile.lanes)
        pointer = self.place_pointer(self.phase.loads[term], row, panel, width)
        pointer = self.f.element(pointer, v * self.tile.lanes, self.scalar)
        return self._load_up_to(pointer, panel, v)

    def _load_up_to(self, pointer: Val, panel: Val, v: int) -> Val:
        """A masked load whose mask depends on whether the panel is the last one."""
        f, lanes = self.f, self.tile.lanes
        last = f.compare("eq", panel, f.sub(self.arg("panels"), 1))
        valid = self.lanes_of(v, self.tile.tail(self.phase.width))
        mask = f.select(last, lane_mask(lanes, valid), lane_mask(lanes, lanes))
        return f.load_masked(self.type, pointer, mask, self.bytes)

    def _feed(
        self, number: int, feed: Feed, groups: list[range], row: Val, panel: Val, accumulators: list[Accumulators]
    ) -> list[Accumulators]:
        """accumulators += lhs[rows, :] @ packed weights of the panel, for the blocks of this feed in some groups."""
        targets = [feed.blocks[b][0] for group in groups for b in blocks_of(feed, group)]
        if not targets:
            return accumulators
        f, vectors = self.f, self.tile.vectors
        stride, inner = self.arg(f"lhs_stride{number}"), self.arg(f"inner{number}")
        lhs = [
            f.element(self.arg(f"lhs{number}"), f.mul(f.add(row, r), stride), self.scalar)
            for r in range(len(accumulators))
        ]
        weights = self._streams(number, feed, groups, panel)
        flat = [accumulators[r][a][v] for r in range(len(lhs)) for a in targets for v in range(vectors)]
        flat = self._loop_over_k(lhs, weights, inner, flat)
        values = iter(flat)
        result = [dict(row) for row in accumulators]
        for r in range(len(lhs)):
            for a in targets:
                result[r][a] = [next(values) for _ in range(vectors)]
        return result

    def _streams(self, number: int, feed: Feed, groups: list[range], panel: Val) -> list[Stream]:
        """The packed weights of some groups: where each starts in the panel, and its vectors a step of k."""
        f = self.f
        inner = self.arg(f"inner{number}")
        total = len(feed.blocks) * self.tile.units
        start = f.mul(f.mul(panel, inner), total)
        before = sum(len(blocks_of(feed, g)) for g in self.tile.groups(groups[0].start))
        streams = []
        for group in groups:
            blocks = len(blocks_of(feed, group))
            offset = f.add(start, f.mul(inner, before * self.tile.units))
            pointer = f.element(self.arg(f"weights{number}"), offset, self.scalar)
            if blocks:
                streams.append(Stream(pointer, blocks * self.tile.vectors))
            before += blocks
        return streams

    def _loop_over_k(self, lhs: list[Val], weights: list[Stream], inner: Val, flat: list[Val]) -> list[Val]:
        """The inner loop. Few accumulators are split into several chains to hide their latency."""
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
        """Accumulator sets: enough independent fused multiply-adds in flight to hide their latency."""
        chains = 1
        while chains < UNROLL and independent * chains < FMA_LATENCY * FMA_PER_CYCLE:
            chains *= 2
        return chains

    def _multiply(self, lhs: list[Val], weights: list[Stream], k: Val, flat: Sequence[Val]) -> list[Val]:
        """One k: holds whichever is fewer, the rows' broadcasts or the weights, and streams the other."""
        f = self.f
        result = list(flat)
        vectors = [(stream, j) for stream in weights for j in range(stream.vectors)]
        count = len(vectors)

        def weight(stream: Stream, j: int) -> Val:
            index = f.add(f.mul(k, stream.vectors * self.tile.lanes), j * self.tile.lanes)
            return f.load(self.type, f.element(stream.pointer, index, self.scalar), self.tile.lanes * self.bytes)

        def broadcast(r: int) -> Val:
            return f.splat(f.load(self.scalar, f.element(lhs[r], k, self.scalar), self.bytes), self.tile.lanes)

        if len(lhs) >= PREFETCH_ROWS:
            self._prefetch(weights, k)
        if len(lhs) <= count:
            rows = [broadcast(r) for r in range(len(lhs))]
            for j, (stream, place) in enumerate(vectors):
                w = weight(stream, place)
                for r, x in enumerate(rows):
                    result[r * count + j] = f.fma(x, w, result[r * count + j])
        else:
            held = [weight(stream, place) for stream, place in vectors]
            for r in range(len(lhs)):
                x = broadcast(r)
                for j, w in enumerate(held):
                    result[r * count + j] = f.fma(x, w, result[r * count + j])
        return result

    def _prefetch(self, weights: list[Stream], k: Val) -> None:
        """Asks for the weights of a later k, one cache line at a time."""
        f = self.f
        for stream in weights:
            count = stream.vectors * self.tile.lanes
            ahead = f.add(f.mul(k, count), PREFETCH_BYTES // self.bytes)
            for line in range(0, count, LINE // self.bytes):
                f.prefetch(stream.pointer, f.add(ahead, line), self.scalar)

    def _total(self, values: Sequence[Val]) -> Val:
        total = values[0]
        for value in values[1:]:
            total = self.math.add(total, value)
        return total

    def _finish_from_stack(self, row: Val, slot: Val, panel: Val) -> None:
        count, vectors = len(self.phase.accumulators), self.tile.vectors
        assert self.stack is not None
        base = self.f.mul(slot, count * vectors)
        flat = []
        for n in range(count * vectors):
            pointer = self.f.element(self.stack, self.f.add(base, n), self.type)
            flat.append(self.f.load(self.type, pointer, self.bytes * self.tile.lanes))
        self._finish(row, panel, [flat[a * vectors : (a + 1) * vectors] for a in range(count)])

    def _finish(self, row: Val, panel: Val, accumulators: list[list[Val]]) -> None:
        """The epilogue of one row; the last panel, if not full, has its own."""
        tail = self.tile.tail(self.phase.width)
        if not tail:
            self._epilogue(row, panel, accumulators, 0)
            return
        last = self.f.compare("eq", panel, self.f.sub(self.arg("panels"), 1))
        with self.f.switch(self.f.value("i64", f"zext {last} to i64"), (0, 1)) as cases:
            for case in cases:
                self._epilogue(row, panel, accumulators, tail if case else 0)

    def _epilogue(self, row: Val, panel: Val, accumulators: list[list[Val]], tail: int) -> None:
        for v in range(self.tile.vectors):
            lanes = self.lanes_of(v, tail)
            if lanes == 0:
                continue
            known = {family: accumulators[a][v] for a, family in enumerate(self.phase.accumulators)}
            known = self.values(row, panel, v, lanes, known)
            for family, place in self.phase.stores:
                pointer = self.place_pointer(place, row, panel, self.phase.width)
                pointer = self.f.element(pointer, v * self.tile.lanes, self.scalar)
                ends = place.column + self.phase.width == place.buffer.width
                count = self.tile.lanes if place.buffer.padded and ends else lanes
                value = known[family] if family in known else self.math.constant(_number(family))
                if family.dtype == "bool":
                    value = self.math.select(value, self.math.constant(1.0), self.math.constant(0.0))
                self.f.store_lanes(value, pointer, count, self.bytes)


class _SumEmitter(_Emitter):
    """Reductions over units: rows outside, panels inside, one vector accumulator a reduction."""

    def emit(self) -> Function:
        f = self.f
        tail = self.tile.tail(self.phase.width)
        panels = self.arg("panels")
        whole = f.sub(panels, 1) if tail else panels
        with f.loop(0, self.arg("rows")) as rows:
            start = [self._identity(family) for family in self.phase.sums]
            with f.loop(0, whole, carried=start) as loop:
                loop.next(self._combine(rows.index, loop.index, loop.values, 0))
            totals = list(loop.values)
            if tail:
                totals = self._combine(rows.index, whole, totals, tail)
            for family, total in zip(self.phase.sums, totals, strict=True):
                self._store(family, rows.index, total)
        f.ret()
        return f

    def _identity(self, family: Family) -> Val:
        """What changes nothing: 0 for a sum, -inf for a maximum."""
        assert family.spec.identity is not None
        return self.math.constant(family.spec.identity)

    def _combine(self, row: Val, panel: Val, totals: Sequence[Val], tail: int) -> list[Val]:
        result = list(totals)
        for v in range(self.tile.vectors):
            lanes = self.lanes_of(v, tail)
            if lanes == 0:
                continue
            known = self.values(row, panel, v, lanes, {})
            for n, family in enumerate(self.phase.sums):
                assert family.spec.emit is not None
                value = self._valid(family, known[family.inputs[0]], lanes)
                result[n] = family.spec.emit(self.math, result[n], value)
        return result

    def _valid(self, family: Family, value: Val, lanes: int) -> Val:
        """Lanes past the last unit change nothing."""
        if lanes == self.tile.lanes:
            return value
        return self.f.select(lane_mask(self.tile.lanes, lanes), value, self._identity(family))

    def _store(self, family: Family, row: Val, total: Val) -> None:
        """Combines the lanes, halving their number each time, and stores the result."""
        f, lanes = self.f, self.tile.lanes
        assert family.spec.emit is not None
        while lanes > 1:
            lanes //= 2
            order = ", ".join(f"i32 {(n + lanes) % self.tile.lanes}" for n in range(self.tile.lanes))
            turned = f.value(self.type, f"shufflevector {total}, {total}, <{self.tile.lanes} x i32> <{order}>")
            total = family.spec.emit(self.math, total, turned)
        first = f.value(self.scalar, f"extractelement {total}, i64 0")
        for stored, place in self.phase.stores:
            if stored is family:
                f.store(first, self.place_pointer(place, row, i64(0), 1), self.bytes)
