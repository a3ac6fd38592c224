"""Two threads against one: a team that shares each step by units, and a batch that is split by rows.

    python -m benchmarks.teams
    python -m benchmarks.teams --batches 1,4,32 --steps 1,20,100 --threads 2

Wall times of the checked call, medians, taking turns; results are verified first: a team's to the bit. "team" is what
a model does by itself where it takes a batch as a team; "rows" is the same model with teams switched off.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import rnnc

SPECS = {
    "LSTM 512": rnnc.LSTM(512, 512),
    "LSTM 128": rnnc.LSTM(128, 128),
    "LSTM 64": rnnc.LSTM(64, 64),
    "GRU 256 L3": rnnc.GRU(256, 256, 3),
    "LSTM 128 bi": rnnc.LSTM(128, 128, bidirectional=True),
    "RNN 128": rnnc.RNN(128, 128),
}
SECONDS, TURNS = 0.06, 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=_numbers, default=[1, 4, 32])
    parser.add_argument("--steps", type=_numbers, default=[1, 20, 100])
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    print(f"| model | B | T | one thread, us | team | rows |  ({options.threads} threads)\n|---|---|---|---|---|---|")
    for name, spec in SPECS.items():
        params = spec.init(0)
        one, team, rows = (rnnc.compile(spec, params, threads=n) for n in (1, options.threads, options.threads))
        rows._code.team = None  # type: ignore[attr-defined]
        rows = rnnc.Model(rows.program, params)
        for batch in options.batches:
            for steps in options.steps:
                x = np.random.default_rng(0).standard_normal((steps, batch, spec.input_size), dtype=np.float32)
                calls = [lambda model=model, x=x: model(x) for model in (one, team, rows)]
                y = calls[0]()[0]
                assert (calls[1]()[0] == y).all() and np.allclose(calls[2]()[0], y, atol=1e-5)
                alone, together, split = _medians(calls)
                gains = f"{alone / together:.2f} | {alone / split:.2f}"
                print(f"| {name} | {batch} | {steps} | {alone:.1f} | {gains} |", flush=True)


def _numbers(text: str) -> list[int]:
    return list(map(int, text.split(",")))


def _medians(calls: list[Callable[[], Any]]) -> list[float]:
    """The median microseconds of each call: medians of turns."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(TURNS):
        for place, call in zip(times, calls, strict=True):
            place.append(_median(call))
    return [statistics.median(each) for each in times]


def _median(call: Callable[[], Any]) -> float:
    call()
    found: list[float] = []
    start = time.perf_counter()
    while len(found) < 3 or time.perf_counter() - start < SECONDS:
        begin = time.perf_counter()
        call()
        found.append((time.perf_counter() - begin) * 1e6)
    return statistics.median(found)


if __name__ == "__main__":
    main()
