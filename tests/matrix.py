"""The matrix of DESIGN: which options meet which, for the tests and for benchmarks/accuracy.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tests.cases import CELLS, Case
from tests.pairwise import Choice, covering

OPTIONS: Mapping[str, Sequence[Any]] = {
    "cell": CELLS,
    "num_layers": (1, 2, 3),
    "bidirectional": (False, True),
    "bias": (True, False),
    "batch_first": (False, True),
    "dtype": ("float32", "float64"),
    "steps": (1, 2, 7, 33),
    "batch": (1, 3, 8, None),
    "input_size": (1, 5, 33, 50, 100),
    "hidden_size": (1, 5, 33, 50, 100),
    "lengths": ("none", "mixed", "full"),
    "initial": (False, True),
}
NO_WORK: Sequence[Mapping[str, Sequence[Any]]] = (
    {"batch": (0,)},
    {"batch": (1, 3, 8), "lengths": ("empty",)},
)
"""Calls that compute nothing are kept apart: a pair of options that met only there would not be tested."""


def allowed(choice: Choice) -> bool:
    """A projection is narrower than its state, so hidden size 1 has none; an unbatched call has no lengths."""
    projected_to_nothing = choice.get("cell") == "lstm_projected" and choice.get("hidden_size") == 1
    unbatched_lengths = choice.get("batch", 0) is None and choice.get("lengths", "none") != "none"
    return not projected_to_nothing and not unbatched_lengths


def cases(strength: int) -> list[Case]:
    """All combinations of any `strength` option values; each value once more in a call that computes nothing."""
    choices = covering(OPTIONS, strength, allowed)
    for empty in NO_WORK:
        choices += covering({**OPTIONS, **empty}, 1, allowed)
    return [Case(**choice, seed=seed) for seed, choice in enumerate(choices)]
