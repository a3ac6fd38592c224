"""The plan: a Program laid out as phases over buffers, ready for code generation.

A **phase** is one pass over (rows x units): matmuls into register accumulators, the equations that finish them (the
epilogue), and stores. Time-batched matmuls, elementwise maps, sums over units and the steps of a recurrence are all
phases; any of the three parts may be empty. A **region** is a recurrence: phases that run on a chunk of time steps at
once, then phases that run once per step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from rnnc.backends.planning.grids import Grid, is_group
from rnnc.backends.products import PLAIN, ProductFormat
from rnnc.ir.families import Family
from rnnc.ir.program import Program


class Space(Enum):
    """The lifetime of a buffer, and the meaning of its rows."""

    INPUT = "input"  # an argument of the caller: rows of all steps
    OUTPUT = "output"  # a result of the caller: rows of all steps
    TIMED = "timed"  # internal, rows of all steps
    LINE = "line"  # internal, rows of all steps and of steps before the first and after the last, B per step
    CHUNK = "chunk"  # internal, rows of the chunk of steps being computed
    STATE = "state"  # internal, one row per sequence, the value of this and of the previous step
    STEP = "step"  # internal, one row per sequence, alive within a step
    ROWS = "rows"  # internal, one row per sequence, alive for the whole call


@dataclass(eq=False)
class Buffer:
    """Row-major storage of `width` columns.

    double: True for a STATE whose previous value is still read while the new one is written. before, after: of a LINE,
    the number of steps before the first and after the last step of a call.
    """

    name: str
    space: Space
    width: int
    double: bool = False
    before: int = 0
    after: int = 0

    @property
    def padded(self) -> bool:
        """True if a vector store may write past the end of a row. The rows of a LINE lie end to end."""
        return self.space not in (Space.INPUT, Space.OUTPUT, Space.LINE)


@dataclass(frozen=True)
class Place:
    """Columns of a buffer, from `column` on.

    previous: they hold the value of the step before (STATE only). grid: how the columns are read, if not one after the
    other. shift: they hold the value of so many steps before; of later steps, if it is negative (LINE only).
    """

    buffer: Buffer
    column: int = 0
    previous: bool = False
    grid: Grid = ()
    shift: int = 0

    def __str__(self) -> str:
        column = (f"+{self.column}" if self.column else "") + (f"[t{-self.shift:+d}]" if self.shift else "")
        grid = ", ".join(f"{size}:{step}" for size, step in self.grid)
        return f"{self.buffer.name}{column}{'[previous]' if self.previous else ''}{f' as ({grid})' if grid else ''}"


@dataclass(frozen=True)
class Weight:
    """The columns start:stop of a bind-time matrix, as the right operand of a matmul."""

    family: Family
    transposed: bool
    start: int
    stop: int


@dataclass(frozen=True)
class Feed:
    """One loop over k: rows of `lhs` times packed weights, into several accumulators at once."""

    lhs: Place
    inner: int
    blocks: tuple[tuple[int, Weight], ...]  # (accumulator, its weights)


@dataclass
class Phase:
    """One pass over rows x units.

    width: the number of units. axes: the sizes of the units' axes, if the phase walks them as a grid.
    accumulators: values that are sums of matmuls. They start at the terms in `initial`, which are loads and vectors.
        The terms in `late`, which this phase computes, are added in the epilogue.
    values: the values that the epilogue computes, in order. sums: reductions over units, one number per row or group.
    vectors: time-free operands, one number per unit. product: the types of the matmuls' operands and sums.
    """

    name: str
    width: int
    axes: tuple[int, ...] = ()
    accumulators: list[Family] = field(default_factory=list)
    initial: dict[Family, list[Family]] = field(default_factory=dict)
    late: dict[Family, list[Family]] = field(default_factory=dict)
    feeds: list[Feed] = field(default_factory=list)
    values: list[Family] = field(default_factory=list)
    sums: list[Family] = field(default_factory=list)
    loads: dict[Family, Place] = field(default_factory=dict)
    vectors: list[Family] = field(default_factory=list)
    stores: list[tuple[Family, Place]] = field(default_factory=list)
    product: ProductFormat = PLAIN


@dataclass(frozen=True)
class State:
    """A carried state: its buffer, its initial value, and the places of its last value.

    initial: the name of an input, or a place with one row per sequence, or None for zeros. finals: names of outputs.
    kept: a place from which later values read the last value.
    """

    carry: Family
    buffer: Buffer
    initial: str | Place | None
    finals: tuple[str, ...]
    kept: Place | None = None


@dataclass(frozen=True)
class Line:
    """A delay line: a state that holds a value of other steps, which are read from the value's buffer over time.

    width, steps: columns per step, and the steps that the state holds, the oldest first. direction: 1 for the steps
    before the current one, -1 for those after it. shifts: by how many steps reads of it look back, ascending. initial:
    the name of an input with the steps before the first one (after the last one), or None for zeros. finals: names of
    outputs. kept: a place from which later values read the last value. late: the line belongs to the second half.
    """

    buffer: Buffer
    width: int
    steps: int
    direction: int
    shifts: tuple[int, ...]
    initial: str | None
    finals: tuple[str, ...]
    kept: Place | None = None
    late: bool = False


@dataclass
class Region:
    """A recurrence, or batched work alone, without states and step phases.

    batched: phases that run on many steps at once. steps: phases that run once per step. per_sequence: the batched
    phases run on one row per sequence, not on the rows of all steps. late: the region belongs to the second half.
    """

    name: str
    direction: int
    states: list[State]
    batched: list[Phase]
    steps: list[Phase]
    per_sequence: bool = False
    late: bool = False

    def reads(self) -> set[Buffer]:
        """The buffers that the region reads."""
        found = {state.initial.buffer for state in self.states if isinstance(state.initial, Place)}
        for phase in (*self.batched, *self.steps):
            found |= {place.buffer for place in phase.loads.values()} | {feed.lhs.buffer for feed in phase.feeds}
        return found


@dataclass(frozen=True)
class Term:
    """A term of a sum over rows: lhs' @ rhs, or the sum of the rows of lhs if rhs is None."""

    lhs: Place
    rows: int
    rhs: Place | None
    units: int


