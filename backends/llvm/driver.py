"""The driver: one generated function that runs a whole plan, with the number of steps and rows known at run time.

    allocate scratch
    gather x, if its rows are not evenly spaced
    for each region:
        states = their initial values
        for each chunk of time steps:
            batched phases over the rows of the chunk
            for each step of the chunk: step phases over the rows of the step
        final states
    scatter the output, if its rows are not where the caller wants them

The rows of step t are rows[t] .. rows[t+1] of every buffer over time. For a dense batch rows[t] = t * B. For a
ragged batch the sequences are sorted by falling length and only the rows that are still running exist: the same
code runs both, and no work is done on padding.
"""

from __future__ import annotations

from dataclasses import dataclass

from rnnc.backends.llvm.emitter import COLD, Function, Module, Val, i64, null
from rnnc.backends.llvm.moves import emit_moves
from rnnc.backends.llvm.packing import Layout, PackedPhase
from rnnc.backends.llvm.phase import ELEMENT_BYTES, SCALARS, emit_phase, signature
from rnnc.backends.llvm.plan import Buffer, Phase, Place, Plan, Region, Space, State
from rnnc.backends.llvm.target import Target
from rnnc.backends.llvm.tile import choose_tile

CHUNK_BYTES = 128 * 1024
"""Room for the hoisted values of one chunk: they are written and read back while they are in the second-level cache."""

LINE = 64

CONTEXT = ("x", "x_step", "x_row", "steps", "batch", "output", "output_step", "output_row", "rows", "order", "lengths",
           "weights", "slab")  # fmt: skip
"""Fields of a call's context, all 64 bits wide; then for each state of the cell: initial, final.

x_step, x_row, output_step, output_row: strides in elements. rows: null, or the first row of each step of a ragged batch
(steps + 1 numbers); then order: the caller's row of each sorted row, and lengths: sorted lengths. slab: rows of a whole
(layers, batch, width) state array's middle axis.
"""


@dataclass(frozen=True)
class StateSlot:
    """Which slice of the caller's state arrays an initial or final state is."""

    state: int
    slab: int


@dataclass(frozen=True)
class Memory:
    """A buffer at run time: its first row and its row stride in elements."""

    pointer: Val
    stride: Val


def emit_driver(
    plan: Plan, slots: dict[str, StateSlot], states: int, target: Target
) -> tuple[Module, Layout, list[PackedPhase]]:
    """The module of a plan: phase functions and `rnnc_run(context) -> 0, or 1 if memory ran out`."""
    dtype = plan.program.dtype
    module, layout = Module(), Layout(dtype)
    names: dict[int, str] = {}
    packed: dict[int, PackedPhase] = {}
    for _, phase in plan.phases():
        tile = choose_tile(phase, target, dtype)
        packed[id(phase)] = layout.add(phase, tile)
        names[id(phase)] = module.add(emit_phase(phase, f"phase_{phase.name}", tile, dtype))
    emit_moves(module)
    module.add(_Driver(plan, slots, states, names, packed, dtype).emit())
    return module, layout, list(packed.values())


