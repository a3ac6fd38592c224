"""Packing of narrow weights, by NumPy, when they are bound.

Words of successive weights of a unit lie where the float32 weights of a feed would: [panel][group][word][block][unit].
Behind all panels are tables with one number per unit, [panel][group][block][unit]: the scales, if units have them, and
the starts of their sums, if activations are biased: -BIAS times the sum of a unit's codes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rnnc.backends.llvm.asm.dots import BIAS
from rnnc.backends.llvm.packing.layout import Layout, PackedBlock, matrix_of, pack_feed
from rnnc.backends.products import ProductFormat, Rounded, rounded
from rnnc.backends.reference.evaluation import evaluate
from rnnc.ir.families import Family, operands_first
from rnnc.ir.ops import Array


def narrow_weights(layout: Layout) -> list[Family]:
    """The values that are rounded when they are packed: parameters, or computed from parameters."""
    feeds = [block.feed for block in layout.blocks if block.narrow and block.feed is not None]
    return list(dict.fromkeys(weight.family for feed in feeds for _, weight in feed.blocks))


def pack_narrow(arena: Array, layout: Layout, parameters: Mapping[Family, Array]) -> None:
    """Packs all narrow weights of a layout. arena: its memory, float32 (size,)."""
    families = narrow_weights(layout)
    values = dict(parameters)
    evaluate(operands_first(families, set(values)), values, layout.dtype.name)
    words = arena[: layout.size].view(np.uint32)
    for block in layout.blocks:
        if block.narrow:
            _pack(words, block, values, biased=layout.biased)


def _pack(arena: Array, block: PackedBlock, values: Mapping[Family, Array], *, biased: bool) -> None:
    packed, feed, start = block.packed, block.feed, block.start
    assert feed is not None
    form = packed.phase.product
    made = [rounded(matrix_of(weight, values), form) for _, weight in feed.blocks]
    for matrices in _tables(made, form, biased=biased):
        start = pack_feed(arena, packed, feed, start, matrices)


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
