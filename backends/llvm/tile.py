"""The shape of a register tile: how many units, rows and accumulators of a phase are computed at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from rnnc.backends.llvm.plan import Feed, Phase
from rnnc.backends.llvm.target import Target

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


def choose_tile(phase: Phase, target: Target, dtype: str) -> Tile:
    """The tile with the fewest cycles a useful unit, of those whose accumulators fit the registers.

    Each step of k costs the largest of its fused multiply-adds, its loads, the latency of one accumulator, and the
    weights that come from the second-level cache; what is not the bottleneck still gets in its way a little.
    """
    lanes = target.lanes(dtype)
    count = len(phase.accumulators)
    if not count:
        return Tile(lanes, 1, 1, 1)
    candidates = []
    for vectors, rows, group in product(range(1, MOST_VECTORS + 1), range(1, MOST_ROWS + 1), range(1, count + 1)):
        tile = Tile(lanes, vectors, rows, group)
        smallest = rows == vectors == group == 1
        if smallest or _registers(phase, tile) <= target.registers:
            candidates.append(tile)
    bytes_ = target.vector_bytes
    return min(candidates, key=lambda t: (round(_cost(phase, t, bytes_), 3), t.rows * t.vectors * t.group, t.vectors))


def _streams(phase: Phase, tile: Tile) -> Iterator[tuple[Feed, int]]:
    """Each loop over k of a full tile: its feed, and the weight vectors it reads a step."""
    for group in tile.groups(len(phase.accumulators)):
        for feed in phase.feeds:
            blocks = len(blocks_of(feed, group))
            if blocks:
                yield feed, blocks * tile.vectors


def _registers(phase: Phase, tile: Tile) -> int:
    """The accumulators of a pass, and what its loop holds: a broadcast a row or a weight a vector, and one more."""
    held = max(min(tile.rows, weights) for _, weights in _streams(phase, tile))
    return tile.group * tile.vectors * tile.rows + held + 1


def _cost(phase: Phase, tile: Tile, vector_bytes: int) -> float:
    cycles = 0.0
    for feed, weights in _streams(phase, tile):
        fmas = weights * tile.rows / FMA_PER_CYCLE
        loads = (weights + tile.rows) / LOADS_PER_CYCLE
        spills = feed.inner * weights * vector_bytes > L1_BYTES
        second_level = weights * vector_bytes / L2_BYTES_PER_CYCLE if spills else 0.0
        cycles += feed.inner * (max(fmas, loads, FMA_LATENCY, second_level) + INTERFERENCE * loads)
    return cycles * tile.panels(phase.width) / (phase.width * tile.rows)
