"""How a decoder chooses the next number from the scores of a step: the first largest, a random one, or a beam.

A choice is equations over the hypotheses of a row. `Greedy` and `Sample` follow one; `Beam` follows several, and says
for each of the next ones which hypothesis it goes on from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, ClassVar, NamedTuple

from rnnc.checking import checks
from rnnc.checking.arguments import explained_class
from rnnc.ir.equations import Value, argmax, concat, exp, iota, largest, log, log_softmax, total, where

__all__ = ["Beam", "Choice", "Greedy", "Sample"]


class Hypothesis(NamedTuple):
    """One sequence of numbers so far. All fields are (B, 1).

    last: the number chosen last. ended: 1 after the end symbol, else 0. score: the sum of the log-probabilities of its
    numbers, the end symbol included. length: how many numbers stand before the end symbol.
    """

    last: Value
    ended: Value
    score: Value
    length: Value


class Next(NamedTuple):
    """A hypothesis with one more number. parent: the number of the hypothesis it goes on from; None: its own."""

    number: Value
    score: Value
    parent: Value | None = None


class Choice:
    """Base of `Greedy`, `Sample` and `Beam`.

    hypotheses: how many sequences each row follows. random: whether `choose` reads random numbers.
    """

    random: ClassVar[bool] = False

    @property
    def hypotheses(self) -> int:
        """How many sequences each row follows."""
        return 1

    def choose(
        self, scores: Sequence[Value], old: Sequence[Hypothesis], end: int | None, noise: Value | None
    ) -> list[Next]:
        """The next hypotheses, from the scores (B, V) of each one's step. Those of ended ones are not read.

        end: the end symbol. noise: Gumbel noise (B, V) if `random`.
        """
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """Every argument as plain data, and "type"."""
        return {"type": type(self).__name__} | vars(self)

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)


@explained_class
@dataclass(frozen=True)
class Greedy(Choice):
    """The number with the largest score; the first of several, or the first NaN, as NumPy's argmax."""

    def choose(
        self, scores: Sequence[Value], old: Sequence[Hypothesis], end: int | None, noise: Value | None
    ) -> list[Next]:
        ((x,), (hypothesis,)) = scores, old
        return [Next(argmax(x), hypothesis.score - log(total(exp(x - largest(x)))))]


@explained_class
@dataclass(frozen=True)
class Sample(Choice):
    """A random number, with the probabilities softmax(scores / temperature).

    It is the argmax of the scores plus Gumbel noise (Gumbel 1954, "Statistical theory of extreme values").

    temperature: > 0; below 1 the largest scores are chosen more often.
    top_k: only the k largest scores can be chosen, and those equal to the k-th; None: all.
    """

    temperature: float = 1.0
    top_k: int | None = None
    random: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self._set("temperature", checks.number("temperature", self.temperature, above=True))
        if self.top_k is not None:
            self._set("top_k", checks.integer("top_k", self.top_k, 1, MOST_AT_ONCE))

    def choose(
        self, scores: Sequence[Value], old: Sequence[Hypothesis], end: int | None, noise: Value | None
    ) -> list[Next]:
        ((x,), (hypothesis,)) = scores, old
        assert noise is not None
        left = x
        if self.top_k is not None and self.top_k < int(x.shape[-1]):
            left = where(least_of_top(x, self.top_k) > x, -inf, x)
        number = argmax(left * (1.0 / self.temperature) + noise)
        return [Next(number, hypothesis.score + at(log_softmax(x), number))]


@explained_class
@dataclass(frozen=True)
class Beam(Choice):
    """The `width` sequences with the largest scores, the sums of their log-probabilities, are kept at each step.

    The result is the best one of the last step. Ended ones stay in the beam, and compete. Of equal scores the first
    wins: that of the better hypothesis, then that of the smaller number. A beam of width 1 is greedy.

    width: 1 to 32. The network is unrolled `width` times per step.
    length_penalty: a: scores are compared divided by n^a, where n counts the numbers with the end symbol. 0: as they
        are, which favours short sequences; 1: the mean log-probability.
    """

    width: int
    length_penalty: float = 0.0

    def __post_init__(self) -> None:
        self._set("width", checks.integer("width", self.width, 1, MOST_HYPOTHESES))
        self._set("length_penalty", checks.number("length_penalty", self.length_penalty))

    @property
    def hypotheses(self) -> int:
        return self.width

    def choose(
        self, scores: Sequence[Value], old: Sequence[Hypothesis], end: int | None, noise: Value | None
    ) -> list[Next]:
        if self.width == 1:  # log-probabilities may be equal where scores are not
            return Greedy().choose(scores, old, end, noise)
        size = int(scores[0].shape[-1])
        sums = concat([_continued(x, hypothesis, end) for x, hypothesis in zip(scores, old, strict=True)])
        ranks = sums
        if self.length_penalty:
            ranks = concat(
                [
                    sums[:, k * size : (k + 1) * size] * exp(-self.length_penalty * log(hypothesis.length + 1.0))
                    for k, hypothesis in enumerate(old)
                ]
            )
        found = []
        for place in top(ranks, self.width):
            parent = total(concat([(place >= float(k * size)).as_numbers() for k in range(1, self.width)]))
            found.append(Next(place - parent * float(size), at(sums, place), parent))
        return found


MOST_AT_ONCE = 1024
"""The largest `top_k`: each of them is one more maximum over the scores."""
MOST_HYPOTHESES = 32


def _continued(x: Value, hypothesis: Hypothesis, end: int | None) -> Value:
    """The scores of a hypothesis with each number; an ended one goes on with the end symbol alone, at no cost."""
    running = hypothesis.score + log_softmax(x)
    stays: Value | float = -inf if end is None else where(numbers_are(x, end), hypothesis.score, -inf)
    return where(hypothesis.ended > 0.5, stays, running)


def numbers_are(x: Value, number: int | Value) -> Value:
    """The mask (B, N) of the column of a number."""
    return 0.5 > abs(iota(x.graph, int(x.shape[-1])) - number)


def at(x: Value, number: Value) -> Value:
    """The element of each row with a number: (B, N), (B, 1) -> (B, 1)."""
    return largest(where(numbers_are(x, number), x, -inf))


def top(x: Value, count: int) -> list[Value]:
    """The numbers of the `count` largest elements, in order; of equal ones the first come first. (B, N) -> (B, 1)."""
    found: list[Value] = []
    for _ in range(count):
        found.append(argmax(x))
        x = where(numbers_are(x, found[-1]), -inf, x)
    return found


def least_of_top(x: Value, count: int) -> Value:
    """The `count`-th largest element: (B, N) -> (B, 1), by one maximum per different element above it."""
    least = largest(x)
    for _ in range(count - 1):
        seen = total((x >= least).as_numbers())
        least = where(seen >= float(count), least, largest(where(least > x, x, -inf)))
    return least
