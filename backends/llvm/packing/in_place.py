"""Weights that can be read in place, where the caller's array holds one row per unit.

A product x W' reads such a row from end to end for each unit. Panels read one weight after the other, too, but must be
packed first, which takes as long as several products of a single row.
"""

from __future__ import annotations

from dataclasses import dataclass

from rnnc.backends.llvm.packing.rectangles import columns_of, extent
from rnnc.backends.planning.plan import Phase, Weight
from rnnc.ir.families import Family


@dataclass(frozen=True)
class UnitRows:
    """The rows of a weight in an input: the first element, and the elements from one unit's row to the next."""

    source: Family
    offset: int
    stride: int


def unit_rows(phase: Phase) -> list[list[UnitRows]] | None:
    """The rows of each block of each feed; None if a weight of the phase cannot be read in place."""
    if phase.axes or phase.sums or not phase.feeds:
        return None
    found = [[_rows(weight) for _, weight in feed.blocks] for feed in phase.feeds]
    complete = [[rows for rows in feed if rows is not None] for feed in found]
    return complete if complete == found else None


def _rows(weight: Weight) -> UnitRows | None:
    pieces = columns_of(weight)
    if not weight.transposed or len(pieces) != 1 or pieces[0].computed:
        return None
    piece, stride = pieces[0], extent(pieces[0].source)[1]
    return UnitRows(piece.source, piece.row * stride + piece.column, stride)
