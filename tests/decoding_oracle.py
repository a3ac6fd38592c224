"""Decoding in plain NumPy, one row, one hypothesis and one step at a time, in float64: what `rnnc.Decoder` is held to.

The network of a step is any function (state, last number) -> (scores (V,), new state).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Step = Callable[[Any, int], tuple[Array, Any]]


class Row(NamedTuple):
    """One row: its numbers before the end symbol, and the sum of the log-probabilities, that symbol's included."""

    numbers: list[int]
    score: float


def log_probabilities(scores: Array) -> Array:
    """log(softmax(scores))."""
    shifted = scores - scores.max()
    found: Array = shifted - np.log(np.exp(shifted).sum())
    return found


def greedy(step: Step, state: Any, start: int, end: int | None, steps: int) -> Row:
    """The first largest score at each step."""
    return chosen(step, state, start, end, steps, lambda scores, t: int(np.argmax(scores)))


def chosen(step: Step, state: Any, start: int, end: int | None, steps: int, choose: Callable[[Array, int], int]) -> Row:
    """The numbers that `choose` picks of the scores of each step."""
    numbers, score, last = list[int](), 0.0, start
    for t in range(steps):
        scores, state = step(state, last)
        last = choose(scores, t)
        score += float(log_probabilities(scores)[last])
        if last == end:
            break
        numbers.append(last)
    return Row(numbers, score)


def sampled(scores: Array, noise: Array, temperature: float, top_k: int | None) -> int:
    """A choice by the Gumbel-max trick."""
    kept = scores.copy()
    if top_k is not None and top_k < len(scores):
        kept[kept < np.sort(kept)[-top_k]] = -np.inf
    return int(np.argmax(kept / temperature + noise))


class Hypothesis(NamedTuple):
    numbers: list[int]
    score: float
    ended: bool
    state: Any


def beam(step: Step, state: Any, start: int, end: int | None, steps: int, width: int, penalty: float = 0.0) -> Row:
    """The best sequence of a beam search. Ended ones stay in the beam."""
    kept = [Hypothesis([], 0.0, False, state)]
    for _ in range(steps):
        candidates = list[tuple[float, Hypothesis]]()
        for hypothesis in kept:
            candidates += _continued(step, hypothesis, start, end, penalty)
        candidates.sort(key=lambda pair: -pair[0])  # stable: of equal ones the first stay first
        kept = [hypothesis for _, hypothesis in candidates[:width]]
    return Row(kept[0].numbers, kept[0].score)


def _continued(
    step: Step, old: Hypothesis, start: int, end: int | None, penalty: float
) -> list[tuple[float, Hypothesis]]:
    by = float(len(old.numbers) + 1) ** penalty
    if old.ended:
        return [(old.score / by, old)]
    scores, state = step(old.state, old.numbers[-1] if old.numbers else start)
    found = []
    for number, more in enumerate(log_probabilities(scores)):
        score = old.score + float(more)
        numbers = old.numbers if number == end else [*old.numbers, number]
        found.append((score / by, Hypothesis(numbers, score, number == end, state)))
    return found


# ---- the networks of the tests


def gru(x: Array, h: Array, p: Mapping[str, Array], prefix: str) -> Array:
    """A step of PyTorch's GRU."""
    from_x = p[f"{prefix}.weight_ih_l0"] @ x + p[f"{prefix}.bias_ih_l0"]
    from_h = p[f"{prefix}.weight_hh_l0"] @ h + p[f"{prefix}.bias_hh_l0"]
    (rx, zx, nx), (rh, zh, nh) = np.split(from_x, 3), np.split(from_h, 3)
    r, z = 1 / (1 + np.exp(-(rx + rh))), 1 / (1 + np.exp(-(zx + zh)))
    n = np.tanh(nx + r * nh)
    new: Array = (1 - z) * n + z * h
    return new


def encoded(p: Mapping[str, Array], numbers: Array) -> Array:
    """The last state of the encoder "table", "gru", for one row."""
    h = np.zeros(p["encoder.gru.weight_hh_l0"].shape[1])
    for number in numbers:
        h = gru(p["encoder.table.weight"][number], h, p, "encoder.gru")
    return h


def step_of(p: Mapping[str, Array]) -> Step:
    """The step "table", "gru", "scores"."""

    def step(h: Any, last: int) -> tuple[Array, Any]:
        new = gru(p["step.table.weight"][last], h, p, "step.gru")
        return p["step.scores.weight"] @ new + p["step.scores.bias"], new

    return step


def attention(p: Mapping[str, Array], memory: Array, query: Array) -> Array:
    """Luong's, over the states (S, M) of one row."""
    if not len(memory):
        return np.zeros(memory.shape[1])
    scores = memory @ (p["step.attend.weight"] @ query if "step.attend.weight" in p else query)
    powers = np.exp(scores - scores.max())
    found: Array = powers @ memory / powers.sum()
    return found


def attending_step(p: Mapping[str, Array], context: Callable[[Array], Array]) -> Step:
    """The step "table", "gru", "attend", "both", "scores". context: what "attend" makes of the state of "gru"."""

    def step(h: Any, last: int) -> tuple[Array, Any]:
        new = gru(p["step.table.weight"][last], h, p, "step.gru")
        both = np.concatenate([new, context(new)])
        return p["step.scores.weight"] @ both + p["step.scores.bias"], new

    return step


def all_encoded(p: Mapping[str, Array], numbers: Array) -> Array:
    """All states of the encoder, for one row: (S, M)."""
    h = np.zeros(p["encoder.gru.weight_hh_l0"].shape[1])
    found = [h := gru(p["encoder.table.weight"][number], h, p, "encoder.gru") for number in numbers]
    return np.array(found).reshape(len(found), len(h))
