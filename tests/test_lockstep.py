"""Threads that meet in machine code, and the functions they call in a training step."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import rnnc
from rnnc.backends.llvm.asm.records import address
from rnnc.backends.llvm.asm.target import host
from rnnc.backends.llvm.calls import lockstep, threads
from rnnc.backends.llvm.calls.lockstep import Scripts, run_all, run_together
from rnnc.backends.llvm.kernels import derivable, derived
from rnnc.backends.llvm.kernels.packers import MOVE, SWEEP, shares
from rnnc.backends.llvm.runtime import Linked, Runtime
from rnnc.backends.reference.evaluation import evaluate
from rnnc.ir.equations import Value, exp, linear, tanh
from rnnc.ir.errors import RnncWarning
from rnnc.ir.families import families
from rnnc.ir.graph import Graph

RUNTIME = Runtime("float32", host())
Callback = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p)


class Log:
    """Python functions for a crew to call; what was called, in order."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, int]] = []
        self._held: list[Any] = []

    def call(self, stage: int, member: int, result: int = 0, wait: float = 0.0) -> tuple[int, int]:
        def function(_: object) -> int:
            time.sleep(wait)
            self.lines.append((stage, member))
            return result

        made = Callback(function)
        self._held.append(made)
        return ctypes.cast(made, ctypes.c_void_p).value or 0, 0


def scripts(log: Log, members: int, stages: int = 3, **options: Any) -> list[Any]:
    return [[[log.call(s, m, **options)] for s in range(stages)] for m in range(members)]


@pytest.mark.parametrize("members", (1, 2, 5))
def test_no_one_begins_a_stage_before_all_have_ended_the_one_before(members: int) -> None:
    log = Log()
    made = [[[log.call(s, m, wait=0.01 * ((m + s) % 3))] for s in range(3)] for m in range(members)]
    script = Scripts(made)
    for _ in range(2):  # a script may be run again
        log.lines.clear()
        assert run_together(script, RUNTIME) == 0
        assert [stage for stage, _ in log.lines] == sorted([0, 1, 2] * members)
        assert sorted(log.lines) == [(s, m) for s in range(3) for m in range(members)]


def test_a_stage_may_have_any_number_of_calls() -> None:
    log = Log()
    made = [[[], [log.call(1, 0), log.call(2, 0)], []], [[log.call(0, 1)], [], [log.call(3, 1)]]]
    assert run_together(Scripts(made), RUNTIME) == 0
    assert log.lines == [(0, 1), (1, 0), (2, 0), (3, 1)]


@pytest.mark.parametrize("members", (1, 3))
def test_an_error_ends_the_work_of_all(members: int) -> None:
    log = Log()
    made = scripts(log, members)
    made[-1][1] = [log.call(1, members - 1, result=7), log.call(9, 9)]
    assert run_together(Scripts(made), RUNTIME) == 7
    assert {stage for stage, _ in log.lines} == {0, 1}


def test_a_call_that_is_alone_returns_its_error() -> None:
    log = Log()
    assert run_all([log.call(0, 0), log.call(0, 1, result=5)], RUNTIME) == 5
    assert run_all([log.call(0, 0), log.call(0, 1)], RUNTIME) == 0


def test_without_threads_the_calling_one_does_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that may start no more threads, or that ends, computes on with those it has, and says so once."""

    def refused(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threads, "_pool", threads._Pool())
    monkeypatch.setattr(threads, "_warned", [])
    monkeypatch.setattr(threads._thread, "start_new_thread", refused)
    log = Log()
    script = Scripts(scripts(log, 3))
    with pytest.warns(RnncWarning, match="can't start new thread: calls run on 1 thread"):
        assert run_together(script, RUNTIME) == 0
    assert run_together(script, RUNTIME) == 0
    assert log.lines == [(stage, member) for _ in range(2) for stage in range(3) for member in range(3)]
    assert threads._pool._tasks.qsize() == 0, "what nobody will take was offered"


def test_many_runs_at_once_do_not_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads for the other members of four crews of three."""
    monkeypatch.setattr(threads, "_pool", threads._Pool())
    monkeypatch.setattr(threads, "MOST_WORKERS", 2)
    logs = [Log() for _ in range(4)]
    runs = [
        threading.Thread(target=run_together, args=(Scripts(scripts(log, 3)), RUNTIME), daemon=True) for log in logs
    ]
    for run in runs:
        run.start()
    for run in runs:
        run.join(60)
    assert not any(run.is_alive() for run in runs)
    assert all(len(log.lines) == 9 for log in logs)
    assert len(threads._pool._started) == 2


