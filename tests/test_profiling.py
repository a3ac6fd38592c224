"""Profiles: what is counted is what ran, counting changes no result, and code that is not profiled counts nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rnnc
from rnnc.ir import settings
from tests.refusals import raises_saying

SPEC = rnnc.GRU(3, 5, num_layers=2)
X = np.random.default_rng(0).standard_normal((6, 4, 3)).astype("float32")


def rows_of(profile: Any, kind: str) -> list[Any]:
    return [row for row in profile.rows if row.kind == kind and row.runs]


@pytest.mark.parametrize("threads", (1, 2))
def test_the_counts_are_those_of_the_call(threads: int) -> None:
    model = rnnc.compile(SPEC, SPEC.init(0), threads=threads)
    profile = model.profile(X, seconds=0)
    assert profile.calls == 3 and profile.threads == 1  # too small to share
    steps, hoisted = rows_of(profile, "step"), rows_of(profile, "hoisted")
    assert {row.site for row in steps} == {"l0.fwd", "l1.fwd"}
    assert all((row.runs, row.rows) == (6, 24) for row in steps)
    assert all(row.rows == 24 for row in hoisted)
    flops = sum(row.gflops * 1e9 * row.seconds for row in (*steps, *hoisted))
    assert flops == pytest.approx(24 * 2 * (15 * (3 + 5) + 15 * (5 + 5)), rel=1e-6)
    assert sum(row.share for row in profile.rows) == pytest.approx(1)
    assert 0 < profile.inside <= profile.seconds * 1.05
    ragged = model.profile(X, lengths=[6, 1, 3, 0], seconds=0)
    assert all(row.rows == 10 for row in rows_of(ragged, "step"))
    assert model.profile(X[:2], seconds=0).rows[0].rows == 8


def test_a_batch_on_two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rnnc.backends.llvm.code.PARALLEL_FLOPS", 1)
    profile = rnnc.compile(SPEC, SPEC.init(0), threads=2).profile(X, seconds=0)
    assert all((row.runs, row.rows) == (12, 24) for row in rows_of(profile, "step"))
    assert "threads together" in str(profile) or profile.threads == 1  # they may have run one after the other


def test_networks_and_derivatives() -> None:
    net = rnnc.Sequential(rnnc.Conv1d(3, 4, 3), rnnc.LSTM(4, 4), rnnc.Mean())
    profile = net.compile(net.init(0)).profile(X, seconds=0)
    assert rows_of(profile, "hoisted") and rows_of(profile, "step")
    f = rnnc.vjp(SPEC)
    both = f.profile(SPEC.init(0), X, seconds=0)
    assert rows_of(both, "sums") and any("grad" in row.site for row in rows_of(both, "step"))
    assert rnnc.vjp(net).profile(net.init(0), X, seconds=0).inside > 0
    params = SPEC.init(0)
    assert rnnc.jvp(SPEC).profile((params, X, None), (params, X, None), seconds=0).inside > 0


@pytest.mark.parametrize("derivative", (False, True))
def test_counting_changes_no_result(derivative: bool) -> None:
    def results() -> list[Any]:
        if not derivative:
            output, state = rnnc.compile(SPEC, SPEC.init(0))(X, lengths=[6, 2, 4, 0])
            return [output, state]
        (output, state), pullback = rnnc.vjp(SPEC)(SPEC.init(0), X)
        gradients = pullback(output, state)
        return [output, state, *gradients[0].values(), *gradients[1:]]

    plain, counters = results(), list[Any]()
    token = settings.COUNTED.set(counters)
    try:
        counted = results()
    finally:
        settings.COUNTED.reset(token)
    assert all((one == other).all() for one, other in zip(plain, counted, strict=True))
    assert counters and all(s.runs for s in counters[0].read()[0] if s.kind != "wait")
    assert "rnnc_count" not in rnnc.compile(SPEC).ir("llvm")


def test_the_trace_is_one_of_chrome(tmp_path: Path) -> None:
    profile = rnnc.compile(SPEC, SPEC.init(0)).profile(X, seconds=0)
    profile.chrome_trace(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert len(events) == 3 * sum(row.runs for row in profile.rows)
    for one, next_ in zip(events, events[1:], strict=False):
        assert one["ph"] == "X" and one["tid"] == 0 and one["dur"] >= 0
        assert one["ts"] + one["dur"] <= next_["ts"] + 1e-3
    assert json.loads(json.dumps(profile.to_dict()))["rows"][0]["name"] == profile.rows[0].name
    table = str(profile).splitlines()
    assert table[0] == "Model(GRU(input_size=3, hidden_size=5, num_layers=2), backend='llvm')"
    assert table[2].split()[:4] == ["section", "kind", "layer", "time"]


TRAINING = """
import numpy as np, rnnc
spec = rnnc.GRU(3, 5)
net = rnnc.Sequential(spec, rnnc.Last(), rnnc.Linear(5, 2))
x = np.random.default_rng(0).standard_normal((6, 4, 3), dtype=np.float32)
rnnc.compile(spec, spec.init(0))(x)
rnnc.compile(spec, spec.init(0)).realtime()(x[:1, :1])
(y, h), pullback = rnnc.vjp(spec)(spec.init(0), x)
pullback(y)
rnnc.train.fit(net, [(x[:, b], b % 2) for b in range(4)], loss="cross_entropy", epochs=1, batch_size=4, progress=False)
"""


@pytest.mark.parametrize("value", ("1", "trace.json"))
def test_a_whole_process(value: str, tmp_path: Path) -> None:
    """Training steps, which do not count, run beside what does."""
    environment = os.environ | {"RNNC_PROFILE": value, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = [sys.executable, "-c", TRAINING]
    done = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    if value == "1":
        assert "all calls of this process" in done.stderr and "loop0_step0" in done.stderr
    else:
        assert json.loads((tmp_path / value).read_text())["traceEvents"]


def test_what_cannot_be_profiled() -> None:
    reference = rnnc.compile(SPEC, SPEC.init(0), backend="reference")
    with raises_saying(rnnc.ArgumentError, "profile", "'reference'", "llvm"):
        reference.profile(X)
    with raises_saying(rnnc.ArgumentTypeError, "Program", "bound"):
        rnnc.compile(SPEC).profile(X)
    model = rnnc.compile(SPEC, SPEC.init(0))
    with raises_saying(rnnc.ShapeError, "x", "I = 3"):
        model.profile(X[..., :2])
    with raises_saying(rnnc.ArgumentError, "seconds"):
        model.profile(X, seconds=-1)
    assert settings.COUNTED.get() is None
