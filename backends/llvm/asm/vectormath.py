"""The elementwise primitives on vectors, in portable LLVM IR: no target intrinsics, no calls to libm.

Accuracy. exp, log, sigmoid and tanh are within 4 units in the last place (measured: 2.5), for float32 and float64,
whether `fma` is one instruction or two, and for subnormal arguments and results too. sigmoid and tanh never leave
[0, 1] and [-1, 1], and reach the ends exactly. tanh is odd and keeps its relative accuracy around 0. NaN gives NaN.
If the processor is set to flush subnormal numbers to zero, they are flushed here too.

Method. With n the integer nearest to x / ln 2 and h = (x - n ln 2) / 2, so that |h| <= ln(2) / 4,

    exp(x) = 2^n (c + h) / (c - h),     c = h coth h = 1 + y / 3 - y^2 / 45 + ...,     y = h^2.

fdlibm's exp (Sun Microsystems, 1993) uses the same even function. It is the cheapest form here for two reasons.
sigmoid and tanh need a division anyway, and they are fractions of the halves `c + h` and `c - h`, so the exponential
needs no division of its own. And c is flat: float32 needs 1 and two more coefficients, float64 five, so few that
Horner's rule is best.

n comes from adding the magic number 1.5 * 2^(stored mantissa bits), which leaves n in the low bits of the sum. A shift
of these bits to the exponent's place makes 2^n. A bias added to the magic number scales the result at no cost.

Coefficients. `coth` minimises the largest relative error of 1 + y q(y) against h coth h for |h| <= 1.0005 ln(2) / 4,
and `atanh` that of 2 s + s w r(w) against 2 atanh(s), w = s^2, for |s| <= 1.0005 (sqrt 2 - 1) / (sqrt 2 + 1). Both
come from Remez's exchange algorithm in 60-digit arithmetic, started from Chebyshev points. The errors are 2^-28.8 and
2^-30.2 for float32, 2^-60.0 and 2^-59.5 for float64; rounding the coefficients leaves them there.
`log` follows fdlibm's: log(2^e (1 + f)) = e ln 2 + f - (f^2 / 2 - s (f^2 / 2 + R)), s = f / (2 + f), R = w r(w).
"""

from __future__ import annotations

from math import inf, log, nan

from rnnc.backends.llvm.asm.builder import Val
from rnnc.backends.llvm.asm.powers import Powers
from rnnc.backends.llvm.asm.trigonometry import Trigonometry


