"""The shape of a register tile: how many units and rows of a phase are computed at once."""

from __future__ import annotations

from dataclasses import dataclass

from rnnc.backends.llvm.plan import Phase
from rnnc.backends.llvm.target import Target

FMA_PER_CYCLE = 2
LOADS_PER_CYCLE = 2
FMA_LATENCY = 4
INTERFERENCE = 0.15
"""Measured: cycles a load costs a loop that is bound by its multiply-adds."""
MOST_ROWS = 8
MOST_VECTORS = 4


@dataclass(frozen=True)
class Tile:
    """vectors x lanes units of up to `rows` rows; a panel is the units of one tile, over all rows."""

    lanes: int
    vectors: int
    rows: int

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


def choose_tile(phase: Phase, target: Target, dtype: str) -> Tile:
    """The tile with the fewest cycles a useful unit, of those whose accumulators fit the registers.

    Each step of k costs the larger of its fused multiply-adds, its loads, and the latency of one accumulator; what is
    not the bottleneck still gets in its way a little.
    """
    lanes = target.lanes(dtype)
    if not phase.accumulators:
        return Tile(lanes, 1, 1)
    candidates = []
    for vectors in range(1, MOST_VECTORS + 1):
        for rows in range(1, MOST_ROWS + 1):
            tile = Tile(lanes, vectors, rows)
            if rows == vectors == 1 or _registers(phase, tile) <= target.registers:
                candidates.append(tile)
    return min(candidates, key=lambda t: (round(_cost(phase, t), 3), t.rows * t.vectors, t.vectors))


def _registers(phase: Phase, tile: Tile) -> int:
    """All accumulators, plus what the widest loop over k holds: a broadcast a row or a weight a vector, and one."""
    streams = [min(tile.rows, len(feed.blocks) * tile.vectors) for feed in phase.feeds]
    return len(phase.accumulators) * tile.vectors * tile.rows + max(streams) + 1


def _cost(phase: Phase, tile: Tile) -> float:
    cycles = 0.0
    for feed in phase.feeds:
        weights = len(feed.blocks) * tile.vectors
        fmas = weights * tile.rows / FMA_PER_CYCLE
        loads = (weights + tile.rows) / LOADS_PER_CYCLE
        cycles += feed.inner * (max(fmas, loads, FMA_LATENCY) + INTERFERENCE * loads)
    return cycles * tile.panels(phase.width) / (phase.width * tile.rows)
