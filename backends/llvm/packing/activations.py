"""Workspace for activations that a phase turns into integers: a few rows at a time, four bytes per word.

A row is its scale and the start of its sums, in a cache line of their own, and its codes, in planes (`asm.dots`) that
are padded with zeros to whole cache lines.
"""

from __future__ import annotations

from rnnc.backends.llvm.asm.target import Dots
from rnnc.backends.planning.plan import Phase

ROWS_AT_ONCE = 32
"""The rows that are turned at once. All panels are then computed for them, so the weights are read once per so many."""
LINE_WORDS = 16
"""The number of words of a cache line."""
SCALE_AT, START_AT, CODES_AT = 0, 1, LINE_WORDS
"""Where a row's scale, the start of its sums, and its codes are, in words."""


def feed_words(phase: Phase, dots: Dots) -> list[int]:
    """The number of words of workspace that each feed of a phase needs: none unless activations are integers."""
    if not phase.product.activations:
        return [0] * len(phase.feeds)
    lines = [-(-phase.product.words(feed.inner) // LINE_WORDS) for feed in phase.feeds]
    return [ROWS_AT_ONCE * (CODES_AT + dots.planes * each * LINE_WORDS) for each in lines]
