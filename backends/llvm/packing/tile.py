"""The shape of a register tile: the units, rows and accumulators of a phase that are computed at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product
from math import inf

from rnnc.backends.llvm.asm.target import Target
from rnnc.backends.planning.plan import Feed, Phase

FMA_PER_CYCLE = 2
LOADS_PER_CYCLE = 2
FMA_LATENCY = 4
L2_BYTES_PER_CYCLE = 16
"""The bandwidth of the second-level cache beside the multiply-adds."""
L1_BYTES = 24 * 1024
"""The largest size of a pass's weights that stay in the first-level cache from one block of rows to the next."""
INTERFERENCE = 0.15
"""Cycles per load in a loop that is bound by its multiply-adds (measured)."""
MOST_ROWS = 8
MOST_VECTORS = 4


@dataclass(frozen=True)
class Tile:
    """A tile of vectors x lanes units and up to `rows` rows. A panel is the units of one tile, over all rows.

    group: the number of accumulators that one pass over k computes if the tile has all its rows. All accumulators of a
    tile share its epilogue, but several passes may compute them: two gates of six rows need fewer loads than four gates
    of three rows.
    """

    lanes: int
    vectors: int
    rows: int
    group: int

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
        """The groups of each pass for a number of rows. Fewer rows leave registers for more groups per pass."""
        groups = self.groups(accumulators)
        each = max(1, self.rows // rows)
        return [groups[n : n + each] for n in range(0, len(groups), each)]


def blocks_of(feed: Feed, group: range) -> list[int]:
    """The positions of a feed's blocks that belong to a group of accumulators."""
    return [position for position, (accumulator, _) in enumerate(feed.blocks) if accumulator in group]


@dataclass(frozen=True)
class TileWork:
    """The properties of a phase that decide its tile. loops: the size of k and the accumulators, per feed."""

    width: int
    accumulators: int
    loops: tuple[tuple[int, tuple[int, ...]], ...]


def choose_tile(phase: Phase, target: Target, dtype: str) -> Tile:
    """The tile with the fewest cycles per useful unit, among those whose accumulators fit the registers.

    A step of k takes as many cycles as its bottleneck: the fused multiply-adds, the loads, the latency of one
    accumulator, or the weights from the second-level cache. Loads add a little where they are not the bottleneck
    (INTERFERENCE).
    """
    if phase.axes:  # a line of a grid is its last axis; vectors are not wider than the line
        line = 2 ** max(1, (phase.axes[-1] - 1).bit_length())
        return Tile(min(target.lanes(dtype), line), 1, 1, 1)
    loops = tuple((feed.inner, tuple(accumulator for accumulator, _ in feed.blocks)) for feed in phase.feeds)
    return _best(TileWork(phase.width, len(phase.accumulators), loops), target, target.lanes(dtype))


@cache
def _best(work: TileWork, target: Target, lanes: int) -> Tile:
    if not work.accumulators:
        return Tile(lanes, 1, 1, 1)
    best, least = Tile(lanes, 1, 1, 1), (inf, 0, 0)
    sizes = product(range(1, MOST_VECTORS + 1), range(1, MOST_ROWS + 1), range(1, work.accumulators + 1))
    for vectors, rows, group in sizes:
        tile = Tile(lanes, vectors, rows, group)
        passes = list(_streams(work, tile))
        # A pass's accumulators, the operands its loop holds (a broadcast per row or a weight per vector), and one more.
        registers = group * vectors * rows + max(min(rows, weights) for loops in passes for _, weights in loops) + 1
        if registers <= target.registers or rows == vectors == group == 1:
            cost = round(_cost(work, tile, passes, target.vector_bytes), 3)
            if (order := (cost, rows * vectors * group, vectors)) < least:
                best, least = tile, order
    return best


def _streams(work: TileWork, tile: Tile) -> Iterator[list[tuple[int, int]]]:
    """For each pass of a full tile, its loops over k: (the size of k, the number of weight vectors per step of k)."""
    for group in tile.groups(work.accumulators):
        blocks = [(inner, sum(a in group for a in accumulators)) for inner, accumulators in work.loops]
        yield [(inner, count * tile.vectors) for inner, count in blocks if count]


def _cost(work: TileWork, tile: Tile, passes: list[list[tuple[int, int]]], vector_bytes: int) -> float:
    cycles = 0.0
    for loops in passes:
        spills = sum(inner * weights for inner, weights in loops) * vector_bytes > L1_BYTES
        for inner, weights in loops:
            fmas = weights * tile.rows / FMA_PER_CYCLE
            loads = (weights + tile.rows) / LOADS_PER_CYCLE
            second_level = weights * vector_bytes / L2_BYTES_PER_CYCLE if spills else 0.0
            cycles += inner * (max(fmas, loads, FMA_LATENCY, second_level) + INTERFERENCE * loads)
    return cycles * tile.panels(work.width) / (work.width * tile.rows)
