"""How the recurrences of a plan are laid on a chip.

The blocks of a recurrence form groups. A group takes tiles of batch rows through all steps; within it, each block (a
*slice*) computes the same share of the units of every phase, and keeps the weights of that share on the chip.

    one slice           a block needs nobody else: its barrier is __syncthreads
    several slices      a barrier of the group's blocks after a phase: a cooperative launch, all blocks resident
    a launch a phase    needs no barrier, and no blocks that are resident together

Weights that do not fit on the chip are read again in every step, through the second-level cache.

A model of the chip (`rnnc.backends.cuda.schedule.chip`) estimates the time of a step for each layout; the fastest is
taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from rnnc.backends.cuda.emit.tensor_products import TensorProduct
from rnnc.backends.cuda.emit.text import BYTES
from rnnc.backends.cuda.emit.warp_products import WarpProduct
from rnnc.backends.cuda.schedule.chip import Chip
from rnnc.backends.cuda.schedule.products import products
from rnnc.backends.cuda.schedule.weight_memory import WeightMemory
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
    products: tuple[WarpProduct | TensorProduct, ...]

    @property
    def width(self) -> int:
        """Elements of a row of accumulators."""
        return len(self.phase.accumulators) * self.units

    @property
    def parts(self) -> int:
        """Partial sums of each accumulator."""
        return max((product.parts for product in self.products), default=1)


@dataclass(frozen=True)
class RecurrenceLayout:
    """A region on a chip. slices: blocks of a group. threads: of a block. rows: of a tile, at most."""

    region: Region
    dtype: str
    slices: int
    threads: int
    rows: int
    weights_in: WeightMemory
    phases: tuple[PhaseShape, ...]
    microseconds: float
    reason: str

    @property
    def launches(self) -> bool:
        """Whether every phase of every step is a launch of its own."""
        return self.weights_in is WeightMemory.MEMORY

    @cached_property
    def staged(self) -> int:
        """Bytes of shared memory for rows of a left operand."""
        return _line(max((self.rows * d.row_bytes for p in self.phases for d in p.products), default=0))

    @cached_property
    def sums(self) -> int:
        """Bytes of shared memory for accumulators."""
        return _line(max((self.rows * p.width * p.parts for p in self.phases), default=0) * BYTES[self.dtype])

    @cached_property
    def weights(self) -> int:
        """Bytes of the weights of a block."""
        return sum(d.weight_bytes for p in self.phases for d in p.products)

    @property
    def shared(self) -> int:
        """Bytes of shared memory of a block."""
        return self.staged + self.sums + (self.weights if self.weights_in is WeightMemory.SHARED else 0)

    def line(self) -> str:
        """For a reader of `explain()`."""
        held = self.weights_in in (WeightMemory.REGISTERS, WeightMemory.SHARED)
        where = f"held in {self.weights_in.value}" if held else "read through the second-level cache in every step"
        slices = f"{self.slices} slice{'s' * (self.slices > 1)} x {self.threads} threads"
        return (
            f"recurrence {self.region.name}: {self.reason}; {slices}, tiles of up to {self.rows} rows; "
            f"{self.weights / 1024:,.1f} KiB of weights a block, {where}; {self.shared:,} bytes of shared memory; "
            f"estimated {self.microseconds:.2f} us a step"
        )


@dataclass(frozen=True)
class Restriction:
    """Ways to be taken whatever the model says, to compare or to test them; None: any. wave: see `wave_pays`."""

    slices: int | None = None
    weights_in: WeightMemory | None = None
    wave: bool | None = None

    def allows(self, layout: RecurrenceLayout) -> bool:
        """Whether a layout may be chosen."""
        return self.weights_in in (None, layout.weights_in) and self.slices in (None, layout.slices)


def choose_layouts(
    region: Region,
    dtype: str,
    chip: Chip,
    operands: str | None,
    together: int = 1,
    restriction: Restriction | None = None,
) -> RecurrenceLayout:
    """The fastest layout of a region, by the model.

    operands: of tensor cores, or None. together: recurrences that run side by side and share the chip.
    """
    layouts = _candidates(region, dtype, chip, operands, together)
    found = [layout for layout in layouts if restriction is None or restriction.allows(layout)]
    if not found:
        raise BackendError(
            f"region {region.name}: a block's rows and accumulators do not fit into the {chip.shared_per_block:,} "
            f"bytes of shared memory of {chip.name}; fewer units, or float32, would"
        )
    return min(found, key=lambda layout: (layout.microseconds, layout.slices))


def wave_pays(alone: Sequence[Sequence[RecurrenceLayout]], shared: Sequence[Sequence[RecurrenceLayout]]) -> bool:
    """Whether layers that read one another are faster as a wavefront, each a chunk of steps behind the one below.

    alone: the layouts of each layer with the chip to itself, one layer after the other. shared: with all of them on it.
    """
    one_by_one = sum(max(layout.microseconds for layout in layer) for layer in alone)
    slowest = max(layout.microseconds for layer in shared for layout in layer)
    return slowest * (1 + (len(shared) - 1) / WAVE_CHUNKS) < WAVE_GAIN * one_by_one


def _candidates(
    region: Region, dtype: str, chip: Chip, operands: str | None, together: int
) -> Iterator[RecurrenceLayout]:
    widest = max((phase.width for phase in region.steps), default=1)
    rows = chip.tile_rows if operands is None else TENSOR_ROWS
    for slices in _slice_counts(widest, max(1, chip.sms // together)):
        phases = tuple(_phase_shape(p, dtype, operands, slices, chip.block_threads, rows) for p in region.steps)
        for weights_in in WeightMemory:
            found = RecurrenceLayout(
                region, dtype, slices, chip.block_threads, rows, weights_in, phases, 0.0, _reason(slices, weights_in)
            )
            if _fits(found, chip):
                yield replace(found, microseconds=_estimate(found, chip, together))


def _slice_counts(width: int, most: int) -> list[int]:
    """Numbers of slices worth a look: those that leave no block much less to do than the others."""
    units = {-(-width // n) for n in range(1, min(width, most) + 1)}
    return sorted({-(-width // u) for u in units})


def _fits(layout: RecurrenceLayout, chip: Chip) -> bool:
    every = [product for phase in layout.phases for product in phase.products]
    registers = OTHER_REGISTERS + max((product.working for product in every), default=0)
    if layout.weights_in is WeightMemory.REGISTERS:
        registers += sum(product.registers for product in every)
    return chip.resident_blocks(layout.threads, registers, layout.shared) > 0


def _reason(slices: int, weights_in: WeightMemory) -> str:
    if weights_in is WeightMemory.MEMORY:
        return "a launch a phase, which is faster here than a barrier of all blocks"
    if slices == 1:
        return "one launch for all steps, a block for each tile of rows"
    return "one cooperative launch for all steps, a barrier of the slices after a phase"


def _phase_shape(phase: Phase, dtype: str, operands: str | None, slices: int, threads: int, rows: int) -> PhaseShape:
    units = -(-phase.width // slices)
    if operands is None:
        return PhaseShape(
            phase, units, tuple(WarpProduct.of(product, dtype, units, threads, rows) for product in products(phase))
        )
    tensor = [TensorProduct.of(product, operands, units, threads, rows) for product in products(phase)]
    splits = min((product.splits for product in tensor), default=1)  # all of a phase add to the same parts
    return PhaseShape(phase, units, tuple(product.split(splits) for product in tensor))


def _estimate(layout: RecurrenceLayout, chip: Chip, together: int) -> float:
    """Microseconds of a step."""
    rows = -(-NOMINAL_BATCH // max(1, chip.sms // (layout.slices * together)))  # of a group
    total = 0.0
    for phase in layout.phases:
        cycles = sum(product.cycles(rows, chip, layout.weights_in) for product in phase.products)
        total += cycles / (chip.clock_ghz * 1e3) + STEP_LATENCY_US
        total += _fetch(layout, phase, chip, rows)
    return total + _waiting(layout, chip)


def _fetch(layout: RecurrenceLayout, phase: PhaseShape, chip: Chip, rows: int) -> float:
    """Microseconds of reading rows, and weights that are not on the chip: what all blocks read, or what one does."""
    size = sum(d.product.inner for d in phase.products) * rows * BYTES[layout.dtype]  # of a block
    rate = chip.l2_gbs
    if layout.weights_in in (WeightMemory.CACHE, WeightMemory.MEMORY):
        weights = sum(d.weight_bytes for d in phase.products)
        size += weights * -(-rows // layout.rows)
        rate = chip.l2_gbs if weights * layout.slices < chip.l2_bytes else chip.dram_gbs
    groups = -(-NOMINAL_BATCH // rows)
    return max(size * layout.slices * groups / rate, size / (BLOCK_BYTES_PER_CLOCK * chip.clock_ghz)) / 1e3


def _waiting(layout: RecurrenceLayout, chip: Chip) -> float:
    """Microseconds of a step's barriers, or launches."""
    if layout.launches:
        return chip.launch_us * len(layout.phases)
    return len(barriers(layout.region)) * (chip.barrier_us if layout.slices > 1 else BLOCK_BARRIER_US)


def _line(size: int) -> int:
    """Whole vectors of 16 bytes."""
    return -(-size // 16) * 16
