"""The base of the vector functions: float formats, primitives of one instruction, and parts of the functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rnnc.backends.llvm.asm.builder import Function, Val, like, mangle, vector


@dataclass(frozen=True)
class Format:
    """A float format, with the constants that depend on it.

    integer: the integer type of the same size. mantissa: the number of stored bits of the fraction. bias: the bias of
    the exponent. ln2_high, ln2_low: ln 2 as a sum of two numbers; the product of the first with any n that occurs is
    exact. exp_range: the range outside which exp is 0 or infinite. tanh_limit, sigmoid_limit: the arguments from which
    on the function is 1. sqrt_half: the bits of sqrt(1/2). coth, atanh: coefficients (`vectormath`).
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
        """The number whose addition rounds to an integer, and leaves the integer in the low bits."""
        return 1.5 * 2.0**self.mantissa

    @property
    def sign(self) -> int:
        """The place of the sign bit."""
        return int(self.integer[1:]) - 1


FORMATS = {
    "float": Format(
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
    "double": Format(
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


class VectorParts:
    """Instructions on vectors of one type, written into a function; see `VectorMath`."""

    def __init__(self, function: Function, scalar: str, lanes: int) -> None:
        self.function = function
        self.type = vector(lanes, scalar)
        self.scalar = scalar
        self.lanes = lanes
        self._format = FORMATS[scalar]
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
        """-a. The sign of zeros and NaN changes too."""
        return self.function.value(a.type, f"fneg {a}")

    def absolute(self, a: Val) -> Val:
        """|a|."""
        return self.function.call(a.type, f"llvm.fabs.{mangle(a.type)}", a)

    def sqrt(self, a: Val) -> Val:
        """The correctly rounded square root; NaN for negative numbers."""
        return self.function.call(a.type, f"llvm.sqrt.{mangle(a.type)}", a)

    def greater(self, a: Val, b: Val) -> Val:
        """The mask a > b; false where either is NaN."""
        return self._compare("ogt", a, b)

    def greater_equal(self, a: Val, b: Val) -> Val:
        """The mask a >= b; false where either is NaN."""
        return self._compare("oge", a, b)

    def select(self, condition: Val, a: Val, b: Val) -> Val:
        """a where the mask is set, b elsewhere."""
        return self.function.select(condition, a, b)

    def maximum(self, a: Val, b: Val) -> Val:
        """The larger one; NaN where either is NaN. The sign of max(+0, -0) is unspecified."""
        return self._extreme("ogt", a, b)

    def minimum(self, a: Val, b: Val) -> Val:
        """The smaller one; NaN where either is NaN. The sign of min(+0, -0) is unspecified."""
        return self._extreme("olt", a, b)

    def rint(self, a: Val) -> Val:
        """The nearest integer, and the even one of two equally near. Zeros, infinities and NaN stay as they are.

        Adding 2^(stored mantissa bits) rounds away the fraction. Numbers that large are integers already.
        """
        size, whole = self.absolute(a), self.constant(2.0**self._format.mantissa)
        rounded = self.sub(self.add(size, whole), whole)
        signed = self._float(self.function.binary("or", self._bits(rounded), self._sign_of(a)))
        return self.select(self._compare("olt", size, whole), signed, a)

    # -- parts --------------------------------------------------------------------------------------

    def _fma(self, a: Val, b: Val, c: Val) -> Val:
        return self.function.fma(a, b, c)

    def _compare(self, predicate: str, a: Val, b: Val) -> Val:
        return self.function.value(like(self.type, "i1"), f"fcmp {predicate} {a}, {b.name}")

    def _extreme(self, predicate: str, a: Val, b: Val) -> Val:
        """One min or max instruction, which returns its second operand for NaN, and a select that corrects this."""
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

    def _sign_of(self, a: Val) -> Val:
        """The sign bit of a, all other bits 0."""
        return self.function.binary("and", self._bits(a), self._integer(-1 << self._format.sign))

    def _leading(self, a: Val) -> Val:
        """a without its low bits: 26 of float64's 53 bits are left, so that products of two such numbers are exact."""
        kept = self._integer(-1 << (self._format.mantissa + 2) // 2)
        return self._float(self.function.binary("and", self._bits(a), kept))

    def _both(self, a: Val, b: Val) -> Val:
        """The mask a and b."""
        return self.function.binary("and", a, b)

    def _either(self, a: Val, b: Val) -> Val:
        """The mask a or b."""
        return self.function.binary("or", a, b)

    def _rounding(self, x: Val, factor: float, bias: int) -> Val:
        """The magic number, plus bias, plus the integer nearest to x * factor."""
        return self._fma(x, self.constant(factor), self.constant(self._format.magic + bias))

    def _power(self, biased: Val) -> Val:
        """2^n from an integer whose low bits are the biased exponent."""
        return self._float(self.function.binary("shl", biased, self._integer(self._format.mantissa)))

    def _polynomial(self, x: Val, coefficients: Sequence[float]) -> Val:
        """The sum of coefficients[k] x^k, by Horner's rule."""
        result = self.constant(coefficients[-1])
        for value in coefficients[-2::-1]:
            result = self._fma(result, x, self.constant(value))
        return result

    def _split(self, x: Val) -> tuple[Val, Val]:
        """e and m of x = 2^e m, m in [sqrt(1/2), sqrt 2), for positive normal x. e comes as e + bias + 2^mantissa."""
        f, function = self._format, self.function
        one = f.bias << f.mantissa
        bits = function.binary("add", self._bits(x), self._integer(one - f.sqrt_half))
        exponent = function.binary("lshr", bits, self._integer(f.mantissa))
        # e becomes the fraction of a number whose last place is 1: conversions of 64-bit integers are slow or missing.
        shown = function.binary("or", exponent, self._integer((f.bias + f.mantissa) << f.mantissa))
        fraction = function.binary("and", bits, self._integer((1 << f.mantissa) - 1))
        return self._float(shown), self._float(function.binary("add", fraction, self._integer(f.sqrt_half)))

    def _normal(self, a: Val) -> tuple[Val, Val]:
        """e and m of a = 2^e m, m in [sqrt(1/2), sqrt 2), for positive a, normal or subnormal."""
        f = self._format
        lift = f.mantissa + 1
        subnormal = self._compare("olt", a, self.constant(2.0 ** (1 - f.bias)))
        x = self.select(subnormal, self.mul(a, self.constant(2.0**lift)), a)
        exponent, fraction = self._split(x)
        ones = 2.0**f.mantissa + f.bias
        exponent = self.sub(exponent, self.select(subnormal, self.constant(ones + lift), self.constant(ones)))
        return exponent, fraction
