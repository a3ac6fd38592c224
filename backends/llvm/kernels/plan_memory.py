"""Where a run's rows are in memory: scratch memory, and the caller's arrays.

Buffers that live through a call come first in scratch memory, then memory that the regions use one after the other. An
array of the caller is accessed where it is if its rows are evenly spaced; otherwise it is gathered before the regions,
or scattered after them. Delay lines start at their initial states, and end in their final ones.

A computation with two halves has two functions, which have the same layout of scratch memory. It is the caller's; so
is that of a plan whose code must not allocate.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from contextlib import contextmanager

from rnnc.backends import fresh
from rnnc.backends.llvm.asm.builder import COLD, Val, define, i64, null
from rnnc.backends.llvm.asm.dtypes import ELEMENT_BYTES, SCALARS
from rnnc.backends.llvm.asm.target import Target
from rnnc.backends.llvm.kernels.context import Interface, array_field, row_field, step_field
from rnnc.backends.llvm.kernels.epilogue import signature
from rnnc.backends.llvm.kernels.line_copies import LineCopies
from rnnc.backends.llvm.kernels.row_copies import RowCopies, Rows
from rnnc.backends.llvm.kernels.row_sums import K_BLOCK, outer_workspace
from rnnc.backends.llvm.packing.activations import feed_words
from rnnc.backends.planning.plan import Buffer, Line, Plan, Region, Space
from rnnc.ir import settings

CHUNK_BYTES = 128 * 1024
"""The largest size of the hoisted values of one chunk, so that they stay in the second-level cache until they are read.
"""

CACHE_LINE = 64


class PlanMemory:
    """A function of a plan under construction: its context, and the places of all buffers."""

    def __init__(self, plan: Plan, interface: Interface, target: Target, half: str, *, lent: bool) -> None:
        """lent: the caller lends scratch memory, as it does between two halves."""
        self.plan = plan
        self.interface = interface
        self.target = target
        self.half = half
        self.late = half == "finish"
        self.two_halves = bool(plan.late)
        self.lent = lent or self.two_halves
        self.dtype = plan.program.dtype
        self.scalar = SCALARS[self.dtype]
        self.bytes = ELEMENT_BYTES[self.dtype]
        result = "i64" if half == "scratch" else "i32"
        self.f = define(f"{result} rnnc_{half}(ptr context)", COLD)
        self.context = interface.record
        self.memory: dict[Buffer, Rows] = {}
        self.direct: dict[Buffer, Val] = {}
        self.steps_of: dict[Buffer, Val] = {}
        self.kept: list[Line] = []

    def _read_context(self) -> None:
        f = self.f
        self.steps, self.batch = self._field("steps"), self._field("batch")
        self.rows, self.order = self._field("rows"), self._field("order")
        self.weights, self.sources = self._field("weights"), self._field("sources")
        self.copies = RowCopies(f, self.bytes, self.steps, self.batch, self.rows, self.order)
        self.line_copies = LineCopies(f, self.bytes, self.steps, self.batch, self.order, self._field("lengths"))
        self.dense = f.is_null(self.rows)
        self.total = self._first_row(self.steps)
        self.one_row = f.compare("eq", self.batch, 1)

    @contextmanager
    def _once(self) -> Iterator[None]:
        """Code that is run once, however many threads run the function (`kernels.team_function`)."""
        yield

    def _field(self, name: str) -> Val:
        return self.context.load(self.f, self.f.parameters[0], name)

    def _mine(self, name: str) -> bool:
        """True if an input or output belongs to this half."""
        return self.plan.is_late(name) == self.late

    def _first_row(self, step: Val) -> Val:
        """The first row of a step, in every buffer over time."""
        return self.f.call("i64", "rnnc_first_row", self.rows, self.batch, step)

    def _lay_out(self) -> Val:
        """Assigns the places in scratch memory, and returns its size in bytes.

        Buffers that live through the call come first, then the workspace of integer activations, then memory that the
        regions use one after the other.
        """
        f = self.f
        self._decide_direct()
        self.offsets: dict[Buffer, Val] = {}
        offset = i64(0)
        for buffer in self.plan.buffers:
            if buffer.space is Space.TIMED:
                needed = f.mul(self.total, self._stride(buffer))
            elif buffer.space is Space.LINE:
                steps = f.add(self.steps, buffer.before + buffer.after)
                line = CACHE_LINE // self.bytes
                needed = f.add(f.mul(f.mul(steps, self.batch), self._stride(buffer)), line - 1)
                needed = f.binary("and", needed, i64(-line))
            elif buffer.space is Space.ROWS:
                needed = f.mul(self.batch, self._stride(buffer))
            elif buffer in self.direct:
                needed = f.mul(self.total, self._stride(buffer))
                needed = needed if self.two_halves else f.select(self.direct[buffer], i64(0), needed)
            else:
                continue
            self.offsets[buffer] = offset
            offset = f.add(offset, needed)
        self.codes_start = offset
        codes = (sum(feed_words(phase, self.target.dots)) for _, phase in self.plan.phases())
        offset = f.add(offset, max(codes, default=0))
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

    def _take_scratch(self, size: Val) -> None:
        f = self.f
        if self.lent:
            self.scratch = self._field("scratch")
        else:
            self.scratch = f.call("ptr", "rnnc_take_memory", self._field("kept"), size)
            with f.when(f.is_null(self.scratch)):
                f.ret(Val("i32", "1"))
                f._begin(f._label("dead"))
            self._poison(size)
        self._place_buffers()

    def _poison(self, size: Val) -> None:
        """Fills scratch memory with NaN, if memory is poisoned."""
        if settings.poison():
            self.f.call("ptr", "memset", self.scratch, Val("i32", str(fresh.BYTE)), size)

    def _place_buffers(self) -> None:
        """The addresses of the buffers that live through the call."""
        f = self.f
        address = f.value("i64", f"ptrtoint {self.scratch} to i64")
        address = f.binary("and", f.add(address, CACHE_LINE - 1), i64(-CACHE_LINE))
        self.base = f.value("ptr", f"inttoptr {address} to ptr")
        for buffer, offset in self.offsets.items():
            if buffer.space in (Space.TIMED, Space.ROWS, Space.LINE):
                before = f.mul(self.batch, buffer.before * self._stride(buffer))
                self.memory[buffer] = Rows(self._at(f.add(offset, before)), i64(self._stride(buffer)))

    def _at(self, offset: Val) -> Val:
        return self.f.element(self.base, offset, self.scalar)

    def _stride(self, buffer: Buffer) -> int:
        """The row stride, in elements: whole cache lines, with room for a vector that is stored past the end.

        The rows of a delay line lie end to end, so that many steps of a single row are one copy.
        """
        if buffer.space is Space.LINE:
            return buffer.width
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
                with self._once(), f.when(f.binary("xor", self.direct[buffer], Val("i1", "true"))):
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
                with self._once():
                    self.copies.start(self.memory[place.buffer], 1, source, width)

    def _scatter_outputs(self) -> None:
        f = self.f
        for name, buffer in self.plan.outputs.items():
            if self._mine(name):
                step, row = self.steps_of[buffer], self._field(row_field(name))
                with self._once(), f.when(f.binary("xor", self.direct[buffer], Val("i1", "true"))):
                    packed = Rows(self.memory[buffer].pointer, i64(self._stride(buffer)))
                    self.copies.scatter(packed, self._field(array_field(name)), step, row, buffer.width)
        for name, place in self.plan.row_outputs:
            if self._mine(name):
                width = place.buffer.width
                target = Rows(self._field(array_field(name)), i64(width))
                with self._once():
                    self.copies.finish(target, self.memory[place.buffer], 1, width, null())

    def _lines(self) -> list[Line]:
        """The delay lines of this half."""
        return [line for line in self.plan.lines if line.late == self.late]

    def _start_lines(self) -> None:
        for line in self._lines():
            with self._once():
                self.line_copies.start(line, self.memory[line.buffer], self._initial(line))

    def _keep_lines(self, read: Container[Buffer]) -> None:
        """Makes the last values of lines available, before the first region that reads them."""
        for line in self._lines():
            if line.kept is not None and line.kept.buffer in read and line not in self.kept:
                target = self.memory[line.kept.buffer]
                with self._once():
                    self.line_copies.keep(line, self.memory[line.buffer], self._initial(line), target)
                self.kept.append(line)

    def _finish_lines(self) -> None:
        self._keep_lines(self.plan.buffers)
        for line in self._lines():
            for final in line.finals:
                target = self._field(array_field(final))
                with self._once():
                    self.line_copies.finish(line, self.memory[line.buffer], self._initial(line), target)

    def _initial(self, line: Line) -> Val:
        """The array of a line's initial state, or null for zeros."""
        return null() if line.initial is None else self._field(array_field(line.initial))
