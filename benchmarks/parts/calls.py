"""What surrounds the arithmetic: every way to call one step of a model, and a network of the same layer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import rnnc
from benchmarks.parts.jobs import Job, Setting, contest
from benchmarks.peers.entries import Entry
from benchmarks.results.record import OURS, Row
from benchmarks.timing import Contestant

SPEC = rnnc.GRU(40, 64)
PART, TITLE = "small", "a step of gru B1 40/64"
TOLERANCE = 1e-6


def jobs() -> list[Job]:
    return [Job(PART, TITLE, 1, partial(measure, SPEC))]


def measure(spec: rnnc.Spec, setting: Setting) -> list[Row]:
    """A row per way. Raises ValueError if a way's output is not that of the plain call."""
    entries = {f"{OURS} {way}": entry for way, entry in ways_of(spec).items()}
    exact = {"output": entries[f"{OURS} plain"].result()["output"].astype(np.float64)}
    timings, errors, _ = contest(entries, exact, TOLERANCE, 1, setting)
    return [Row(PART, f"{TITLE}, {n.partition(' ')[2]}", 1, {OURS: timings[n]}, {OURS: errors[n]}) for n in entries]


def ways_of(spec: rnnc.Spec) -> dict[str, Entry]:
    """Each computes the output of one step from the same state."""
    params = spec.init(seed=0)
    model: Any = rnnc.compile(spec, params, threads=1)
    network: Any = rnnc.Sequential(spec).compile({f"0.{name}": value for name, value in params.items()}, threads=1)
    x = np.random.default_rng(0).standard_normal((1, 1, spec.input_size), dtype=np.float32)
    state, states, named = model(x)[1], network.advance(x)[1], model.advance(x)[1]
    strided = np.zeros((1, 1, 2 * spec.input_size), np.float32)[:, :, ::2]
    strided[...] = x
    out, lengths = np.empty((1, 1, spec.output_size), np.float32), np.array([1])
    step = model.realtime(batch=1)

    def entry(call: Callable[[], Any], before: Callable[[], Any] = lambda: None) -> Entry:
        def result() -> dict[str, Any]:
            before()
            return {"output": np.array(call()).reshape(1, 1, -1)}

        return Entry(Contestant(call), result)

    return {
        "plain": entry(lambda: model(x, state)[0]),
        "out=": entry(lambda: model(x, state, out=out)[0]),
        "lengths=": entry(lambda: model(x, state, lengths=lengths)[0]),
        "unbatched": entry(lambda: model(x[:, 0], state[:, 0])[0]),
        "strided": entry(lambda: model(strided, state)[0]),
        "realtime": entry(lambda: step(x), lambda: step.reset(named)),
        "a network": entry(lambda: network.advance(x, states)[0]),
    }
