"""How the recurrences of a plan are laid on a chip.

The blocks of a recurrence form groups. A group takes tiles of batch rows through all steps; within it, each block (a
*slice*) computes the same share of the units of every phase, and keeps the weights of that share on the chip.

    one slice           a block needs nobody else: its barrier is __syncthreads
    several slices      a barrier of the group's blocks after a phase: a cooperative launch, all blocks resident
    a launch a phase    weights that do not fit on the chip are read again in every step, through the second-level cache

A model of the chip (`rnnc.backends.cuda.chip`) estimates the time of a step for each way, and the fastest is taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

from rnnc.backends.cuda.chip import Chip
from rnnc.backends.cuda.dots import Dot, dots
from rnnc.backends.cuda.text import BYTES
from rnnc.backends.planning.plan import Phase, Region
from rnnc.ir.errors import BackendError

WARP = 32
NOMINAL_BATCH = 16
"""Rows the estimates are for; the batch itself is not known when code is generated."""
STEP_LATENCY_US = 0.35
"""From a phase's first load, through staging, the sums over lanes and the equations, to its last store: latencies that
nothing hides. An estimate."""
OTHER_REGISTERS = 80
"""Registers of a thread that do not hold weights."""


class Home(Enum):
    """Where a block's weights are."""

    REGISTERS = "registers"
    SHARED = "shared memory"
    MEMORY = "memory"


@dataclass(frozen=True)
class DotShape:
    """One dot on one block. columns: of its slice. padded: inner, in whole vectors of all lanes. vector: elements a
    load. passes x group: columns a warp computes, `group` of them at once."""

    dot: Dot
    units: int
    columns: int
    padded: int
    vector: int
    passes: int
    group: int

    @property
    def registers(self) -> int:
        """Elements of the weights a thread holds, if they are in registers."""
        return self.passes * self.group * self.padded // WARP


@dataclass(frozen=True)
class PhaseShape:
    """One phase on one block. units: of its slice."""

    phase: Phase
    units: int
    dots: tuple[DotShape, ...]


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
        """Elements of shared memory for rows of a left operand."""
        return max((self.rows * d.padded for p in self.phases for d in p.dots), default=0)

    @cached_property
    def sums(self) -> int:
        """Elements of shared memory for accumulators."""
        return max((self.rows * len(p.phase.accumulators) * p.units for p in self.phases), default=0)

    @cached_property
    def weights(self) -> int:
        """Elements of the weights of a block."""
        return sum(d.columns * d.padded for p in self.phases for d in p.dots)

    @property
    def shared(self) -> int:
        """Bytes of shared memory of a block."""
        held = self.weights if self.home is Home.SHARED else 0
        return (self.staged + self.sums + held) * BYTES[self.dtype]

    def line(self) -> str:
        """For a reader of `explain()`."""
        where = "read from memory in every step" if self.launches else f"held in {self.home.value}"
        size = self.weights * BYTES[self.dtype] / 1024
        return (
            f"recurrence {self.region.name}: {self.reason}; {self.slices} slice{'s' * (self.slices > 1)} x "
            f"{self.threads} threads, tiles of up to {self.rows} rows; {size:,.1f} KiB of weights a block, {where}; "
            f"{self.shared:,} bytes of shared memory; estimated {self.microseconds:.2f} us a step"
        )


@dataclass(frozen=True)
class Wish:
    """Ways to be taken whatever the model says, to compare or to test them; None: any."""

    slices: int | None = None
    home: Home | None = None

    def allows(self, way: Schedule) -> bool:
        """Whether a way is wished for."""
        return self.home in (None, way.home) and self.slices in (None, way.slices)


def schedule(region: Region, dtype: str, chip: Chip, together: int = 1, wish: Wish | None = None) -> Schedule:
    """The fastest way for a region by the model. together: recurrences that run side by side and share the chip."""
    found = [way for way in _ways(region, dtype, chip, together) if wish is None or wish.allows(way)]
    if not found:
        raise BackendError(
            f"region {region.name}: a block's rows and accumulators do not fit into the {chip.shared_per_block:,} "
            f"bytes of shared memory of {chip.name}; fewer units, or float32, would"
        )
    return min(found, key=lambda way: (way.microseconds, way.slices))


