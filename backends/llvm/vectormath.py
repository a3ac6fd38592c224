"""The elementwise primitives on vectors, in portable LLVM IR: no target intrinsics, no calls to libm.

Accuracy. exp, log, sigmoid and tanh stay within 4 units in the last place (measured: 2.5), float32 and float64,
whether `fma` is one instruction or two, subnormal arguments and results included. sigmoid and tanh never leave [0, 1]
and [-1, 1] and reach the ends exactly; tanh is odd and keeps its relative accuracy around 0; NaN comes out as NaN.
Code that is run with subnormal numbers flushed to zero has them flushed here too.

Method. With n the integer nearest to x / ln 2 and h = (x - n ln 2) / 2, so that |h| <= ln(2) / 4,

    exp(x) = 2^n (c + h) / (c - h),     c = h coth h = 1 + y / 3 - y^2 / 45 + ...,     y = h^2.

fdlibm's exp (Sun Microsystems, 1993) rests on the same even function. Two things make it the cheapest form here.
sigmoid and tanh need a division anyhow, and they are fractions of the halves `c + h` and `c - h`, so the exponential
costs none of its own. And c is flat: 1 and two more coefficients do for float32, five for float64, too few for
anything but Horner's rule to pay.

n comes from adding 1.5 * 2^(stored mantissa bits), which leaves it in the low bits of the sum: the shift that moves
them to the exponent's place makes 2^n, and a bias added to the magic number scales it at no cost.

Coefficients. `coth` minimises the largest relative error of 1 + y q(y) against h coth h for |h| <= 1.0005 ln(2) / 4,
and `atanh` that of 2 s + s w r(w) against 2 atanh(s), w = s^2, for |s| <= 1.0005 (sqrt 2 - 1) / (sqrt 2 + 1). Both
come from Remez's exchange algorithm in 60-digit arithmetic, started from Chebyshev points. The errors are 2^-28.8 and
2^-30.2 for float32, 2^-60.0 and 2^-59.5 for float64; rounding the coefficients leaves them there.
`log` follows fdlibm's: log(2^e (1 + f)) = e ln 2 + f - (f^2 / 2 - s (f^2 / 2 + R)), s = f / (2 + f), R = w r(w).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, log, nan

from rnnc.backends.llvm.emitter import Function, Val, like, mangle, vector


@dataclass(frozen=True)
class _Format:
    """A float format and what depends on it.

    integer: the integer type of the same size. mantissa: stored bits of the fraction. bias: of the exponent.
    ln2_high, ln2_low: ln 2 in two parts; any n that occurs times the first is exact.
    exp_range: beyond it exp is 0 or infinite. tanh_limit: from there on tanh is 1. sigmoid_limit: likewise.
    sqrt_half: the bits of sqrt(1/2).
    """

    integer: str
    mantissa: int
    bias: int
    ln2_high: float
    ln2_low: float
    exp_range: tuple[float, float]
    tanh_limit: float
    sigmoid_limit: float
    sqrt_half: int
    coth: tuple[float, ...]
    atanh: tuple[float, ...]

    @property
    def magic(self) -> float:
        """Adding it rounds to an integer and leaves that in the low bits."""
        return 1.5 * 2.0**self.mantissa

    @property
    def sign(self) -> int:
        """The place of the sign bit."""
        return int(self.integer[1:]) - 1


_FORMATS = {
    "float": _Format(
        integer="i32",
        mantissa=23,
        bias=127,
        ln2_high=0.693115234375,
        ln2_low=3.194618494530941e-05,
        exp_range=(-104.5, 89.0),
        tanh_limit=10.0,
        sigmoid_limit=20.0,
        sqrt_half=0x3F3504F3,
        coth=(1.0, 0.33333251518797265158, -0.022134023510056440885),
        atanh=(0.66666776717022120282, 0.39977495574215200813, 0.29873073540560585225),
    ),
    "double": _Format(
        integer="i64",
        mantissa=52,
        bias=1023,
        ln2_high=0.6931471805601177,
        ln2_low=-1.7239444525614835e-13,
        exp_range=(-746.0, 710.0),
        tanh_limit=20.0,
        sigmoid_limit=40.0,
        sqrt_half=0x3FE6A09E667F3BCD,
        coth=(
            1.0,
            0.3333333333333320406,
            -0.022222222221611652641,
            0.0021164020227653353824,
            -0.00021163394363173605774,
            0.000021187183912495069555,
        ),
        atanh=(
            0.66666666666667348956,
            0.39999999999411091456,
            0.2857142874326290787,
            0.22222198475960867905,
            0.18183569741208631531,
            0.15313903208789387415,
            0.14797508108629700722,
        ),
    ),
}


class VectorMath:
    """`rnnc.ir.ops.Primitives` on vectors of one type, written into a function.

    scalar: "float" or "double". lanes: elements of a vector; what is wider than a register gets split by LLVM.
    Masks are vectors of i1.
    """

    def __init__(self, function: Function, scalar: str, lanes: int) -> None:
        self.function = function
        self.type = vector(lanes, scalar)
        self._format = _FORMATS[scalar]
        self._integers = like(self.type, self._format.integer)
        self._numbers: set[str] = set()

    # -- one instruction each -----------------------------------------------------------------------

    def constant(self, value: float) -> Val:
        """A number in every lane."""
        result = self.function.constant(value, self.type)
        if value == value:
            self._numbers.add(result.name)
        return result

    def add(self, a: Val, b: Val) -> Val:
        """a + b."""
        return self.function.binary("fadd", a, b)

    def sub(self, a: Val, b: Val) -> Val:
        """a - b."""
        return self.function.binary("fsub", a, b)

    def mul(self, a: Val, b: Val) -> Val:
        """a * b."""
        return self.function.binary("fmul", a, b)

    def div(self, a: Val, b: Val) -> Val:
        """a / b."""
        return self.function.binary("fdiv", a, b)

    def neg(self, a: Val) -> Val:
        """-a, of zeros and NaN too."""
        return self.function.value(a.type, f"fneg {a}")

    def absolute(self, a: Val) -> Val:
        """|a|."""
        return self.function.call(a.type, f"llvm.fabs.{mangle(a.type)}", a)

    def sqrt(self, a: Val) -> Val:
        """The correctly rounded square root; NaN below zero."""
        return self.function.call(a.type, f"llvm.sqrt.{mangle(a.type)}", a)

    def greater(self, a: Val, b: Val) -> Val:
        """The mask a > b; false where either is NaN."""
        return self._compare("ogt", a, b)

    def select(self, condition: Val, a: Val, b: Val) -> Val:
        """a where the mask is set, b elsewhere."""
        return self.function.select(condition, a, b)

    def maximum(self, a: Val, b: Val) -> Val:
        """The larger one, NaN where either is NaN; which zero it is of +0 and -0 is unspecified."""
        return self._extreme("ogt", a, b)

    def minimum(self, a: Val, b: Val) -> Val:
        """The smaller one, NaN where either is NaN; which zero it is of +0 and -0 is unspecified."""
        return self._extreme("olt", a, b)

    # -- functions ----------------------------------------------------------------------------------

    def exp(self, a: Val) -> Val:
        """e^a. Subnormal results are rounded, not flushed."""
        f = self._format
        x = self._clamp(a, *f.exp_range)
        biased = self._rounding(x, 1 / log(2), 2 * f.bias)
        n = self.sub(biased, self.constant(f.magic + 2 * f.bias))
        above, below = self._halves(x, n)
        # 2^n may lie outside the format where the result does not: it is applied as two factors.
        bits = self._bits(biased)
        first = self.function.binary("lshr", bits, self._integer(1))
        second = self.function.binary("sub", bits, first)
        scaled = self.mul(self.div(above, below), self._power(first))
        return self.mul(scaled, self._power(second))

    def sigmoid(self, a: Val) -> Val:
        """1 / (1 + e^-a) = above / (above + 2^-n below)."""
        f = self._format
        x = self._clamp(a, f.exp_range[0], f.sigmoid_limit)
        # Both sides of the fraction are scaled down, because 2^-n overflows before the result underflows.
        shift = f.mantissa + 5
        biased = self._rounding(x, -1 / log(2), f.bias - shift)
        n = self.sub(self.constant(f.magic + f.bias - shift), biased)
        above, below = self._halves(x, n)
        numerator = self.mul(above, self.constant(2.0**-shift))
        return self.div(numerator, self._fma(self._power(self._bits(biased)), below, numerator))

    def tanh(self, a: Val) -> Val:
        """(above - 2^-n below) / (above + 2^-n below) for the halves of e^2|a|, with the sign of a.

        Half the numerator is h + below (1 - 2^-n) / 2: no cancellation for n = 0, where h is |a| itself, and the
        denominator is the numerator plus something positive, so that the fraction cannot exceed 1.
        Reducing with a one-part ln 2 is enough: a relative error of the argument is never amplified.
        """
        f, function = self._format, self.function
        sign = function.binary("and", self._bits(a), self._integer(-1 << f.sign))
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
        """The natural logarithm: -inf for zeros, NaN below, subnormal arguments exact."""
        f = self._format
        lift = f.mantissa + 1
        subnormal = self._compare("olt", a, self.constant(2.0 ** (1 - f.bias)))
        x = self.select(subnormal, self.mul(a, self.constant(2.0**lift)), a)
        exponent, fraction = self._split(x)
        ones = 2.0**f.mantissa + f.bias
        e = self.sub(exponent, self.select(subnormal, self.constant(ones + lift), self.constant(ones)))
        result = self._log_of(e, self.sub(fraction, self.constant(1.0)))
        result = self.select(self._compare("olt", a, self.constant(inf)), result, a)
        result = self.select(self._compare("olt", a, self.constant(0.0)), self.constant(nan), result)
        return self.select(self._compare("oeq", a, self.constant(0.0)), self.constant(-inf), result)

    # -- parts --------------------------------------------------------------------------------------

    def _fma(self, a: Val, b: Val, c: Val) -> Val:
        return self.function.fma(a, b, c)

    def _compare(self, predicate: str, a: Val, b: Val) -> Val:
        return self.function.value(like(self.type, "i1"), f"fcmp {predicate} {a}, {b.name}")

    def _extreme(self, predicate: str, a: Val, b: Val) -> Val:
        """One min or max instruction, which returns its second operand for NaN, and what mends that."""
        if b.name in self._numbers:
            a, b = b, a
        result = self.select(self._compare(predicate, a, b), a, b)
        return result if a.name in self._numbers else self.select(self._compare("uno", a, a), a, result)

    def _clamp(self, a: Val, low: float, high: float) -> Val:
        return self.maximum(self.minimum(a, self.constant(high)), self.constant(low))

    def _integer(self, value: int) -> Val:
        return self.function.integer(value, self._integers)

    def _bits(self, a: Val) -> Val:
        return self.function.value(self._integers, f"bitcast {a} to {self._integers}")

    def _float(self, bits: Val) -> Val:
        return self.function.value(self.type, f"bitcast {bits} to {self.type}")

    def _rounding(self, x: Val, factor: float, bias: int) -> Val:
        """The magic number plus bias plus the integer nearest to x * factor."""
        return self._fma(x, self.constant(factor), self.constant(self._format.magic + bias))

    def _power(self, biased: Val) -> Val:
        """2^n from an integer whose low bits are the biased exponent."""
        return self._float(self.function.binary("shl", biased, self._integer(self._format.mantissa)))

    def _halves(self, x: Val, n: Val) -> tuple[Val, Val]:
        """Twice c + h and c - h for h = (x - n ln 2) / 2, where ln 2 has two parts.

        In terms of z = 2h, so that x need not be halved; that scales the coefficients by powers of two, exactly.
        """
        f = self._format
        z = self._fma(n, self.constant(-f.ln2_high), x)
        z = self._fma(n, self.constant(-f.ln2_low), z)
        c = self._polynomial(self.mul(z, z), [2 * value / 4**k for k, value in enumerate(f.coth)])
        return self.add(c, z), self.sub(c, z)

    def _polynomial(self, x: Val, coefficients: Sequence[float]) -> Val:
        """The sum of coefficients[k] x^k, by Horner's rule."""
        result = self.constant(coefficients[-1])
        for value in coefficients[-2::-1]:
            result = self._fma(result, x, self.constant(value))
        return result

    def _split(self, x: Val) -> tuple[Val, Val]:
        """e and m of x = 2^e m, m in [sqrt(1/2), sqrt 2), for positive normal x; e as e + bias + 2^mantissa."""
        f, function = self._format, self.function
        one = f.bias << f.mantissa
        bits = function.binary("add", self._bits(x), self._integer(one - f.sqrt_half))
        exponent = function.binary("lshr", bits, self._integer(f.mantissa))
        # As the fraction of a number whose last place is 1: conversions from 64-bit integers are slow or absent.
        shown = function.binary("or", exponent, self._integer((f.bias + f.mantissa) << f.mantissa))
        fraction = function.binary("and", bits, self._integer((1 << f.mantissa) - 1))
        return self._float(shown), self._float(function.binary("add", fraction, self._integer(f.sqrt_half)))

    def _log_of(self, e: Val, f: Val) -> Val:
        """log(2^e (1 + f))."""
        s = self.div(f, self.add(f, self.constant(2.0)))
        w = self.mul(s, s)
        half_square = self.mul(self.mul(f, self.constant(0.5)), f)
        sums = self._fma(self._polynomial(w, self._format.atanh), w, half_square)
        small = self._fma(s, sums, self.mul(e, self.constant(self._format.ln2_low)))
        rest = self.sub(self.sub(half_square, small), f)
        return self.sub(self.mul(e, self.constant(self._format.ln2_high)), rest)