def test_who_comes_early_or_late_calls_nothing() -> None:
    log, function = Log(), lockstep._function(RUNTIME)
    script = Scripts(scripts(log, 2))
    progress = script.progress()
    lockstep._help(function, script, progress, 1)  # the run does not begin
    assert log.lines == [] and not any(progress)
    assert function(script.address, ctypes.addressof(progress), 0) == 0
    done = list(log.lines)
    lockstep._help(function, script, progress, 1)  # it has ended
    assert log.lines == done and len(done) == 6


# -- what members share --------------------------------------------------------------------------------


@pytest.mark.parametrize("count", (1, 2, 3, 40))
def test_shares_of_packing_are_all_of_it(count: int) -> None:
    sweeps, moves = tables = rnnc.compile(rnnc.LSTM(17, 30, 3))._code.manifest.tables
    bounds = shares(tables, count)
    assert len(bounds) == count
    assert [n for first, stop in bounds for n in range(first, stop)] == list(range(len(sweeps)))
    if count == 2:
        sizes = moves[:, MOVE.number("inner")] * moves[:, MOVE.number("fill")]
        starts, stops = sweeps[:, SWEEP.number("start")], sweeps[:, SWEEP.number("stop")]
        written = [sizes[starts[first] : stops[last - 1]].sum() for first, last in bounds]
        assert min(written) > 0.3 * sum(written)


# -- values made of parameters -------------------------------------------------------------------------

TREES: dict[str, Callable[[Value, Value, Value], Value]] = {
    "sum": lambda a, b, c: a + b,
    "slices": lambda a, b, c: a.split(3)[2] + b.split(3)[0] * 2.5,
    "slice of a sum": lambda a, b, c: (a + b).split(3)[1],
    "one number": lambda a, b, c: a * c - 0.5,
    "functions": lambda a, b, c: tanh(a) / exp(b),
}


@pytest.mark.parametrize("size", (3, 24, 57))
@pytest.mark.parametrize("dtype", ("float32", "float64"))
@pytest.mark.parametrize("tree", TREES)
def test_values_made_of_parameters(tree: str, dtype: str, size: int) -> None:
    graph = Graph(dtype, 1)
    a, b, c = (Value(graph, graph.input(name, (n,))) for name, n in (("a", size), ("b", size), ("c", 1)))
    made = TREES[tree](a, b, c)
    graph.outputs["made"] = made.node
    family = families(graph)[made.node]
    assert derivable.is_derivable(family)
    rng, inputs = np.random.default_rng(size), derivable.leaves([family])
    values = {leaf: rng.uniform(-1, 1, tuple(map(int, leaf.shape))).astype(dtype) for leaf in inputs}
    guarded = np.full(derivable.elements(family) + 16, 7, dtype)
    given = np.array([*(address(values[leaf]) for leaf in inputs), address(guarded[8:])], np.int64)
    linked = Linked(derived.emit_derived([family], dtype, host()), Runtime(dtype, host()))
    assert Callback(linked.address(derived.NAME))(address(given)) == 0
    assert (guarded[:8] == 7).all() and (guarded[-8:] == 7).all()
    tolerance = 1e-6 if dtype == "float32" else 1e-14
    np.testing.assert_allclose(guarded[8:-8], _evaluated(family, dict(values), dtype), rtol=tolerance)


def _evaluated(family: Any, known: dict[Any, Any], dtype: str) -> Any:
    for operand in family.inputs:
        if operand.op != "const" and operand not in known:
            known[operand] = _evaluated(operand, known, dtype)
    evaluate([family], known, dtype)
    return known[family]


def test_products_of_parameters_are_left_to_numpy() -> None:
    graph = Graph("float32", 1)
    w, v = (Value(graph, graph.input(name, (4, 4))) for name in "wv")
    product = linear(w, v)
    graph.outputs["made"] = product.node
    assert not derivable.is_derivable(families(graph)[product.node])
