"""Sizes that are not known when a file is read: polynomials over the names of axes, such as T, 2 * T or T * B.

    batch = Size.of("batch")
    same(batch * 3 // 3, batch)        # True
    int(batch)                         # raises NeedsNumber("batch")

An operation that needs the number of such an axis raises NeedsNumber. The graph is then read again, with the number
that a call gives (`rnnc.onnx.trace`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import prod
from typing import Any

__all__ = ["Dim", "Dims", "NeedsNumber", "NeedsValue", "SameSize", "Size", "product", "rounded_down", "same", "static"]

Term = tuple[str, ...]
"""A product of names, sorted; () is 1."""


MOST_FACTORS = 8
"""Names in a term beyond which a product is computed with numbers: a file may square a size as often as it likes."""


class NeedsNumber(Exception):
    """The graph depends on the size of an axis, of this name."""

    def __init__(self, symbol: str) -> None:
        super().__init__(symbol)
        self.symbol = symbol


class NeedsValue(Exception):
    """The graph depends on the numbers in an input, of this name: a branch is taken by them, a size comes from them."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class SameSize(Exception):
    """Two axes meet that can only have one size, unless one of them is 1: take them as one."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first, second)
        self.names = first, second


class Floor(str):
    """The name of a quotient, rounded down: of the steps behind a stride, for example."""

    numerator: Size
    divisor: int

    @classmethod
    def of(cls, numerator: Size, divisor: int) -> Floor:
        """The name of floor(numerator / divisor)."""
        made = cls(f"floor(({numerator})/{divisor})")
        made.numerator, made.divisor = numerator, divisor
        return made


class Size:
    """A polynomial with integer coefficients. numbers: the sizes of names that are known."""

    __slots__ = ("numbers", "terms")

    def __init__(self, terms: Mapping[Term, int], numbers: Mapping[str, int]) -> None:
        self.terms = {term: n for term, n in terms.items() if n}
        self.numbers = numbers

    @classmethod
    def of(cls, symbol: str, numbers: Mapping[str, int] | None = None) -> Size:
        """The size of an axis by its name."""
        return cls({(symbol,): 1}, {} if numbers is None else numbers)

    @property
    def symbol(self) -> str | None:
        """The name, if it is nothing but the size of one axis."""
        match list(self.terms.items()):
            case [((name,), 1)] if not isinstance(name, Floor):
                return name
        return None

    @property
    def unknown(self) -> set[str]:
        """The names whose sizes are not known."""
        found: set[str] = set()
        for name in (name for term in self.terms for name in term):
            found |= name.numerator.unknown if isinstance(name, Floor) else {name} - set(self.numbers)
        return found

    @property
    def known(self) -> bool:
        """Whether `int` gives a number."""
        return not self.unknown

    def at(self, length: Callable[[str], int]) -> int:
        """The number, where `length` gives those of the names that are not known."""

        def number(name: str) -> int:
            if isinstance(name, Floor):
                return name.numerator.at(length) // name.divisor
            found = self.numbers.get(name)
            return length(name) if found is None else found

        return sum(n * prod(map(number, term)) for term, n in self.terms.items())

    @property
    def reduced(self) -> Size:
        """The same, with numbers in place of the names that have one."""
        found: dict[Term, int] = {}
        for term, n in self.terms.items():
            known = [name for name in term if Size.of(name, self.numbers).known]
            rest = tuple(name for name in term if name not in known)
            n *= prod(int(Size.of(name, self.numbers)) for name in known)
            found[rest] = found.get(rest, 0) + n
        return Size(found, self.numbers)

    def __int__(self) -> int:
        return self.at(_needed)

    __index__ = __int__

    def __float__(self) -> float:
        return float(int(self))

    def _coerced(self, other: object) -> Mapping[Term, int] | None:
        if isinstance(other, Size):
            return other.terms
        return None if not hasattr(type(other), "__index__") else {(): int(other)}  # type: ignore[call-overload]

    def _made(self, terms: Mapping[Term, int]) -> Any:
        """A plain int where no name is left."""
        size = Size(terms, self.numbers)
        return size.terms.get((), 0) if set(size.terms) <= {()} else size

    def __add__(self, other: object) -> Any:
        terms = self._coerced(other)
        if terms is None:
            return NotImplemented
        return self._made({term: self.terms.get(term, 0) + terms.get(term, 0) for term in {*self.terms, *terms}})

    __radd__ = __add__

    def __mul__(self, other: object) -> Any:
        terms = self._coerced(other)
        if terms is None:
            return NotImplemented
        if max(map(len, (*self.terms, *terms))) > MOST_FACTORS:
            return int(self) * int(other)  # type: ignore[call-overload]
        found: dict[Term, int] = {}
        for a, n in self.terms.items():
            for b, m in terms.items():
                term = tuple(sorted((*a, *b)))
                found[term] = found.get(term, 0) + n * m
        return self._made(found)

    __rmul__ = __mul__

    def __neg__(self) -> Any:
        return self * -1

    def __sub__(self, other: object) -> Any:
        negative = other * -1 if isinstance(other, (int, Size)) else -int(other)  # type: ignore[call-overload]
        return self + negative

    def __rsub__(self, other: object) -> Any:
        return -self + other

    def __floordiv__(self, other: object) -> Any:
        """Exact where each term is divisible; else the numbers are needed."""
        divisor = other.reduced if isinstance(other, Size) else other
        for a, b in ((self, other), (self.reduced, divisor)):
            found = _quotient(a.terms, self._coerced(b) or {})
            if found is not None:
                return self._made(found)
        return int(self) // int(other)  # type: ignore[call-overload]

    def __rfloordiv__(self, other: object) -> Any:
        return int(other) // int(self)  # type: ignore[call-overload]

    def __mod__(self, other: object) -> Any:
        return int(self) % int(other)  # type: ignore[call-overload]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, (int, Size)) and same(self, other)

    def __lt__(self, other: Any) -> bool:
        return int(self) < int(other)

    def __le__(self, other: Any) -> bool:
        return int(self) <= int(other)

    def __gt__(self, other: Any) -> bool:
        return int(self) > int(other)

    def __ge__(self, other: Any) -> bool:
        return int(self) >= int(other)

    def __hash__(self) -> int:
        return hash(frozenset(self.terms.items()))

    def __repr__(self) -> str:
        shown = ["*".join([*([] if n == 1 and term else [str(n)]), *term]) for term, n in self.terms.items()]
        return "+".join(shown) or "0"


def _needed(name: str) -> int:
    raise NeedsNumber(name)


Dim = int | Size
Dims = tuple[Dim, ...]


def _quotient(terms: Mapping[Term, int], divisor: Mapping[Term, int]) -> dict[Term, int] | None:
    """A polynomial divided by a single term; None if it is not divisible."""
    if len(divisor) != 1:
        return None
    ((term, n),) = divisor.items()
    found: dict[Term, int] = {}
    for own, m in terms.items():
        rest = _without(own, term)
        if rest is None or not n or m % n:
            return None
        found[rest] = m // n
    return found


def _without(term: Term, divisor: Term) -> Term | None:
    """The product of names divided by another; None if it is not divisible."""
    rest = list(term)
    for name in divisor:
        if name not in rest:
            return None
        rest.remove(name)
    return tuple(rest)


def same(a: Dim, b: Dim) -> bool:
    """Whether two sizes are equal. Raises NeedsNumber where that depends on the numbers."""
    if isinstance(a, Size) and isinstance(b, Size) and (a.terms == b.terms or a.reduced.terms == b.reduced.terms):
        return True
    if _below(a, b) or _below(b, a):
        return False
    return int(a) == int(b)


def _below(number: Dim, size: Dim) -> bool:
    """Whether a number is less than a size can ever be: the size of an axis is not negative."""
    if not isinstance(size, Size) or isinstance(number, Size):
        return False
    return min(size.terms.values()) >= 0 and number < size.terms.get((), 0)


def rounded_down(size: Dim, divisor: int) -> Dim:
    """floor(size / divisor), by a name of its own where that is no polynomial."""
    if not isinstance(size, Size):
        return size // divisor
    exact = _quotient(size.terms, {(): divisor})
    return Size({(Floor.of(size, divisor),): 1}, size.numbers) if exact is None else size._made(exact)


def static(size: Dim) -> int | None:
    """The number, if it is known."""
    if isinstance(size, Size):
        return int(size) if size.known else None
    return size


def product(sizes: Iterable[Dim]) -> Any:
    """All of them multiplied."""
    return prod(sizes)
