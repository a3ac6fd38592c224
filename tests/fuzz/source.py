"""Random choices of which a case is made: drawn from a seed, recorded, and replayed when a case is shrunk.

Every choice is a number below a bound, and smaller means simpler: put the plainest option first.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


class Source:
    """A sequence of choices: those given, or else those of a seed.

    choices: what was chosen so far. spans: (start, end) in choices of each item of a list, outer lists last.
    """

    def __init__(self, seed: str = "", given: Sequence[int] | None = None) -> None:
        self._random = random.Random(seed)
        self._given = given
        self.choices: list[int] = []
        self.spans: list[tuple[int, int]] = []

    def below(self, bound: int) -> int:
        """A number in 0..bound-1. A replay that has run out of choices gives 0."""
        if self._given is None:
            choice = self._random.randrange(bound)
        else:
            place = len(self.choices)
            choice = min(self._given[place], bound - 1) if place < len(self._given) else 0
        self.choices.append(choice)
        return choice

    def between(self, low: int, high: int) -> int:
        """A number in low..high."""
        return low + self.below(high - low + 1)

    def chance(self, percent: int) -> bool:
        """True in so many of 100 cases; False is simpler."""
        return self.below(100) >= 100 - percent

    def pick(self, options: Sequence[T]) -> T:
        """One of the options."""
        return options[self.below(len(options))]

    def many(self, draw: Callable[[], T], least: int, most: int, more: int = 80) -> list[T]:
        """A list of least..most items; more: percent of chance that another item follows."""
        items: list[T] = []
        while len(items) < most:
            start = len(self.choices)
            another = self.chance(more)  # of every item, so that any one can be cut out
            if len(items) >= least and not another:
                break
            items.append(draw())
            self.spans.append((start, len(self.choices)))
        return items
