"""Timing on a machine that is never quiet: contestants take turns, each keeps its median and its minimum.

With one thread the clock is the CPU time of the calling thread, which other processes do not lengthen by taking the
core away. With more it is wall time, because only that shows what the threads gained.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

Clock = Callable[[], float]


@dataclass(frozen=True)
class Contestant:
    """`call` is what is timed; `around` is entered once for a whole sample, outside the clock."""

    call: Callable[[], object]
    around: Callable[[], AbstractContextManager[object]] = nullcontext


@dataclass(frozen=True)
class Timing:
    """Seconds a call."""

    median: float
    best: float


def clock_for(threads: int) -> Clock:
    return time.thread_time if threads == 1 else time.perf_counter


def race(contestants: Mapping[str, Contestant], rounds: int, clock: Clock, sample: float = 0.02) -> dict[str, Timing]:
    """Interleaved: every round times each contestant once, over as many calls as fill `sample` seconds."""
    calls = {name: _calls_to_fill(sample, c, clock) for name, c in contestants.items()}
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    gc.disable()
    try:
        for _ in range(rounds):
            for name, contestant in contestants.items():
                seconds[name].append(_sample(contestant, calls[name], clock))
    finally:
        gc.enable()
    return {name: Timing(statistics.median(values), min(values)) for name, values in seconds.items()}


def _calls_to_fill(seconds: float, contestant: Contestant, clock: Clock) -> int:
    """Also warms caches and lets a peer choose its kernels."""
    _sample(contestant, 1, clock)
    calls = 1
    while (each := _sample(contestant, calls, clock)) * calls < seconds / 4:
        calls *= 2
    return max(1, round(seconds / each))


def _sample(contestant: Contestant, calls: int, clock: Clock) -> float:
    call = contestant.call
    with contestant.around():
        start = clock()
        for _ in range(calls):
            call()
        return (clock() - start) / calls