class VectorMath(Powers, Trigonometry):
    """`rnnc.ir.ops.Primitives` on vectors of one type, written into a function.

    scalar: "float" or "double". lanes: the number of elements per vector. LLVM splits vectors wider than a register.
    Masks are vectors of i1.
    """

    # -- functions ----------------------------------------------------------------------------------

    def exp(self, a: Val) -> Val:
        """e^a. Subnormal results are rounded, not flushed."""
        return self._exp(a)

    def sigmoid(self, a: Val) -> Val:
        """1 / (1 + e^-a) = above / (above + 2^-n below)."""
        f = self._format
        x = self._clamp(a, f.exp_range[0], f.sigmoid_limit)
        # Numerator and denominator are scaled down, because 2^-n overflows before the result underflows.
        shift = f.mantissa + 5
        biased = self._rounding(x, -1 / log(2), f.bias - shift)
        n = self.sub(self.constant(f.magic + f.bias - shift), biased)
        above, below = self._halves(x, n)
        numerator = self.mul(above, self.constant(2.0**-shift))
        return self.div(numerator, self._fma(self._power(self._bits(biased)), below, numerator))

    def tanh(self, a: Val) -> Val:
        """(above - 2^-n below) / (above + 2^-n below) for the halves of e^2|a|, with the sign of a.

        Half the numerator is h + below (1 - 2^-n) / 2, which does not cancel for n = 0, where h is |a| itself. The
        denominator is the numerator plus a positive number, so the fraction cannot exceed 1.
        ln 2 may be a single number here, because a relative error of the argument is never amplified.
        """
        f, function = self._format, self.function
        sign = self._sign_of(a)
        x = self.minimum(self.absolute(a), self.constant(f.tanh_limit))
        biased = self._rounding(x, -2 / log(2), f.bias)
        n = self.sub(self.constant(f.magic + f.bias), biased)
        h = self._fma(n, self.constant(-log(2) / 2), x)
        below = self.sub(self._polynomial(self.mul(h, h), f.coth), h)
        power = self._power(self._bits(biased))
        half = self._fma(power, self.constant(-0.5), self.constant(0.5))
        numerator = self._fma(below, half, h)
        size = self.div(numerator, self._fma(power, below, numerator))
        return self._float(function.binary("or", self._bits(size), sign))

    def log(self, a: Val) -> Val:
        """The natural logarithm: -inf for zeros, NaN for negative numbers. Subnormal arguments are not flushed."""
        e, fraction = self._normal(a)
        result = self._log_of(e, self.sub(fraction, self.constant(1.0)))
        result = self.select(self._compare("olt", a, self.constant(inf)), result, a)
        result = self.select(self._compare("olt", a, self.constant(0.0)), self.constant(nan), result)
        return self.select(self._compare("oeq", a, self.constant(0.0)), self.constant(-inf), result)

    def sin(self, a: Val) -> Val:
        """The sine of an angle in radians of any size; NaN for infinities."""
        return self._sine(a, cosine=False)

    def cos(self, a: Val) -> Val:
        """The cosine of an angle in radians of any size; NaN for infinities."""
        return self._sine(a, cosine=True)

    def power(self, a: Val, b: Val) -> Val:
        """a^b, as C's pow: 1 for b = 0 and for a = 1; NaN for a negative a unless b is a whole number."""
        return self._raised(a, b)

    # -- parts --------------------------------------------------------------------------------------

    def _exp(self, a: Val, low: Val | None = None) -> Val:
        """e^a (1 + low)."""
        f = self._format
        x = self._clamp(a, *f.exp_range)
        biased = self._rounding(x, 1 / log(2), 2 * f.bias)
        n = self.sub(biased, self.constant(f.magic + 2 * f.bias))
        above, below = self._halves(x, n)
        # 2^n is applied as two factors, because it may be outside the format when the result is not.
        bits = self._bits(biased)
        first = self.function.binary("lshr", bits, self._integer(1))
        second = self.function.binary("sub", bits, first)
        fraction = self.div(above, below)
        fraction = fraction if low is None else self._fma(fraction, low, fraction)
        scaled = self.mul(fraction, self._power(first))
        return self.mul(scaled, self._power(second))

    def _halves(self, x: Val, n: Val) -> tuple[Val, Val]:
        """2 (c + h) and 2 (c - h) for h = (x - n ln 2) / 2, where ln 2 has two parts.

        They are computed from z = 2h, so that x need not be halved. This scales the coefficients by powers of two,
        which is exact.
        """
        f = self._format
        z = self._fma(n, self.constant(-f.ln2_high), x)
        z = self._fma(n, self.constant(-f.ln2_low), z)
        c = self._polynomial(self.mul(z, z), [2 * value / 4**k for k, value in enumerate(f.coth)])
        return self.add(c, z), self.sub(c, z)

    def _log_of(self, e: Val, f: Val) -> Val:
        """log(2^e (1 + f))."""
        s = self.div(f, self.add(f, self.constant(2.0)))
        w = self.mul(s, s)
        half_square = self.mul(self.mul(f, self.constant(0.5)), f)
        sums = self._fma(self._polynomial(w, self._format.atanh), w, half_square)
        small = self._fma(s, sums, self.mul(e, self.constant(self._format.ln2_low)))
        rest = self.sub(self.sub(half_square, small), f)
        return self.sub(self.mul(e, self.constant(self._format.ln2_high)), rest)
