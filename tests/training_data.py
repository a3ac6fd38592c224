"""Small networks and ragged data for the tests of training."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

import rnnc

Array = NDArray[Any]
Pairs = list[tuple[Array, Array]]

WORDS, CLASSES = 11, 3
LENGTHS = (5, 2, 7, 1, 3, 7)


def tagger(dtype: str = "float64", *, readout: str = "every", cell: type[Any] = rnnc.GRU, **options: Any) -> Any:
    """Embedding, recurrent layers, output layer."""
    options = {"num_layers": 2, "bidirectional": True, "dtype": dtype} | options
    spec = cell(4, 5, **options)
    head = rnnc.Linear(spec.output_size, CLASSES)
    return rnnc.Sequential(rnnc.Embedding(WORDS, 4), spec, head, readout=readout)


def tagged(seed: int = 0, lengths: tuple[int, ...] = LENGTHS, readout: str = "every") -> Pairs:
    """Numbers of words, and classes: one a step, or one a sequence."""
    rng = np.random.default_rng(seed)
    shape = {"every": lambda n: n}.get(readout, lambda n: None)
    return [(rng.integers(0, WORDS, n), rng.integers(0, CLASSES, shape(n))) for n in lengths]


def series(seed: int = 0, lengths: tuple[int, ...] = LENGTHS, dtype: str = "float64") -> Pairs:
    """Vectors of size 4, and vectors of size 3 to predict at each step."""
    rng = np.random.default_rng(seed)
    return [(rng.standard_normal((n, 4)).astype(dtype), rng.standard_normal((n, 3)).astype(dtype)) for n in lengths]
