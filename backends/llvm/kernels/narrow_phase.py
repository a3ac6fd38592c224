"""Code of a phase whose weights are narrow: each is widened in registers, and multiplied as a float.

A 32-bit word holds successive weights of one unit, so that words lie in the arena as floats do (`packing.narrow`):

    for each word: load a vector of words
      for each place in it: accumulators += broadcast(lhs[row, k]) * widened weights

Weights of int8 are multiplied as whole numbers, and a unit's sum by the unit's scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from rnnc.backends.llvm.asm.builder import Val, i64, like
from rnnc.backends.llvm.kernels.phase import Stream, TilePhase
from rnnc.backends.llvm.packing.tile import blocks_of
from rnnc.backends.products import BFLOAT16

WORD_BITS = 32


class NarrowPhase(TilePhase):
    """Matmuls with narrow weights, and their epilogues."""

    def _depth(self, number: int) -> Val:
        per = self.phase.product.per_word
        return self.f.udiv(self.f.add(self.arg(f"inner{number}"), per - 1), per)

    def _accumulate(
        self, numbers: list[int], groups: list[range], row: Val, count: int, panel: Val, flat: list[Val]
    ) -> list[Val]:
        if not self.phase.product.scaled:
            return super()._accumulate(numbers, groups, row, count, panel, flat)
        zeros = [Val(self.type, "zeroinitializer")] * len(flat)
        sums = super()._accumulate(numbers, groups, row, count, panel, zeros)
        scales = self._per_unit(numbers[0], groups, panel, 0)
        return [self.f.fma(s, scales[n % len(scales)], a) for n, (s, a) in enumerate(zip(sums, flat, strict=True))]

    def _per_unit(self, number: int, groups: list[range], panel: Val, table: int) -> list[Val]:
        """The vectors of some groups in a table with a word per unit and block, behind all panels of weights."""
        f, feed, tile = self.f, self.phase.feeds[number], self.tile
        total = len(feed.blocks) * tile.units
        weights = f.mul(f.mul(self.arg("panels"), self._depth(number)), total)
        start = f.mul(f.add(f.mul(self.arg("panels"), table), panel), total)
        first = f.add(f.add(weights, start), self._blocks_before(feed, groups) * tile.units)
        count = sum(len(blocks_of(feed, group)) for group in groups) * tile.vectors
        places = [
            f.element(self.arg(f"weights{number}"), f.add(first, n * tile.lanes), self.scalar) for n in range(count)
        ]
        return [f.load(self.type, place, self.bytes * tile.lanes) for place in places]

    def _loop_over_k(self, lhs: list[Val], weights: list[Stream], inner: Val, flat: list[Val]) -> list[Val]:
        """The inner loop over words, then over the places of a last word that is not full."""
        f, size, per = self.f, len(flat), self.phase.product.per_word
        chains = min(per, self._chains(size))
        start = flat + [Val(self.type, "zeroinitializer")] * (size * (chains - 1))
        whole = f.udiv(inner, per)
        with f.loop(0, whole, carried=start) as loop:
            current = [loop.values[n * size : (n + 1) * size] for n in range(chains)]
            self._prefetch(weights, loop.index, len(lhs))
            words = self._words(weights, loop.index)
            for place in range(per):
                k = f.add(f.mul(loop.index, per), place)
                current[place % chains] = self._multiply_place(lhs, words, k, place, current[place % chains])
            loop.next([a for chain in current for a in chain])
        sets = [loop.values[n * size : (n + 1) * size] for n in range(chains)]
        totals = [self._total(values) for values in zip(*sets, strict=True)]
        first = f.mul(whole, per)
        with f.loop(first, inner, carried=totals) as rest:
            words = self._words(weights, whole)
            rest.next(self._multiply_place(lhs, words, rest.index, f.sub(rest.index, first), rest.values))
        return rest.values

    def _words(self, weights: list[Stream], word: Val) -> list[Val]:
        """The vectors of words number `word` of all streams, as integers."""
        f, integers = self.f, like(self.type, "i32")
        loaded = [self._weight(stream, j, word) for stream in weights for j in range(stream.vectors)]
        return [f.value(integers, f"bitcast {value} to {integers}") for value in loaded]

    def _multiply_place(
        self, lhs: list[Val], words: list[Val], k: Val, place: int | Val, flat: Sequence[Val]
    ) -> list[Val]:
        """The products of one k, whose weights are at a place of the words, which may be known at run time only."""
        rows = [partial(self._broadcast, row, k) for row in lhs]
        return self._add_products(rows, [partial(self._widened, word, place) for word in words], flat, self.f.fma)

    def _widened(self, words: Val, place: int | Val) -> Val:
        """The weights at a place of the words, as floats: place 0 is in the lowest bits."""
        f, bits = self.f, WORD_BITS // self.phase.product.per_word
        raised = self._raised(words, place, bits)
        if self.phase.product.weights == BFLOAT16:
            upper = f.binary("and", raised, f.integer(-1 << bits, words.type))
            return f.value(self.type, f"bitcast {raised if place == 0 else upper} to {self.type}")
        whole = f.binary("ashr", raised, f.integer(WORD_BITS - bits, words.type))
        return f.value(self.type, f"sitofp {whole} to {self.type}")

    def _raised(self, words: Val, place: int | Val, bits: int) -> Val:
        """The words, shifted so that a place is in the highest bits."""
        f = self.f
        if isinstance(place, int):
            left = WORD_BITS - bits - bits * place
            return f.binary("shl", words, f.integer(left, words.type)) if left else words
        by = f.value("i32", f"trunc {f.sub(i64(WORD_BITS - bits), f.mul(place, bits))} to i32")
        return f.binary("shl", words, f.splat(by, self.tile.lanes))
