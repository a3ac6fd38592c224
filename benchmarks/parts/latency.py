"""How long a streamed step takes at worst, and what several Python threads do with one model.

A step of one stream, and of 1,000 streams in one batch, as `model(x, state)` and as `model.realtime`: percentiles of
wall time. Three loads: none; a busy process per core; a busy thread of Python in the same process. Then the throughput
of 1, 2, 4 and 8 Python threads that call one model, with T = 1 and with T = 100.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

import rnnc
from benchmarks.parts.jobs import Job, Setting
from benchmarks.results.record import OURS, Row
from benchmarks.timing import Timing

PART, SIZE = "latency", 128
STREAMS = (1, 1000)
CALLS = ("model(x, state)", "step(x)")
THREADS = (1, 2, 4, 8)
THROUGHPUTS = ((16, 1), (SIZE, 1), (SIZE, 100))
"""Hidden units and steps."""


def jobs() -> list[Job]:
    waits = [
        Job(PART, f"lstm {SIZE}/{SIZE} T1 B{batch} {call}, load: {load}", 1, partial(measure, batch, call, load))
        for batch in STREAMS
        for load in LOADS
        for call in CALLS
    ]
    rates = [
        Job(PART, f"lstm {size}/{size} T{length} B1 by {count} Python threads", 1, partial(rate, size, length, count))
        for size, length in THROUGHPUTS
        for count in THREADS
    ]
    return waits + rates


def measure(batch: int, call: str, load: str, setting: Setting) -> list[Row]:
    """Over half of the setting's seconds."""
    spec = rnnc.LSTM(SIZE, SIZE)
    model = rnnc.compile(spec, spec.init(seed=0), threads=1)
    x = np.random.default_rng(0).standard_normal((1, batch, SIZE), dtype=np.float32)
    state, step = model(x)[1], model.realtime(batch)
    calls: dict[str, Callable[[], object]] = dict(zip(CALLS, (lambda: model(x, state), lambda: step(x)), strict=True))
    gc.disable()
    try:
        with LOADS[load]():
            found = times(calls[call], setting.seconds / 2)
    finally:
        gc.enable()
    figures = {f"p{percent:g} us": float(np.percentile(found, percent)) * 1e6 for percent in (99, 99.9)}
    figures |= {"most us": float(found.max()) * 1e6, "calls per s": len(found) / float(found.sum())}
    name = f"lstm {SIZE}/{SIZE} T1 B{batch} {call}, load: {load}"
    return [Row(PART, name, 1, {OURS: Timing.of(found)}, figures=figures)]


def rate(size: int, length: int, count: int, setting: Setting) -> list[Row]:
    """Over a tenth of the setting's seconds: all threads together, as the time that passes per call."""
    spec = rnnc.LSTM(size, size)
    model = rnnc.compile(spec, spec.init(seed=0), threads=1)
    found = throughput(model, np.ones((length, 1, size), np.float32), count, setting.seconds / 10)
    name = f"lstm {size}/{size} T{length} B1 by {count} Python threads"
    return [Row(PART, name, 1, {OURS: Timing(1 / found, 1 / found)}, figures={"calls per s": found})]


def times(call: Callable[[], object], seconds: float) -> np.ndarray[Any, Any]:
    """Seconds of each of many calls."""
    clock, found = time.perf_counter_ns, list[int]()
    for _ in range(20):
        call()
    end = clock() + int(seconds * 1e9)
    while (start := clock()) < end:
        call()
        found.append(clock() - start)
    return np.array(found) / 1e9


def throughput(model: rnnc.Model, x: Any, count: int, seconds: float) -> float:
    """Calls per second of all threads together."""
    ended, done = threading.Event(), [0] * count
    state = model(x)[1]

    def work(number: int) -> None:
        calls = 0
        while not ended.is_set():
            model(x, state)
            calls += 1
        done[number] = calls

    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    ended.set()
    for thread in threads:
        thread.join()
    return sum(done) / (time.perf_counter() - start)


# ---------------------------------------------------------------------------------------------- loads


def _spin() -> None:
    while True:
        pass


@contextmanager
def busy_processes() -> Iterator[None]:
    """One per core that this process may use."""
    others = [multiprocessing.Process(target=_spin, daemon=True) for _ in range(len(os.sched_getaffinity(0)))]
    for other in others:
        other.start()
    try:
        yield
    finally:
        for other in others:
            other.terminate()
            other.join()


@contextmanager
def busy_thread() -> Iterator[None]:
    """A thread that never gives the interpreter lock up of its own accord."""
    ended = threading.Event()

    def work() -> None:
        while not ended.is_set():
            sum(range(1000))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def nothing() -> Iterator[None]:
    yield


LOADS = {"none": nothing, "busy processes": busy_processes, "busy Python thread": busy_thread}
