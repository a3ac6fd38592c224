"""The planner: Program -> Plan. One rule schedules the step of any cell into phases.

    split the halves -> read -> place -> schedule each region -> double buffers -> sums over rows

Each step is a function from data to data, in a file of its own: `reading`, `placement`, `levels`, `phases`. They pass
on a `Placement`, to whose storage `levels` adds the buffers within a region.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from rnnc.backends.planning.levels import Group, schedule
from rnnc.backends.planning.placement import Halves, Placement, place
from rnnc.backends.planning.plan import Phase, Place, Plan, Region, RowSum, Space, State, Term
from rnnc.backends.planning.reading import Reading
from rnnc.backends.planning.storage import Storage
from rnnc.backends.products import ProductFormat, check_dtype, check_inner
from rnnc.ir.computation import split
from rnnc.ir.delay_lines import DelayLine
from rnnc.ir.errors import BackendError
from rnnc.ir.families import Family
from rnnc.ir.ops import Kind
from rnnc.ir.program import Loop, Program


def plan(program: Program, late: frozenset[str] = frozenset()) -> Plan:
    """The plan of a program. late: names of the inputs and outputs of its second half.

    Raises BackendError, which names the value, if compiled code cannot express it.
    """
    first, second = split(program, late)
    halves = Halves.of(second, late)
    program = replace(program, statements=(*first, *second))
    reading = Reading(program)
    placed = place(program, reading, halves)
    regions = list(_Regions(program, reading, halves, placed).all())
    sums = list(_row_sums(reading, halves, placed.storage))
    arrays = (placed.storage.buffers, placed.inputs, placed.outputs, placed.row_inputs, placed.row_outputs)
    return Plan(program, regions, *arrays, placed.lines, sums, late)


def with_products(plan: Plan, product: ProductFormat) -> Plan:
    """The plan, with all matmuls in one format. Raises BackendError for one that it does not fit."""
    check_dtype(product, plan.program.dtype)
    for _, phase in plan.phases():
        phase.product = product
        check_inner(product, max((feed.inner for feed in phase.feeds), default=0))
    return plan


# ---- regions


@dataclass(frozen=True)
class _Regions:
    """The regions of a program: its loops, and the work outside of loops before, between and after them."""

    program: Program
    reading: Reading
    halves: Halves
    placed: Placement

    def all(self) -> Iterator[Region]:
        """The regions in execution order."""
        pending: list[Family] = []
        loops, count, late = 0, 0, False
        for statement in self.program.statements:
            starts_late = not late and statement in self.halves.statements
            is_region = isinstance(statement, Loop) and self.placed.is_region(statement)
            if starts_late or is_region:
                for region in self._outside(pending, count, late, starts_late):
                    yield region
                    count += 1
                pending = []
            late = late or starts_late
            if isinstance(statement, Loop) and statement.line is not None:
                if is_region:
                    yield self._copy(statement.line, count, late)
                    count += 1
            elif isinstance(statement, Loop):
                yield self._recurrence(statement, loops, late)
                loops, count = loops + 1, count + 1
            elif self.placed.context.get(statement, 0) is None:
                pending.append(statement)
        yield from self._outside(pending, count, late, True)

    def _outside(self, values: list[Family], count: int, late: bool, ends: bool) -> Iterator[Region]:
        """The work that several loops read, or none: first that of all steps, then that of sequences.

        count: the number of regions so far. ends: True if a half ends here, so that its outputs are copied here.
        """
        for per_sequence, space in ((False, Space.TIMED), (True, Space.ROWS)):
            copies = self.placed.row_copies if per_sequence else self.placed.copies[None]
            chosen = [c for c in copies if ends and self.placed.is_late(c[1]) == late]
            members = [f for f in values if f.timed != per_sequence]
            name = f"batch{count}"
            phases = schedule(Group(self.reading, members, name, space, chosen), self.placed.storage)
            if not per_sequence:
                _check_rows(phases)
            if phases:
                yield Region(name, 0, [], phases, [], per_sequence, late)
                count += 1

    def _copy(self, line: DelayLine, count: int, late: bool) -> Region:
        """The region that copies the source of a delay line to the line's buffer."""
        name, copies = f"batch{count}", self.placed.line_copies[line.carry]
        phases = schedule(Group(self.reading, [], name, Space.TIMED, copies), self.placed.storage)
        return Region(name, 0, [], phases, [], late=late)

    def _recurrence(self, loop: Loop, number: int, late: bool) -> Region:
        """The region of a loop, and of the values that serve it alone, computed for a chunk of steps at once."""
        name, states, computed = f"loop{number}", self.placed.states[number], self.reading.computed
        before = [f for f in self.reading.all if self.placed.context.get(f) == number]
        body = [f for f in loop.body if computed(f)]
        wanted = {r.operand for f in body for r in self.reading.reads(f)} | self.placed.copied(self.reading, number)
        chunk = Group(self.reading, before, f"{name}_batched", Space.CHUNK, wanted=frozenset(wanted))
        step = Group(self.reading, body, f"{name}_step", Space.STEP, self.placed.copies[number], number)
        batched = schedule(chunk, self.placed.storage)
        _check_rows(batched)
        steps = schedule(step, self.placed.storage)
        _decide_doubles(states, steps)
        return Region(name, loop.direction, states, batched, steps, late=late)


