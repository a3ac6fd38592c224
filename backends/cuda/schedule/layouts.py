"""How the recurrences of a plan are laid on a chip.

The blocks of a recurrence form groups. A group takes tiles of batch rows through all steps; within it, each block (a
*slice*) computes the same share of the units of every phase, and keeps the weights of that share on the chip.

    one slice           a block needs nobody else: its barrier is __syncthreads
    several slices      a barrier of the group's blocks after a phase: a cooperative launch, all blocks resident
    a launch a phase    needs no barrier, and no blocks that are resident together

Weights that do not fit on the chip are read again in every step, through the second-level cache.

A model of the chip (`rnnc.backends.cuda.schedule.chip`) estimates the time of a step for each way; the fastest is
taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from rnnc.backends.cuda.emit.tensor_products import TensorDot
from rnnc.backends.cuda.emit.text import BYTES
from rnnc.backends.cuda.emit.warp_products import LaneDot
from rnnc.backends.cuda.schedule.chip import Chip
from rnnc.backends.cuda.schedule.home import Home
from rnnc.backends.cuda.schedule.products import dots
from rnnc.backends.planning.hazards import barriers
from rnnc.backends.planning.plan import Phase, Region
from rnnc.ir.errors import BackendError

NOMINAL_BATCH = 16
"""Rows the estimates are for; the batch itself is not known when code is generated."""
BLOCK_BYTES_PER_CLOCK = 64
"""What one multiprocessor reads of the second-level cache at most."""
BLOCK_BARRIER_US = 0.05
"""Of __syncthreads. An estimate."""
STEP_LATENCY_US = 0.35
"""From a phase's first load, through staging, the sums over lanes and the equations, to its last store: latencies that
nothing hides. An estimate."""
TENSOR_ROWS = 16
"""Rows of a tile for tensor cores, whose instructions take 8."""
WAVE_CHUNKS = 8
"""Chunks of steps of a wavefront: more start the next layer sooner, and launch more."""
WAVE_GAIN = 0.9
"""A wavefront has more launches, and smaller Gemms: it is taken if it saves this much by the model."""
OTHER_REGISTERS = 48
"""Registers of a thread for addresses, loop counters and the equations."""


@dataclass(frozen=True)
class PhaseShape:
    """One phase on one block. units: of its slice."""

    phase: Phase
    units: int
    dots: tuple[LaneDot | TensorDot, ...]

    @property
    def width(self) -> int:
        """Elements of a row of accumulators."""
        return len(self.phase.accumulators) * self.units

    @property
    def parts(self) -> int:
        """Partial sums of each accumulator."""
        return max((dot.parts for dot in self.dots), default=1)


@dataclass(frozen=True)
class Schedule:
    """A region on a chip. slices: blocks of a group. threads: of a block. rows: of a tile, at most."""

    region: Region
    dtype: str
    slices: int
    threads: int
    rows: int
    home: Home
    phases: tuple[PhaseShape, ...]
    microseconds: float
    reason: str

    @property
    def launches(self) -> bool:
        """Whether every phase of every step is a launch of its own."""
        return self.home is Home.MEMORY

    @cached_property
    def staged(self) -> int:
        """Bytes of shared memory for rows of a left operand."""
        return _line(max((self.rows * d.row_bytes for p in self.phases for d in p.dots), default=0))

    @cached_property
    def sums(self) -> int:
        """Bytes of shared memory for accumulators."""
        return _line(max((self.rows * p.width * p.parts for p in self.phases), default=0) * BYTES[self.dtype])

    @cached_property
    def weights(self) -> int:
        """Bytes of the weights of a block."""
        return sum(d.weight_bytes for p in self.phases for d in p.dots)

    @property
    def shared(self) -> int:
        """Bytes of shared memory of a block."""
        return self.staged + self.sums + (self.weights if self.home is Home.SHARED else 0)

    def line(self) -> str:
        """For a reader of `explain()`."""
        held = self.home in (Home.REGISTERS, Home.SHARED)
        where = f"held in {self.home.value}" if held else "read through the second-level cache in every step"
        slices = f"{self.slices} slice{'s' * (self.slices > 1)} x {self.threads} threads"
        return (
            f"recurrence {self.region.name}: {self.reason}; {slices}, tiles of up to {self.rows} rows; "
            f"{self.weights / 1024:,.1f} KiB of weights a block, {where}; {self.shared:,} bytes of shared memory; "
            f"estimated {self.microseconds:.2f} us a step"
        )


@dataclass(frozen=True)
class Wish:
    """Ways to be taken whatever the model says, to compare or to test them; None: any. wave: see `wave_pays`."""

    slices: int | None = None
    home: Home | None = None
    wave: bool | None = None

    def allows(self, way: Schedule) -> bool:
        """Whether a way is wished for."""
        return self.home in (None, way.home) and self.slices in (None, way.slices)


def schedule(
    region: Region, dtype: str, chip: Chip, operands: str | None, together: int = 1, wish: Wish | None = None
) -> Schedule:
    """The fastest way for a region by the model.

    operands: of tensor cores, or None. together: recurrences that run side by side and share the chip.
    """
    ways = _ways(region, dtype, chip, operands, together)
    found = [way for way in ways if wish is None or wish.allows(way)]
    if not found:
        raise BackendError(
            f"region {region.name}: a block's rows and accumulators do not fit into the {chip.shared_per_block:,} "
            f"bytes of shared memory of {chip.name}; fewer units, or float32, would"
        )
    return min(found, key=lambda way: (way.microseconds, way.slices))


def wave_pays(alone: Sequence[Sequence[Schedule]], shared: Sequence[Sequence[Schedule]]) -> bool:
    """Whether layers that read one another are faster as a wavefront, each a chunk of steps behind the one below.

    alone: the ways of each layer with the chip to itself, one layer after the other. shared: with all of them on it.
    """
    one_by_one = sum(max(way.microseconds for way in layer) for layer in alone)
    slowest = max(way.microseconds for layer in shared for way in layer)
    return slowest * (1 + (len(shared) - 1) / WAVE_CHUNKS) < WAVE_GAIN * one_by_one


def _ways(region: Region, dtype: str, chip: Chip, operands: str | None, together: int) -> Iterator[Schedule]:
    widest = max((phase.width for phase in region.steps), default=1)
    rows = chip.tile_rows if operands is None else TENSOR_ROWS
    for slices in _slice_counts(widest, max(1, chip.sms // together)):
        phases = tuple(_phase_shape(p, dtype, operands, slices, chip.block_threads, rows) for p in region.steps)
        for home in Home:
            found = Schedule(region, dtype, slices, chip.block_threads, rows, home, phases, 0.0, _reason(slices, home))
            if _fits(found, chip):
                yield replace(found, microseconds=_estimate(found, chip, together))


def _slice_counts(width: int, most: int) -> list[int]:
    """Numbers of slices worth a look: those that leave no block much less to do than the others."""
    units = {-(-width // n) for n in range(1, min(width, most) + 1)}
    return sorted({-(-width // u) for u in units})


def _fits(way: Schedule, chip: Chip) -> bool:
    every = [dot for phase in way.phases for dot in phase.dots]
    registers = OTHER_REGISTERS + max((dot.working for dot in every), default=0)
    if way.home is Home.REGISTERS:
        registers += sum(dot.registers for dot in every)
    return chip.resident_blocks(way.threads, registers, way.shared) > 0


def _reason(slices: int, home: Home) -> str:
    if home is Home.MEMORY:
        return "a launch a phase, which is faster here than a barrier of all blocks"
    if slices == 1:
        return "one launch for all steps, a block for each tile of rows"
    return "one cooperative launch for all steps, a barrier of the slices after a phase"


def _phase_shape(phase: Phase, dtype: str, operands: str | None, slices: int, threads: int, rows: int) -> PhaseShape:
    units = -(-phase.width // slices)
    if operands is None:
        return PhaseShape(phase, units, tuple(LaneDot.of(dot, dtype, units, threads, rows) for dot in dots(phase)))
    tensor = [TensorDot.of(dot, operands, units, threads, rows) for dot in dots(phase)]
    splits = min((dot.splits for dot in tensor), default=1)  # all dots of a phase add to the same parts
    return PhaseShape(phase, units, tuple(dot.split(splits) for dot in tensor))


def _estimate(way: Schedule, chip: Chip, together: int) -> float:
    """Microseconds of a step."""
    rows = -(-NOMINAL_BATCH // max(1, chip.sms // (way.slices * together)))  # of a group
    total = 0.0
    for phase in way.phases:
        cycles = sum(dot.cycles(rows, chip, way.home) for dot in phase.dots)
        total += cycles / (chip.clock_ghz * 1e3) + STEP_LATENCY_US
        total += _fetch(way, phase, chip, rows)
    return total + _waiting(way, chip)


def _fetch(way: Schedule, phase: PhaseShape, chip: Chip, rows: int) -> float:
    """Microseconds of reading rows, and weights that are not on the chip: what all blocks read, or what one does."""
    size = sum(d.dot.inner for d in phase.dots) * rows * BYTES[way.dtype]  # of a block
    rate = chip.l2_gbs
    if way.home in (Home.CACHE, Home.MEMORY):
        weights = sum(d.weight_bytes for d in phase.dots)
        size += weights * -(-rows // way.rows)
        rate = chip.l2_gbs if weights * way.slices < chip.l2_bytes else chip.dram_gbs
    groups = -(-NOMINAL_BATCH // rows)
    return max(size * way.slices * groups / rate, size / (BLOCK_BYTES_PER_CLOCK * chip.clock_ghz)) / 1e3


def _waiting(way: Schedule, chip: Chip) -> float:
    """Microseconds of a step's barriers, or launches."""
    if way.launches:
        return chip.launch_us * len(way.phases)
    return len(barriers(way.region)) * (chip.barrier_us if way.slices > 1 else BLOCK_BARRIER_US)


def _line(size: int) -> int:
    """Whole vectors of 16 bytes."""
    return -(-size // 16) * 16
