"""The shape of a register tile: the units, rows and accumulators of a phase that are computed at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from math import inf

from rnnc.backends.llvm.asm.target import Target
from rnnc.backends.planning.plan import Feed, Phase, Weight
from rnnc.backends.products import PLAIN, ProductFormat

FMA_PER_CYCLE = 2
LOADS_PER_CYCLE = 2
FMA_LATENCY = 4
L2_BYTES_PER_CYCLE = 16
"""The bandwidth of the second-level cache beside the multiply-adds."""
STREAM = 0.25
"""The share by which each further group slows down a single row's reading of weights, as it reads all groups at once.
(Measured on Zen 5: 128 units of four accumulators take 3.3 us per call in one group, 4.6 us in two.)"""
L1_BYTES = 24 * 1024
"""The largest size of a pass's weights that stay in the first-level cache from one block of rows to the next."""
INTERFERENCE = 0.15
"""Cycles per load in a loop that is bound by its multiply-adds (measured)."""
EQUATIONS_WAIT = 50
"""Cycles for which the equations of a panel wait for their own results, once for all vectors, which take turns. (Three
sigmoids and two tanhs take 101 cycles per vector alone, 75 in twos, and 62 in fours, measured on Zen 3.)"""
QUICK_BYTES = 64 * 1024
"""The largest size of a quick phase's weights. A larger phase overlaps the waiting of one row with the next (measured:
there is nothing to gain from a batch at 256 x 256 weights per accumulator, and 2 % at 128 x 128)."""
STREAM_BYTES = 256 * 1024
"""The largest size of the weights of a phase whose single rows matter, as those of a stream do. They read all weights
from the second-level cache; a larger phase reads them from farther away."""
KEPT_BYTES = 32 * 1024
"""The size of the panels that are still in the first-level cache when the next step, which goes the other way, reads
them."""
FAR_BYTES = 1024 * 1024
"""The size of weights beyond which they come from the third-level cache."""
INTEGER_TEMPORARIES = 4
"""Registers of a product of bytes: the second plane of a row's codes, its pairs, a vector of ones, and one more."""
MOST_ROWS = 8
MOST_VECTORS = 4


