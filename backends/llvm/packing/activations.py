"""Workspace for activations that a phase turns into integers: a few rows at a time, four bytes per word.

A row is its scale, in a cache line of its own, and its codes, padded with zeros to whole cache lines.
"""

from __future__ import annotations

from rnnc.backends.planning.plan import Phase

ROWS_AT_ONCE = 32
"""The rows that are turned at once. All panels are then computed for them, so the weights are read once per so many."""
LINE_WORDS = 16
"""The number of words of a cache line."""
CODES_AT = LINE_WORDS
"""Where a row's codes start, in words."""


def row_words(words: int) -> int:
    """The number of words of a row with codes in `words` words."""
    return CODES_AT + -(-words // LINE_WORDS) * LINE_WORDS


def feed_words(phase: Phase) -> list[int]:
    """The number of words of workspace that each feed of a phase needs: none unless activations are integers."""
    product = phase.product
    return [ROWS_AT_ONCE * row_words(product.words(feed.inner)) if product.activations else 0 for feed in phase.feeds]
