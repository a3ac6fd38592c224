"""The function of a plan, which runs all of it for any number of steps and rows.

    allocate scratch, or take the caller's
    gather inputs whose rows are not evenly spaced
    for each region:
        states = their initial values
        for each chunk of time steps:
            batched phases over the rows of the chunk
            for each step of the chunk: step phases over the rows of the step
        final states
    sums over rows, such as gradients of weights
    scatter outputs whose rows are not where the caller wants them

A computation with two halves has two such functions, which share their scratch memory.

The rows of step t are rows[t] .. rows[t+1] of every buffer over time. For a dense batch, rows[t] = t * B. In a ragged
batch the sequences are sorted by falling length, and only rows that have not ended exist. The same code runs both, and
does no work on padding.
"""

from __future__ import annotations

from dataclasses import dataclass

from rnnc.backends import fresh
from rnnc.backends.llvm.asm.builder import COLD, Function, Val, define, i64, null
from rnnc.backends.llvm.asm.dtypes import ELEMENT_BYTES, SCALARS
from rnnc.backends.llvm.asm.target import Target
from rnnc.backends.llvm.kernels.context import Interface, array_field, row_field, step_field, sum_field
from rnnc.backends.llvm.kernels.epilogue import signature
from rnnc.backends.llvm.kernels.row_copies import RowCopies, Rows
from rnnc.backends.llvm.kernels.row_sums import K_BLOCK, outer_workspace
from rnnc.backends.llvm.packing.in_place import UnitRows
from rnnc.backends.llvm.packing.layout import PackedPhase
from rnnc.backends.planning.plan import Buffer, Phase, Place, Plan, Region, RowSum, Space, State
from rnnc.ir import settings
from rnnc.ir.families import Family

CHUNK_BYTES = 128 * 1024
"""The largest size of the hoisted values of one chunk, so that they stay in the second-level cache until they are read.
"""

CACHE_LINE = 64


@dataclass(frozen=True)
class InPlace:
    """The variant of a phase that reads weights in place: its function, and where they are, per feed and block."""

    function: str
    rows: list[list[UnitRows]]


