"""The planner: Program -> Plan. It schedules a step into phases by a rule, whatever the cell.

A matmul needs whole rows of its left operand, and a sum over units needs whole rows too; everything else works unit by
unit. So a value's **level** within a step is the number of such barriers before it; values of one level and one width
are one phase, computed in registers. A value read across a barrier gets a buffer, and nothing else does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

from rnnc.backends.planning.levels import Copy, Levels, Storage
from rnnc.backends.planning.plan import Buffer, Phase, Place, Plan, Region, RowSum, Space, State, Term
from rnnc.backends.planning.reading import Reading
from rnnc.ir.computation import members, split
from rnnc.ir.errors import BackendError
from rnnc.ir.families import Family
from rnnc.ir.ops import BATCH, Kind
from rnnc.ir.program import Loop, Program, Statement


def plan(program: Program, late: frozenset[str] = frozenset()) -> Plan:
    """Lays out a program. late: names of the inputs and outputs of its second half.

    Raises BackendError, naming the value, for what this backend cannot express.
    """
    first, second = split(program, late)
    return _Planner(replace(program, statements=(*first, *second)), set(second), late).plan()


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


def _check_rows(phases: Iterable[Phase]) -> None:
    """Raises BackendError where phases of the rows of many steps read a buffer that has one row per sequence."""
    for phase in phases:
        for place in (*phase.loads.values(), *(feed.lhs for feed in phase.feeds)):
            if place.buffer.space is Space.ROWS:
                raise BackendError(
                    f"{place}: compiled code reads a value of one row per sequence within a loop only; "
                    "add it to a state, or to a value that depends on one"
                )


class _Planner:
    def __init__(self, program: Program, second: set[Statement], late: frozenset[str]) -> None:
        self.program = program
        self.second = second
        self.late = late
        self.late_values = {f for s in second for f in members(s)}
        self.reading = Reading(program)
        self.storage = Storage()
        self.states: dict[int, list[State]] = {}
        self.copies: dict[int | None, list[Copy]] = defaultdict(list)  # by loop, of each step; None: of all steps
        self.row_copies: list[Copy] = []
        self.loops = list(program.loops())
        self.loop_of = self.reading.loop_of
        self.loops_before = _loops_before(program)
        self.summed = {self.reading.base(f)[0] for f in self._read_by_sums()}
        self.inputs: dict[str, Buffer] = {}
        self.outputs: dict[str, Buffer] = {}
        self.row_inputs: list[tuple[str, Place]] = []
        self.row_outputs: list[tuple[str, Place]] = []
        self.sums: list[RowSum] = []
        self.late_buffers: set[Buffer] = set()
        self.before: dict[int, list[Family]] = defaultdict(list)

    def plan(self) -> Plan:
        for name, family in self.program.outputs.items():
            if family.timed:
                self.outputs[name] = self.storage.buffer(name, Space.OUTPUT, int(family.shape[-1]))
                self.late_buffers |= {self.outputs[name]} if name in self.late else set()
        for family in self.program.inputs:
            if family.timed:
                self.inputs[family.name] = self.storage.buffer(family.name, Space.INPUT, int(family.shape[-1]))
                self.storage.places[family] = Place(self.inputs[family.name])
        self._place_rows()
        for number, loop in enumerate(self.loops):
            self.states[number] = [self._state(carry, number) for carry in loop.carries]
        self._place_outputs()
        context = self._contexts()
        self._place_timed(context)
        for family in self.reading.all:
            if (served := context.get(family)) is not None:
                self.before[served].append(family)
        regions = self._regions(context)
        self._sum_rows()
        lists = (self.row_inputs, self.row_outputs, self.sums)
        return Plan(self.program, regions, self.storage.buffers, self.inputs, self.outputs, *lists, self.late)

    def _regions(self, context: dict[Family, int | None]) -> list[Region]:
        regions: list[Region] = []
        pending: list[Family] = []
        numbers = {id(loop): number for number, loop in enumerate(self.loops)}
        late = False
        for statement in self.program.statements:
            starts_late = not late and statement in self.second
            if starts_late or isinstance(statement, Loop):
                self._flush(regions, pending, late, starts_late)
            late = late or starts_late
            if isinstance(statement, Loop):
                regions.append(self._recurrence(numbers[id(statement)], late))
            elif statement in context and context[statement] is None:
                pending.append(statement)
        self._flush(regions, pending, late, True)
        return regions

    # ---- values of one row a sequence

    def _place_rows(self) -> None:
        """Initial states and last values that something computes with."""
        read = {self.reading.base(r)[0] for r in self._read_by_sums()}
        returned = {f for n, f in self.program.outputs.items() if f.op == "input" or self._crosses(n, f)}
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
                    self.row_inputs.append((family.name, self.storage.places[family]))

    def _read_by_starts(self) -> set[Family]:
        """What states start at, but for whole inputs: those are read where the caller has them."""
        initial = [c.initial for loop in self.loops for c in loop.carries if c.initial is not None]
        return {self.reading.base(family)[0] for family in initial if family.op != "input"}

    def _read_by_sums(self) -> list[Family]:
        return [i for f in self.reading.all if self.reading.sums_rows(f) for i in f.inputs]

    def _sum_rows(self) -> None:
        """Sums over time, and sums over sequences of values without a time."""
        for family in self.reading.all:
            alone = self.reading.sums_rows(family) and not family.timed
            if family.op == "tsum" or alone:
                terms = tuple(self._term(i) for i in (family.inputs if family.op == "tsum" else (family,)))
                self.sums.append(RowSum(family, terms, alone, family in self.late_values))

    def _term(self, family: Family) -> Term:
        if family.spec.kind is not Kind.OUTER:
            raise BackendError(f"{family!r}: compiled code sums over time what has no batch axis only")
        lhs = self._stored_place(family.inputs[0])
        rhs = self._stored_place(family.inputs[1]) if family.op == "outer" else None
        widths = [int(i.shape[-1]) for i in family.inputs]
        return Term(lhs, widths[0] if rhs else 1, rhs, widths[-1])

    def _stored_place(self, family: Family) -> Place:
        base, column = self.reading.base(family)
        place = (self.storage.over_time if base.op == "carry" else self.storage.places).get(base)
        if place is None:
            raise BackendError(f"{family!r} has no place over time")
        return Place(place.buffer, place.column + column)

    # ---- where values over time are

    def _contexts(self) -> dict[Family, int | None]:
        """Each computed value outside loops -> the loop it serves alone, or None."""
        context: dict[Family, int | None] = {}
        serves: dict[Family, set[int | None]] = defaultdict(set)
        outputs = set(self.program.outputs.values())
        for number in list(self.copies):
            for family in self._copied_in(number):
                serves[family].add(number)
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

    def _copied_in(self, number: int | None) -> set[Family]:
        """What the copies of a loop, or of none, read."""
        return {self.reading.base(family)[0] for family, _ in self.copies[number]}

    def _place_outputs(self) -> None:
        for name, output in self.program.outputs.items():
            if output.timed:
                self._place_output(output, Place(self.outputs[name]))
            elif BATCH in output.shape and (output.op != "exit" or self._crosses(name, output)):
                self._place_row_output(name, output)

    def _is_late(self, place: Place) -> bool:
        """Whether a place is written by the second half only."""
        return place.buffer in self.late_buffers

    def _crosses(self, name: str, output: Family) -> bool:
        """Whether a last value of the first half is an output of the second."""
        return output.op == "exit" and name in self.late and output not in self.late_values

    def _place_output(self, output: Family, target: Place) -> None:
        base, column = self.reading.base(output)
        if base is not output or not self.reading.computed(output):
            # The output is the input, an old state, or a part of another value.
            number = None if self._is_late(target) and base not in self.late_values else self.loop_of.get(base)
            self.copies[number].append((output, target))
            if output.op == "carry" and not self.late:  # an old state over time, for whoever reads it outside its loop
                self.storage.over_time[output] = target
        elif output in self.storage.places or self._read_late(output):
            self.storage.extra[output].append(target)
        else:
            self.storage.places[output] = Place(target.buffer, column)

    def _read_late(self, output: Family) -> bool:
        """Whether the second half reads an output of the first: not from the caller's array, which may change."""
        parts, todo = set[Family](), [output]  # of nested concats
        while todo:
            part = todo.pop()
            if part not in self.late_values and part not in parts:
                parts.add(part)
                todo += part.inputs if part.op == "concat" else ()
        return any(map(self._read_itself_late, parts))

    def _read_itself_late(self, part: Family) -> bool:
        views = [r for r in self.reading.readers[part] if r.op in ("slice", "concat", "carry")]
        readers = self.reading.readers[part] + [r for v in views for r in self.reading.readers[v]]
        return any(r in self.late_values or r.spec.kind is Kind.OUTER for r in readers)

    def _place_row_output(self, name: str, output: Family) -> None:
        base = self.reading.base(output)[0]
        place = self.storage.places.get(output)
        if place is None:
            place = self.storage.new("r", output, Space.ROWS)
            if base is output and self.reading.computed(output):
                self.storage.places[output] = place
            else:
                self.row_copies.append((output, place))
                self.late_buffers |= {place.buffer} if name in self.late else set()
        self.row_outputs.append((name, place))

    def _place_timed(self, context: dict[Family, int | None]) -> None:
        """Buffers over time: concats first, since their parts live inside them."""
        for family in reversed(self.reading.all):
            outside = family not in self.loop_of and not self.reading.time_free(family)
            if family.op == "concat" and outside and BATCH in family.shape:
                self._place_concat(family)
        copied = set[Family]().union(*map(self._copied_in, list(self.copies)), self.summed)
        places = self.storage.places
        returned = {f for f in self.program.outputs.values() if f in places and places[f].buffer.space is Space.OUTPUT}
        stored = {self.reading.base(f)[0] for f in self.program.stored if f not in returned}
        for family in self.reading.all:
            if family.op == "carry" and family in stored and family not in self.storage.over_time:
                self.storage.over_time[family] = self.storage.new("y", family, Space.TIMED)
                self.copies[self.loop_of[family]].append((family, self.storage.over_time[family]))
            if not self.reading.computed(family) or family in self.storage.places:
                continue
            if family in self.loop_of:
                if family in stored:
                    self.storage.places[family] = self.storage.new("y", family, Space.TIMED)
            elif context[family] is None and (family in copied or self._needs_buffer(family, context)):
                self.storage.places[family] = self._new_outside(family)

    def _needs_buffer(self, family: Family, context: dict[Family, int | None]) -> bool:
        """An off-cycle value read by a loop, after a loop or across a barrier; others stay in registers."""
        return any(
            (barrier and family.timed)
            or (reader in self.late_values) != (family in self.late_values)
            or reader in self.loop_of
            or context.get(reader) is not None
            or self.loops_before[reader] != self.loops_before[family]
            for reader, barrier in self.reading.read_by[family]
        )

    def _new_outside(self, family: Family) -> Place:
        """A buffer for a value that no loop computes."""
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

    def _flush(self, regions: list[Region], pending: list[Family], late: bool, ends: bool) -> None:
        """Batched work that more than one loop reads, or none; first of all steps, then of sequences."""
        for per_sequence, space in ((False, Space.TIMED), (True, Space.ROWS)):
            copies = self.row_copies if per_sequence else self.copies[None]
            chosen = [c for c in copies if ends and self._is_late(c[1]) == late]
            values = [f for f in pending if f.timed != per_sequence]
            name = f"batch{len(regions)}"
            phases = Levels(self.reading, self.storage, values, name, space, chosen).phases()
            if not per_sequence:
                _check_rows(phases)
            if phases:
                regions.append(Region(name, 0, [], phases, [], per_sequence, late))
        pending.clear()

    def _recurrence(self, number: int, late: bool) -> Region:
        loop = self.loops[number]
        name = f"loop{number}"
        before = self.before[number]
        wanted = self._read_by_loop(loop) | self._copied_in(number)
        batched = Levels(self.reading, self.storage, before, f"{name}_batched", Space.CHUNK).phases(also_stored=wanted)
        _check_rows(batched)
        body = [f for f in loop.body if self.reading.computed(f)]
        steps = Levels(
            self.reading, self.storage, body, f"{name}_step", Space.STEP, self.copies[number], number
        ).phases()
        self._decide_doubles(self.states[number], steps)
        return Region(name, loop.direction, self.states[number], batched, steps, late=late)

    def _read_by_loop(self, loop: Loop) -> set[Family]:
        return {r.operand for f in loop.body if self.reading.computed(f) for r in self.reading.reads(f)}

    def _state(self, carry: Family, number: int) -> State:
        assert carry.initial is not None and carry.source is not None
        buffer = self.storage.buffer(str(carry.attr("state")), Space.STATE, int(carry.shape[-1]))
        self.storage.places[carry] = Place(buffer, 0, previous=True)
        current = Place(buffer)
        if self.reading.computed(carry.source) and self.loop_of.get(carry.source) == number:
            self.storage.extra[carry.source].append(current)
        elif carry.source is not carry:  # a state that only moves: a delay, a shift
            self.copies[number].append((carry.source, current))
        exits = self.reading.exits[carry.attr("state")]
        finals = tuple(n for n, f in self.program.outputs.items() if f in exits and not self._crosses(n, f))
        kept = next((self.storage.places[f] for f in exits if f in self.storage.places), None)
        return State(carry, buffer, self._initial(carry.initial), finals, kept)

    def _initial(self, family: Family) -> str | Place | None:
        """What a state starts at."""
        if family.op == "input":
            return family.name
        if family.op == "zeros":
            return None
        base, column = self.reading.base(family)
        if base not in self.storage.places:
            raise BackendError(f"{family!r}: compiled code cannot start a state at it")
        return Place(self.storage.places[base].buffer, self.storage.places[base].column + column)

    def _decide_doubles(self, states: list[State], steps: list[Phase]) -> None:
        """A state may be overwritten in place if only the phase that writes it reads it, unit by unit."""
        for state in states:
            stores = [family for phase in steps for family, place in phase.stores if place.buffer is state.buffer]
            in_parts = any(family.shape[-1] != state.buffer.width for family in stores)
            for phase in steps:
                writes = any(p.buffer is state.buffer for _, p in phase.stores)
                feeds = any(f.lhs.buffer is state.buffer and f.lhs.previous for f in phase.feeds)
                reads = any(p.buffer is state.buffer and p.previous for p in phase.loads.values())
                other = any(
                    place.buffer is state.buffer and (place.column or family.shape[-1] != phase.width)
                    for family, place in phase.loads.items()
                )  # columns that another unit writes
                if feeds or (reads and (not writes or in_parts or other or phase.sums)):
                    state.buffer.double = True
