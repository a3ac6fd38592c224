"""Teams: threads that compute a batch together give the bits of one thread, and never stand in each other's way."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import rnnc
from rnnc.backends.llvm.kernels.team_function import groups
from rnnc.backends.llvm.teams import TeamWork
from tests.test_realtime import LAYERS
from tests.user_cells import LayerNormLSTM, MinimalGatedUnit

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="teams are for Linux")

SPECS: dict[str, Any] = {
    "two layers": rnnc.LSTM(5, 40, 2),
    "both directions, projected": rnnc.LSTM(3, 36, 2, bidirectional=True, proj_size=5),
    "float64, batch first": rnnc.GRU(3, 33, batch_first=True, dtype="float64"),
    "a cell of one's own": rnnc.Recurrent(MinimalGatedUnit(), 3, 70),
    "sums over units": rnnc.Recurrent(LayerNormLSTM(), 3, 40),
}
NETS: dict[str, Any] = {
    "conv, mean": rnnc.Sequential(rnnc.Conv1d(3, 40, 3), rnnc.LSTM(40, 40), rnnc.Linear(40, 2), rnnc.Mean()),
    "norm, softmax": rnnc.Sequential(rnnc.LayerNorm(3), rnnc.GRU(3, 40), rnnc.Linear(40, 5), rnnc.Softmax()),
    "graph": rnnc.Graph({"a": 3, "n": "numbers"}, LAYERS, ("g", "d")),
}


@pytest.fixture(autouse=True)
def always(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Teams are tried however small the work is, and calls wait for helpers that sleep."""
    monkeypatch.setattr(TeamWork, "most_batch", lambda *_: 64)
    monkeypatch.setattr(TeamWork, "least_rows", lambda *_: 1)
    monkeypatch.setattr(TeamWork, "worth_waking", lambda *_: 1)
    yield


def flat(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [array for each in value.values() for array in flat(each)]
    return [array for each in value for array in flat(each)] if isinstance(value, tuple) else [value]


def in_a_team(code: Any, call: Any) -> Any:
    """The result of a call that a team made. A busy machine may have no thread for it at first."""
    record = code.team.record
    record.shared = record.alone = record.calls = 0
    for _ in range(500):
        record.calls = 0
        result = call()
        if record.shared:
            return result
        time.sleep(0.001)  # a thread that has just been started waits for the interpreter lock
    pytest.fail("no helper came in 500 calls")


def assert_equal(one: Any, other: Any) -> None:
    for a, b in zip(flat(one), flat(other), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("members", (2, 3))
@pytest.mark.parametrize("name", SPECS)
def test_specs(name: str, members: int) -> None:
    spec, rng = SPECS[name], np.random.default_rng(0)
    params = spec.init(1)
    alone, team = (rnnc.compile(spec, params, threads=threads) for threads in (1, members))
    for steps, batch, lengths in ((1, 1, None), (7, 1, None), (9, 1, [4]), (6, 5, None), (6, 5, [6, 0, 3, 6, 1])):
        lead = (batch, steps) if spec.batch_first else (steps, batch)
        x = rng.standard_normal((*lead, spec.input_size)).astype(spec.dtype)
        states = alone(x)[1]
        expected = alone(x, states, lengths=lengths)
        assert_equal(in_a_team(team._code, lambda x=x, s=states, n=lengths: team(x, s, lengths=n)), expected)
        checked = in_a_team(team._code, lambda x=x, s=states, n=lengths: team._checked(x, s, n))
        assert_equal(checked, expected)


@pytest.mark.parametrize("name", NETS)
def test_networks_and_streams(name: str) -> None:
    net, rng = NETS[name], np.random.default_rng(0)
    params = net.init(1)
    alone, team = (net.compile(params, threads=threads) for threads in (1, 2))
    state = other = None
    for steps in (1, 6, 2):
        x: Any = rng.standard_normal((steps, 2, 3), dtype=np.float32)
        x = {"a": x, "n": rng.integers(0, 9, (steps, 2))} if isinstance(net, rnnc.Graph) else x
        assert_equal(in_a_team(team._code, lambda x=x: team(x)), alone(x))
        expected, state = alone.advance(x, state)
        found, other = team.advance(x, other)
        assert_equal((found, other), (expected, state))


def test_directions_run_side_by_side_and_layers_do_not() -> None:
    def shape(spec: rnnc.Spec) -> list[int]:
        return list(map(len, groups(rnnc.compile(spec)._code.plan.regions)))  # type: ignore[attr-defined]

    assert shape(rnnc.LSTM(3, 8, 2)) == [1, 1]
    assert shape(rnnc.LSTM(3, 8, 2, bidirectional=True)) == [2, 2]


def test_several_threads_of_python_and_codes_share_the_helpers() -> None:
    spec = rnnc.GRU(8, 48, 2)
    models = [rnnc.compile(spec, spec.init(n), threads=3) for n in range(2)]
    x = np.random.default_rng(0).standard_normal((20, 1, 8), dtype=np.float32)
    expected = [rnnc.compile(spec, spec.init(n), threads=1)(x) for n in range(2)]
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(60):
            found = models[number % 2](x)
            if not all((a == b).all() for a, b in zip(flat(found), flat(expected[number % 2]), strict=True)):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong and not any(thread.is_alive() for thread in threads)


def test_no_memory_for_scratch_is_an_error_of_every_member(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = rnnc.GRU(3, 1 << 12)
    params = {name: np.zeros(shape, "f4") for name, shape in spec.parameter_shapes().items()}
    model = rnnc.compile(spec, params, threads=2)
    model(np.zeros((1, 1, 3), "f4"))
    x = np.lib.stride_tricks.as_strided(np.zeros(3, "f4"), (1 << 28, 64, 3), (0, 0, 4))
    with pytest.raises(rnnc.SizeError):
        model.advance(x)
    assert np.isfinite(model(np.zeros((4, 1, 3), "f4"))[0]).all()


IN_A_CHILD = """
import os, sys, threading
import numpy as np, rnnc
from rnnc.backends.llvm.teams import TeamWork
TeamWork.most_batch, TeamWork.least_rows, TeamWork.worth_waking = (lambda *_: n for n in (64, 1, 1))
spec = rnnc.GRU(8, 48)
model, one = (rnnc.compile(spec, spec.init(0), threads=n) for n in (2, 1))
x = np.ones((30, 1, 8), "f4")
expected = one(x)[0]
def check(n):
    for _ in range(n):
        assert (model(x)[0] == expected).all()
check(30)
if sys.argv[1] == "fork":
    child = os.fork()
    if not child:
        check(30)
        assert (rnnc.compile(spec, spec.init(0), threads=2)(x)[0] == expected).all()  # starts helpers of its own
        check(30)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
elif sys.argv[1] == "one core":
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    for number in map(int, os.listdir("/proc/self/task")):
        os.sched_setaffinity(number, {min(os.sched_getaffinity(0))})
    check(40)
else:
    import signal, _thread
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background may ignore it
    threading.Timer(0.05, _thread.interrupt_main).start()
    try:
        while True:
            check(1)
    except KeyboardInterrupt:
        check(30)
print("done")
"""


@pytest.mark.parametrize("what", ("fork", "one core", "interrupt"))
def test_processes(what: str) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    run = [sys.executable, "-c", IN_A_CHILD, what]
    done = subprocess.run(run, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout == "done\n", done.stderr
