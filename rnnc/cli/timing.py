"""Times of parts of a compilation and of calls, and their texts."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from rnnc.specs import Spec

T = TypeVar("T")


def timed(function: Callable[[], T]) -> tuple[float, T]:
    """The seconds that a function takes, and its result."""
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def call_seconds(call: Callable[[], object], repeat: int, seconds: float = 1.0) -> list[float]:
    """Seconds of each of `repeat` calls; if `repeat` is 0, of as many as fit into a time."""
    times: list[float] = []
    until = time.perf_counter() + seconds
    while len(times) < repeat or (not repeat and (not times or time.perf_counter() < until)):
        times.append(timed(call)[0])
    return times


def example(spec: Spec, steps: int, batch: int) -> np.ndarray[Any, Any]:
    """Random input of a spec."""
    shape = (batch, steps) if spec.batch_first else (steps, batch)
    return np.random.default_rng(0).normal(size=(*shape, spec.input_size)).astype(spec.dtype)


def duration(seconds: float) -> str:
    """Seconds as text, with a unit that suits them."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}" if seconds / scale < 100 else f"{seconds / scale:.0f} {unit}"
    return f"{seconds * 1e9:.0f} ns"
