"""Packing: bind-time values -> one aligned arena, in the order in which the kernels read it.

A feed's weights are [panel][group][k][block][unit] (`packing.panels`). Vectors are [panel][vector][unit].
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np

from rnnc.backends.fresh import enough_memory, spoiled
from rnnc.backends.llvm.packing.panels import Panels
from rnnc.backends.llvm.packing.sharing import layout_key
from rnnc.backends.llvm.packing.tile import Tile, blocks_of
from rnnc.backends.planning.plan import Feed, Phase, Weight
from rnnc.backends.products import ProductFormat
from rnnc.ir.families import Family
from rnnc.ir.ops import Array

ALIGNMENT = 64


@dataclass(frozen=True)
class PackedPhase:
    """Where a phase's operands start in the arena, in elements. weights: one start per feed."""

    phase: Phase
    tile: Tile
    vectors: int
    weights: tuple[int, ...]


@dataclass(frozen=True)
class PackedBlock:
    """A part of the arena: the weights of a feed, or the vectors of a phase if `feed` is None. start: in elements."""

    packed: PackedPhase
    feed: Feed | None
    start: int

    @property
    def narrow(self) -> bool:
        """True for weights that are rounded when they are packed."""
        return self.feed is not None and self.packed.phase.product.weights is not None


class Layout:
    """Assigns offsets in the arena, phase by phase. Operands that several phases read in one layout are stored once.

    biased: integer activations are biased, so each unit has a start of its sums (`packing.narrow`).
    """

    def __init__(self, dtype: str, *, biased: bool = False) -> None:
        self.dtype = np.dtype(dtype)
        self.biased = biased
        self.size = 0
        self.blocks: list[PackedBlock] = []
        self._starts: dict[Hashable, int] = {}

    def add(self, phase: Phase, tile: Tile) -> PackedPhase:
        """Assigns the offsets of one phase."""
        units = tile.panels(phase.width) * tile.units
        shape = (tile.units, phase.width)
        keys: list[Hashable] = [(*shape, tuple(phase.vectors))]
        keys += [(*shape, layout_key(feed, tile, phase)) for feed in phase.feeds]
        depths = [self.depth(feed, phase.product) for feed in phase.feeds]
        feeds = zip(phase.feeds, depths, strict=True)
        sizes = [len(phase.vectors) * units, *(depth * len(feed.blocks) * units for feed, depth in feeds)]
        new = []
        for key, size in zip(keys, sizes, strict=True):
            new.append(key not in self._starts)
            if key not in self._starts:
                self._starts[key] = self._take(size)
        vectors, *weights = (self._starts[key] for key in keys)
        packed = PackedPhase(phase, tile, vectors, tuple(weights))
        places = zip((None, *phase.feeds), (vectors, *weights), new, strict=True)
        self.blocks += [PackedBlock(packed, feed, start) for feed, start, is_new in places if is_new]
        return packed

    def depth(self, feed: Feed, product: ProductFormat) -> int:
        """The number of elements per unit and block: weights, and what `packing.narrow` puts behind all of them."""
        tables = product.scaled + (self.biased and product.activations is not None)
        return product.words(feed.inner) + tables

    def _take(self, count: int) -> int:
        start = self.size
        step = ALIGNMENT // self.dtype.itemsize
        self.size += -(-count // step) * step
        return start

    def pack(self, values: Mapping[Family, Array]) -> Array:
        """The arena, 64-byte aligned, filled from bind-time values by NumPy. No weights are narrow."""
        arena = aligned(self.size, self.dtype)
        for block in self.blocks:
            if block.feed is None:
                _pack_vectors(arena, block.packed, values)
            else:
                matrices = [matrix_of(weight, values) for _, weight in block.feed.blocks]
                panels_of(block.packed, block.feed).pack(arena, block.start, matrices)
        return arena


def aligned(count: int, dtype: np.dtype[np.generic]) -> Array:
    """An uninitialised array (count,) that starts at a cache line."""
    with enough_memory("packed weights"):
        raw = np.empty(count * dtype.itemsize + ALIGNMENT, np.uint8)
    spoiled(raw)
    skip = -raw.ctypes.data % ALIGNMENT
    return raw[skip : skip + count * dtype.itemsize].view(dtype)


def _pack_vectors(arena: Array, packed: PackedPhase, values: Mapping[Family, Array]) -> None:
    phase, tile = packed.phase, packed.tile
    panels = Panels(tile.units, tile.panels(phase.width), ())
    count = len(phase.vectors)
    stop = packed.vectors + panels.number * count * tile.units
    target = arena[packed.vectors : stop].reshape(panels.number, count, tile.units)
    for number, family in enumerate(phase.vectors):
        row = np.broadcast_to(values[family], (1, phase.width))
        target[:, number, :] = panels.split(row)[:, 0, :]


def panels_of(packed: PackedPhase, feed: Feed) -> Panels:
    """How a feed of a phase is packed."""
    tile, phase = packed.tile, packed.phase
    groups = tuple(tuple(blocks_of(feed, group)) for group in tile.groups(len(phase.accumulators)))
    return Panels(tile.units, tile.panels(phase.width), groups)


def matrix_of(weight: Weight, values: Mapping[Family, Array]) -> Array:
    """The (K, N) right operand."""
    matrix = values[weight.family]
    return (matrix.T if weight.transposed else matrix)[:, weight.start : weight.stop]

