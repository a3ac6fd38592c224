"""Random orders that are a function of a seed and a number, the same on every machine and with every NumPy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rnnc.backends.training.noise import LOW, key, philox


def permutation(seed: int, number: int, size: int) -> NDArray[np.int64]:
    """The numbers 0..size-1 in random order; another one for each `number`.

    The last two words of the counter are no row and update that a mask could have.
    """
    words = philox((np.arange(size), number, LOW, LOW), key(seed))
    return np.lexsort((words[1], words[0])).astype(np.int64)
