"""Threads: the rows of a large batch are shared out, and nobody can tell from the numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import rnnc
from rnnc.backends import fresh
from rnnc.backends.llvm import code
from rnnc.backends.llvm.calls import lockstep
from rnnc.backends.llvm.calls.lockstep import Call, run_all
from rnnc.backends.llvm.runtime import Runtime
from rnnc.computations import forward

SPECS = [rnnc.LSTM(5, 20, 2, bidirectional=True), rnnc.GRU(3, 16, reset_after=False, batch_first=True)]


@pytest.fixture(autouse=True)
def every_call_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code, "PARALLEL_FLOPS", 0)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("threads", [2, 3, 7])
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("spec", SPECS, ids=repr)
def test_any_number_of_threads_gives_the_same_numbers(spec: rnnc.Spec, ragged: bool, threads: int) -> None:
    params = spec.init(seed=0)
    alone, together = (rnnc.compile(spec, params, threads=n) for n in (1, threads))
    rng = np.random.default_rng(2)
    for batch in (1, 2, 5, 12):
        x = rng.standard_normal((batch, 6, 3) if spec.batch_first else (6, batch, 5)).astype("float32")
        rows = spec.num_layers * spec.num_directions
        states = tuple(rng.standard_normal((rows, batch, w)).astype("float32") for w in spec.states.values())
        state = states if len(states) > 1 else states[0]
        lengths = np.where(rng.random(batch) < 0.4, 0, rng.integers(0, 7, batch)) if ragged else None
        results = [m(x, state, lengths=lengths) for m in (alone, together)]
        for one, other in zip(*map(flat, results), strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=2e-6)
        again = flat(together(x, state, lengths=lengths))
        for one, other in zip(flat(results[1]), again, strict=True):
            np.testing.assert_array_equal(one, other)


def flat(result: tuple[np.ndarray, object]) -> list[np.ndarray]:
    output, state = result
    return [output, *(state if isinstance(state, tuple) else (state,))]  # type: ignore[list-item]


def counting(counts: list[int]) -> Callable[[Sequence[Call], Runtime], int]:
    """`run_all`, and how many calls it was given."""

    def counted(calls: Sequence[Call], runtime: Runtime) -> int:
        counts.append(len(calls))
        return run_all(calls, runtime)

    return counted


def test_the_shards_really_run_on_threads_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []
    monkeypatch.setattr(lockstep, "run_all", counting(counts))
    spec = rnnc.GRU(3, 4)
    model = rnnc.compile(spec, spec.init(seed=0), threads=3)
    model(np.zeros((5, 8, 3), np.float32))
    model(np.zeros((5, 2, 3), np.float32))
    model(np.zeros((5, 8, 3), np.float32), lengths=[5, 0, 0, 0, 0, 0, 0, 1])  # only two shards have any work
    model(np.zeros((5, 1, 3), np.float32))
    assert counts == [3, 2, 2]


def test_no_memory_in_a_part_is_a_memory_error_of_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lockstep, "run_all", lambda calls, runtime: 1)
    model = rnnc.compile(rnnc.GRU(3, 4), rnnc.GRU(3, 4).init(seed=0), threads=3)
    with pytest.raises(MemoryError, match="5 steps of 8 rows"):
        model(np.zeros((5, 8, 3), np.float32))


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5"])
def test_a_bad_number_of_threads_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RNNC_NUM_THREADS", value)
    with pytest.raises(rnnc.ArgumentError, match=f"RNNC_NUM_THREADS.*'{value}'"):
        rnnc.compile(rnnc.GRU(3, 4))


def test_the_variable_decides_where_the_argument_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RNNC_NUM_THREADS", "3")
    spec = forward(rnnc.GRU(3, 4))
    assert code.compile(spec).threads == 3
    assert code.compile(spec, threads=2).threads == 2


@pytest.mark.sampled(3)
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("spec", SPECS, ids=repr)
def test_gradients_are_sums_over_the_rows_of_all_threads(
    spec: rnnc.Spec, ragged: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In both halves of a vjp: parameters' gradients are added up, rows' own stay with their rows."""
    counts: list[int] = []
    monkeypatch.setattr(lockstep, "run_all", counting(counts))
    params, rng = spec.init(seed=0), np.random.default_rng(3)
    alone, together = (rnnc.vjp(spec, threads=n) for n in (1, 3))
    for batch in (2, 12):
        x = rng.standard_normal((batch, 6, 3) if spec.batch_first else (6, batch, 5)).astype("float32")
        lengths = np.where(rng.random(batch) < 0.4, 0, rng.integers(0, 7, batch)) if ragged else None
        results = []
        for f in (alone, together):
            (output, state), pullback = f(params, x, lengths=lengths)
            results.append((output, state, *pullback(output, state)))
        (*one, d_params, d_x, d_state), (*other, d_params_too, d_x_too, d_state_too) = results
        for a, b in zip(flat((one[0], one[1])), flat((other[0], other[1])), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=2e-6)
        for a, b in zip(flat((d_x, d_state)), flat((d_x_too, d_state_too)), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
        for name, gradient in d_params.items():
            scale = float(np.abs(gradient).max(initial=1))
            np.testing.assert_allclose(d_params_too[name], gradient, rtol=0, atol=1e-5 * scale, err_msg=name)
    assert counts == [2, 2, 3, 3]


def test_a_call_is_shared_only_where_that_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = rnnc.LSTM(16, 16)
    monkeypatch.setattr(code, "PARALLEL_FLOPS", 1e6)
    once, both = (compiled._code for compiled in (rnnc.compile(spec, threads=3), rnnc.vjp(spec, threads=3)))
    assert isinstance(once, code.LlvmCode) and isinstance(both, code.LlvmCode)
    flops = both.manifest.flops_per_row
    assert once.manifest.flops_per_row == 4096 and flops >= 3 * 4096
    assert [once.members(*size) for size in ((61, 4), (62, 4), (1, 244), (1, 245), (1000, 3))] == [1, 3, 1, 3, 1]
    weights = 2 * 64 * 16 + 64  # threads make a gradient of each, which one adds; both biases have the same
    rows = int((2e6 + 100 * weights) / flops)
    assert [both.members(1, batch) for batch in (rows, rows + 1)] == [1, 3]
    assert both.members(1000, 3) == 1 and both.step_members(1000, 3) == 3


def test_later_calls_take_no_new_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fresh memory of this size costs a page fault per four kilobytes, and unmapping it stops the other threads."""
    spec, taken = rnnc.LSTM(8, 16, bidirectional=True), list[int]()
    f = rnnc.vjp(spec, threads=12)
    params, x = spec.init(seed=0), np.ones((5, 24, 8), np.float32)

    def call() -> None:
        (output, _), pullback = f(params, x)
        pullback(output)

    call()

    def new_block(size: int) -> np.ndarray[Any, Any]:
        taken.append(size)
        return np.empty(size, np.uint8)

    monkeypatch.setattr(fresh, "block", new_block)
    for _ in range(3):
        call()
    assert not taken