class PlanFunction:
    """One of the functions. All of them have the same layout of scratch memory."""

    def __init__(
        self,
        plan: Plan,
        interface: Interface,
        names: dict[int, str],
        packed: dict[int, PackedPhase],
        in_place: dict[int, InPlace],
        given: dict[Family, int],
        target: Target,
        half: str,
    ) -> None:
        self.plan = plan
        self.interface = interface
        self.names = names
        self.packed = packed
        self.in_place = in_place
        self.given = given
        self.target = target
        self.half = half
        self.late = half == "finish"
        self.two_halves = bool(plan.late)
        dtype = plan.program.dtype
        self.dtype = dtype
        self.scalar = SCALARS[dtype]
        self.bytes = ELEMENT_BYTES[dtype]
        result = "i64" if half == "scratch" else "i32"
        self.f = define(f"{result} rnnc_{half}(ptr context)", COLD)
        self.context = interface.record
        self.memory: dict[Buffer, Rows] = {}
        self.direct: dict[Buffer, Val] = {}
        self.steps_of: dict[Buffer, Val] = {}

    def emit(self) -> Function:
        f = self.f
        self._read_context()
        size = self._lay_out()
        if self.half == "scratch":
            f.ret(size)
            return f
        self._take_scratch(size)
        self._gather_inputs()
        for region in self.plan.regions:
            if region.late == self.late:
                f.comment(f"region {region.name}")
                self._region(region)
        for total in self.plan.sums:
            if total.late == self.late:
                self._sum(total)
        self._scatter_outputs()
        if not self.two_halves:
            f.call("void", "free", self.scratch)
        f.ret(Val("i32", "0"))
        return f

    def _mine(self, name: str) -> bool:
        """True if an input or output belongs to this half."""
        return self.plan.is_late(name) == self.late

    def _field(self, name: str) -> Val:
        return self.context.load(self.f, self.f.parameters[0], name)

    def _read_context(self) -> None:
        f = self.f
        self.steps, self.batch = self._field("steps"), self._field("batch")
        self.rows, self.order = self._field("rows"), self._field("order")
        self.weights, self.sources = self._field("weights"), self._field("sources")
        self.copies = RowCopies(f, self.bytes, self.steps, self.batch, self.rows, self.order)
        self.dense = f.is_null(self.rows)
        self.total = self._first_row(self.steps)
        self.one_row = f.compare("eq", self.batch, 1)

    def _first_row(self, step: Val) -> Val:
        """The first row of a step, in every buffer over time."""
        return self.f.call("i64", "rnnc_first_row", self.rows, self.batch, step)

    def _lay_out(self) -> Val:
        """Assigns the places in scratch memory, and returns its size in bytes.

        Buffers that live through the call come first, then memory that the regions use one after the other.
        """
        f = self.f
        self._decide_direct()
        self.offsets: dict[Buffer, Val] = {}
        offset = i64(0)
        for buffer in self.plan.buffers:
            if buffer.space is Space.TIMED:
                needed = f.mul(self.total, self._stride(buffer))
            elif buffer.space is Space.ROWS:
                needed = f.mul(self.batch, self._stride(buffer))
            elif buffer in self.direct:
                needed = f.mul(self.total, self._stride(buffer))
                needed = needed if self.two_halves else f.select(self.direct[buffer], i64(0), needed)
            else:
                continue
            self.offsets[buffer] = offset
            offset = f.add(offset, needed)
        self.region_start = offset
        largest = i64(self._workspace())
        for region in self.plan.regions:
            largest = f.maximum(largest, self._region_size(region))
        return f.add(f.mul(f.add(offset, largest), self.bytes), 2 * CACHE_LINE)

    def _workspace(self) -> int:
        """The number of elements of workspace that the sums over rows need."""
        terms = [t for total in self.plan.sums for t in total.terms if t.rhs]
        sizes = [outer_workspace(K_BLOCK, t.rows, t.units, self.dtype, self.target) for t in terms]
        return max(sizes, default=0)

    def _take_scratch(self, size: Val) -> None:
        f = self.f
        if self.two_halves:
            self.scratch = self._field("scratch")
        else:
            self.scratch = f.call("ptr", "malloc", size)
            with f.when(f.is_null(self.scratch)):
                f.ret(Val("i32", "1"))
                f._begin(f._label("dead"))
            if settings.poison():
                f.call("ptr", "memset", self.scratch, Val("i32", str(fresh.BYTE)), size)
        address = f.value("i64", f"ptrtoint {self.scratch} to i64")
        address = f.binary("and", f.add(address, CACHE_LINE - 1), i64(-CACHE_LINE))
        self.base = f.value("ptr", f"inttoptr {address} to ptr")
        for buffer, offset in self.offsets.items():
            if buffer.space in (Space.TIMED, Space.ROWS):
                self.memory[buffer] = Rows(self._at(offset), i64(self._stride(buffer)))

    def _at(self, offset: Val) -> Val:
        return self.f.element(self.base, offset, self.scalar)

    def _stride(self, buffer: Buffer) -> int:
        """The row stride, in elements: whole cache lines, with room for a vector that is stored past the end."""
        line = CACHE_LINE // self.bytes
        return -(-(buffer.width + line - 1) // line) * line

    def _decide_direct(self) -> None:
        """Decides for each input and output whether its rows are accessed in the caller's array, without a copy.

        The first of two halves copies its inputs, because the caller may change them before the second half reads them.
        """
        f = self.f
        self.row_stride: dict[Buffer, Val] = {}
        batched = self._batched_buffers()
        for name, buffer in (*self.plan.inputs.items(), *self.plan.outputs.items()):
            step, row = self._field(step_field(name)), self._field(row_field(name))
            self.steps_of[buffer] = step
            self.direct[buffer] = self.dense
            self.row_stride[buffer] = row
            if buffer in batched or buffer.space is Space.INPUT:
                self.row_stride[buffer] = f.select(self.one_row, step, row)
                even = f.binary("or", self.one_row, f.compare("eq", step, f.mul(self.batch, row)))
                self.direct[buffer] = f.binary("and", self.dense, even)
            if self.two_halves and buffer.space is Space.INPUT and not self.plan.is_late(name):
                self.direct[buffer] = Val("i1", "false")

    def _batched_buffers(self) -> set[Buffer]:
        """The buffers that a phase over many steps at once, or a sum, accesses."""
        found = {p.buffer for s in self.plan.sums for t in s.terms for p in (t.lhs, t.rhs) if p is not None}
        for region in self.plan.regions:
            for phase in region.batched:
                places = [*signature(phase).places, *(feed.lhs for feed in phase.feeds)]
                found.update(p.buffer for p in places)
        return found

    def _gather_inputs(self) -> None:
        """Makes inputs available as evenly spaced rows: in the caller's array, or as a sorted copy without padding."""
        f = self.f
        for name, buffer in self.plan.inputs.items():
            if self.plan.is_late(name) and not self.late:
                continue
            copy, stride = self._at(self.offsets[buffer]), i64(self._stride(buffer))
            array = self._field(array_field(name))
            if self._mine(name):
                with f.when(f.binary("xor", self.direct[buffer], Val("i1", "true"))):
                    step, row = self.steps_of[buffer], self._field(row_field(name))
                    self.copies.gather(Rows(copy, stride), array, step, row, buffer.width)
            pointer = f.select(self.direct[buffer], array, copy)
            self.memory[buffer] = Rows(pointer, f.select(self.direct[buffer], self.row_stride[buffer], stride))
        for name, buffer in self.plan.outputs.items():
            array, copy = self._field(array_field(name)), self._at(self.offsets[buffer])
            pointer = f.select(self.direct[buffer], array, copy)
            stride = f.select(self.direct[buffer], self.row_stride[buffer], i64(self._stride(buffer)))
            self.memory[buffer] = Rows(pointer, stride)
        for name, place in self.plan.row_inputs:
            if self._mine(name):
                width = place.buffer.width
                source = Rows(self._field(array_field(name)), i64(width))
                self.copies.start(self.memory[place.buffer], 1, source, width)

    def _scatter_outputs(self) -> None:
        f = self.f
        for name, buffer in self.plan.outputs.items():
            if self._mine(name):
                step, row = self.steps_of[buffer], self._field(row_field(name))
                with f.when(f.binary("xor", self.direct[buffer], Val("i1", "true"))):
                    packed = Rows(self.memory[buffer].pointer, i64(self._stride(buffer)))
                    self.copies.scatter(packed, self._field(array_field(name)), step, row, buffer.width)
        for name, place in self.plan.row_outputs:
            if self._mine(name):
                width = place.buffer.width
                target = Rows(self._field(array_field(name)), i64(width))
                self.copies.finish(target, self.memory[place.buffer], 1, width, null())

    def _region_size(self, region: Region) -> Val:
        """The number of elements of scratch memory that a region needs."""
        f = self.f
        size = i64(0)
        for buffer in self._local(region):
            size = f.add(size, f.mul(self._local_rows(region, buffer), self._stride(buffer)))
        return size

    def _local(self, region: Region) -> list[Buffer]:
        """The buffers that live within a region: states, values of a chunk, values of a step."""
        used = dict.fromkeys(s.buffer for s in region.states)
        for phase in (*region.batched, *region.steps):
            places = [*signature(phase).places, *(feed.lhs for feed in phase.feeds)]
            used |= dict.fromkeys(p.buffer for p in places if p.buffer.space in (Space.CHUNK, Space.STEP))
        return list(used)

    def _local_rows(self, region: Region, buffer: Buffer) -> Val:
        if buffer.space is Space.CHUNK:
            return self.f.mul(self._chunk_steps(region), self.batch)
        return self.f.mul(self.batch, 2 if buffer.double else 1)

    def _chunk_steps(self, region: Region) -> Val:
        """The number of steps per chunk: as many as keep its hoisted values in the cache, at least one."""
        f = self.f
        row_bytes = sum(self._stride(b) for b in self._local(region) if b.space is Space.CHUNK) * self.bytes
        if not row_bytes:
            return self.steps
        fit = f.udiv(i64(max(1, CHUNK_BYTES // row_bytes)), self.batch)
        return f.minimum(f.maximum(fit, i64(1)), self.steps)

    def _region(self, region: Region) -> None:
        f = self.f
        offset = self.region_start
        for buffer in self._local(region):
            rows = self._local_rows(region, buffer)
            self.memory[buffer] = Rows(self._at(offset), i64(self._stride(buffer)))
            offset = f.add(offset, f.mul(rows, self._stride(buffer)))
        for state in region.states:
            self._start_state(state)
        if region.steps:
            chunk = self._chunk_steps(region)
            with f.loop(0, self.steps, chunk) as loop:
                self._chunk(region, loop.index, chunk)
        else:  # batched work alone, or states that never change
            for phase in region.batched:
                self._call(phase, self.batch if region.per_sequence else self.total, i64(0), None, None)
        for state in region.states:
            self._finish_state(region, state)

    def _chunk(self, region: Region, done: Val, chunk: Val) -> None:
        """The steps done .. done + chunk in loop direction."""
        f = self.f
        count = f.minimum(chunk, f.sub(self.steps, done))
        first_step = done if region.direction > 0 else f.sub(f.sub(self.steps, done), count)
        first = self._first_row(first_step)
        rows = f.sub(self._first_row(f.add(first_step, count)), first)
        for phase in region.batched:
            self._call(phase, rows, first, None, None)
        with f.loop(0, count) as loop:
            number = f.add(done, loop.index)
            step = number if region.direction > 0 else f.sub(f.sub(self.steps, number), 1)
            row = self._first_row(step)
            count_rows = f.sub(self._first_row(f.add(step, 1)), row)
            for phase in region.steps:
                self._call(phase, count_rows, row, (step, f.sub(row, first)), number)

    def _call(self, phase: Phase, rows: Val, row: Val, step: tuple[Val, Val] | None, number: Val | None) -> None:
        """Calls a phase on `rows` rows from row `row`. step: (t, row within the chunk). number: steps done before."""
        f, variant = self.f, self.in_place.get(id(phase))
        if variant is None:
            f.call_defined("void", self.names[id(phase)], *self._arguments(phase, rows, row, step, number, None))
            return
        packed = f.value("i64", f"zext {f.is_null(self.sources)} to i64")
        with f.switch(packed, (0, 1)) as cases:
            for case in cases:
                function, where = (self.names[id(phase)], None) if case else (variant.function, variant.rows)
                f.call_defined("void", function, *self._arguments(phase, rows, row, step, number, where))

    def _arguments(
        self,
        phase: Phase,
        rows: Val,
        row: Val,
        step: tuple[Val, Val] | None,
        number: Val | None,
        where: list[list[UnitRows]] | None,
    ) -> list[Val]:
        """The arguments of a phase. where: the weights that are read in place; None if they are packed."""
        f = self.f
        packed = self.packed[id(phase)]
        # Every other step walks the panels backward, and so starts with the weights that are still in the cache.
        backward = f.binary("and", number, i64(1)) if number is not None else i64(0)
        arguments = [i64(packed.tile.panels(phase.width)), rows, backward]
        for n, (feed, start) in enumerate(zip(phase.feeds, packed.weights, strict=True)):
            pointer, stride = self._address(feed.lhs, row, step, number)
            weights = [f.element(self.weights, start, self.scalar)] if where is None else self._in_place(where[n])
            arguments += [pointer, stride, i64(feed.inner), *weights]
        arguments.append(f.element(self.weights, packed.vectors, self.scalar))
        for place in signature(phase).places:
            arguments += self._address(place, row, step, number)
        return arguments

    def _in_place(self, blocks: list[UnitRows]) -> list[Val]:
        """Per block: its first unit's row in a caller's array, and the stride from one unit to the next."""
        f = self.f
        found = []
        for block in blocks:
            array = f.load("ptr", f.element(self.sources, self.given[block.source], "ptr"), 8)
            found += [f.element(array, block.offset, self.scalar), i64(block.stride)]
        return found

    def _address(self, place: Place, row: Val, step: tuple[Val, Val] | None, number: Val | None) -> tuple[Val, Val]:
        """The address of a place's first row for the rows of this call, and its row stride."""
        f = self.f
        memory = self.memory[place.buffer]
        space = place.buffer.space
        if space is Space.CHUNK:
            start = f.mul(step[1], memory.stride) if step else i64(0)
        elif space is Space.STATE and place.buffer.double:
            assert number is not None
            start = f.mul(self._half(number, place.previous), memory.stride)
        elif space in (Space.STATE, Space.STEP):
            start = i64(0)
        elif space is Space.ROWS:
            start = i64(0)
        elif space in (Space.INPUT, Space.OUTPUT) and step:
            direct = f.mul(step[0], self.steps_of[place.buffer])
            start = f.select(self.direct[place.buffer], direct, f.mul(row, memory.stride))
        else:
            start = f.mul(row, memory.stride)
        pointer = f.element(memory.pointer, start, self.scalar)
        return f.element(pointer, place.column, self.scalar), memory.stride

    def _half(self, number: Val, previous: bool) -> Val:
        """The first row of that half of a double buffer which is read (previous) or written in step `number`."""
        parity = self.f.binary("and", number if previous else self.f.add(number, 1), i64(1))
        return self.f.mul(parity, self.batch)

    def _start_state(self, state: State) -> None:
        memory, buffer = self.memory[state.buffer], state.buffer
        halves = 2 if buffer.double else 1
        if isinstance(state.initial, Place):  # its rows are sorted already
            rows = self.memory[state.initial.buffer]
            start = self.f.element(rows.pointer, state.initial.column, self.scalar)
            stride = self._stride(state.initial.buffer)
            self.copies.start(memory, halves, Rows(start, i64(stride)), buffer.width, sorted_rows=True)
            return
        source = null() if state.initial is None else self._field(array_field(state.initial))
        self.copies.start(memory, halves, Rows(source, i64(buffer.width)), buffer.width)

    def _finish_state(self, region: Region, state: State) -> None:
        memory, halves = self.memory[state.buffer], 2 if state.buffer.double else 1
        width = state.buffer.width
        # In a backward loop, every row ends with the loop. In a forward loop, a row ends at its own length.
        lengths = self._field("lengths") if region.direction > 0 else null()
        for final in state.finals:
            target = Rows(self._field(array_field(final)), i64(width))
            self.copies.finish(target, memory, halves, width, lengths)
        if state.kept is not None:
            self.copies.finish(self.memory[state.kept.buffer], memory, halves, width, lengths, sorted_rows=True)

    def _sum(self, total: RowSum) -> None:
        """Computes a sum over rows, term by term, in the caller's array."""
        f = self.f
        rows = self.batch if total.per_sequence else self.total
        target = self._field(sum_field(total.target))
        f.comment(f"sum over rows {total.target.name}")
        for number, term in enumerate(total.terms):
            pointer, stride = self._address(term.lhs, i64(0), None, None)
            accumulate = i64(int(number > 0))
            if term.rhs is None:
                f.call("void", "rnnc_row_sum", rows, i64(term.units), pointer, stride, target, accumulate
                )  # fmt: skip
                continue
            other, other_stride = self._address(term.rhs, i64(0), None, None)
            sizes = [rows, i64(term.rows), i64(term.units)]
            ends = [target, i64(term.units), accumulate, self._at(self.region_start)]
            f.call("void", "rnnc_outer", *sizes, pointer, stride, other, other_stride, *ends)
