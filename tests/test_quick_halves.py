"""Quick calls of a vjp and of its pullback: what the checked calls give, or nothing at all."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import rnnc
from rnnc.layers import Concat, Last, LayerNorm
from tests import user_cells
from tests.refusals import raises_saying
from tests.test_quick_groups import Own, read_only, same

NETWORK = rnnc.Graph(
    {"a": 3, "b": 2},
    {
        "c": (Concat(), "a", "b"),
        "g": (rnnc.GRU(5, 4, batch_first=True), "c"),
        "d": (rnnc.Linear(4, 2), "g"),
        "last": (Last(), "g"),
    },
    ("d", "last"),
    batch_first=True,
)
MODELS: dict[str, Any] = {
    "gru of two layers": rnnc.GRU(5, 24, 2),
    "lstm, whose biases share a gradient": rnnc.LSTM(3, 13, bidirectional=True),
    "rnn, batch first, float64": rnnc.RNN(3, 5, batch_first=True, dtype="float64"),
    "projection": rnnc.LSTM(4, 8, proj_size=3),
    "a cell of one's own": rnnc.Recurrent(user_cells.NestedLSTM(), 6, 11),
    "several inputs and outputs": NETWORK,
    "a network without states": rnnc.Sequential(rnnc.Linear(3, 4), rnnc.Activation("tanh"), rnnc.Linear(4, 2)),
}
SIZES = [(1, 1), (2, 2), (6, 3)]
"""T, B; the last is more rows than are read in place."""


def pair(model: Any) -> tuple[Any, Any]:
    """Two functions: with quick calls, and without."""
    quick, checked = rnnc.vjp(model, threads=1), rnnc.vjp(model, threads=1)
    checked.__dict__["_halves"] = None
    return quick, checked


def filled(like: Any, rng: np.random.Generator) -> Any:
    """Random arrays in the places of those of a result."""
    if isinstance(like, np.ndarray):
        return rng.standard_normal(like.shape).astype(like.dtype)
    if isinstance(like, dict):
        return {key: filled(value, rng) for key, value in like.items()}
    return tuple(filled(value, rng) for value in like)


def arguments(model: Any, steps: int, batch: int) -> tuple[Any, Any, Any, Any, Any]:
    """Parameters, x, a state, and adjoints of output and state."""
    rng = np.random.default_rng(10 * steps + batch)
    lead = (batch, steps) if model.batch_first else (steps, batch)
    widths = dict(model.inputs) if isinstance(model, rnnc.Graph) else {"": model.input_size}
    xs = {name: rng.standard_normal((*lead, width)).astype(model.dtype) for name, width in widths.items()}
    x = xs if len(xs) > 1 else xs[next(iter(xs))]
    params = model.init(1)
    (output, last), _ = rnnc.vjp(model, threads=1)(params, x)
    return params, x, filled(last, rng), filled(output, rng), filled(last, rng)


@pytest.mark.parametrize("name", MODELS)
def test_quick_calls_give_what_the_checked_ones_do(name: str) -> None:
    f, checked = pair(MODELS[name])
    for steps, batch in SIZES:
        params, x, state, d_output, d_state = arguments(MODELS[name], steps, batch)
        for given in (None, state):
            expected, pull = checked(params, x, given)
            made = f._halves.start(params, x, given)
            assert made is not None, "declined"
            *results, tape = made
            assert same(results, expected)
            for adjoint in (None, d_state):
                quick = tape.quick(d_output, adjoint)
                assert quick is not None, "declined"
                assert same(quick, pull(d_output, adjoint))


CELLS = ("gru of two layers", "rnn, batch first, float64", "projection", "a cell of one's own")


@pytest.mark.parametrize("name", CELLS)
def test_lengths_as_the_checked_calls_take_them(name: str) -> None:
    f, checked = pair(MODELS[name])
    for steps, batch in (*SIZES, (5, 7)):
        params, x, state, d_output, d_state = arguments(f.spec, steps, batch)
        f(params, x, lengths=[0] * batch)  # proves that padding need not be computed
        some = np.arange(batch) * 3 % (steps + 1)
        for lengths in (some, np.zeros(batch, np.int64), np.full(batch, steps)):
            expected, pull = checked(params, x, state, lengths)
            made = f._halves.start(params, x, state, given := lengths.copy())
            assert made is not None, "declined"
            *results, tape = made
            given[...] = -1
            assert same(results, expected)
            for adjoint in (None, d_state):
                assert same(tape.quick(d_output, adjoint), pull(d_output, adjoint))
            given[...] = lengths
            pullback = f(params, x, state, given)[1]
            given[...] = -1
            assert same(pullback(None, d_state), pull(None, d_state)), "checked, and not what the caller has now"
        before = f.calls.native
        assert same(f(params, x, state, some.tolist())[0], checked(params, x, state, some)[0])
        assert f.calls.native == before + 1
        assert f._halves.start(params, x, state, some - steps - 1) is None
        with raises_saying(rnnc.LengthError, "lengths"):
            f(params, x, state, some + steps + 1)


@pytest.mark.parametrize("name", CELLS)
def test_an_unbatched_call_has_unbatched_adjoints(name: str) -> None:
    f, checked = pair(MODELS[name])
    for steps in (1, 6):
        params, x, state, d_output, d_state = arguments(f.spec, steps, 1)
        rows = 0 if f.spec.batch_first else 1
        alone = [array.take(0, rows) for array in (x, d_output)]
        first, last = (tuple(s[:, 0] for s in v) if isinstance(v, tuple) else v[:, 0] for v in (state, d_state))
        for given in (None, first):
            expected, pull = checked(params, alone[0], given)
            *results, tape = f._halves.start(params, alone[0], given)
            assert same(results, expected)
            for adjoint in (None, last):
                assert same(tape.quick(alone[1], adjoint), pull(alone[1], adjoint))
            assert tape.quick(d_output, None) is None and tape.quick(alone[1], d_state) is None
            assert same(f(params, alone[0], given)[1](None, last), pull(None, last))
        assert f._halves.start(params, alone[0], state) is None and f._halves.start(params, x, first) is None
        assert f._halves.start(params, alone[0], None, np.array([steps])) is None, "lengths are of rows"
        assert f._halves.start(params, x, state)[-1].quick(alone[1], None) is None


@pytest.mark.parametrize("name", ("gru of two layers", "several inputs and outputs"))
def test_a_pullback_may_be_checked_after_a_quick_call(name: str) -> None:
    """As it is for adjoints that are left out, or in other layouts."""
    f, checked = pair(MODELS[name])
    params, x, state, d_output, d_state = arguments(MODELS[name], 3, 2)
    pullback, other = f(params, x, state)[1], checked(params, x, state)[1]
    assert pullback._quick is not None and pullback._quick.quick(None, d_state) is None
    for adjoints in ((None, d_state), (d_output, d_state), (None, None)):
        assert same(pullback(*adjoints), other(*adjoints))
    with raises_saying(rnnc.ArgumentTypeError, "d_state"):
        pullback(d_output, 3)


def test_a_pullback_keeps_what_it_needs() -> None:
    """It may be called twice, and from several threads; parameters and x may change before that."""
    f, checked = pair(MODELS["gru of two layers"])
    for steps, batch in SIZES:
        params, x, state, d_output, d_state = arguments(f.spec, steps, batch)
        expected = checked(params, x, state)[1](d_output, d_state)
        _, pullback = f(params, x, state)
        for array in (*params.values(), x, state):
            array[...] = np.nan
        with ThreadPoolExecutor(4) as pool:
            for call in [pool.submit(pullback, d_output, d_state) for _ in range(8)]:
                assert same(call.result(), expected)


CHANGES: dict[str, Callable[[Any], Any]] = {
    "dtype": lambda v: v.astype(np.float64),
    "big-endian": lambda v: v.astype(">f4"),
    "shape": lambda v: v[..., :-1].copy(),
    "axes": lambda v: v[None],
    "subclass": np.ma.masked_array,
    "list": lambda v: v.tolist(),
    "none": lambda v: None,
}


@pytest.mark.parametrize("change", CHANGES)
def test_an_array_that_is_not_plain_is_declined(change: str) -> None:
    f = rnnc.vjp(rnnc.LSTM(3, 4), threads=1)
    params, x, state, d_output, d_state = arguments(f.spec, 2, 2)
    changed, start = CHANGES[change], f._halves.start
    for key in params:
        assert start(params | {key: changed(params[key])}, x, state) is None
    assert start(params, changed(x), state) is None
    assert start(params, x, (state[0], changed(state[1]))) is None
    tape = start(params, x, state)[-1]
    assert tape.quick(changed(d_output), d_state) is None
    assert tape.quick(d_output, (changed(d_state[0]), d_state[1])) is None
    assert tape.quick(d_output, d_state) is not None


def test_arrays_in_another_layout_are_copied_first() -> None:
    f = rnnc.vjp(rnnc.LSTM(3, 4), threads=1)
    params, x, (h, c), d_output, (d_h, d_c) = arguments(f.spec, 2, 2)
    tape = f._halves.start({key: turned(value) for key, value in params.items()}, turned(x), (turned(h), c))[-1]
    expected = f._halves.start(params, x, (h, c))[-1].quick(d_output, (d_h, d_c))
    assert same(tape.quick(turned(d_output), (d_h, turned(d_c))), expected)


def turned(array: Any) -> Any:
    """An equal array whose numbers lie backwards in memory."""
    return np.flip(np.flip(array).copy())


def test_other_containers_are_declined() -> None:
    f = rnnc.vjp(rnnc.LSTM(3, 4), threads=1)
    params, x, state, d_output, d_state = arguments(f.spec, 2, 2)
    start = f._halves.start
    first = next(iter(params))
    missing = {key: params[key] for key in params if key != first}
    others: list[Any] = [missing, missing | {"w": params[first]}, params | {"w": params[first]}, Own(params)]
    others += [OrderedDict(params), list(params.values()), None, {}]
    assert all(start(other, x, state) is None for other in others)
    assert start(dict(reversed(params.items())), x, state) is not None, "in any order"
    for other in (state[0], state[:1], (*state, state[0]), list(state), {"h": state[0], "c": state[1]}):
        assert start(params, x, other) is None
    tape = start(params, x, state)[-1]
    for other in (d_state[0], d_state[:1], list(d_state), {}):
        assert tape.quick(d_output, other) is None
    assert start(params, x) is None and start() is None and tape.quick(d_output) is None
    assert same(f(OrderedDict(params), x, list(state))[0], f(params, x, state)[0]), (
        "checked in Python, they are as good"
    )
    with raises_saying(rnnc.ParameterError, "missing", first):
        f(missing, x)


def test_arrays_that_overlap_or_cannot_be_written_to_are_plain() -> None:
    f, checked = pair(rnnc.GRU(4, 4))
    params, x, state, d_output, d_state = arguments(f.spec, 3, 2)
    params = {key: read_only(array) for key, array in params.items()}
    params["weight_ih_l0"] = params["weight_hh_l0"]
    x = d_output[::-1, ::-1]
    made = f._halves.start(params, x, read_only(state))
    expected, pull = checked(params, x, state)
    assert same(made[:-1], expected) and same(made[-1].quick(d_output, d_state), pull(d_output, d_state))


def test_what_numpy_computes_is_left_to_the_checked_calls() -> None:
    tables = rnnc.Sequential(rnnc.Embedding(9, 3), rnnc.GRU(3, 4))
    models = [rnnc.GRU(3, 4, reset_after=False), rnnc.Sequential(LayerNorm(3), rnnc.Conv1d(3, 4, 2)), tables]
    assert all(rnnc.vjp(model)._halves is None for model in models)
    assert rnnc.vjp(rnnc.GRU(3, 4), remat="sqrt")._halves is None
    assert "checked in Python" in rnnc.vjp(models[0]).explain() and "enter" in rnnc.vjp(rnnc.GRU(3, 4)).explain()


def test_the_second_half_knows_the_memory_of_the_first() -> None:
    """A profiler is handed the built-in function, and may call it."""
    f = rnnc.vjp(rnnc.LSTM(3, 4), threads=1)
    params, x, state, d_output, d_state = arguments(f.spec, 2, 2)
    halves, tape = f._halves, f._halves.start(params, x, state)[-1]
    kept = tape._kept
    assert halves.second(kept, d_output, d_state) is not None
    moved = kept.copy()  # its context leads into the other memory
    for other in (moved, kept[:64], kept[None], np.zeros(0, np.uint8), np.zeros(4096, np.uint8), bytes(4096), None, x):
        assert halves.second(other, d_output, d_state) is None


def test_nothing_stays() -> None:
    """No references, and no memory of the pool but for the next call."""
    f = rnnc.vjp(rnnc.LSTM(3, 4), threads=1)
    params, x, state, d_output, d_state = arguments(f.spec, 2, 2)
    given = (*params.values(), x, *state, d_output, *d_state)

    def calls() -> None:
        for _ in range(100):
            tape = f._halves.start(params, x, state)[-1]
            assert tape.quick(d_output, d_state) is not None and tape.quick(d_output, 3) is None
            assert f._halves.start(params, x, 3) is None

    calls()
    before, held = sys.getallocatedblocks(), [sys.getrefcount(array) for array in given]
    calls()
    assert sys.getallocatedblocks() - before < 50
    assert [sys.getrefcount(array) for array in given] == held
    assert len(f._code.pool._free) == 2, "that of a call and of the one before it"
