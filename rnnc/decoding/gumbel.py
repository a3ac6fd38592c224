"""The random numbers of sampling. Each depends on the seed, its row, its step and its column alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnnc.backends.training.noise import key, philox

WORDS = 4
"""The random words of one counter."""
STREAM = 0x6475_6D62
"""The last word of all counters here: the numbers differ from those of a training with the same seed."""


def gumbel(seed: int, first: int, steps: int, rows: NDArray[Any], width: int, dtype: str) -> NDArray[Any]:
    """Gumbel noise, -log(-log(u)) of uniform u in (0, 1): (steps, len(rows), width) from the step `first` on.

    rows: the numbers of the rows. u is a 32-bit word of Philox4x32-10, plus 1/2, over 2^32.
    """
    blocks = np.arange(-(-width // WORDS))
    counter = blocks[None, None, :], first + np.arange(steps)[:, None, None], rows[None, :, None], STREAM
    words = np.stack(philox(counter, key(seed)), axis=-1).reshape(steps, len(rows), -1)[..., :width]
    noise: NDArray[Any] = -np.log(-np.log((words + 0.5) * 2.0**-32))
    return noise.astype(dtype)
