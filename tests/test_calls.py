"""One model called many times: from many threads, and without keeping anything of a call."""

from __future__ import annotations

import gc
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import rnnc
from tests.cases import (
    CELLS,
    Case,
    Result,
    as_result,
    assert_close,
    assert_same,
    compiled,
    other_sizes,
)

pytestmark = pytest.mark.shipped

each_cell = pytest.mark.parametrize("cell", CELLS)


# ------------------------------------------------------------------------------------------ threads


@pytest.mark.sampled(4)
@each_cell
def test_many_threads_call_one_model_at_once(cell: str, backend: str) -> None:
    """Each with its own data and its own sizes; nothing that a call needs is shared."""
    base = Case(cell, num_layers=2, bidirectional=True)
    model = compiled(base, backend)
    jobs = [other_sizes(base, 3 + 5 * i, 1 + i, "mixed" if i % 2 else "none") for i in range(8)]
    start = threading.Barrier(len(jobs))

    def work(job: Case) -> list[Result]:
        start.wait()
        return [job.call(model) for _ in range(10)]

    with ThreadPoolExecutor(len(jobs)) as pool:
        for job, results in zip(jobs, pool.map(work, jobs), strict=True):
            assert_close(results[0], job.expected(), "float32")
            for result in results:
                assert_same(result, results[0])


@pytest.mark.parametrize("threads", (1, 2, 3))
@pytest.mark.parametrize("batch", (1, 6))
def test_any_number_of_threads_gives_right_numbers(threads: int, batch: int, backend: str) -> None:
    case = Case("gru", num_layers=2, bidirectional=True, batch=batch, hidden_size=50, steps=20, lengths="mixed")
    model = rnnc.compile(case.spec(), case.params, backend=backend, threads=threads)
    assert_close(case.call(model), case.expected(), "float32")
    assert_same(case.call(model), case.call(model))


def test_the_interpreter_is_free_while_a_model_computes() -> None:
    """Another thread goes on with its own Python. If the lock were held it would stand still until the call ends."""
    case = Case("lstm", steps=20_000, batch=8, hidden_size=100, initial=False)
    model, ticks, busy = compiled(case, "llvm"), 0, threading.Event()

    def work() -> None:
        model(case.x[:1])
        busy.set()
        model(case.x)
        busy.clear()

    worker = threading.Thread(target=work)
    worker.start()
    busy.wait()
    while busy.is_set():
        time.sleep(0.001)
        ticks += 1
    worker.join()
    assert ticks > 10


# ------------------------------------------------------------------------------------------ memory


@pytest.mark.rare
@each_cell
def test_calls_keep_no_references(cell: str) -> None:
    """Neither to arguments nor to results, whether a call succeeds or is refused: native code counts by itself."""
    case = Case(cell, batch_first=cell.startswith("gru"))
    model = compiled(case, "llvm")
    x, state = case.x, case.state
    wrong = x.astype(np.float64)
    watched = [x, wrong, x.dtype, None, *(state if isinstance(state, tuple) else (state,))]

    def calls() -> None:
        for _ in range(60):
            model(x)
            model(x, state)
            for bad in ((wrong, state), (x, wrong), (x[:0], state), (x, (x, x, x))):
                with pytest.raises(rnnc.RnncError):
                    model(*bad)

    calls()
    gc.collect()
    before = [sys.getrefcount(item) for item in watched]
    calls()
    gc.collect()
    after = [sys.getrefcount(item) for item in watched]
    assert all(abs(a - b) < 30 for a, b in zip(after, before, strict=True)), (before, after)
    assert sys.getrefcount(model(x)[0]) <= 2


@pytest.mark.parametrize("lengths", ("none", "mixed"))
def test_calls_keep_no_memory(lengths: str) -> None:
    """150 calls, each with more than a megabyte of results and of scratch."""
    resource = pytest.importorskip("resource")
    case = Case("gru", num_layers=2, steps=60, batch=80, hidden_size=64, lengths=lengths)
    model = compiled(case, "llvm")
    for _ in range(3):
        case.call(model)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(150):
        model(case.x, case.state, lengths=case.row_lengths)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * (1 if sys.platform == "darwin" else 1024) < 60e6


def test_a_model_needs_nothing_but_itself(backend: str) -> None:
    """The program, the parameters and a state's array may all be gone."""
    case = Case("lstm")
    program = rnnc.compile(case.spec(), backend=backend)
    model = program.bind({name: value.copy() for name, value in case.params.items()})
    del program
    gc.collect()
    output, state = model(case.x.copy(), tuple(s.copy() for s in case.state))
    found = as_result((output, state))
    del model
    gc.collect()
    assert_close(found, case.expected(), "float32")
