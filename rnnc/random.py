"""Random permutations that depend on a seed and a number alone, not on the machine or the version of NumPy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rnnc.backends.training.noise import LOW, key, philox


def permutation(seed: int, number: int, size: int) -> NDArray[np.int64]:
    """The numbers 0..size-1 in a random order, int64 (size,). Each `number` gives another order.

    The last two words of the counter are a row and an update that no random mask can have.
    """
    words = philox((np.arange(size), number, LOW, LOW), key(seed))
    return np.lexsort((words[1], words[0])).astype(np.int64)
