"""Packing: bind-time values -> one aligned arena in the order the kernels read it.

A feed's weights are [panel][group][k][block][unit]: the gates that one pass over k computes lie together, so it streams
them with unit stride. Vectors are [panel][vector][unit]. Units past the width are zeros.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from rnnc.backends.fresh import enough_memory, spoiled
from rnnc.backends.llvm.tile import Tile, blocks_of
from rnnc.backends.planning.plan import Feed, Phase, Weight
from rnnc.ir.families import Family
from rnnc.ir.ops import Array

ALIGNMENT = 64


@dataclass(frozen=True)
class PackedPhase:
    """Where a phase's operands start in the arena, in elements."""

    phase: Phase
    tile: Tile
    vectors: int
    weights: tuple[int, ...]


class Layout:
    """Assigns arena offsets, phase by phase."""

    def __init__(self, dtype: str) -> None:
        self.dtype = np.dtype(dtype)
        self.size = 0
        self.phases: list[PackedPhase] = []

    def add(self, phase: Phase, tile: Tile) -> PackedPhase:
        """Reserves room for one phase."""
        units = tile.panels(phase.width) * tile.units
        vectors = self._take(len(phase.vectors) * units)
        weights = tuple(self._take(feed.inner * len(feed.blocks) * units) for feed in phase.feeds)
        packed = PackedPhase(phase, tile, vectors, weights)
        self.phases.append(packed)
        return packed

    def _take(self, count: int) -> int:
        start = self.size
        step = ALIGNMENT // self.dtype.itemsize
        self.size += -(-count // step) * step
        return start

    def pack(self, values: Mapping[Family, Array]) -> Array:
        """The arena: 64-byte aligned, filled from bind-time values."""
        arena = aligned(self.size, self.dtype)
        for packed in self.phases:
            _pack_vectors(arena, packed, values)
            for feed, start in zip(packed.phase.feeds, packed.weights, strict=True):
                _pack_feed(arena, packed, feed, start, values)
        return arena


def aligned(count: int, dtype: np.dtype[np.generic]) -> Array:
    """Elements, not cleared, that start at a cache line."""
    with enough_memory("packed weights"):
        raw = np.empty(count * dtype.itemsize + ALIGNMENT, np.uint8)
    spoiled(raw)
    skip = -raw.ctypes.data % ALIGNMENT
    return raw[skip : skip + count * dtype.itemsize].view(dtype)


def _pack_vectors(arena: Array, packed: PackedPhase, values: Mapping[Family, Array]) -> None:
    phase, tile = packed.phase, packed.tile
    panels = tile.panels(phase.width)
    count = len(phase.vectors)
    target = arena[packed.vectors : packed.vectors + panels * count * tile.units].reshape(panels, count, tile.units)
    for number, family in enumerate(phase.vectors):
        row = np.broadcast_to(values[family], (1, phase.width))
        target[:, number, :] = _panels(row, tile, panels)[:, 0, :]


def _pack_feed(arena: Array, packed: PackedPhase, feed: Feed, start: int, values: Mapping[Family, Array]) -> None:
    tile = packed.tile
    panels = tile.panels(packed.phase.width)
    blocks = len(feed.blocks)
    stop = start + panels * feed.inner * blocks * tile.units
    target = arena[start:stop].reshape(panels, feed.inner * blocks * tile.units)
    for group in tile.groups(len(packed.phase.accumulators)):
        members = [_panels(_matrix(feed.blocks[b][1], values), tile, panels) for b in blocks_of(feed, group)]
        size = feed.inner * len(members) * tile.units
        if members:
            target[:, :size] = np.stack(members, axis=2).reshape(panels, size)
        target = target[:, size:]


def _matrix(weight: Weight, values: Mapping[Family, Array]) -> Array:
    """The (K, N) right operand."""
    matrix = values[weight.family]
    return (matrix.T if weight.transposed else matrix)[:, weight.start : weight.stop]


def _panels(matrix: Array, tile: Tile, panels: int) -> Array:
    """(K, N) -> (panel, K, unit), padded with zeros."""
    inner, width = matrix.shape
    padded = np.zeros((inner, panels * tile.units), matrix.dtype)
    padded[:, :width] = matrix
    return padded.reshape(inner, panels, tile.units).transpose(1, 0, 2)
