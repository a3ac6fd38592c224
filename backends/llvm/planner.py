"""The planner: Program -> Plan. It schedules a step into phases by a rule, whatever the cell.

A matmul needs whole rows of its left operand, and a sum over units needs whole rows too; everything else works unit by
unit. So a value's **level** within a step is the number of such barriers before it; values of one level and one width
are one phase, computed in registers. A value read across a barrier gets a buffer, and nothing else does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from rnnc.backends.llvm.levels import Copy, Levels, Storage
from rnnc.backends.llvm.plan import Phase, Place, Plan, Region, Space, State
from rnnc.backends.llvm.reading import Reading
from rnnc.ir.errors import BackendError
from rnnc.ir.families import Family
from rnnc.ir.program import Loop, Program


def plan(program: Program) -> Plan:
    """Lays out a program. Raises BackendError, naming the value, for what this backend cannot express."""
    return _Planner(program).plan()


def _loops_before(program: Program) -> dict[Family, int]:
    """Each value outside loops -> how many loops run before it: values of one number are computed together."""
    before: dict[Family, int] = {}
    loops = 0
    for statement in program.statements:
        if isinstance(statement, Loop):
            loops += 1
        else:
            before[statement] = loops
    return before


class _Planner:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.reading = Reading(program)
        self.storage = Storage()
        self.states: dict[int, list[State]] = {}
        self.copies: dict[int | None, list[Copy]] = defaultdict(list)  # by loop, of each step; None: of all steps
        self.loops = list(program.loops())
        self.loop_of = self.reading.loop_of
        self.loops_before = _loops_before(program)
        output = program.outputs["output"]
        self.output = self.storage.buffer("output", Space.OUTPUT, int(output.shape[-1]))

    def plan(self) -> Plan:
        for family in self.program.inputs:
            if family.timed:
                self.storage.places[family] = Place(
                    self.storage.buffer(family.name, Space.INPUT, int(family.shape[-1]))
                )
        for number, loop in enumerate(self.loops):
            self.states[number] = [self._state(carry, number) for carry in loop.carries]
        self._place_outputs()
        context = self._contexts()
        self._place_timed(context)
        regions: list[Region] = []
        pending: list[Family] = []
        for statement in self.program.statements:
            if isinstance(statement, Loop):
                self._flush(regions, pending)
                regions.append(self._recurrence(self.loops.index(statement), context))
            elif statement in context and context[statement] is None:
                pending.append(statement)
        self._flush(regions, pending, self.copies[None])
        return Plan(self.program, regions, self.storage.buffers, self.output)

    def _contexts(self) -> dict[Family, int | None]:
        """Each computed value outside loops -> the loop it serves alone, or None."""
        context: dict[Family, int | None] = {}
        serves: dict[Family, set[int | None]] = defaultdict(set)
        for number in list(self.copies):
            for family in self._copied_in(number):
                serves[family].add(number)
        for family in reversed(self.reading.all):
            if not self.reading.computed(family):
                continue
            if family in self.loop_of:
                target: int | None = self.loop_of[family]
            else:
                returned = family in self.program.outputs.values()
                wanted = serves[family]
                target = next(iter(wanted)) if len(wanted) == 1 and not returned else None
                context[family] = target
            for read in self.reading.reads(family):
                serves[read.operand].add(target)
        return context

    def _copied_in(self, number: int | None) -> set[Family]:
        """What the copies of a loop, or of none, read."""
        return {self.reading.base(family)[0] for family, _ in self.copies[number]}

    def _place_outputs(self) -> None:
        output = self.program.outputs["output"]
        base, column = self.reading.base(output)
        if base is output and self.reading.computed(output):
            self.storage.places[output] = Place(self.output, column)
        else:  # the output is the input, an old state, or a part of another value
            self.copies[self.loop_of.get(base)].append((output, Place(self.output)))
            if output.op == "carry":  # an old state over time, for whoever reads it outside its loop
                self.storage.over_time[output] = Place(self.output)

    def _place_timed(self, context: dict[Family, int | None]) -> None:
        """Buffers over time: concats first, since their parts live inside them."""
        for family in reversed(self.reading.all):
            outside = family not in self.loop_of
            if family.op == "concat" and outside:
                self._place_concat(family)
        stored = {self.reading.base(f)[0] for f in self.program.stored if f is not self.program.outputs["output"]}
        for family in self.reading.all:
            if family.op == "carry" and family in stored:
                self.storage.over_time[family] = self.storage.new("y", family, Space.TIMED)
                self.copies[self.loop_of[family]].append((family, self.storage.over_time[family]))
            if not self.reading.computed(family) or family in self.storage.places:
                continue
            if family in self.loop_of:
                if family in stored:
                    self.storage.places[family] = self.storage.new("y", family, Space.TIMED)
            elif context[family] is None and self._needs_buffer(family, context):
                self.storage.places[family] = self.storage.new("y", family, Space.TIMED)

    def _needs_buffer(self, family: Family, context: dict[Family, int | None]) -> bool:
        """An off-cycle value read by a loop, by a copy, after a loop or across a barrier; others stay in registers."""
        if any(family in self._copied_in(number) for number in list(self.copies)):
            return True
        for reader in self.reading.all:
            if not self.reading.computed(reader):
                continue
            for read in self.reading.reads(reader):
                if read.operand is family and (
                    read.barrier
                    or reader in self.loop_of
                    or context.get(reader) is not None
                    or self.loops_before[reader] != self.loops_before[family]
                ):
                    return True
        return False

    def _place_concat(self, family: Family) -> None:
        if family not in self.storage.places:
            self.storage.places[family] = self.storage.new("y", family, Space.TIMED)
        for home in self.storage.homes(family):
            column = home.column
            for part in family.inputs:
                place = Place(home.buffer, column)
                if self.reading.computed(part) and part not in self.storage.places:
                    self.storage.places[part] = place
                elif self.reading.computed(part):
                    self.storage.extra[part].append(place)
                else:
                    self.storage.concat_copies[family].append((part, place))
                column += int(part.shape[-1])

    def _flush(self, regions: list[Region], pending: list[Family], copies: Sequence[Copy] = ()) -> None:
        """Time-batched work that more than one loop reads, or none."""
        phases = Levels(self.reading, self.storage, list(pending), f"batch{len(regions)}", Space.TIMED, copies).phases()
        if phases:
            regions.append(Region(f"batch{len(regions)}", 0, [], phases, []))
        pending.clear()

    def _recurrence(self, number: int, context: dict[Family, int | None]) -> Region:
        loop = self.loops[number]
        name = f"loop{number}"
        before = [f for f in self.reading.all if f in context and context[f] == number]
        wanted = self._read_by_loop(loop) | self._copied_in(number)
        batched = Levels(self.reading, self.storage, before, f"{name}_batched", Space.CHUNK).phases(also_stored=wanted)
        body = [f for f in loop.body if self.reading.computed(f)]
        steps = Levels(
            self.reading, self.storage, body, f"{name}_step", Space.STEP, self.copies[number], number
        ).phases()
        self._decide_doubles(self.states[number], steps)
        return Region(name, loop.direction, self.states[number], batched, steps)

    def _read_by_loop(self, loop: Loop) -> set[Family]:
        return {r.operand for f in loop.body if self.reading.computed(f) for r in self.reading.reads(f)}

    def _state(self, carry: Family, number: int) -> State:
        assert carry.initial is not None and carry.source is not None
        if carry.initial.op != "input":
            raise BackendError(f"{carry!r}: the llvm backend starts a state at an input, not at {carry.initial!r}")
        buffer = self.storage.buffer(str(carry.attr("state")), Space.STATE, int(carry.shape[-1]))
        self.storage.places[carry] = Place(buffer, 0, previous=True)
        current = Place(buffer)
        if self.reading.computed(carry.source) and self.loop_of.get(carry.source) == number:
            self.storage.extra[carry.source].append(current)
        elif carry.source is not carry:  # a state that only moves: a delay, a shift
            self.copies[number].append((carry.source, current))
        final = next(
            (n for n, f in self.program.outputs.items() if f.op == "exit" and f.attr("state") == carry.attr("state")),
            None,
        )
        return State(carry, buffer, carry.initial.name, final)

    def _decide_doubles(self, states: list[State], steps: list[Phase]) -> None:
        """A state may be overwritten in place if only the phase that writes it reads it, unit by unit."""
        for state in states:
            stores = [family for phase in steps for family, place in phase.stores if place.buffer is state.buffer]
            in_parts = any(family.shape[-1] != state.buffer.width for family in stores)
            for phase in steps:
                writes = any(p.buffer is state.buffer for _, p in phase.stores)
                feeds = any(f.lhs.buffer is state.buffer and f.lhs.previous for f in phase.feeds)
                reads = any(p.buffer is state.buffer and p.previous for p in phase.loads.values())
                moved = any(p.buffer is state.buffer and p.column for p in phase.loads.values())
                if feeds or (reads and (not writes or in_parts or moved or phase.sums)):
                    state.buffer.double = True
