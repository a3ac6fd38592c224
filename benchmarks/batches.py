"""What batches cost: of a list, a generator and a data set, beside the update that they are for.

python -m benchmarks.batches                       # one thread, CPU time, medians of 9 rounds
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import rnnc
from rnnc import train
from rnnc.optimizers import Adam
from rnnc.train.data import Batching
from rnnc.train.objective import objective_of
from rnnc.train.sources import Source, prepare, source

BATCH, BATCHES, ROUNDS = 32, 40, 9


class DataSet:
    """Items by number, as torch's map-style data sets."""

    def __init__(self, items: list[Any]) -> None:
        self._items = items

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, number: int) -> Any:
        return self._items[number]


def cases() -> dict[str, tuple[Any, str, list[Any]]]:
    """Name -> network, loss, items."""
    rng, count = np.random.default_rng(0), BATCH * BATCHES
    small = rnnc.Sequential(rnnc.GRU(16, 64), rnnc.Linear(64, 4))
    tagger = rnnc.Sequential(rnnc.Embedding(5000, 64), rnnc.LSTM(64, 64, bidirectional=True), rnnc.Linear(128, 17))

    def vectors(steps: int) -> Any:
        return rng.standard_normal((steps, 16), np.float32), rng.standard_normal((steps, 4), np.float32)

    return {
        "GRU 16/64, T = 50": (small, "mse", [vectors(50) for _ in range(count)]),
        "GRU 16/64, T = 20..50": (small, "mse", [vectors(n) for n in rng.integers(20, 51, count)]),
        "tagger, T = 5..39": (
            tagger,
            "cross_entropy",
            [(rng.integers(0, 5000, n), rng.integers(0, 17, n)) for n in rng.integers(5, 40, count)],
        ),
    }


def sources(model: Any, loss: str, items: list[Any]) -> dict[str, Source]:
    """The same items in three forms."""

    def generator() -> Iterator[Any]:
        yield from items

    found = {}
    for name, data in {"list": items, "generator": generator, "data set": DataSet(items)}.items():
        found[name] = source(model, objective_of(model, loss).losses, data, Batching(BATCH, 1, 0))
        prepare(model, objective_of(model, loss).losses, [found[name]])
    return found


def seconds(work: Callable[[], object]) -> float:
    """The CPU time of this thread, per batch."""
    start = time.thread_time()
    work()
    return (time.thread_time() - start) / BATCHES


def main() -> None:
    for case, (model, loss, items) in cases().items():
        forms = sources(model, loss, items)
        step = train.TrainingStep(model, loss, Adam(1e-3), threads=1)
        groups = list(forms["list"].epoch(0, 0))

        def update(step: train.TrainingStep = step, groups: Any = groups) -> None:
            for group in groups:
                step.step(group)

        times: dict[str, list[float]] = {name: [] for name in (*forms, "update")}
        for number in range(ROUNDS):
            for name, form in forms.items():
                times[name].append(seconds(lambda form=form, n=number: list(form.epoch(n, 0))))  # type: ignore[misc]
            times["update"].append(seconds(update))
        medians = {name: float(np.median(found)) * 1e3 for name, found in times.items()}
        more = (medians["generator"] - medians["list"]) / (medians["list"] + medians["update"])
        shown = ", ".join(f"{name} {value:.3f}" for name, value in medians.items())
        print(f"{case}: {shown} ms; a generator costs {more:+.1%}")


if __name__ == "__main__":
    main()
