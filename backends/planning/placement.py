"""Placement: the buffers that are shared between groups of values, decided before anything is scheduled.

    outputs and inputs over time -> values of one row per sequence -> states -> outputs -> contexts -> values over time

A **context** is the loop that a value outside loops serves alone. The value is computed chunk by chunk beside it.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from rnnc.backends.planning.plan import Buffer, Line, Place, Space, State
from rnnc.backends.planning.reading import Reading
from rnnc.backends.planning.storage import Copy, Storage
from rnnc.ir.computation import members
from rnnc.ir.delay_lines import DelayLine
from rnnc.ir.errors import BackendError
from rnnc.ir.families import Family
from rnnc.ir.ops import Kind
from rnnc.ir.program import Loop, Program, Statement
from rnnc.ir.shape_rules import BATCH


@dataclass(frozen=True)
class Halves:
    """The statements, values and names of inputs and outputs of the second half of a computation, if it has one."""

    statements: frozenset[Statement]
    names: frozenset[str]
    values: frozenset[Family]

    @staticmethod
    def of(second: list[Statement], late: frozenset[str]) -> Halves:
        """second: the statements of the second half; late: its inputs and outputs."""
        return Halves(frozenset(second), late, frozenset(f for s in second for f in members(s)))

    def crosses(self, name: str, output: Family) -> bool:
        """True if an output of the second half is a last value that the first half computes."""
        return output.op == "exit" and name in self.names and output not in self.values


@dataclass
class Placement:
    """The places of all values that are not within one group.

    inputs, outputs, row_inputs, row_outputs: see `plan.Plan`. states: the number of a loop -> its states.
    copies: the number of a loop -> values that each of its steps loads and stores again; None -> those of all steps.
    row_copies: the same, once per sequence. context: computed value outside loops -> the loop it serves alone, or None.
    late_buffers: the buffers that only the second half writes. lines: the delay lines. line_copies: the state of a
    delay line -> its source, if that is not computed in the line's buffer and must be copied there.
    """

    storage: Storage = field(default_factory=Storage)
    inputs: dict[str, Buffer] = field(default_factory=dict)
    outputs: dict[str, Buffer] = field(default_factory=dict)
    row_inputs: list[tuple[str, Place]] = field(default_factory=list)
    row_outputs: list[tuple[str, Place]] = field(default_factory=list)
    states: dict[int, list[State]] = field(default_factory=dict)
    copies: dict[int | None, list[Copy]] = field(default_factory=lambda: defaultdict(list))
    row_copies: list[Copy] = field(default_factory=list)
    context: dict[Family, int | None] = field(default_factory=dict)
    late_buffers: set[Buffer] = field(default_factory=set)
    lines: list[Line] = field(default_factory=list)
    line_copies: dict[Family, list[Copy]] = field(default_factory=lambda: defaultdict(list))

    def is_late(self, place: Place) -> bool:
        """True if only the second half writes a place."""
        return place.buffer in self.late_buffers

    def is_region(self, loop: Loop) -> bool:
        """True for a loop of which a region of the plan is made: a recurrence, or the copy of a delay line's source."""
        return loop.line is None or loop.line.carry in self.line_copies

    def copied(self, reading: Reading, number: int | None) -> set[Family]:
        """The values that the copies of a loop read; of no loop, if `number` is None."""
        return {reading.base(family)[0] for family, _ in self.copies[number]}


def place(program: Program, reading: Reading, halves: Halves) -> Placement:
    """The placement of a program. Raises BackendError, which names the value, if compiled code cannot express it."""
    return _Placer(program, reading, halves).run()


def _loops_before(program: Program, placed: Placement) -> dict[Family, int]:
    """For each value outside loops, the number of loops before it that are regions. Equal numbers run together."""
    before: dict[Family, int] = {}
    loops = 0
    for statement in program.statements:
        if isinstance(statement, Loop):
            loops += placed.is_region(statement)
        else:
            before[statement] = loops
    return before


