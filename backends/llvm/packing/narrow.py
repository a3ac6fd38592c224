"""Packing of narrow weights, by NumPy, when they are bound.

Words of successive weights of a unit lie where the float32 weights of a feed would: [panel][group][word][block][unit].
Behind all panels are tables with one number per unit, [panel][group][block][unit]: the scales, if units have them, and
the starts of their sums, if activations are biased: -BIAS times the sum of a unit's codes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rnnc.backends.llvm.asm.target import BIAS
from rnnc.backends.llvm.packing.panels import Panels
from rnnc.backends.products import ProductFormat, Rounded, rounded
from rnnc.backends.reference.evaluation import evaluate
from rnnc.ir.families import Family, operands_first

if TYPE_CHECKING:
    from rnnc.backends.llvm.packing.layout import Layout
    from rnnc.ir.ops import Array


class Columns(NamedTuple):
    """The columns start:stop of a matrix, or of its transpose: the right operand of a matmul."""

    family: Family
    transposed: bool
    start: int
    stop: int

    def of(self, values: Mapping[Family, Array]) -> Array:
        """The operand (K, N)."""
        matrix = values[self.family]
        return (matrix.T if self.transposed else matrix)[:, self.start : self.stop]


class NarrowFeed(NamedTuple):
    """A feed with narrow weights, as packing needs it.

    start: in the arena. blocks: the weights of each. biased: activations are, so each unit has a start of its sums.
    """

    start: int
    panels: Panels
    blocks: tuple[Columns, ...]
    form: ProductFormat
    biased: bool


def narrow_feeds(layout: Layout) -> list[NarrowFeed]:
    """The feeds of a layout whose weights are rounded when they are packed."""
    from rnnc.backends.llvm.packing.layout import panels_of

    found = []
    for block in layout.blocks:
        if block.narrow and block.feed is not None:
            panels, form = panels_of(block.packed, block.feed), block.packed.phase.product
            columns = tuple(Columns(w.family, w.transposed, w.start, w.stop) for _, w in block.feed.blocks)
            found.append(NarrowFeed(block.start, panels, columns, form, layout.biased))
    return found


def narrow_weights(feeds: Sequence[NarrowFeed]) -> list[Family]:
    """The values that are rounded when they are packed: parameters, or computed from parameters."""
    return list(dict.fromkeys(columns.family for feed in feeds for columns in feed.blocks))


def pack_narrow(arena: Array, feeds: Sequence[NarrowFeed], parameters: Mapping[Family, Array]) -> None:
    """Packs all narrow weights. arena: its memory, float32 (size,)."""
    families, values = narrow_weights(feeds), dict(parameters)
    evaluate(operands_first(families, set(values)), values, arena.dtype.name)
    words = arena.view(np.uint32)
    for feed in feeds:
        made, start = [rounded(columns.of(values), feed.form) for columns in feed.blocks], feed.start
        for matrices in _tables(made, feed.form, biased=feed.biased):
            start = feed.panels.pack(words, start, matrices)


def _tables(made: list[Rounded], form: ProductFormat, *, biased: bool) -> list[list[Array]]:
    """The words, and the tables behind them, of each block, as uint32."""
    tables = [[_words(each.codes, form) for each in made]]
    if form.scaled:
        tables.append([_row(each.scales) for each in made])
    if form.activations and biased:
        tables.append([_row(each.codes.sum(axis=0, dtype=np.int32) * np.int32(-BIAS)) for each in made])
    return tables


def _words(codes: Array, form: ProductFormat) -> Array:
    """Codes (K, N) as words (W, N), the first of a word in its lowest bits. The last word is filled up with zeros."""
    inner, width = codes.shape
    padded = np.zeros((form.words(inner) * form.per_word, width), codes.dtype)
    padded[:inner] = codes
    together = padded.reshape(-1, form.per_word, width).swapaxes(1, 2)
    return np.ascontiguousarray(together).view(np.uint32)[..., 0]


def _row(numbers: Array | None) -> Array:
    assert numbers is not None
    return numbers[None].view(np.uint32)