def _ways(region: Region, dtype: str, chip: Chip, together: int) -> Iterator[Schedule]:
    widest = max((phase.width for phase in region.steps), default=1)
    for slices in _slice_counts(widest, max(1, chip.sms // together)):
        for home in Home:
            way = _way(region, dtype, chip, slices, home, together)
            if way is not None:
                yield way


def _slice_counts(width: int, most: int) -> list[int]:
    """Numbers of slices worth a look: those that leave no block much less to do than the others."""
    units = {-(-width // n) for n in range(1, min(width, most) + 1)}
    return sorted({-(-width // u) for u in units})


def _way(region: Region, dtype: str, chip: Chip, slices: int, home: Home, together: int) -> Schedule | None:
    """A schedule, or None if it does not fit."""
    rows, threads = chip.tile_rows, chip.block_threads
    phases = tuple(_phase_shape(phase, dtype, slices, threads, rows) for phase in region.steps)
    found = Schedule(region, dtype, slices, threads, rows, home, phases, 0.0, "")
    if found.shared > chip.shared_per_block:
        return None
    words = BYTES[dtype] // 4
    if home is Home.REGISTERS:
        registers = words * sum(d.registers for p in phases for d in p.dots) + OTHER_REGISTERS
        if registers > min(chip.registers_per_thread, chip.registers_per_sm // threads):
            return None
    time = _estimate(found, chip, together)
    return Schedule(region, dtype, slices, threads, rows, home, phases, time, _reason(slices, home))


def _reason(slices: int, home: Home) -> str:
    if home is Home.MEMORY:
        return "a launch a phase, since the weights do not fit on the chip, or are read faster than a barrier takes"
    if slices == 1:
        return "one launch for all steps, a block for each tile of rows"
    return "one cooperative launch for all steps, a barrier of the slices after a phase"


def _phase_shape(phase: Phase, dtype: str, slices: int, threads: int, rows: int) -> PhaseShape:
    units = -(-phase.width // slices)
    return PhaseShape(phase, units, tuple(_dot_shape(dot, units, dtype, threads, rows) for dot in dots(phase)))


def _dot_shape(dot: Dot, units: int, dtype: str, threads: int, rows: int) -> DotShape:
    columns = len(dot.weights) * units
    vector = 16 // BYTES[dtype]
    while vector > 1 and WARP * vector > -(-dot.inner // WARP) * WARP:
        vector //= 2
    padded = -(-dot.inner // (WARP * vector)) * WARP * vector
    warps = threads // WARP
    each = -(-columns // warps)
    group = 1
    while group < each and group < 4 and group * rows < WARP:
        group *= 2
    return DotShape(dot, units, columns, padded, vector, -(-each // group), group)


def _estimate(way: Schedule, chip: Chip, together: int) -> float:
    """Microseconds of a step."""
    rows = -(-NOMINAL_BATCH // max(1, chip.sms // (way.slices * together)))  # of a group
    item = BYTES[way.dtype]
    lanes = chip.fp32_lanes if way.dtype == "float32" else chip.fp64_lanes
    total = 0.0
    for phase in way.phases:
        products = sum(d.passes * d.group * way.threads // WARP * d.padded for d in phase.dots)
        arithmetic = rows * products / lanes
        tiles = -(-rows // way.rows)
        read = sum((d.padded * rows / max(1, d.group) * d.group) for d in phase.dots)
        held = products * tiles if way.home is Home.SHARED else 0
        shared = (held + read) * item / chip.shared_bytes_per_clock
        cycles = max(arithmetic, shared)
        total += cycles / (chip.clock_ghz * 1e3) + STEP_LATENCY_US
        total += _fetch(way, phase, chip, rows) + _barrier(way, chip)
    return total


def _fetch(way: Schedule, phase: PhaseShape, chip: Chip, rows: int) -> float:
    """Microseconds of reading rows, and weights that are not on the chip, by all blocks."""
    item = BYTES[way.dtype]
    size = sum(d.dot.inner * rows for d in phase.dots) * item * way.slices
    rate = chip.l2_gbs
    if way.home is Home.MEMORY:
        weights = sum(d.columns * d.padded for d in phase.dots) * item * way.slices
        size += weights
        rate = chip.l2_gbs if weights < chip.l2_bytes else chip.dram_gbs
    return size / (rate * 1e3)


def _barrier(way: Schedule, chip: Chip) -> float:
    if way.launches:
        return chip.launch_us
    return chip.barrier_us if way.slices > 1 else 0.05