class _Placer:
    def __init__(self, program: Program, reading: Reading, halves: Halves) -> None:
        self.program = program
        self.reading = reading
        self.halves = halves
        self.found = Placement()
        self.storage = self.found.storage
        self.loops = reading.loops
        self.loop_of = reading.loop_of
        self.summed = {reading.base(f)[0] for f in self._read_by_sums()}

    def run(self) -> Placement:
        self._place_arrays()
        for line in self.reading.lines.values():
            self._place_line(line)
        self.loops_before = _loops_before(self.program, self.found)
        self._place_rows()
        self.found.lines = [self._line(line) for line in self.reading.lines.values()]
        for number, loop in enumerate(self.loops):
            self.found.states[number] = [self._state(carry, number) for carry in loop.carries]
        self._place_outputs()
        self.found.context = self._contexts()
        self._place_timed(self.found.context)
        return self.found

    def _place_arrays(self) -> None:
        """Places the caller's arrays with one value per step."""
        for name, family in self.program.outputs.items():
            if family.timed:
                buffer = self.storage.buffer(name, Space.OUTPUT, int(family.shape[-1]))
                self.found.outputs[name] = buffer
                self.found.late_buffers |= {buffer} if name in self.halves.names else set()
        for family in self.program.inputs:
            if family.timed:
                buffer = self.storage.buffer(family.name, Space.INPUT, int(family.shape[-1]))
                self.found.inputs[family.name] = buffer
                self.storage.places[family] = Place(buffer)

    def _place_line(self, line: DelayLine) -> None:
        """Places the source of a delay line, with room for the steps of the state."""
        buffer = self.storage.lines[line.carry] = self._line_buffer(line)
        if line.direction > 0:
            buffer.before = line.steps
        else:
            buffer.after = line.steps

    def _line_buffer(self, line: DelayLine) -> Buffer:
        """The buffer of a delay line's source: that of a line of the other direction, or a new one.

        Lines of one direction may start at different states, so each has a buffer of its own.
        """
        source = line.source
        for other, buffer in self.storage.lines.items():
            taken = buffer.before if line.direction > 0 else buffer.after
            if self.reading.lines[other].source is source and not taken:
                return buffer
        new = self.storage.buffer(str(line.carry.attr("state")), Space.LINE, line.width)
        if not self.reading.computed(source):
            self.found.line_copies[line.carry].append((source, Place(new)))
        elif source in self.storage.places:
            self.storage.extra[source].append(Place(new))
        else:
            self.storage.places[source] = Place(new)
        return new

    def _line(self, line: DelayLine) -> Line:
        """A delay line of the plan: where it starts, and where its last value goes."""
        carry = line.carry
        assert carry.initial is not None
        exits = self.reading.exits[carry.attr("state")]
        finals = tuple(n for n, f in self.program.outputs.items() if f in exits)
        kept = next((self.storage.places[f] for f in exits if f in self.storage.places), None)
        initial = carry.initial.name if carry.initial.op == "input" else None
        sizes = (line.width, line.steps, line.direction, line.shifts)
        return Line(self.storage.lines[carry], *sizes, initial, finals, kept, carry in self.halves.values)

    # ---- values of one row per sequence

    def _place_rows(self) -> None:
        """Places initial states and last values that other values read."""
        read = {self.reading.base(r)[0] for r in self._read_by_sums()}
        returned = {f for n, f in self.program.outputs.items() if f.op == "input" or self.halves.crosses(n, f)}
        first = self._read_by_starts()
        for family in self.reading.all:
            if self.reading.computed(family):
                read.update(r.operand for r in self.reading.reads(family))
        for family in (*self.program.inputs, *self.reading.all):
            rows = not family.timed and BATCH in family.shape
            read |= {family} if family in returned else set()
            starts = family in first
            if rows and (family in read or starts) and (family.op in ("input", "exit") or starts):
                self.storage.places[family] = self.storage.new("r", family, Space.ROWS)
                if family.op == "input":
                    self.found.row_inputs.append((family.name, self.storage.places[family]))

    def _read_by_starts(self) -> set[Family]:
        """The values at which states start, without whole inputs, which are read from the caller's arrays."""
        initial = [c.initial for loop in self.loops for c in loop.carries if c.initial is not None]
        return {self.reading.base(family)[0] for family in initial if family.op != "input"}

    def _read_by_sums(self) -> list[Family]:
        return [i for f in self.reading.all if self.reading.sums_rows(f) for i in f.inputs]

    # ---- states

    def _state(self, carry: Family, number: int) -> State:
        assert carry.initial is not None and carry.source is not None
        buffer = self.storage.buffer(str(carry.attr("state")), Space.STATE, int(carry.shape[-1]))
        self.storage.places[carry] = Place(buffer, 0, previous=True)
        current = Place(buffer)
        if self.reading.computed(carry.source) and self.loop_of.get(carry.source) == number:
            self.storage.extra[carry.source].append(current)
        elif carry.source is not carry:  # a state that is only copied, such as a delay
            self.found.copies[number].append((carry.source, current))
        exits = self.reading.exits[carry.attr("state")]
        finals = tuple(n for n, f in self.program.outputs.items() if f in exits and not self.halves.crosses(n, f))
        kept = next((self.storage.places[f] for f in exits if f in self.storage.places), None)
        return State(carry, buffer, self._initial(carry.initial), finals, kept)

    def _initial(self, family: Family) -> str | Place | None:
        """The initial value of a state, as `plan.State` names it."""
        if family.op == "input":
            return family.name
        if family.op == "zeros":
            return None
        base, column = self.reading.base(family)
        if base not in self.storage.places:
            raise BackendError(f"{family!r}: compiled code cannot start a state at it")
        return Place(self.storage.places[base].buffer, self.storage.places[base].column + column)

    # ---- values over time

    def _contexts(self) -> dict[Family, int | None]:
        """For each computed value outside loops, the loop that it serves alone, or None."""
        context: dict[Family, int | None] = {}
        serves: dict[Family, set[int | None]] = defaultdict(set)
        outputs = set(self.program.outputs.values())
        for number in list(self.found.copies):
            for family in self.found.copied(self.reading, number):
                serves[family].add(number)
        for line in self.reading.lines.values():  # steps of other chunks are read, too
            serves[self.reading.base(line.source)[0]].add(None)
        for family in reversed(self.reading.all):
            if not self.reading.computed(family):
                continue
            if family in self.loop_of:
                target: int | None = self.loop_of[family]
            else:
                returned = family in outputs
                wanted = serves[family]
                alone = len(wanted) == 1 and not returned and family.timed and family not in self.summed
                target = next(iter(wanted)) if alone else None
                context[family] = target
            for read in self.reading.reads(family):
                serves[read.operand].add(target)
        return context

    def _place_outputs(self) -> None:
        for name, output in self.program.outputs.items():
            if output.timed:
                self._place_output(output, Place(self.found.outputs[name]))
            elif BATCH in output.shape and (output.op != "exit" or self.halves.crosses(name, output)):
                self._place_row_output(name, output)

    def _place_output(self, output: Family, target: Place) -> None:
        base, column = self.reading.base(output)
        if base is not output or not self.reading.computed(output):
            # The output is an input, an old state, or a part of another value.
            number = None if self.found.is_late(target) and base not in self.halves.values else self.loop_of.get(base)
            self.found.copies[number].append((output, target))
            # Readers outside the loop can read the old states over time from the output.
            if output.op == "carry" and not self.halves.names:
                self.storage.over_time[output] = target
        elif output in self.storage.places or self._read_late(output):
            self.storage.extra[output].append(target)
        else:
            self.storage.places[output] = Place(target.buffer, column)

    def _read_late(self, output: Family) -> bool:
        """True if the second half reads an output of the first. It cannot read the caller's array, which may change."""
        parts, todo = set[Family](), [output]  # parts of nested concats
        while todo:
            part = todo.pop()
            if part not in self.halves.values and part not in parts:
                parts.add(part)
                todo += part.inputs if part.op == "concat" else ()
        return any(map(self._read_itself_late, parts))

    def _read_itself_late(self, part: Family) -> bool:
        views = [r for r in self.reading.readers[part] if r.op in ("slice", "expand", "concat", "carry")]
        readers = self.reading.readers[part] + [r for v in views for r in self.reading.readers[v]]
        return any(r in self.halves.values or r.spec.kind is Kind.OUTER for r in readers)

    def _place_row_output(self, name: str, output: Family) -> None:
        base = self.reading.base(output)[0]
        place = self.storage.places.get(output)
        if place is None:
            place = self.storage.new("r", output, Space.ROWS)
            if base is output and self.reading.computed(output):
                self.storage.places[output] = place
            else:
                self.found.row_copies.append((output, place))
                self.found.late_buffers |= {place.buffer} if name in self.halves.names else set()
        self.found.row_outputs.append((name, place))

    def _place_timed(self, context: dict[Family, int | None]) -> None:
        """Places values over time. Concats come first, because their parts lie within them."""
        for family in reversed(self.reading.all):
            outside = family not in self.loop_of and not self.reading.time_free(family)
            if family.op == "concat" and outside and BATCH in family.shape:
                self._place_concat(family)
        copied = set(self.summed)
        for number in list(self.found.copies):
            copied |= self.found.copied(self.reading, number)
        copied |= {self.reading.base(line.source)[0] for line in self.reading.lines.values()}
        places = self.storage.places
        returned = {f for f in self.program.outputs.values() if f in places and places[f].buffer.space is Space.OUTPUT}
        stored = {self.reading.base(f)[0] for f in self.program.stored if f not in returned} - set(self.reading.lines)
        for family in self.reading.all:
            if family.op == "carry" and family in stored and family not in self.storage.over_time:
                self.storage.over_time[family] = self.storage.new("y", family, Space.TIMED)
                self.found.copies[self.loop_of[family]].append((family, self.storage.over_time[family]))
            if not self.reading.computed(family) or family in self.storage.places:
                continue
            if family in self.loop_of:
                if family in stored:
                    self.storage.places[family] = self.storage.new("y", family, Space.TIMED)
            elif context[family] is None and (family in copied or self._needs_buffer(family, context)):
                self.storage.places[family] = self._new_outside(family)

    def _needs_buffer(self, family: Family, context: dict[Family, int | None]) -> bool:
        """True for a value outside loops that a loop, a later group or the other half reads, or a read with a barrier.

        Other values stay in registers.
        """
        return any(
            (barrier and family.timed)
            or (reader in self.halves.values) != (family in self.halves.values)
            or reader in self.loop_of
            or context.get(reader) is not None
            or self.loops_before[reader] != self.loops_before[family]
            for reader, barrier in self.reading.read_by[family]
        )

    def _new_outside(self, family: Family) -> Place:
        """A new buffer for a value outside loops."""
        if family.timed:
            return self.storage.new("y", family, Space.TIMED)
        return self.storage.new("r", family, Space.ROWS)

    def _place_concat(self, family: Family) -> None:
        if family not in self.storage.places:
            self.storage.places[family] = self._new_outside(family)
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