@dataclass(frozen=True)
class RowSum:
    """A sum over the rows of all steps, or over one row per sequence, such as a weight's gradient: (rows, units)."""

    target: Family
    terms: tuple[Term, ...]
    per_sequence: bool
    late: bool


@dataclass
class Plan:
    """All regions in execution order, and all buffers.

    inputs, outputs: name -> buffer, of arrays with one value per step. row_inputs, row_outputs: names and places of
    arrays with one value per sequence. lines: the delay lines. sums: the sums over rows, computed at the end of each
    half. late: names of the second half's inputs and outputs.
    """

    program: Program
    regions: list[Region]
    buffers: list[Buffer]
    inputs: dict[str, Buffer]
    outputs: dict[str, Buffer]
    row_inputs: list[tuple[str, Place]] = field(default_factory=list)
    row_outputs: list[tuple[str, Place]] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    sums: list[RowSum] = field(default_factory=list)
    late: frozenset[str] = frozenset()

    def is_late(self, name: str) -> bool:
        """True if an input or an output belongs to the second half."""
        return name in self.late

    def phases(self) -> Iterator[tuple[Region, Phase]]:
        """Every phase with its region."""
        for region in self.regions:
            for phase in (*region.batched, *region.steps):
                yield region, phase

    def text(self) -> str:
        """The plan as text."""
        return "\n".join(_lines(self)) + "\n"


def _lines(plan: Plan) -> Iterator[str]:
    yield "buffers:"
    for buffer in plan.buffers:
        note = " (this and the previous step)" if buffer.double else ""
        yield f"  {buffer.name:<12} {buffer.space.value:<7} {buffer.width} columns{note}"
    for line in plan.lines:
        where = "before" if line.direction > 0 else "after"
        finals = ", ".join([*line.finals, *([str(line.kept)] if line.kept else [])])
        span = f"{line.initial or 'zeros'} to {finals or 'nowhere'}"
        yield f"line {line.buffer.name}: {line.steps} steps {where}, from {span}{', second half' if line.late else ''}"
    for region in plan.regions:
        span = {1: "t = 0 .. T-1", -1: "t = T-1 .. 0", 0: "all steps"}[region.direction]
        span = "each sequence" if region.per_sequence else span
        yield f"region {region.name}: {span}{', second half' if region.late else ''}"
        for state in region.states:
            finals = ", ".join([*state.finals, *([str(state.kept)] if state.kept else [])])
            yield f"  state {state.buffer.name} from {state.initial or 'zeros'} to {finals or 'nowhere'}"
        for phase in region.batched:
            yield from phase_lines(phase, "chunk of steps" if region.steps else "all rows")
        for phase in region.steps:
            yield from phase_lines(phase, "each step")
    for total in plan.sums:
        terms = (f"{t.lhs}' @ {t.rhs}" if t.rhs else f"rows of {t.lhs}" for t in total.terms)
        rows = "sequences" if total.per_sequence else "all rows"
        yield f"sum over {rows}{', second half' if total.late else ''}: {total.target.name} = {' + '.join(terms)}"


def phase_lines(phase: Phase, rows: str) -> Iterator[str]:
    """The text of a phase, which runs on `rows`."""
    axes = f" ({' x '.join(map(str, phase.axes))})" if phase.axes else ""
    yield f"  phase {phase.name}: {phase.width} units{axes}, {rows}"
    for feed in phase.feeds:
        yield f"    {feed_line(phase, feed)}"
    for accumulator, terms in phase.initial.items():
        if terms:
            yield f"    {accumulator.name} starts at {' + '.join(t.name for t in terms)}"
    for family, place in phase.loads.items():
        yield f"    {family.name:<6} = load {place}"
    for value in phase.values:
        operands = [value, *phase.late[value]] if value in phase.late else list(value.inputs)
        yield f"    {value.name:<6} = {value.op}({', '.join(i.name for i in operands)})"
    for value in phase.sums:
        over = "units" if not is_group(value) else f"groups of {value.attr('size')}, {value.attr('inner')} apart,"
        yield f"    {value.name:<6} = {value.op} over {over} of {value.inputs[0].name}"
    for family, place in phase.stores:
        yield f"    store {family.name} -> {place}"


def feed_line(phase: Phase, feed: Feed) -> str:
    """The text of a loop over k."""
    targets = ", ".join(phase.accumulators[a].name for a, _ in feed.blocks)
    rounded = f" ({phase.product})" if phase.product != PLAIN else ""
    return f"for k < {feed.inner}: {targets} += {feed.lhs}[k] * packed weights{rounded}"
