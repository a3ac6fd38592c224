"""Bind-time values as rectangles of existing arrays.

    concat(slice(w, rows 4:8), slice(v, rows 0:2))   ->   rows 4:8 of w at row 0; rows 0:2 of v at row 4

Slices and concats, however nested, become addresses, so they need no copies.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from rnnc.backends.planning.plan import Weight
from rnnc.ir.deep import Calls, run
from rnnc.ir.families import Family


@dataclass(frozen=True)
class Rectangle:
    """`rows` x `columns` elements at (row, column) of a source, which are those at (at_row, at_column) of the value.

    A vector or a number is one row.
    """

    source: Family
    row: int
    column: int
    rows: int
    columns: int
    at_row: int = 0
    at_column: int = 0

    @property
    def computed(self) -> bool:
        """True if the source is computed, such as a sum of biases. Its array must then exist before packing."""
        return self.source.op != "input"


def extent(family: Family) -> tuple[int, int]:
    """(rows, columns) of a value. All axes but the last count as rows."""
    shape = [int(size) for size in family.shape]
    return prod(shape[:-1]), (shape[-1] if shape else 1)


def resolve(family: Family) -> list[Rectangle]:
    """The rectangles that cover a value, each element once."""
    found: dict[Family, list[Rectangle]] = {}
    run(_resolve(family, found))
    return found[family]


def _resolve(family: Family, found: dict[Family, list[Rectangle]]) -> Calls:
    if family in found:
        return
    if family.op == "slice":
        yield _resolve(family.inputs[0], found)
        found[family] = _slice(family, found[family.inputs[0]])
    elif family.op == "concat":
        for part in family.inputs:
            yield _resolve(part, found)
        found[family] = _concat(family, found)
    else:
        found[family] = [Rectangle(family, 0, 0, *extent(family))]


def _slice(family: Family, whole: list[Rectangle]) -> list[Rectangle]:
    start, stop = family.attr("start"), family.attr("stop")
    rows, columns = extent(family)
    if _along_rows(family):
        return window(whole, start, 0, stop - start, columns)
    return window(whole, 0, start, rows, stop - start)


def window(pieces: list[Rectangle], row: int, column: int, rows: int, columns: int) -> list[Rectangle]:
    """The parts of the pieces inside a rectangle of their value, placed relative to the rectangle's corner."""
    clipped = (_clip(piece, row, column, rows, columns) for piece in pieces)
    return [piece for piece in clipped if piece.rows > 0 and piece.columns > 0]


def columns_of(weight: Weight) -> list[Rectangle]:
    """The pieces of a weight's columns start:stop as a right operand."""
    pieces, (rows, columns) = resolve(weight.family), extent(weight.family)
    size = weight.stop - weight.start
    if weight.transposed:
        return window(pieces, weight.start, 0, size, columns)
    return window(pieces, 0, weight.start, rows, size)


def _along_rows(family: Family) -> bool:
    return family.attr("axis") == 0 and len(family.shape) > 1


def _concat(family: Family, found: dict[Family, list[Rectangle]]) -> list[Rectangle]:
    pieces: list[Rectangle] = []
    row = column = 0
    for part in family.inputs:
        moved = (replace(p, at_row=p.at_row + row, at_column=p.at_column + column) for p in found[part])
        pieces += moved
        rows, columns = extent(part)
        row, column = (row + rows, 0) if _along_rows(family) else (0, column + columns)
    return pieces


def _clip(piece: Rectangle, row: int, column: int, rows: int, columns: int) -> Rectangle:
    top, left = max(piece.at_row, row), max(piece.at_column, column)
    bottom = min(piece.at_row + piece.rows, row + rows)
    right = min(piece.at_column + piece.columns, column + columns)
    return Rectangle(
        piece.source,
        piece.row + top - piece.at_row,
        piece.column + left - piece.at_column,
        bottom - top,
        right - left,
        top - row,
        left - column,
    )
