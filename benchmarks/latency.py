"""How long a streamed step takes at worst, and what several Python threads do with one model.

    python -m benchmarks.latency                # about two minutes
    python -m benchmarks.latency --seconds 0.5  # of measuring per row

A step of one stream, and of 1,000 streams in one batch, as `model(x, state)` and as `model.realtime`: percentiles of
wall time. Three loads: none; a busy process per core; a busy thread of Python in the same process. Then the throughput
of 1, 2, 4 and 8 Python threads that call one model, with T = 1 and with T = 100.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

import rnnc

SIZE = 128
STREAMS = (1, 1000)
THREADS = (1, 2, 4, 8)
PERCENTILES = (50, 99, 99.9)


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


def times(call: Callable[[], object], seconds: float) -> np.ndarray[Any, Any]:
    """Microseconds of each of many calls."""
    clock, found = time.perf_counter_ns, list[int]()
    for _ in range(20):
        call()
    end = clock() + int(seconds * 1e9)
    while (start := clock()) < end:
        call()
        found.append(clock() - start)
    return np.array(found) / 1e3


def steps(seconds: float) -> None:
    spec = rnnc.LSTM(SIZE, SIZE)
    model = rnnc.compile(spec, spec.init(seed=0), threads=1)
    print(f"a streamed step, LSTM({SIZE}, {SIZE}), one thread, us")
    print("| streams | call | load | p50 | p99 | p99.9 | most | steps |\n|---|---|---|---|---|---|---|---|")
    for batch in STREAMS:
        x = np.random.default_rng(0).standard_normal((1, batch, SIZE), dtype=np.float32)
        state, step = model(x)[1], model.realtime(batch)
        calls = {"model(x, state)": lambda x=x, state=state: model(x, state), "step(x)": lambda x=x, step=step: step(x)}
        for load, around in LOADS.items():
            for name, call in calls.items():
                with around():
                    found = times(call, seconds)
                shown = " | ".join(f"{value:,.1f}" for value in (*np.percentile(found, PERCENTILES), found.max()))
                print(f"| {batch:,} | `{name}` | {load} | {shown} | {len(found):,} |", flush=True)


def throughput(seconds: float) -> None:
    print("\ncalls per second of one model, LSTM(h, h), B = 1")
    print(f"| h | T | {' | '.join(f'{count} threads' for count in THREADS)} |\n|{'---|' * (2 + len(THREADS))}")
    for size, length in ((16, 1), (SIZE, 1), (SIZE, 100)):
        spec = rnnc.LSTM(size, size)
        model = rnnc.compile(spec, spec.init(seed=0), threads=1)
        x = np.ones((length, 1, size), np.float32)
        rates = [_rate(model, x, count, seconds) for count in THREADS]
        print(f"| {size} | {length} | {' | '.join(f'{rate:,.0f}' for rate in rates)} |", flush=True)


def _rate(model: rnnc.Model, x: Any, count: int, seconds: float) -> float:
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


def main() -> None:
    parser = argparse.ArgumentParser("benchmarks.latency", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="of measuring per row")
    options = parser.parse_args()
    gc.disable()
    steps(options.seconds)
    throughput(min(options.seconds, 2.0))


if __name__ == "__main__":
    main()