class _Driver:
    def __init__(
        self,
        plan: Plan,
        slots: dict[str, StateSlot],
        states: int,
        names: dict[int, str],
        packed: dict[int, PackedPhase],
        dtype: str,
    ) -> None:
        self.plan = plan
        self.slots = slots
        self.names = names
        self.packed = packed
        self.scalar = SCALARS[dtype]
        self.bytes = ELEMENT_BYTES[dtype]
        self.f = Function("rnnc_run", [Val("ptr", "%context")], result="i32", attributes=COLD)
        self.fields = [*CONTEXT, *(f"{kind}{s}" for s in range(states) for kind in ("initial", "final"))]
        self.memory: dict[Buffer, Memory] = {}

    def emit(self) -> Function:
        f = self.f
        self._read_context()
        self._allocate()
        self._gather_input()
        for region in self.plan.regions:
            f.comment(f"region {region.name}")
            self._region(region)
        self._scatter_output()
        f.call("void", "free", self.scratch)
        f.ret(Val("i32", "0"))
        return f

    def _field(self, name: str, type_: str = "i64") -> Val:
        return self.f.load(type_, self.f.element(Val("ptr", "%context"), self.fields.index(name), "i64"), 8)

    def _read_context(self) -> None:
        f = self.f
        self.steps, self.batch = self._field("steps"), self._field("batch")
        self.rows, self.order = self._field("rows", "ptr"), self._field("order", "ptr")
        self.weights = self._field("weights", "ptr")
        self.dense = f.is_null(self.rows)
        self.total = self._first_row(self.steps)
        self.one_row = f.compare("eq", self.batch, 1)

    def _first_row(self, step: Val) -> Val:
        """The first row of a step, in every buffer over time."""
        return self.f.call_defined("i64", "rnnc_first_row", self.rows, self.batch, step)

    def _in_bytes(self, elements: Val | int) -> Val:
        return i64(elements * self.bytes) if isinstance(elements, int) else self.f.mul(elements, self.bytes)

    def _allocate(self) -> None:
        """One allocation: buffers over time, then a part that the regions use in turn."""
        f = self.f
        self._decide_direct()
        timed = [b for b in self.plan.buffers if b.space is Space.TIMED]
        offset = i64(0)
        places: dict[Buffer, Val] = {}
        for buffer in timed:
            places[buffer] = offset
            offset = f.add(offset, f.mul(self.total, self._stride(buffer)))
        self.input_copy = offset
        for buffer in self._inputs():
            needed = f.mul(self.total, self._stride(buffer))
            offset = f.add(offset, f.select(self.input_even, i64(0), needed))
        self.output_copy = offset
        needed = f.mul(self.total, self._stride(self.plan.output))
        offset = f.add(offset, f.select(self.direct, i64(0), needed))
        self.region_start = offset
        largest = i64(0)
        for region in self.plan.regions:
            largest = f.maximum(largest, self._region_size(region))
        count = f.add(f.mul(f.add(offset, largest), self.bytes), 2 * LINE)
        self.scratch = f.call("ptr", "malloc", count)
        with f.when(f.is_null(self.scratch)):
            f.ret(Val("i32", "1"))
            f._begin(f._label("dead"))
        address = f.value("i64", f"ptrtoint {self.scratch} to i64")
        address = f.binary("and", f.add(address, LINE - 1), i64(-LINE))
        self.base = f.value("ptr", f"inttoptr {address} to ptr")
        for buffer, start in places.items():
            self.memory[buffer] = Memory(self._at(start), i64(self._stride(buffer)))

    def _at(self, offset: Val) -> Val:
        return self.f.element(self.base, offset, self.scalar)

    def _stride(self, buffer: Buffer) -> int:
        """Row stride: whole cache lines, with room for a vector stored over the end."""
        line = LINE // self.bytes
        return -(-(buffer.width + line - 1) // line) * line

    def _decide_direct(self) -> None:
        """Whether rows of x can be read, and rows of the output written, where they are."""
        f = self.f
        x_step, x_row = self._field("x_step"), self._field("x_row")
        self.x_stride = f.select(self.one_row, x_step, x_row)
        even = f.binary("or", self.one_row, f.compare("eq", x_step, f.mul(self.batch, x_row)))
        self.input_even = f.binary("and", self.dense, even)
        self.output_step, self.output_row = self._field("output_step"), self._field("output_row")
        self.direct = self.dense
        if self._output_is_batched():
            row = f.select(self.one_row, self.output_step, self.output_row)
            even = f.binary("or", self.one_row, f.compare("eq", self.output_step, f.mul(self.batch, row)))
            self.direct = f.binary("and", self.dense, even)
            self.output_row = row

    def _output_is_batched(self) -> bool:
        """Whether a phase over many steps at once touches the output."""
        for region in self.plan.regions:
            for phase in region.batched:
                places = [*signature(phase).places, *(feed.lhs for feed in phase.feeds)]
                if any(p.buffer.space is Space.OUTPUT for p in places):
                    return True
        return False

    def _inputs(self) -> list[Buffer]:
        return [b for b in self.plan.buffers if b.space is Space.INPUT]

    def _gather_input(self) -> None:
        """x as evenly spaced rows: where it is, or copied, sorted and without padding."""
        f = self.f
        x = self._field("x", "ptr")
        for buffer in self._inputs():
            copy, stride = self._at(self.input_copy), i64(self._stride(buffer))
            with f.when(f.binary("xor", self.input_even, Val("i1", "true"))):
                self._copy_rows("true", copy, buffer, x, self._field("x_step"), self._field("x_row"))
            pointer = f.select(self.input_even, x, copy)
            self.memory[buffer] = Memory(pointer, f.select(self.input_even, self.x_stride, stride))
        output = self.plan.output
        pointer = f.select(self.direct, self._field("output", "ptr"), self._at(self.output_copy))
        self.memory[output] = Memory(pointer, f.select(self.direct, self.output_row, i64(self._stride(output))))

    def _scatter_output(self) -> None:
        f = self.f
        step, row = self._field("output_step"), self._field("output_row")
        with f.when(f.binary("xor", self.direct, Val("i1", "true"))):
            copy = self.memory[self.plan.output].pointer
            self._copy_rows("false", copy, self.plan.output, self._field("output", "ptr"), step, row)

    def _copy_rows(self, gather: str, packed: Val, buffer: Buffer, array: Val, step: Val, row: Val) -> None:
        sizes = [self._in_bytes(v) for v in (step, row, buffer.width)]
        stride = self._in_bytes(self._stride(buffer))
        ends = [self.steps, self.batch, self.rows, self.order]
        self.f.call_defined("void", "rnnc_copy_rows", Val("i1", gather), packed, stride, array, *sizes, *ends)

    def _region_size(self, region: Region) -> Val:
        """Elements of scratch a region needs."""
        f = self.f
        size = i64(0)
        for buffer in self._local(region):
            size = f.add(size, f.mul(self._local_rows(region, buffer), self._stride(buffer)))
        return size

    def _local(self, region: Region) -> list[Buffer]:
        """Buffers that live within a region: states, values of a chunk, values of a step."""
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
        """Steps a chunk: as many as keep its hoisted values in the cache, at least one."""
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
            self.memory[buffer] = Memory(self._at(offset), i64(self._stride(buffer)))
            offset = f.add(offset, f.mul(rows, self._stride(buffer)))
        for state in region.states:
            self._start_state(state)
        if region.steps:
            chunk = self._chunk_steps(region)
            with f.loop(0, self.steps, chunk) as loop:
                self._chunk(region, loop.index, chunk)
        else:  # time-batched work alone, or states that never change
            for phase in region.batched:
                self._call(phase, self.total, i64(0), None, None)
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
        f = self.f
        packed = self.packed[id(phase)]
        # Every other step walks the panels backwards, and so meets first the weights that are still in the cache.
        backward = f.binary("and", number, i64(1)) if number is not None else i64(0)
        arguments = [i64(packed.tile.panels(phase.width)), rows, backward]
        for feed, start in zip(phase.feeds, packed.weights, strict=True):
            pointer, stride = self._address(feed.lhs, row, step, number)
            weights = f.element(self.weights, start, self.scalar)
            arguments += [pointer, stride, i64(feed.inner), weights]
        arguments.append(f.element(self.weights, packed.vectors, self.scalar))
        for place in signature(phase).places:
            arguments += self._address(place, row, step, number)
        f.call_defined("void", self.names[id(phase)], *arguments)

    def _address(self, place: Place, row: Val, step: tuple[Val, Val] | None, number: Val | None) -> tuple[Val, Val]:
        """The first row of a place for the rows at hand, and its row stride."""
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
        elif space is Space.OUTPUT and step:
            start = f.select(self.direct, f.mul(step[0], self.output_step), f.mul(row, memory.stride))
        else:
            start = f.mul(row, memory.stride)
        pointer = f.element(memory.pointer, start, self.scalar)
        return f.element(pointer, place.column, self.scalar), memory.stride

    def _half(self, number: Val, previous: bool) -> Val:
        """First row of the half of a double buffer that is read (previous) or written in step `number`."""
        parity = self.f.binary("and", number if previous else self.f.add(number, 1), i64(1))
        return self.f.mul(parity, self.batch)

    def _slab(self, name: str, kind: str, width: int) -> Val:
        """The caller's slab of a state, or null if he gave none."""
        f = self.f
        slot = self.slots[name]
        array = self._field(f"{kind}{slot.state}", "ptr")
        start = f.mul(self._field("slab"), slot.slab * width)
        return f.select(f.is_null(array), array, f.element(array, start, self.scalar))

    def _start_state(self, state: State) -> None:
        memory, width = self.memory[state.buffer], state.buffer.width
        source = self._slab(state.initial, "initial", width)
        halves = i64(2 if state.buffer.double else 1)
        stride, size = self._in_bytes(self._stride(state.buffer)), self._in_bytes(width)
        arguments = [memory.pointer, stride, halves, source, size, self.batch, self.order]
        self.f.call_defined("void", "rnnc_start_state", *arguments)

    def _finish_state(self, region: Region, state: State) -> None:
        if state.final is None:
            return
        memory, width = self.memory[state.buffer], state.buffer.width
        target = self._slab(state.final, "final", width)
        halves = i64(2 if state.buffer.double else 1)
        stride, size = self._in_bytes(self._stride(state.buffer)), self._in_bytes(width)
        # Running backward, every row ends with the loop; forward, a row ends at its own length.
        lengths = self._field("lengths", "ptr") if region.direction > 0 else null()
        arguments = [target, memory.pointer, stride, halves, size, self.steps, self.batch, self.order, lengths]
        self.f.call_defined("void", "rnnc_finish_state", *arguments)
