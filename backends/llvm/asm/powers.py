"""Powers on vectors: exp(b log |a|), with a logarithm of more digits than the format has, and the special cases.

A relative error of the exponent b log |a| becomes one of the result, up to 2^9.5 times as large. float32 is computed in
float64, where that does not matter. For float64 the logarithm has two parts, as in fdlibm's pow (Sun Microsystems,
1993). With s = f / (2 + f),

    log(1 + f) = 2 s / 3 (3 + s^2 + s^4 q(s^2)),

where products of numbers with 26 leading bits are exact. q is a fit at Chebyshev points in 60-digit arithmetic, for
|s| <= 1.0005 (sqrt 2 - 1) / (sqrt 2 + 1). The relative error of the logarithm is 2^-70.
"""

from __future__ import annotations

from math import inf, nan
from typing import TYPE_CHECKING

from rnnc.backends.llvm.asm.builder import Val, like
from rnnc.backends.llvm.asm.vectorparts import VectorParts

_TAIL = (
    0.59999999999999999725,
    0.42857142857144052747,
    0.33333333332481750932,
    0.27272727503560079372,
    0.23076892393476165226,
    0.20002209775958249908,
    0.17559281279968190792,
    0.17585533535473841002,
)
_TWO_THIRDS = (0.6666666567325592, 9.934107462565104e-09)
"""2 / 3 as the sum of two numbers, the first with 26 bits."""

_EXPONENTS = 1000.0
"""If |b log |a|| is larger, the power is 0 or infinite, whatever the second part is."""


class Powers(VectorParts):
    """The power function, with `log` and `exp` from VectorMath."""

    if TYPE_CHECKING:

        def exp(self, a: Val) -> Val: ...
        def _exp(self, a: Val, low: Val | None = None) -> Val: ...
        def log(self, a: Val) -> Val: ...

    def _raised(self, a: Val, b: Val) -> Val:
        if self.scalar == "double":
            return self._special_cases(a, b, self._double_power(self.absolute(a), b))
        f, wide = self.function, type(self)(self.function, "double", self.lanes)
        x, y = (f.value(wide.type, f"fpext {v} to {wide.type}") for v in (a, b))
        size = wide.exp(wide.mul(y, wide.log(wide.absolute(x))))
        return f.value(self.type, f"fptrunc {wide._special_cases(x, y, size)} to {self.type}")

    def _special_cases(self, a: Val, b: Val, size: Val) -> Val:
        """a^b from |a|^b, which may be any number for |a| = 1."""
        f, zero, one = self.function, self.constant(0.0), self.constant(1.0)
        whole = self._compare("oeq", self.rint(b), b)
        half = self.mul(b, self.constant(0.5))
        odd = self._both(whole, self._compare("one", self.rint(half), half))
        size = self.select(self._compare("oeq", self.absolute(a), one), one, size)
        negative = f.value(like(self.type, "i1"), f"icmp slt {self._bits(a)}, {self._integer(0).name}")
        result = self.select(self._both(negative, odd), self.neg(size), size)
        finite_below = self._both(self._compare("olt", a, zero), self._compare("ogt", a, self.constant(-inf)))
        fraction = self._compare("one", self.rint(b), b)
        result = self.select(self._both(finite_below, fraction), self.constant(nan), result)
        result = self.select(self._compare("uno", a, b), self.add(a, b), result)
        result = self.select(self._compare("oeq", b, one), a, result)  # the largest number would round to infinity
        certain = self._either(self._compare("oeq", b, zero), self._compare("oeq", a, one))
        return self.select(certain, one, result)

    def _compare_with(self, predicate: str, a: Val, b: Val) -> Val:
        return self._compare(predicate, a, b)

    def _double_power(self, a: Val, b: Val) -> Val:
        """a^b for a >= 0."""
        high, low = self._long_log(a)
        simple = self.mul(b, high)
        top = self._leading(b)
        main = self.mul(top, high)
        rest = self.add(self.mul(self.sub(b, top), high), self.mul(b, low))
        exponent = self.add(main, rest)
        lost = self.sub(rest, self.sub(exponent, main))
        ordinary = self._compare("olt", self.absolute(simple), self.constant(_EXPONENTS))
        lost = self.select(ordinary, lost, self.constant(0.0))
        return self._exp(self.select(ordinary, exponent, simple), lost)

    def _long_log(self, a: Val) -> tuple[Val, Val]:
        """log a as a sum of two numbers, the first with 26 bits. For 0 and infinity, only the first has a meaning."""
        f, one = self._format, self.constant(1.0)
        e, m = self._normal(a)
        z_high, z_low = self._long_log_near_1(self.sub(m, one))
        whole = self.mul(e, self.constant(f.ln2_high))
        rest = self._fma(e, self.constant(f.ln2_low), z_low)
        high = self._leading(self.add(self.add(rest, z_high), whole))
        low = self.sub(rest, self.sub(self.sub(high, whole), z_high))
        high = self.select(self._compare("olt", a, self.constant(inf)), high, a)
        return self.select(self._compare("oeq", a, self.constant(0.0)), self.constant(-inf), high), low

    def _long_log_near_1(self, f: Val) -> tuple[Val, Val]:
        """log(1 + f) as a sum of two numbers."""
        s, s_high, s_low = self._long_fraction(f)
        w, three = self.mul(s, s), self.constant(3.0)
        rest = self.mul(self.mul(w, w), self._polynomial(w, _TAIL))
        rest = self._fma(s_low, self.add(s_high, s), rest)
        square = self.mul(s_high, s_high)
        sum_high = self._leading(self.add(self.add(three, square), rest))
        sum_low = self.sub(rest, self.sub(self.sub(sum_high, three), square))
        main = self.mul(s_high, sum_high)
        other = self._fma(s_low, sum_high, self.mul(sum_low, s))
        high = self._leading(self.add(main, other))
        low = self.sub(other, self.sub(high, main))
        first, second = (self.constant(part) for part in _TWO_THIRDS)
        return self.mul(high, first), self._fma(high, second, self.mul(low, self.constant(2 / 3)))

    def _long_fraction(self, f: Val) -> tuple[Val, Val, Val]:
        """s = f / (2 + f), and s as a sum of two numbers, the first with 26 bits."""
        two = self.constant(2.0)
        below = self.add(f, two)
        inverse = self.div(self.constant(1.0), below)
        s = self.mul(f, inverse)
        s_high, below_high = self._leading(s), self._leading(below)
        below_low = self.sub(f, self.sub(below_high, two))
        remainder = self.sub(self.sub(f, self.mul(s_high, below_high)), self.mul(s_high, below_low))
        return s, s_high, self.mul(inverse, remainder)
