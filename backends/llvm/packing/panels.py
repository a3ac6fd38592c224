"""Panels: right operands (K, N) in the order in which a feed's kernels read them, [panel][group][k][block][unit].

The gates that one pass over k computes lie together, so the pass reads them with unit stride. Units past the width are
zeros. Stored code packs narrow weights with these functions, so this module knows neither plans nor tiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rnnc.ir.ops import Array


class Panels(NamedTuple):
    """How a feed is packed. units: per panel. number: of panels. groups: the positions of the blocks of each group."""

    units: int
    number: int
    groups: tuple[tuple[int, ...], ...]

    def pack(self, arena: Array, start: int, matrices: Sequence[Array]) -> int:
        """Packs a right operand (K, N) per block, from `start` on. Returns where it ends."""
        inner = len(matrices[0])
        stop = start + self.number * inner * len(matrices) * self.units
        target = arena[start:stop].reshape(self.number, inner * len(matrices) * self.units)
        for group in self.groups:
            members = [self.split(matrices[block]) for block in group]
            size = inner * len(members) * self.units
            if members:
                target[:, :size] = np.stack(members, axis=2).reshape(self.number, size)
            target = target[:, size:]
        return stop

    def split(self, matrix: Array) -> Array:
        """A matrix (K, N) as (panel, K, unit), padded with zeros."""
        inner, width = matrix.shape
        padded = np.zeros((inner, self.number * self.units), matrix.dtype)
        padded[:, :width] = matrix
        return padded.reshape(inner, self.number, self.units).transpose(1, 0, 2)
