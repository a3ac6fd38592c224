"""The function of a plan, which runs all of it for any number of steps and rows.

    allocate scratch, or take the caller's
    gather inputs whose rows are not evenly spaced; steps of the past in front of the rows of delay lines
    for each region:
        states = their initial values
        for each chunk of time steps:
            batched phases over the rows of the chunk
            for each step of the chunk: step phases over the rows of the step
        final states
    sums over rows, such as gradients of weights
    the last steps of delay lines; scatter outputs whose rows are not where the caller wants them

A computation with two halves has two such functions, which share their scratch memory.

The rows of step t are rows[t] .. rows[t+1] of every buffer over time. For a dense batch, rows[t] = t * B. In a ragged
batch the sequences are sorted by falling length, and only rows that have not ended exist. The same code runs both, and
does no work on padding.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rnnc.backends.llvm.asm.builder import Function, Val, i64, null
from rnnc.backends.llvm.asm.target import Target
from rnnc.backends.llvm.kernels.context import COUNTERS, Interface, array_field, sum_field
from rnnc.backends.llvm.kernels.epilogue import signature
from rnnc.backends.llvm.kernels.plan_memory import PlanMemory
from rnnc.backends.llvm.kernels.row_copies import Rows
from rnnc.backends.llvm.kernels.stopwatch import COPIES, Stopwatch, TimedSection
from rnnc.backends.llvm.packing.activations import feed_words
from rnnc.backends.llvm.packing.in_place import UnitRows
from rnnc.backends.llvm.packing.layout import PackedPhase
from rnnc.backends.planning.last_step import for_the_next_step
from rnnc.backends.planning.plan import Phase, Place, Plan, Region, RowSum, Space, State, Term
from rnnc.ir.families import Family


@dataclass(frozen=True)
class InPlace:
    """The variant of a phase that reads weights in place: its function, and where they are, per feed and block."""

    function: str
    rows: list[list[UnitRows]]


class PlanFunction(PlanMemory):
    """One of the functions."""

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
        sections: list[TimedSection],
        *,
        lent: bool = False,
    ) -> None:
        """sections: of all functions of the module; this one adds its own, if the context has counters."""
        super().__init__(plan, interface, target, half, lent=lent)
        self.sections = sections
        self.regions = {id(phase): region for region, phase in plan.phases()}
        self.names = names
        self.packed = packed
        self.in_place = in_place
        self.given = given

    def emit(self) -> Function:
        f = self.f
        self._read_context()
        size = self._lay_out()
        if self.half == "scratch":
            f.ret(size)
            return f
        self._take_scratch(size)
        self._run()
        if not self.lent:
            f.call("void", "rnnc_give_memory", self._field("kept"), self.scratch)
        f.ret(Val("i32", "0"))
        return f

    def _run(self) -> None:
        """All that happens in scratch memory."""
        with self._timed(TimedSection("gather", COPIES), self.total):
            self._gather_inputs()
            self._start_lines()
        self._regions([region for region in self.plan.regions if region.late == self.late])
        with self._timed(TimedSection("end lines", COPIES), self.total):
            self._finish_lines()
        for total in self.plan.sums:
            if total.late == self.late:
                with self._timed(TimedSection.of_sum(total), self.batch if total.per_sequence else self.total):
                    self._sum(total)
        with self._timed(TimedSection("scatter", COPIES), self.total):
            self._scatter_outputs()

    def _regions(self, regions: Sequence[Region]) -> None:
        for region in regions:
            self._keep_lines(region.reads())
            self.f.comment(f"region {region.name}")
            self._region(region, self.region_start)

    def _sync(self) -> None:
        """A point behind which all threads see what all have written before it."""

    def _region(self, region: Region, offset: Val) -> None:
        """A region, whose own buffers lie in scratch memory from an offset on."""
        f = self.f
        for buffer in self._local(region):
            rows = self._local_rows(region, buffer)
            self.memory[buffer] = Rows(self._at(offset), i64(self._stride(buffer)))
            offset = f.add(offset, f.mul(rows, self._stride(buffer)))
        with self._timed(TimedSection("start states", COPIES), self.batch):
            for state in region.states:
                self._start_state(state)
        self._sync()
        if region.steps:
            chunk = self._chunk_steps(region)
            with f.loop(0, self.steps, chunk) as loop:
                self._chunk(region, loop.index, chunk)
        else:  # batched work alone, or states that never change
            for phase in region.batched:
                if region.per_sequence:
                    self._call(phase, self.batch, i64(0), None, None)
                else:
                    self._call_batched(phase, i64(0), self.steps)
                self._sync()
        self._sync()
        with self._timed(TimedSection("final states", COPIES), self.batch):
            for state in region.states:
                self._finish_state(region, state)

    @contextmanager
    def _timed(self, section: TimedSection, rows: Val) -> Iterator[None]:
        """Code whose time is counted, if the context has counters."""
        f = self.f
        if not self.interface.counted:
            yield
            return
        watch = Stopwatch(f, self._field(COUNTERS), self._lane(), self.sections)
        with watch.timed(section, rows):
            yield

    def _lane(self) -> Val:
        """A pointer that is different for each thread of a run."""
        return self.f.parameters[0]

    def _chunk(self, region: Region, done: Val, chunk: Val) -> None:
        """The steps done .. done + chunk in loop direction."""
        f, for_the_next, waits = self.f, for_the_next_step(region), self._waits(region)
        count = f.minimum(chunk, f.sub(self.steps, done))
        first_step = done if region.direction > 0 else f.sub(f.sub(self.steps, done), count)
        first = self._first_row(first_step)
        for phase in region.batched:
            self._call_batched(phase, first_step, count)
            self._sync()
        with f.loop(0, count) as loop:
            number = f.add(done, loop.index)
            step = number if region.direction > 0 else f.sub(f.sub(self.steps, number), 1)
            row = self._first_row(step)
            count_rows = f.sub(self._first_row(f.add(step, 1)), row)
            for place, phase in enumerate(region.steps):
                if place in waits:
                    self._sync()
                with self._but_last(id(phase) in for_the_next, number):
                    self._call(phase, count_rows, row, (step, f.sub(row, first)), number)
        if region.batched:  # the next chunk overwrites what these steps read
            self._sync()

    def _waits(self, region: Region) -> Collection[int]:
        """The numbers of the step phases before which threads wait for each other."""
        return ()

    def _share(self, phase: Phase) -> tuple[Val, Val]:
        """The panels that this thread computes."""
        return i64(0), i64(self.packed[id(phase)].tile.panels(phase.width))

    @contextmanager
    def _but_last(self, condition: bool, number: Val) -> Iterator[None]:
        """Code of a step. Under a condition, it does not run in the last step."""
        if not condition:
            yield
            return
        with self.f.when(self.f.compare("ne", self.f.add(number, 1), self.steps)):
            yield

    def _call_batched(self, phase: Phase, first_step: Val, count: Val) -> None:
        """Calls a phase on all rows of `count` steps.

        If it accesses a delay line, the rows of another step are as far away at each row only while all rows run. So in
        a ragged batch it is called once for those steps, and once for each later step.
        """
        f, first = self.f, self._first_row(first_step)
        if not _reads_lines([*signature(phase).places, *(feed.lhs for feed in phase.feeds)]):
            self._call(phase, f.sub(self._first_row(f.add(first_step, count)), first), first, None, None)
            return
        with self._evenly_spaced(first_step, count) as (step, row, rows):
            self._call(phase, rows, row, (step, f.sub(row, first)), None)

    @contextmanager
    def _evenly_spaced(self, first_step: Val, count: Val) -> Iterator[tuple[Val, Val, Val]]:
        """A loop over parts of `count` steps, with the same distance from each row to its row of another step.

        Yields a part's first step, its first row, and the number of its rows.
        """
        f, end = self.f, self.f.add(first_step, count)
        full = f.minimum(self.line_copies.full_steps(), end)
        whole = f.sub(f.maximum(full, first_step), first_step)
        parts = f.add(f.sub(count, whole), f.minimum(whole, i64(1)))
        with f.loop(0, f.maximum(parts, i64(1)), carried=[first_step]) as part:  # one part of no rows, at least
            step = part.values[0]
            after = f.minimum(f.select(f.compare("ult", step, full), full, f.add(step, 1)), end)
            row = self._first_row(step)
            yield step, row, f.sub(self._first_row(after), row)
            part.next([after])

    def _call(self, phase: Phase, rows: Val, row: Val, step: tuple[Val, Val] | None, number: Val | None) -> None:
        """Calls a phase on `rows` rows from row `row`. step: (t, row within the chunk). number: steps done before."""
        section = TimedSection.of_phase(self.regions[id(phase)], phase, self._weight_bytes(phase))
        with self._timed(section, rows):
            self._call_function(phase, rows, row, step, number)

    def _weight_bytes(self, phase: Phase) -> int:
        """The packed weights that a phase reads."""
        units = self.packed[id(phase)].tile.panels(phase.width) * self.packed[id(phase)].tile.units
        return sum(phase.product.words(feed.inner) * len(feed.blocks) * units * self.bytes for feed in phase.feeds)

    def _call_function(
        self, phase: Phase, rows: Val, row: Val, step: tuple[Val, Val] | None, number: Val | None
    ) -> None:
        """As `_call`: of the variant that reads weights in place, if they are not packed."""
        f, variant = self.f, self.in_place.get(id(phase))
        if variant is None:
            self._invoke(self.names[id(phase)], self._arguments(phase, rows, row, step, number, None))
            return
        packed = f.value("i64", f"zext {f.is_null(self.sources)} to i64")
        with f.switch(packed, (0, 1)) as cases:
            for case in cases:
                function, where = (self.names[id(phase)], None) if case else (variant.function, variant.rows)
                self._invoke(function, self._arguments(phase, rows, row, step, number, where))

    def _invoke(self, function: str, arguments: list[Val]) -> None:
        """Calls the function of a phase."""
        self.f.call_defined("void", function, *arguments)

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
        arguments = [i64(packed.tile.panels(phase.width)), *self._share(phase), rows, backward]
        for n, (feed, start) in enumerate(zip(phase.feeds, packed.weights, strict=True)):
            pointer, stride = self._address(feed.lhs, row, step, number)
            weights = [f.element(self.weights, start, self.scalar)] if where is None else self._in_place(where[n])
            if phase.product.activations:
                weights.append(self._at(f.add(self.codes_start, sum(feed_words(phase, self.target.dots)[:n]))))
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
        elif space is Space.LINE:
            line = f.mul(step[0], self.batch) if step else row
            start = f.mul(f.sub(line, f.mul(self.batch, place.shift)), memory.stride)
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
            with self._once():
                self.copies.start(memory, halves, Rows(start, i64(stride)), buffer.width, sorted_rows=True)
            return
        source = null() if state.initial is None else self._field(array_field(state.initial))
        with self._once():
            self.copies.start(memory, halves, Rows(source, i64(buffer.width)), buffer.width)

    def _finish_state(self, region: Region, state: State) -> None:
        memory, halves = self.memory[state.buffer], 2 if state.buffer.double else 1
        width = state.buffer.width
        # In a backward loop, every row ends with the loop. In a forward loop, a row ends at its own length.
        lengths = self._field("lengths") if region.direction > 0 else null()
        for final in state.finals:
            target = Rows(self._field(array_field(final)), i64(width))
            with self._once():
                self.copies.finish(target, memory, halves, width, lengths)
        if state.kept is not None:
            with self._once():
                self.copies.finish(self.memory[state.kept.buffer], memory, halves, width, lengths, sorted_rows=True)

    def _sum(self, total: RowSum) -> None:
        """Computes a sum over rows, term by term, in the caller's array."""
        f = self.f
        rows = self.batch if total.per_sequence else self.total
        f.comment(f"sum over rows {total.target.name}")
        for number, term in enumerate(total.terms):
            if not _reads_lines([term.lhs] if term.rhs is None else [term.lhs, term.rhs]):
                self._add_term(total, term, i64(0), None, rows, i64(int(number > 0)))
                continue
            with self._evenly_spaced(i64(0), self.steps) as (step, row, part):
                later = f.binary("or", f.compare("ne", step, 0), Val("i1", "true" if number else "false"))
                accumulate = f.value("i64", f"zext {later} to i64")
                self._add_term(total, term, row, (step, row), part, accumulate)

    def _add_term(
        self, total: RowSum, term: Term, row: Val, step: tuple[Val, Val] | None, rows: Val, accumulate: Val
    ) -> None:
        """Adds the sum over `rows` rows from row `row` on to the caller's array, or sets the array to it."""
        f, target = self.f, self._field(sum_field(total.target))
        pointer, stride = self._address(term.lhs, row, step, None)
        if term.rhs is None:
            f.call("void", "rnnc_row_sum", rows, i64(term.units), pointer, stride, target, accumulate)
            return
        other, other_stride = self._address(term.rhs, row, step, None)
        sizes = [rows, i64(term.rows), i64(term.units)]
        ends = [target, i64(term.units), accumulate, self._at(self.region_start)]
        f.call("void", "rnnc_outer", *sizes, pointer, stride, other, other_stride, *ends)


def _reads_lines(places: Iterable[Place]) -> bool:
    """True if one of the places is in the buffer of a delay line."""
    return any(place.buffer.space is Space.LINE for place in places)
