"""Timing on a machine that is never quiet: contestants take turns, each keeps its median and its minimum.

With one thread the clock is the CPU time of the calling thread, which other processes do not lengthen by taking the
core away. With more it is wall time, because only that shows what the threads gained.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

Clock = Callable[[], float]
LEAST_ROUNDS = 3
REST, LONGEST_REST = 5, 300
"""Milliseconds."""


class Timed(Protocol):
    """Whatever takes turns in a race."""

    def sample(self, calls: int, clock: Clock) -> float:
        """Seconds per call, over so many calls in a row."""


@dataclass(frozen=True)
class Contestant:
    """`call` is what is timed; `around` is entered once for a whole sample, outside the clock."""

    call: Callable[[], object]
    around: Callable[[], AbstractContextManager[object]] = nullcontext

    def sample(self, calls: int, clock: Clock) -> float:
        call = self.call
        with self.around():
            start = clock()
            for _ in range(calls):
                call()
            return (clock() - start) / calls


@dataclass(frozen=True)
class Timing:
    """Seconds per call. spread: the median absolute deviation of the samples from their median."""

    median: float
    best: float
    spread: float = 0.0

    @classmethod
    def of(cls, values: Sequence[float]) -> Timing:
        median = statistics.median(values)
        return cls(median, min(values), statistics.median(abs(value - median) for value in values))


def clock_for(threads: int) -> Clock:
    return time.thread_time if threads == 1 else time.perf_counter


def race(
    contestants: Mapping[str, Timed],
    rounds: int,
    clock: Clock,
    sample: float = 0.02,
    limit: float = float("inf"),
    settle: bool = False,
) -> dict[str, Timing]:
    """Interleaved: every round times each contestant once, over as many calls as fill `sample` seconds.

    limit: seconds after which no further round starts, once there were LEAST_ROUNDS. settle: before each
    sample, wait for the threads that the contestant before left spinning, and call the next one once, untimed.
    """
    calls = {}
    for name, contestant in contestants.items():
        if settle:  # a contestant may try in its first calls how many threads pay
            rest()
        calls[name] = _calls_to_fill(sample, contestant, clock)
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    gc.disable()
    start = time.perf_counter()
    try:
        for number in range(rounds):
            if number >= LEAST_ROUNDS and time.perf_counter() - start > limit:
                break
            for name, contestant in contestants.items():
                if settle:
                    rest()
                    contestant.sample(1, clock)
                seconds[name].append(contestant.sample(calls[name], clock))
    finally:
        gc.enable()
    return {name: Timing.of(values) for name, values in seconds.items()}


def rest() -> None:
    """Sleeps until this process uses no processor. Threads of ONNX Runtime spin for some 40 ms after a call."""
    for _ in range(LONGEST_REST // REST):
        before = time.process_time()
        time.sleep(REST / 1000)
        if time.process_time() - before < REST / 1000 / 10:
            return


def _calls_to_fill(seconds: float, contestant: Timed, clock: Clock) -> int:
    """Also warms caches and lets a peer choose its kernels."""
    contestant.sample(1, clock)
    calls = 1
    while (each := contestant.sample(calls, clock)) * calls < seconds / 4:
        calls *= 2
    return max(1, round(seconds / each))
