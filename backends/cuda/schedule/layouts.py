"""Layouts of the recurrences of a plan on a chip.

The blocks of a recurrence form groups. A group takes tiles of batch rows through all steps. Within a group, each block
(a *slice*) computes the same share of the units of every phase, and keeps the weights of that share on the chip.

    one slice               blocks are independent: the barrier is __syncthreads
    several slices          a barrier of the group's blocks after a phase: a cooperative launch, all blocks resident
    one launch per phase    no barrier, and blocks need not be resident together

Weights that do not fit on the chip are read again in every step, through the second-level cache.

A model of the chip (`rnnc.backends.cuda.schedule.chip`) estimates the time per step of each layout. The fastest one is
chosen.
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
"""The batch size that the estimates assume, because it is unknown when code is generated."""
BLOCK_BYTES_PER_CLOCK = 64
"""The most bytes per clock that one multiprocessor reads from the second-level cache."""
BLOCK_BARRIER_US = 0.05
"""The time of __syncthreads. An estimate."""
STEP_LATENCY_US = 0.35
"""The latency of a phase that nothing hides: from its first load, through staging, the sums over lanes and the
equations, to its last store. An estimate."""
TENSOR_ROWS = 16
"""Rows per tile for tensor cores, whose instructions take 8."""
WAVE_CHUNKS = 8
"""Chunks of steps in a wavefront. With more chunks, the next layer starts sooner, but there are more launches."""
WAVE_GAIN = 0.9
"""A wavefront is chosen if the model's time is below this fraction. It has more launches, and smaller Gemms."""
OTHER_REGISTERS = 48
"""Registers per thread for addresses, loop counters and the equations."""


@dataclass(frozen=True)
class PhaseShape:
    """One phase on one block. units: the units of one slice."""

    phase: Phase
    units: int
    products: tuple[WarpProduct | TensorProduct, ...]

    @property
    def width(self) -> int:
        """The number of elements in a row of accumulators."""
        return len(self.phase.accumulators) * self.units

    @property
    def parts(self) -> int:
        """The number of partial sums of each accumulator."""
        return max((product.parts for product in self.products), default=1)


@dataclass(frozen=True)
class RecurrenceLayout:
    """The layout of a region on a chip.

    slices: blocks per group. threads: per block. rows: the most rows per tile. microseconds: the estimate per step.
    """

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
        """True if every phase of every step is a launch of its own."""
        return self.weights_in is WeightMemory.MEMORY

    @cached_property
    def staged(self) -> int:
        """The bytes of shared memory for rows of a left operand."""
        return _line(max((self.rows * d.row_bytes for p in self.phases for d in p.products), default=0))

    @cached_property
    def sums(self) -> int:
        """The bytes of shared memory for accumulators."""
        return _line(max((self.rows * p.width * p.parts for p in self.phases), default=0) * BYTES[self.dtype])

    @cached_property
    def weights(self) -> int:
        """The bytes of weights per block."""
        return sum(d.weight_bytes for p in self.phases for d in p.products)

    @property
    def shared(self) -> int:
        """The bytes of shared memory per block."""
        return self.staged + self.sums + (self.weights if self.weights_in is WeightMemory.SHARED else 0)

    def line(self) -> str:
        """A line for `explain()`."""
        held = self.weights_in in (WeightMemory.REGISTERS, WeightMemory.SHARED)
        where = f"held in {self.weights_in.value}" if held else "read through the second-level cache in every step"
        slices = f"{self.slices} slice{'s' * (self.slices > 1)} x {self.threads} threads"
        return (
            f"recurrence {self.region.name}: {self.reason}; {slices}, tiles of up to {self.rows} rows; "
            f"{self.weights / 1024:,.1f} KiB of weights per block, {where}; {self.shared:,} bytes of shared memory; "
            f"estimated {self.microseconds:.2f} us per step"
        )


