"""Threads, forks and the end of a process: a call gives the same numbers, or waits for its turn."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rnnc
from rnnc import train
from rnnc.backends.llvm import code
from rnnc.backends.llvm.calls.buffers import Pool
from rnnc.optimizers import Adam
from tests.training_data import noisy, tagged

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _small_batches_on_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code, "PARALLEL_FLOPS", 0)


def at_once(*works: Callable[[], object]) -> None:
    """Runs each on a thread of its own; raises the first error."""
    errors: list[BaseException] = []

    def run(work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in errors:
        raise error


# -- threads -------------------------------------------------------------------------------------------


def training(**options: Any) -> tuple[Any, list[Any]]:
    step = train.TrainingStep(noisy(), "cross_entropy", Adam(0.01), seed=5, **options)
    data = train.Sequences(noisy(), step.loss, tagged(lengths=(5, 2, 7, 1, 3, 7, 4, 6)))
    return step, [data.batch(range(rows)) for rows in (8, 3, 5)]


@pytest.mark.parametrize("runs_on", ("llvm", "reference"))
def test_threads_that_step_one_training_take_turns(runs_on: str) -> None:
    count = 30 if runs_on == "llvm" else 2
    alone, (batch, *_) = training(threads=2, backend=runs_on)
    for _ in range(3 * count):
        alone.step(batch)
    together, _ = training(threads=2, backend=runs_on)
    at_once(*[lambda: [together.step(batch) for _ in range(count)]] * 3)
    assert together.updates == 3 * count
    np.testing.assert_array_equal(together.flat, alone.flat)


@pytest.mark.parametrize("what", ("vjp", "jvp", "hvp", "network", "evaluation"))
def test_many_threads_call_one_compiled_function(what: str) -> None:
    """With batches of several sizes."""
    rng, spec = np.random.default_rng(0), rnnc.LSTM(6, 10, 2)
    params = spec.init(seed=0)
    xs = [rng.standard_normal((7, rows, 6)).astype("f4") for rows in (8, 3, 5)]
    outputs = [rng.standard_normal((7, rows, 10)).astype("f4") for rows in (8, 3, 5)]
    step, batches = training()
    made: Any = {
        "vjp": lambda f, n: f(params, xs[n])[1](outputs[n])[1],
        "jvp": lambda f, n: f((params, xs[n], None), (params, xs[n], None))[1][0],
        "hvp": lambda f, n: f((params, xs[n], None), (outputs[n], None), (params, xs[n], None))[1][1],
        "network": lambda f, n: f(batches[n].x),
        "evaluation": lambda f, n: f(step.params, batches[n])[1],
    }[what]
    if what == "network":
        called: Any = noisy().compile(step.params, threads=2)
    elif what == "evaluation":
        called = train.Evaluation(noisy(), "cross_entropy", threads=2)
    else:
        called = getattr(rnnc, what)(spec, threads=2)
    want = [made(called, n) for n in range(3)]

    def work(number: int) -> None:
        for turn in range(10):
            place = (number + turn) % 3
            np.testing.assert_array_equal(made(called, place), want[place])

    at_once(*[lambda n=n: work(n) for n in range(3)])  # type: ignore[misc]


def test_a_pullback_may_be_called_from_many_threads() -> None:
    """Each call of it works in the memory that the forward pass left."""
    spec = rnnc.LSTM(6, 30, 2)
    x = np.random.default_rng(0).standard_normal((60, 8, 6)).astype("f4")
    (output, _), pullback = rnnc.vjp(spec, threads=2)(spec.init(seed=0), x)
    seeds = [np.random.default_rng(n).standard_normal(output.shape).astype("f4") for n in range(3)]
    want = [pullback(seed)[1] for seed in seeds]

    def work(number: int) -> None:
        for _ in range(10):
            np.testing.assert_array_equal(pullback(seeds[number])[1], want[number])

    at_once(*[lambda n=n: work(n) for n in range(3)])  # type: ignore[misc]


def test_a_pool_gives_no_block_to_two_at_once() -> None:
    pool = Pool(8)

    def work(number: int) -> None:
        for turn in range(300):
            blocks = [pool.take(1000 + 100 * ((turn + n) % 4)) for n in range(3)]
            for block in blocks:
                block[:] = number
            assert all((block == number).all() for block in blocks)
            pool.give(blocks)

    at_once(*[lambda n=n: work(n) for n in range(4)])  # type: ignore[misc]
    assert len(pool._free) <= 12


# -- forks ---------------------------------------------------------------------------------------------

PREPARE = """
import atexit, itertools, os, signal, sys, threading, time
os.environ["RNNC_CACHE_DIR"] = "off"
import numpy as np
import rnnc
from rnnc import train
from rnnc.backends.llvm import code
from rnnc.backends.llvm.asm import jit, objects
from rnnc.backends.llvm.asm.target import host
from tests.test_jit import adder, call
from tests.test_processes import training
code.PARALLEL_FLOPS = 0