def _check_rows(phases: Iterable[Phase]) -> None:
    """Raises BackendError if phases over the rows of many steps read a buffer with one row per sequence."""
    for phase in phases:
        for read in (*phase.loads.values(), *(feed.lhs for feed in phase.feeds)):
            if read.buffer.space is Space.ROWS:
                raise BackendError(
                    f"{read}: compiled code reads a value of one row per sequence within a loop only; "
                    "add it to a state, or to a value that depends on one"
                )


def _decide_doubles(states: list[State], steps: list[Phase]) -> None:
    """Marks the states that need two buffers.

    A state may be overwritten in place if only the phase that writes it reads it, unit by unit. Phases that walk a grid
    may also read it before it is written.
    """
    for state in states:
        stores = [(n, family) for n, phase in enumerate(steps) for family in _stored(phase, state)]
        first = min((n for n, _ in stores), default=0)
        in_parts = any(family.shape[-1] != state.buffer.width for _, family in stores)
        for number, phase in enumerate(steps):
            writes = any(family not in phase.sums for family in _stored(phase, state))
            feeds = any(f.lhs.buffer is state.buffer and f.lhs.previous for f in phase.feeds)
            reads = any(p.buffer is state.buffer and p.previous for p in phase.loads.values())
            other = any(
                place.buffer is state.buffer and (place.column or place.grid or family.shape[-1] != phase.width)
                for family, place in phase.loads.items()
            )  # columns that another unit writes
            before = bool(phase.axes) and number < first
            sums = phase.sums and not phase.axes
            if feeds or (reads and not before and (not writes or in_parts or other or sums)):
                state.buffer.double = True


def _stored(phase: Phase, state: State) -> list[Family]:
    """The values of a state that a phase writes."""
    return [family for family, place in phase.stores if place.buffer is state.buffer]


# ---- sums over rows


def _row_sums(reading: Reading, halves: Halves, storage: Storage) -> Iterator[RowSum]:
    """The sums over time, and the sums over sequences of time-free values."""
    for family in reading.all:
        alone = reading.sums_rows(family) and not family.timed
        if family.op == "tsum" or alone:
            terms = family.inputs if family.op == "tsum" else (family,)
            yield RowSum(family, tuple(_term(f, reading, storage) for f in terms), alone, family in halves.values)


def _term(family: Family, reading: Reading, storage: Storage) -> Term:
    if family.spec.kind is not Kind.OUTER:
        raise BackendError(f"{family!r}: compiled code sums over time what has no batch axis only")
    lhs = _stored_place(family.inputs[0], reading, storage)
    rhs = _stored_place(family.inputs[1], reading, storage) if family.op == "outer" else None
    widths = [int(i.shape[-1]) for i in family.inputs]
    return Term(lhs, widths[0] if rhs else 1, rhs, widths[-1])


def _stored_place(family: Family, reading: Reading, storage: Storage) -> Place:
    if (delayed := reading.delayed(family)) is not None:
        return delayed.place(storage.lines)
    base, column = reading.base(family)
    found = (storage.over_time if base.op == "carry" else storage.places).get(base)
    if found is None:
        raise BackendError(f"{family!r} has no place over time")
    return Place(found.buffer, found.column + column)
