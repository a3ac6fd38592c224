"""Noise: masks for dropout and zoneout, from a counter-based random generator.

Philox4x32-10 (Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3") turns a counter and a key
into 128 bits. The counter is the place of a number in a training. So the numbers do not depend on the backend, on the
order of computation or on the number of threads.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Words = NDArray[np.uint64]

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
BLOCK_NUMBERS = 8
"""The number of 16-bit draws in one block of 128 bits, which is the number of units that share a counter."""
NUMBER_SHIFT = 20
"""The shift of the mask's number in the first word of a counter, which is the number of the block in its row plus
the mask's number times 2^20."""
LOW = 0xFFFFFFFF
"""The mask of the low 32 bits, and the largest word."""


class Where(NamedTuple):
    """The place of a mask in a training.

    seed: 64 bits, the key. update: the number of the update. number: the number of the mask in its network. row, step:
    those of the mask's first element; the other elements follow.
    """

    seed: int
    update: int
    number: int
    row: int = 0
    step: int = 0


class Noise(Protocol):
    """A compiled source of masks. Threads may call it at the same time."""

    def fill(self, out: Array, where: Where, p: float, low: float, high: float) -> None:
        """Fills `out` (steps, rows, units), C-contiguous: `low` with probability p, rounded to 2^-16, else `high`."""


def threshold(p: float) -> int:
    """The number of 16-bit draws, out of 65,536, that select the low value."""
    return round(p * 65536)


def key(seed: int) -> tuple[int, int]:
    """The two 32-bit words of a seed."""
    return seed & LOW, (seed >> 32) & LOW


def bits16(shape: tuple[int, ...], where: Where) -> Array:
    """Uniform 16-bit draws (steps, rows, units), each of which depends on its place alone."""
    steps, rows, units = shape
    blocks = -(-units // BLOCK_NUMBERS)
    first = np.arange(blocks) + (where.number << NUMBER_SHIFT)
    step, row = where.step + np.arange(steps), where.row + np.arange(rows)
    counter = (first[None, None, :], step[:, None, None], row[None, :, None], where.update & LOW)
    words = np.empty((steps, rows, blocks, 4), "<u4")
    for number, word in enumerate(philox(counter, key(where.seed))):
        words[..., number] = word
    return words.view("<u2").reshape(steps, rows, blocks * BLOCK_NUMBERS)[..., :units]


def philox(counter: tuple[Any, Any, Any, Any], key: tuple[int, int]) -> tuple[Words, Words, Words, Words]:
    """The four words of Philox4x32-10. counter: four words, numbers or arrays that broadcast, each in 0..2^32-1."""
    a, b, c, d = (
        np.array(word, order="C") for word in np.broadcast_arrays(*(np.asarray(w, np.uint64) for w in counter))
    )
    left, right = np.empty_like(a), np.empty_like(a)
    k, m = key
    for _ in range(ROUNDS):  # in place, because the arrays are large
        np.multiply(a, np.uint64(MULTIPLIERS[0]), out=left)
        np.multiply(c, np.uint64(MULTIPLIERS[1]), out=right)
        _mix(right, b, k, high=a, low=b)
        _mix(left, d, m, high=c, low=d)
        k, m = (k + WEYL[0]) & LOW, (m + WEYL[1]) & LOW
    return a, b, c, d


def _mix(product: Words, word: Words, key: int, *, high: Words, low: Words) -> None:
    """Sets high to the product's high half ^ word ^ key, and low to its low half."""
    np.right_shift(product, np.uint64(32), out=high)
    np.bitwise_xor(high, word, out=high)
    np.bitwise_xor(high, np.uint64(key), out=high)
    np.bitwise_and(product, np.uint64(LOW), out=low)
