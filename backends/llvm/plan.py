"""The plan: a Program laid out as phases over buffers, ready for code generation.

A **phase** is one pass over (rows x units): matmuls into register accumulators, the equations that finish them
(the epilogue), and stores. Time-batched Gemms, elementwise maps, sums over units and the steps of a recurrence are
all phases; they differ only in what they have of each part. A **region** is a recurrence: phases that run on a
chunk of time steps at once, then phases that run once a step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from rnnc.ir.families import Family
from rnnc.ir.program import Program


class Space(Enum):
    """Where a buffer lives, and what its rows are."""

    INPUT = "input"  # the caller's x: rows of all steps
    OUTPUT = "output"  # the caller's output: rows of all steps
    TIMED = "timed"  # internal, rows of all steps
    CHUNK = "chunk"  # internal, rows of the chunk of steps being computed
    STATE = "state"  # internal, one row a sequence, the value of this and of the previous step
    STEP = "step"  # internal, one row a sequence, alive within a step


@dataclass(eq=False)
class Buffer:
    """Row-major storage of `width` columns.

    double: a STATE whose previous value is still read while the new one is written.
    """

    name: str
    space: Space
    width: int
    double: bool = False

    @property
    def padded(self) -> bool:
        """Whether a vector may be stored over the end of a row."""
        return self.space not in (Space.INPUT, Space.OUTPUT)


@dataclass(frozen=True)
class Place:
    """Columns of a buffer. previous: the value of the step before (STATE only)."""

    buffer: Buffer
    column: int = 0
    previous: bool = False

    def __str__(self) -> str:
        column = f"+{self.column}" if self.column else ""
        return f"{self.buffer.name}{column}{'[previous]' if self.previous else ''}"


@dataclass(frozen=True)
class Weight:
    """Columns start:stop of a bind-time matrix, as the right operand of a matmul."""

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

    width: number of units. accumulators: values that are sums of matmuls; they start at the terms in `initial`
    (loads and vectors), and the terms in `late` (computed in this phase) are added in the epilogue.
    values: what the epilogue computes, in order. sums: reduce_sum values, one number a row.
    vectors: time-free operands, one number a unit.
    """

    name: str
    width: int
    accumulators: list[Family] = field(default_factory=list)
    initial: dict[Family, list[Family]] = field(default_factory=dict)
    late: dict[Family, list[Family]] = field(default_factory=dict)
    feeds: list[Feed] = field(default_factory=list)
    values: list[Family] = field(default_factory=list)
    sums: list[Family] = field(default_factory=list)
    loads: dict[Family, Place] = field(default_factory=dict)
    vectors: list[Family] = field(default_factory=list)
    stores: list[tuple[Family, Place]] = field(default_factory=list)


@dataclass(frozen=True)
class State:
    """A carried state: its buffer, the input that starts it and the output that takes its last value."""

    carry: Family
    buffer: Buffer
    initial: str
    final: str | None


@dataclass
class Region:
    """A recurrence, or time-batched work alone (no states, no step phases)."""

    name: str
    direction: int
    states: list[State]
    batched: list[Phase]
    steps: list[Phase]


@dataclass
class Plan:
    """All regions in execution order, and all buffers."""

    program: Program
    regions: list[Region]
    buffers: list[Buffer]
    output: Buffer

    def phases(self) -> Iterator[tuple[Region, Phase]]:
        """Every phase with its region."""
        for region in self.regions:
            for phase in (*region.batched, *region.steps):
                yield region, phase

    def text(self) -> str:
        """The plan as a reader wants to see it."""
        return "\n".join(_lines(self)) + "\n"


def _lines(plan: Plan) -> Iterator[str]:
    yield "buffers:"
    for buffer in plan.buffers:
        note = " (this and the previous step)" if buffer.double else ""
        yield f"  {buffer.name:<12} {buffer.space.value:<7} {buffer.width} columns{note}"
    for region in plan.regions:
        span = {1: "t = 0 .. T-1", -1: "t = T-1 .. 0", 0: "all steps"}[region.direction]
        yield f"region {region.name}: {span}"
        for state in region.states:
            yield f"  state {state.buffer.name} from {state.initial} to {state.final or 'nowhere'}"
        for phase in region.batched:
            yield from _phase_lines(phase, "chunk of steps" if region.steps else "all rows")
        for phase in region.steps:
            yield from _phase_lines(phase, "each step")


def _phase_lines(phase: Phase, rows: str) -> Iterator[str]:
    yield f"  phase {phase.name}: {phase.width} units, {rows}"
    for feed in phase.feeds:
        targets = ", ".join(phase.accumulators[a].name for a, _ in feed.blocks)
        yield f"    for k < {feed.inner}: {targets} += {feed.lhs}[k] * packed weights"
    for accumulator, terms in phase.initial.items():
        if terms:
            yield f"    {accumulator.name} starts at {' + '.join(t.name for t in terms)}"
    for family, place in phase.loads.items():
        yield f"    {family.name:<6} = load {place}"
    for value in phase.values:
        operands = [value, *phase.late[value]] if value in phase.late else list(value.inputs)
        yield f"    {value.name:<6} = {value.op}({', '.join(i.name for i in operands)})"
    for value in phase.sums:
        yield f"    {value.name:<6} = sum over units of {value.inputs[0].name}"
    for family, place in phase.stores:
        yield f"    store {family.name} -> {place}"
