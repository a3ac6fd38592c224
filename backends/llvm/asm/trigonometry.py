"""Sine and cosine on vectors, for angles of any size.

Method. Let n be the integer nearest to x 2 / pi, and r = x - n pi / 2, so that |r| <= pi / 4. The result is sin r or
cos r with a sign, both chosen by the low two bits of n. Sine and cosine are polynomials in r^2. Their coefficients are
fits at Chebyshev points in 60-digit arithmetic, with relative errors of 2^-26.3 (float32) and 2^-56.1 (float64).

n and r are computed in float64. pi / 2 is a sum of parts so short that n times each part is exact, for |x| <= 2^29
(float32) and 2^20 (float64). Larger angles are reduced as by Payne and Hanek, "Radian reduction for trigonometric
functions", 1983: x times 2 / pi is summed over chunks of 24 bits, and whole turns of each product are dropped at once.
The sum has two parts, so that r keeps its accuracy near the zeros.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, pi

from rnnc.backends.llvm.asm.builder import Val, like
from rnnc.backends.llvm.asm.vectorparts import VectorParts

CHUNK_BITS = 24
SCALE = 200
"""The chunks are multiplied by 2^200 and the angle by 2^-200, because the last chunks would be subnormal."""


@dataclass(frozen=True)
class _Angles:
    """The constants for one format of an angle.

    limit: the largest angle that the parts of pi / 2 reduce. parts: the parts of pi / 2; their sum is exact to 2^-100.
    chunks: the number of chunks of 2 / pi that the largest angle needs.
    sine, cosine: the coefficients in r^2 after the first terms.
    """

    limit: float
    parts: tuple[float, ...]
    chunks: int
    sine: tuple[float, ...]
    cosine: tuple[float, ...]


_ANGLES = {
    "float": _Angles(
        limit=2.0**29,
        parts=(1.5707963705062866, -4.371138828673793e-08, -1.7151244994428829e-15),
        chunks=10,
        sine=(-0.16666664650292082048, 0.0083327459363804223201, -0.00019587387068464456456),
        cosine=(0.041666664647457377173, -0.0013888300696903898947, 0.000024547437210193198834),
    ),
    "double": _Angles(
        limit=2.0**20,
        parts=(1.5707963267341256, 6.077100506303966e-11, 2.0222662487111665e-21, 8.4784276603689e-32),
        chunks=50,
        sine=(
            -0.16666666666666664599,
            0.0083333333333309245621,
            -0.00019841269836722417756,
            2.755731608381635861e-6,
            -2.5051127944014187575e-8,
            1.5917848524808261007e-10,
        ),
        cosine=(
            0.041666666666666665373,
            -0.0013888888888887382271,
            0.000024801587298743069286,
            -2.7557317260008838164e-7,
            2.0876143827993132496e-9,
            -1.1382456778061305849e-11,
        ),
    ),
}
HALF_PI = (1.5707963267948966, 6.123233995736766e-17)
"""pi / 2 as a sum of two numbers."""


def two_over_pi(bits: int) -> int:
    """The first `bits` bits of 2 / pi after the point, as an integer.

    pi is computed in integers by Machin's formula, pi / 4 = 4 atan(1/5) - atan(1/239).
    """
    guard = bits + 64

    def inverse_tangent(n: int) -> int:
        term, total, k = (1 << guard) // n, 0, 0
        while term:
            total += (-1) ** k * (term // (2 * k + 1))
            term, k = term // (n * n), k + 1
        return total

    full = 4 * (4 * inverse_tangent(5) - inverse_tangent(239))
    return (1 << (2 * guard + 1 - (guard - bits))) // full


class Trigonometry(VectorParts):
    """The functions sine and cosine."""

    def _sine(self, a: Val, *, cosine: bool) -> Val:
        angles, f = _ANGLES[self.scalar], self.function
        r, turns = self._quarter_turns(a, angles)
        z = self.mul(r, r)
        sine = self._fma(self.mul(r, z), self._polynomial(z, angles.sine), r)
        start = self._fma(z, self.constant(-0.5), self.constant(1.0))
        other = self._fma(self.mul(z, z), self._polynomial(z, angles.cosine), start)
        if cosine:
            turns = f.binary("add", turns, self._integer(1))
        odd = f.binary("and", turns, self._integer(1))
        picked = self.select(self._is_nonzero(odd), other, sine)
        sign = f.binary("shl", f.binary("and", turns, self._integer(2)), self._integer(self._format.sign - 1))
        signed = self._float(f.binary("xor", self._bits(picked), sign))
        return self.select(self._compare("olt", self.absolute(a), self.constant(inf)), signed, self.sub(a, a))

    def _is_nonzero(self, bits: Val) -> Val:
        return self.function.value(like(self.type, "i1"), f"icmp ne {bits}, {self._integer(0).name}")

    def _quarter_turns(self, a: Val, angles: _Angles) -> tuple[Val, Val]:
        """r in this type, and n as integers of the same size, of which the low two bits are correct."""
        f, wide = self.function, self._doubles()
        narrow = self.scalar == "float"
        x = f.value(wide.type, f"fpext {a} to {wide.type}") if narrow else a
        r, biased = wide._short_reduction(x, angles)
        align = 8 * self.lanes if self.lanes & (self.lanes - 1) == 0 else 8
        slots = [f.alloca(wide.type, 1, align) for _ in range(2)]
        for value, slot in zip((r, biased), slots, strict=True):
            f.store(value, slot, align)
        large = self._compare("ogt", self.absolute(a), self.constant(angles.limit))
        with f.when(f.call("i1", f"llvm.vector.reduce.or.v{self.lanes}i1", large)):
            for value, slot in zip(wide._long_reduction(x, angles), slots, strict=True):
                f.store(f.select(large, value, f.load(wide.type, slot, align)), slot, align)
        r, biased = (f.load(wide.type, slot, align) for slot in slots)
        turns = wide._bits(biased)
        if narrow:
            r = f.value(self.type, f"fptrunc {r} to {self.type}")
            turns = f.value(self._integers, f"trunc {turns} to {self._integers}")
        return r, turns

    def _doubles(self) -> Trigonometry:
        """The functions of float64 on as many lanes."""
        return self if self.scalar == "double" else Trigonometry(self.function, "double", self.lanes)

    def _short_reduction(self, x: Val, angles: _Angles) -> tuple[Val, Val]:
        """r, and n plus the magic number."""
        biased = self._rounding(x, 2 / pi, 0)
        n = self.sub(biased, self.constant(self._format.magic))
        for part in angles.parts:
            x = self._fma(n, self.constant(-part), x)
        return x, biased

    def _long_reduction(self, x: Val, angles: _Angles) -> tuple[Val, Val]:
        """r, and n plus the magic number, for any finite x.

        high + low is the fraction of x 2 / pi so far, and turns the integer part.
        """
        f, zero = self.function, self.constant(0.0)
        table = self._chunks(angles.chunks)
        scaled = self.mul(x, self.constant(2.0**-SCALE))
        upper = self._leading(scaled)
        halves = (upper, self.sub(scaled, upper))
        with f.loop(0, Val("i64", str(angles.chunks)), 1, [zero, zero, zero]) as loop:
            high, low, turns = loop.values
            chunk = f.splat(f.load("double", f.element(table, loop.index, "double"), 8), self.lanes)
            for half in halves:
                product = self.mul(half, chunk)
                whole = self.rint(product)
                high, low = self._added(high, low, self.sub(product, whole))
                more = self.rint(high)
                high, turns = self.sub(high, more), self.add(self.add(turns, self._modulo_4(whole)), more)
            loop.next([high, low, turns])
        high, low, turns = loop.values
        first, second = (self.constant(part) for part in HALF_PI)
        r = self._fma(high, first, self._fma(high, second, self.mul(low, first)))
        return r, self.add(turns, self.constant(self._format.magic))

    def _chunks(self, count: int) -> Val:
        """An array of the chunks of 2 / pi."""
        f, bits = self.function, CHUNK_BITS * count
        digits = two_over_pi(bits)
        table = f.alloca("double", count, 8)
        for k in range(count):
            chunk = digits >> (bits - CHUNK_BITS * (k + 1)) & ((1 << CHUNK_BITS) - 1)
            value = chunk * 2.0 ** (SCALE - CHUNK_BITS * (k + 1))
            f.store(f.constant(value, "double"), f.element(table, k, "double"), 8)
        return table

    def _added(self, high: Val, low: Val, term: Val) -> tuple[Val, Val]:
        """high + low + term, as a pair again."""
        total = self.add(high, term)
        back = self.sub(total, high)
        lost = self.add(self.sub(high, self.sub(total, back)), self.sub(term, back))
        low = self.add(low, lost)
        renewed = self.add(total, low)
        return renewed, self.sub(low, self.sub(renewed, total))

    def _modulo_4(self, whole: Val) -> Val:
        """A whole number minus a multiple of 4, so that it lies between -2 and 2."""
        fours = self.rint(self.mul(whole, self.constant(0.25)))
        return self.sub(whole, self.mul(fours, self.constant(4.0)))