@dataclass(frozen=True)
class Tile:
    """A tile of vectors x lanes units and up to `rows` rows. A panel is the units of one tile, over all rows.

    group: the number of accumulators that one pass over k computes if the tile has all its rows. All accumulators of a
    tile share its epilogue, but several passes may compute them: two gates of six rows need fewer loads than four gates
    of three rows.
    quick: True if the phase is so small that what surrounds its loops over k matters. A single row then has code of its
    own. far: True if the weights come from the third-level cache.
    small: its code is to be small, so its loops over k are not unrolled.
    """

    lanes: int
    vectors: int
    rows: int
    group: int
    quick: bool = False
    far: bool = False
    small: bool = False

    @property
    def units(self) -> int:
        """The number of units per panel."""
        return self.lanes * self.vectors

    def panels(self, width: int) -> int:
        """The number of panels that cover `width` units. The last one may be partly empty."""
        return -(-width // self.units)

    def tail(self, width: int) -> int:
        """The number of units in the last panel if it is not full, else 0."""
        return width % self.units

    def groups(self, accumulators: int) -> list[range]:
        """The accumulators of each group."""
        return [range(a, min(a + self.group, accumulators)) for a in range(0, accumulators, self.group)]

    def passes(self, accumulators: int, rows: int) -> list[list[range]]:
        """The groups of each pass for a number of rows, about as many in each pass.

        Fewer rows leave registers for more groups per pass.
        """
        groups = self.groups(accumulators)
        passes = -(-len(groups) // max(1, self.rows // rows))
        each = -(-len(groups) // passes)
        return [groups[n : n + each] for n in range(0, len(groups), each)]


def blocks_of(feed: Feed, group: range) -> list[int]:
    """The positions of a feed's blocks that belong to a group of accumulators."""
    return [position for position, (accumulator, _) in enumerate(feed.blocks) if accumulator in group]


@dataclass(frozen=True)
class TileWork:
    """The properties of a phase that decide its tile.

    loops: for each set of weights, the size of k, and for each of its weights, the accumulators that it adds to.
    equations: True if equations follow the matmuls. product: the types of its products.
    """

    width: int
    accumulators: int
    loops: tuple[tuple[int, tuple[tuple[int, ...], ...]], ...]
    equations: bool = False
    product: ProductFormat = PLAIN

    @property
    def words(self) -> int:
        """The number of words of weights per unit."""
        return sum(self.product.words(inner) * len(each) for inner, each in self.loops)

    def weight_bytes(self, word_bytes: int) -> int:
        """The size of the weights."""
        return self.words * self.width * word_bytes

    def read_again(self, tile: Tile, vector_bytes: int) -> float:
        """The cycles per unit in which a single row reads weights from the second-level cache, step after step.

        Steps go through the panels in turns forward and backward, so the last panels of one are in the first-level
        cache when the next one reads them.
        """
        panel, panels = self.words * tile.vectors * vector_bytes, tile.panels(self.width)
        kept = panels if panel * panels <= KEPT_BYTES else KEPT_BYTES // panel
        streams = len(tile.groups(self.accumulators))
        return (panels - kept) * panel / self.width / L2_BYTES_PER_CYCLE * (1 + STREAM * (streams - 1))


def choose_tile(phase: Phase, target: Target, dtype: str) -> Tile:
    """The tile with the fewest cycles per useful unit, among those whose accumulators fit the registers.

    A step of k takes as many cycles as its bottleneck: the fused multiply-adds, the loads, the latency of one
    accumulator, or the weights from the second-level cache. Loads add a little where they are not the bottleneck
    (INTERFERENCE). A phase of few weights is often run for a single row: its reading of weights that are not in the
    first-level cache is added, and what the equations of a quick one wait.
    """
    if phase.axes:  # a line of a grid is its last axis; vectors are not wider than the line
        line = 2 ** max(1, (phase.axes[-1] - 1).bit_length())
        return Tile(min(target.lanes(dtype), line), 1, 1, 1)
    if target.small:
        return Tile(target.lanes(dtype), 1, 1, 1, small=True)
    work = TileWork(phase.width, len(phase.accumulators), _loops(phase), bool(phase.values), phase.product)
    return _best(work, target, target.lanes(dtype))


def _loops(phase: Phase) -> tuple[tuple[int, tuple[tuple[int, ...], ...]], ...]:
    """The loops of `TileWork`. Feeds of the same weights are one (`rnnc.backends.llvm.packing.sharing`)."""
    sides: dict[tuple[int, tuple[Weight, ...]], list[tuple[int, ...]]] = {}
    for feed in phase.feeds:
        accumulators, weights = zip(*feed.blocks, strict=True)
        sides.setdefault((feed.inner, weights), []).append(accumulators)
    return tuple((inner, tuple(zip(*each, strict=True))) for (inner, _), each in sides.items())


@cache
def _best(work: TileWork, target: Target, lanes: int) -> Tile:
    if not work.accumulators:
        return Tile(lanes, 1, 1, 1)
    size = work.weight_bytes(target.vector_bytes // lanes)
    quick, streamed, far = work.equations and size <= QUICK_BYTES, size <= STREAM_BYTES, size > FAR_BYTES
    best, least = Tile(lanes, 1, 1, 1), (inf, 0, 0)
    sizes = product(range(1, MOST_VECTORS + 1), range(1, MOST_ROWS + 1), range(1, work.accumulators + 1))
    for vectors, rows, group in sizes:
        tile = Tile(lanes, vectors, rows, group, quick and rows > 1, far)
        passes = list(_streams(work, tile))
        # A pass's accumulators, the operands its loop holds (a broadcast per row or a weight per vector), and one more.
        held = max(min(rows * sides, weights) for loops in passes for _, weights, sides in loops)
        registers = group * vectors * rows + held + 1 + _more_registers(work.product, passes)
        if registers <= target.registers or rows == vectors == group == 1:
            cost = _cost(work, tile, passes, target.vector_bytes)
            cost += work.read_again(tile, target.vector_bytes) if streamed else 0
            cost += EQUATIONS_WAIT * tile.panels(work.width) / work.width if quick else 0
            if (order := (round(cost, 3), rows * vectors * group, vectors)) < least:
                best, least = tile, order
    return best


def _more_registers(product: ProductFormat, passes: Sequence[Streams]) -> int:
    """The registers in which narrow weights are widened, or products of bytes are added up."""
    if product.activations:
        return INTEGER_TEMPORARIES
    if product.weights is None:
        return 0
    return 1 + max(weights for loops in passes for _, weights, _ in loops)  # a mask, and the words of a step


Streams = list[tuple[int, int, int]]
"""Loops over k: the size of k, the number of weight vectors per step of k, the number of left sides."""


def _streams(work: TileWork, tile: Tile) -> Iterator[Streams]:
    """The loops over k of each pass of a full tile."""
    for group in tile.groups(work.accumulators):
        loops = []
        for inner, weights in work.loops:
            sides = [count for each in weights if (count := sum(a in group for a in each))]
            if sides:
                loops.append((inner, len(sides) * tile.vectors, max(sides)))
        yield loops


def _cost(work: TileWork, tile: Tile, passes: list[Streams], vector_bytes: int) -> float:
    cycles = 0.0
    for loops in passes:
        spills = sum(inner * weights for inner, weights, _ in loops) * vector_bytes > L1_BYTES
        for inner, weights, sides in loops:
            rows = tile.rows * sides
            fmas = weights * rows / FMA_PER_CYCLE
            loads = (weights + rows) / LOADS_PER_CYCLE
            second_level = weights * vector_bytes / L2_BYTES_PER_CYCLE if spills else 0.0
            cycles += inner * (max(fmas, loads, FMA_LATENCY, second_level) + INTERFERENCE * loads)
    return cycles * tile.panels(work.width) / (work.width * tile.rows)
