"""The shape of a register tile: how many units, rows and accumulators of a phase are computed at once."""

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
"""What the second-level cache sustains beside the multiply-adds."""
L1_BYTES = 24 * 1024
"""Weights of a pass that stay in the first-level cache from one block of rows to the next."""
INTERFERENCE = 0.15
"""Measured: cycles a load costs a loop that is bound by its multiply-adds."""
MOST_ROWS = 8
MOST_VECTORS = 4


@dataclass(frozen=True)
class Tile:
    """vectors x lanes units of up to `rows` rows; a panel is the units of one tile, over all rows.

    group: accumulators that one pass over k computes when the tile has all its rows. All accumulators of a tile share
    its epilogue, but their weights need not stream together: two gates of six rows load less than four of three.
    """

    lanes: int
    vectors: int
    rows: int
    group: int

    @property
    def units(self) -> int:
        """Units of a panel."""
        return self.lanes * self.vectors

    def panels(self, width: int) -> int:
        """Panels that cover `width` units; the last may be partly empty."""
        return -(-width // self.units)

    def tail(self, width: int) -> int:
        """Units in the last panel if it is not full, else 0."""
        return width % self.units

    def groups(self, accumulators: int) -> list[range]:
        """The accumulators of each pass."""
        return [range(a, min(a + self.group, accumulators)) for a in range(0, accumulators, self.group)]

    def passes(self, accumulators: int, rows: int) -> list[list[range]]:
        """Groups that stream together when the tile has fewer rows: as many as fill the same registers."""
        groups = self.groups(accumulators)
        each = max(1, self.rows // rows)
        return [groups[n : n + each] for n in range(0, len(groups), each)]


def blocks_of(feed: Feed, group: range) -> list[int]:
    """Positions of a feed's blocks that go into a group of accumulators."""
    return [position for position, (accumulator, _) in enumerate(feed.blocks) if accumulator in group]


@dataclass(frozen=True)
class TileWork:
    """What the choice of a tile depends on. loops: for each feed, the size of k and the accumulators it goes into."""

    width: int
    accumulators: int
    loops: tuple[tuple[int, tuple[int, ...]], ...]


def choose_tile(phase: Phase, target: Target, dtype: str) -> Tile:
    """The tile with the fewest cycles a useful unit, of those whose accumulators fit the registers.

    Each step of k costs the largest of its fused multiply-adds, its loads, the latency of one accumulator, and the
    weights that come from the second-level cache; what is not the bottleneck still gets in its way a little.
    """
    if phase.axes:  # a line of a grid is the last axis: no wider vectors than it fills
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
        streams = list(_streams(work, tile))
        # The accumulators of a pass, what its loop holds (a broadcast a row or a weight a vector), and one more.
        registers = group * vectors * rows + max(min(rows, weights) for _, weights in streams) + 1
        if registers <= target.registers or rows == vectors == group == 1:
            cost = round(_cost(work, tile, streams, target.vector_bytes), 3)
            if (order := (cost, rows * vectors * group, vectors)) < least:
                best, least = tile, order
    return best


def _streams(work: TileWork, tile: Tile) -> Iterator[tuple[int, int]]:
    """Each loop over k of a full tile: the size of k, and the weight vectors it reads a step."""
    for group in tile.groups(work.accumulators):
        for inner, accumulators in work.loops:
            blocks = sum(accumulator in group for accumulator in accumulators)
            if blocks:
                yield inner, blocks * tile.vectors


def _cost(work: TileWork, tile: Tile, streams: list[tuple[int, int]], vector_bytes: int) -> float:
    cycles = 0.0
    for inner, weights in streams:
        fmas = weights * tile.rows / FMA_PER_CYCLE
        loads = (weights + tile.rows) / LOADS_PER_CYCLE
        spills = inner * weights * vector_bytes > L1_BYTES
        second_level = weights * vector_bytes / L2_BYTES_PER_CYCLE if spills else 0.0
        cycles += inner * (max(fmas, loads, FMA_LATENCY, second_level) + INTERFERENCE * loads)
    return cycles * tile.panels(work.width) / (work.width * tile.rows)
