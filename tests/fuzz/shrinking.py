"""Shrinking: from the choices of a failing case to fewer and smaller choices that fail alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple


class Failing(NamedTuple):
    """Choices that fail, as far as they were read, and the spans of items in lists."""

    choices: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]


def shrink(start: Failing, attempt: Callable[[Sequence[int]], Failing | None], seconds: float) -> Failing:
    """The simplest failing choices found in time: fewer come first, then smaller ones.

    attempt: runs a case; returns what failed, or None if the case holds (or fails in another way).
    """
    deadline = time.monotonic() + seconds
    best, tried = start, {start.choices}
    passes = [_without_items, _with_zeros, _with_smaller, _without_pieces]
    number = 0
    while number < len(passes):
        for candidate in passes[number](best):
            if time.monotonic() > deadline:
                return best
            if candidate in tried or not _simpler(candidate, best.choices):
                continue
            tried.add(candidate)
            found = attempt(candidate)
            if found is not None and _simpler(found.choices, best.choices):
                best, number = found, -1  # begin again: what could not be left out before may be now
                break
        number += 1
    return best


def _simpler(a: Sequence[int], b: Sequence[int]) -> bool:
    return (len(a), tuple(a)) < (len(b), tuple(b))


def _without_items(best: Failing) -> Iterator[tuple[int, ...]]:
    """Without runs of items of lists, long runs first."""
    count = len(best.spans)
    size = count
    while size:
        for first in range(0, count, size):
            run = best.spans[first : first + size]
            start, end = min(s for s, _ in run), max(e for _, e in run)
            yield best.choices[:start] + best.choices[end:]
        size //= 2


def _without_pieces(best: Failing) -> Iterator[tuple[int, ...]]:
    """Without a few choices side by side."""
    for size in (8, 4, 2, 1):
        for start in reversed(range(0, len(best.choices) - size + 1)):
            yield best.choices[:start] + best.choices[start + size :]


def _with_zeros(best: Failing) -> Iterator[tuple[int, ...]]:
    """With zeros for a few choices side by side."""
    for size in (16, 4, 1):
        for start in range(0, len(best.choices), size):
            zeros = (0,) * len(best.choices[start : start + size])
            yield best.choices[:start] + zeros + best.choices[start + size :]


def _with_smaller(best: Failing) -> Iterator[tuple[int, ...]]:
    """With one choice smaller: 0, then by halves, then by one."""
    for place, value in enumerate(best.choices):
        for smaller in dict.fromkeys((0, value // 2, value - value // 4, value - 1)):
            if 0 <= smaller < value:
                yield best.choices[:place] + (smaller,) + best.choices[place + 1 :]