spec = rnnc.GRU(3, 4)
params, x = spec.init(seed=0), np.ones((5, 8, 3), "float32")
model, gradient = rnnc.compile(spec, params, threads=2), rnnc.vjp(spec, threads=2)
step, (batch, *_) = training(threads=2)
want, (_, pullback) = model(x)[0], gradient(params, x)
want_d_x = pullback(want)[1]
numbers = itertools.count()

def use():
    assert (model(x)[0] == want).all() and (pullback(want)[1] == want_d_x).all()
    (output, _), back = gradient(params, x)
    assert (output == want).all() and (back(want)[1] == want_d_x).all()
    assert call(jit.compile_assembly(adder(next(numbers)), host()), 0) >= 0
"""

COMPILES = """
import os
os.environ["OPENBLAS_NUM_THREADS"] = "1"
import rnnc
rnnc.compile(rnnc.GRU(3, 4), rnnc.GRU(3, 4).init(seed=0), threads=1)
"""

FORKS = """
after = []
for _ in range(300):
    after.append(step.flat.copy())
    step.step(batch)
after.append(step.flat.copy())
step.updates, step.flat[:] = 0, after[0]
for slot in step.slots.values():
    slot[:] = 0

inside, ended, parse = threading.Event(), threading.Event(), objects._parsed
def parse_and_tell(*arguments):
    inside.set()
    time.sleep(0.02)
    return parse(*arguments)
objects._parsed = parse_and_tell

def compiles():
    while not ended.is_set():
        jit.compile_assembly(adder(next(numbers)), host())
def steps():
    while not ended.is_set() and step.updates < 299:  # one is left for the child
        step.step(batch)
        time.sleep(0.002)
def calls():
    while not ended.is_set():
        use()
threads = [threading.Thread(target=work) for work in (compiles, steps, calls)]
for thread in threads:
    thread.start()
outcomes = []
for _ in range(4):
    inside.clear()
    inside.wait()
    child = os.fork()
    if not child:
        signal.alarm(60)  # ends a child that hangs
        assert (step.flat == after[step.updates]).all(), "a step was half done"
        step.step(batch)
        assert (step.flat == after[step.updates]).all()
        use()
        os._exit(0)
    outcomes.append(os.waitpid(child, 0)[1])
ended.set()
for thread in threads:
    thread.join()
use()
assert outcomes == [0] * 4, outcomes
"""


def run(*parts: str) -> subprocess.CompletedProcess[str]:
    # From 3.12 on, Python warns of every fork in a process with threads.
    warnings = ["-W", "error", "-W", "ignore::DeprecationWarning"]
    command = [sys.executable, *warnings, "-c", "\n".join(parts)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=250)


@pytest.mark.rare
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_fork_while_other_threads_compile_train_and_call() -> None:
    """The child computes on: no lock is held by a thread that it lacks, and no step is half done."""
    result = run(PREPARE, FORKS)
    assert result.returncode == 0, result.stderr


WITHIN = """
from rnnc.backends.llvm.asm import library
begin, children = library._Errand.__call__, []
def begin_late(self):
    time.sleep(0.3)
    begin(self)
def fork(*_):
    children.append(os.fork())
    signal.alarm(60)
library._Errand.__call__ = begin_late
signal.signal(signal.SIGUSR1, fork)
threading.Timer(0.1, signal.pthread_kill, (threading.get_ident(), signal.SIGUSR1)).start()
assert call(jit.compile_assembly(adder(5), host()), 1) == 6
(child,) = children
if not child:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.rare
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_signal_handler_that_forks_while_a_compile_is_waited_for() -> None:
    """The child lacks the thread that was to do LLVM's work."""
    result = run(PREPARE, WITHIN)
    assert result.returncode == 0, result.stderr


def test_a_compile_leaves_no_thread_behind() -> None:
    """A process that compiles and then forks is one that has no threads."""
    tasks = "import time; time.sleep(0.1); assert len(os.listdir('/proc/self/task')) == 1"
    assert sys.platform != "linux" or run(COMPILES, tasks).returncode == 0


# -- the end of a process ------------------------------------------------------------------------------

LATE = """
def late(who):
    use()
    step.step(batch)
    print(who, flush=True)
def outlives():
    threading.main_thread().join()
    late("a thread")
atexit.register(late, "at exit")
threading.Thread(target=outlives).start()
"""


def test_calls_after_the_main_thread_and_at_exit() -> None:
    result = run(PREPARE, LATE)
    assert (result.returncode, result.stdout) == (0, "a thread\nat exit\n"), result.stderr