@dataclass(frozen=True)
class Restriction:
    """A restriction of the layouts among which the model chooses, for tests and comparisons. None = no restriction.

    wave: whether layers run as a wavefront, instead of the answer of `wave_pays`.
    """

    slices: int | None = None
    weights_in: WeightMemory | None = None
    wave: bool | None = None

    def allows(self, layout: RecurrenceLayout) -> bool:
        """True if a layout may be chosen."""
        return self.weights_in in (None, layout.weights_in) and self.slices in (None, layout.slices)


def choose_layouts(
    region: Region,
    dtype: str,
    chip: Chip,
    operands: str | None,
    together: int = 1,
    restriction: Restriction | None = None,
) -> RecurrenceLayout:
    """The fastest layout of a region, by the model. Raises BackendError if none fits the chip.

    operands: the format of operands for tensor cores, or None. together: the number of recurrences that share the chip.
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
    """True if layers that read one another are faster as a wavefront, each a chunk of steps behind the one below.

    alone: the layouts of each layer if layers run one after the other, with the chip to themselves. shared: the layouts
    if all layers share the chip.
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
    """The numbers of slices to try: the smallest number for each number of units per slice, at most `most`."""
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
        return "one launch per phase, which is faster here than a barrier of all blocks"
    if slices == 1:
        return "one launch for all steps, one block per tile of rows"
    return "one cooperative launch for all steps, a barrier of the slices after a phase"


def _phase_shape(phase: Phase, dtype: str, operands: str | None, slices: int, threads: int, rows: int) -> PhaseShape:
    units = -(-phase.width // slices)
    if operands is None:
        return PhaseShape(
            phase, units, tuple(WarpProduct.of(product, dtype, units, threads, rows) for product in products(phase))
        )
    tensor = [TensorProduct.of(product, operands, units, threads, rows) for product in products(phase)]
    splits = min((product.splits for product in tensor), default=1)  # all products of a phase add to the same parts
    return PhaseShape(phase, units, tuple(product.split(splits) for product in tensor))


def _estimate(layout: RecurrenceLayout, chip: Chip, together: int) -> float:
    """The estimated time of a step, in microseconds."""
    rows = -(-NOMINAL_BATCH // max(1, chip.sms // (layout.slices * together)))  # per group
    total = 0.0
    for phase in layout.phases:
        cycles = sum(product.cycles(rows, chip, layout.weights_in) for product in phase.products)
        total += cycles / (chip.clock_ghz * 1e3) + STEP_LATENCY_US
        total += _fetch(layout, phase, chip, rows)
    return total + _waiting(layout, chip)


def _fetch(layout: RecurrenceLayout, phase: PhaseShape, chip: Chip, rows: int) -> float:
    """The time to read rows, and weights that are not on the chip, in microseconds.

    It is limited by the bandwidth of the chip for all blocks, or of one multiprocessor for one block.
    """
    size = sum(d.product.inner for d in phase.products) * rows * BYTES[layout.dtype]  # per block
    rate = chip.l2_gbs
    if layout.weights_in in (WeightMemory.CACHE, WeightMemory.MEMORY):
        weights = sum(d.weight_bytes for d in phase.products)
        size += weights * -(-rows // layout.rows)
        rate = chip.l2_gbs if weights * layout.slices < chip.l2_bytes else chip.dram_gbs
    groups = -(-NOMINAL_BATCH // rows)
    return max(size * layout.slices * groups / rate, size / (BLOCK_BYTES_PER_CLOCK * chip.clock_ghz)) / 1e3


def _waiting(layout: RecurrenceLayout, chip: Chip) -> float:
    """The time of a step's barriers, or launches, in microseconds."""
    if layout.launches:
        return chip.launch_us * len(layout.phases)
    return len(barriers(layout.region)) * (chip.barrier_us if layout.slices > 1 else BLOCK_BARRIER_US)


def _line(size: int) -> int:
    """The size rounded up to whole vectors of 16 bytes."""
    return -(-size // 16) * 16
