"""The ways of a call: machine code takes lengths, out=, unbatched x and any strides as the checked call takes them."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import rnnc
from rnnc.backends.call_forms import OUTCOMES
from rnnc.quick import Calls
from tests.refusals import raises_saying

SPECS = {
    "two states, two layers": rnnc.LSTM(3, 4, 2),
    "both directions, float64": rnnc.GRU(3, 4, bidirectional=True, dtype="float64"),
    "batch first": rnnc.GRU(3, 4, batch_first=True),
}


def model_of(name: str) -> rnnc.Model:
    model = rnnc.compile(SPECS[name], SPECS[name].init(0), threads=1)
    model(np.ones((1, 1, 3), SPECS[name].dtype), lengths=[1])  # the first lengths are Python's
    return model


def arguments(spec: rnnc.Spec, steps: int, batch: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(steps)
    x = rng.standard_normal((batch, steps, 3) if spec.batch_first else (steps, batch, 3)).astype(spec.dtype)
    rows = spec.num_layers * spec.num_directions
    states = tuple(rng.standard_normal((rows, batch, width)).astype(spec.dtype) for width in spec.states.values())
    return x, states if len(states) > 1 else states[0]


def flat(result: Any) -> list[Any]:
    return [result] if isinstance(result, np.ndarray) else [array for each in result for array in flat(each)]


def same(one: Any, other: Any) -> bool:
    pairs = zip(flat(one), flat(other), strict=True)
    return all(a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in pairs)


LENGTHS: tuple[list[int], ...] = ([5, 5, 5], [0, 5, 2], [3, 3, 0], [1, 2, 4], [0, 0, 0])


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("name", SPECS)
def test_lengths(name: str, lengths: list[int]) -> None:
    model = model_of(name)
    x, state = arguments(model.spec, 5, 3)
    strided = np.repeat(lengths, 3)[::3]
    for given in (np.array(lengths), strided, np.array(lengths, np.longlong)):
        for start in (None, state):
            assert same(model._quick(x, start, given), model._checked(x, start, lengths))
    outs = [np.full_like(array, 7) for array in flat(model(x))]
    out = (outs[0], tuple(outs[1:]) if len(outs) > 2 else outs[1])
    assert same(model._quick(x, state, strided, out), model._checked(x, state, lengths))


@pytest.mark.parametrize("name", SPECS)
def test_an_unbatched_call(name: str) -> None:
    model = model_of(name)
    x, state = arguments(model.spec, 5, 1)
    first = x[0] if model.spec.batch_first else x[:, 0]
    start = tuple(array[:, 0] for array in state) if isinstance(state, tuple) else state[:, 0]
    for given in (first, np.asfortranarray(first), first[::-1]):
        assert same(model._quick(given, start), model._checked(given, start, None))
    outs = [np.empty_like(array) for array in flat(model(first))]
    assert model._quick(first, start, None, outs[0])[0] is outs[0]
    assert model._quick(x, start) is None and model._quick(first, state) is None, "both or neither have an axis of rows"


@pytest.mark.parametrize("name", SPECS)
def test_arrays_to_write_into(name: str) -> None:
    model = model_of(name)
    x, state = arguments(model.spec, 4, 3)
    expected = model._checked(x, state, None)
    lead, width = expected[0].shape[:2], expected[0].shape[2]
    wide = np.empty((*lead, width + 5), x.dtype)
    turned = np.empty((lead[1], lead[0], width), x.dtype).swapaxes(0, 1)
    around = np.empty(2 * x.size + expected[0].size, x.dtype)  # neighbours of x that do not overlap it
    between = around[x.size : 2 * x.size].reshape(x.shape)
    between[...] = x
    for given, output in (
        (x, wide[..., 2:-3]),
        (x, turned),
        (between, around[2 * x.size :].reshape(expected[0].shape)),
    ):
        made = model._quick(given, state, None, output)
        assert made[0] is output and same(made, expected)
        states = [np.empty_like(array) for array in flat(expected[1])]
        made = model._quick(given, state, None, (output, tuple(states) if len(states) > 1 else states[0]))
        assert all(a is b for a, b in zip(flat(made[1]), states, strict=True)) and same(made, expected)


def read_only(array: Any) -> Any:
    array.flags.writeable = False
    return array


DECLINED: dict[str, tuple[str, Callable[[Any, Any], tuple[Any, ...]]]] = {
    "a length above T": ("values", lambda x, o: (x, None, np.array([4, 5, 0]))),
    "a length below 0": ("values", lambda x, o: (x, None, np.array([4, -1, 0]))),
    "too few lengths": ("shape", lambda x, o: (x, None, np.array([4, 4]))),
    "lengths of two axes": ("shape", lambda x, o: (x, None, np.array([[4, 4, 4]]))),
    "lengths of another dtype": ("dtype", lambda x, o: (x, None, np.array([4, 4, 4], np.int32))),
    "a list of lengths": ("type", lambda x, o: (x, None, [4, 4, 4])),
    "lengths without a batch": ("lengths", lambda x, o: (x[:, 0], None, np.array(4))),
    "a fifth argument": ("arguments", lambda x, o: (x, None, None, None, None)),
    "no arguments": ("arguments", lambda x, o: ()),
    "a read-only output": ("layout", lambda x, o: (x, None, None, read_only(o))),
    "an output that overlaps itself": ("layout", lambda x, o: (x, None, None, np.broadcast_to(o[:1], o.shape))),
    "an output backwards": ("layout", lambda x, o: (x, None, None, o[::-1])),
    "every other column": ("layout", lambda x, o: (x, None, None, np.repeat(o, 2, axis=-1)[..., ::2])),
    "an output over x": ("overlap", lambda x, o: (o[..., :3], None, None, o)),
    "one output twice": ("overlap", lambda x, o: (x, None, None, (o, (o[:2], o[2:])))),
    "an output of another shape": ("shape", lambda x, o: (x, None, None, o[:-1])),
    "an output of another dtype": ("dtype", lambda x, o: (x, None, None, o.astype(float))),
    "an output alone in a tuple": ("arguments", lambda x, o: (x, None, None, (o,))),
    "a missing state": ("arguments", lambda x, o: (x, None, None, (o, None))),
    "an output in a list": ("type", lambda x, o: (x, None, None, [o, (o, o)])),
}


@pytest.mark.parametrize("case", DECLINED)
def test_what_machine_code_leaves_to_python(case: str) -> None:
    """It says why, and has changed nothing."""
    model = rnnc.compile(rnnc.LSTM(3, 4, 2), rnnc.LSTM(3, 4, 2).init(0), threads=1)
    x, _ = arguments(model.spec, 4, 3)
    output = model._checked(x, None, [4, 4, 4])[0]
    before = output.copy()
    reason, given = DECLINED[case]
    assert model._quick(*given(x, output)) is None
    assert (output == before).all() and model.calls.declined == {reason: 1}


def test_calls_are_counted_by_their_way() -> None:
    model = rnnc.compile(rnnc.GRU(3, 4), rnnc.GRU(3, 4).init(0), threads=1)
    x, state = arguments(model.spec, 4, 3)
    assert model.calls == Calls()
    model(x)
    model.advance(x, {"h_l0": state[0]})
    model(x, lengths=[4, 0, 1])  # once in Python, to prove that padding need not be computed
    assert (model.calls.native, model.calls.python) == (2, 1)
    model(x, state, lengths=[4, 0, 1])
    assert (model.calls.native, model.calls.python) == (3, 1)
    with raises_saying(rnnc.DtypeError, "x"):
        model(x.astype(float))
    assert model.calls.python == 2 and model.calls.declined["dtype"] == 1
    assert model.calls.declined.keys() <= OUTCOMES.keys()
    plain = rnnc.compile(model.spec, model.spec.init(0), backend="reference")
    plain(x)
    assert plain.calls == Calls(python=1)


class Odd:
    """What its array protocol gives is of no use."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise RuntimeError("no array")


def test_nothing_stays_and_nothing_breaks() -> None:
    """Refused calls of all kinds, and good ones from several threads that share an `out`."""
    model = model_of("two states, two layers")
    x, state = arguments(model.spec, 4, 3)
    output = model(x)[0].copy()
    lengths, outs = np.array([4, 0, 2]), (output, tuple(array.copy() for array in state))
    expected = model._checked(x, state, lengths)
    loop: list[Any] = []
    loop.append(loop)
    bad: list[tuple[Any, dict[str, Any]]] = [
        ((x, state), {"lengths": lengths + 9}),
        ((x, (state[0], Odd())), {}),
        ((loop, state), {}),
        ((Odd(),), {"lengths": [4, 4, 4]}),
        ((x,), {"lengths": loop}),
        ((x, state), {"out": (output, (output, output))}),
        ((x,), {"lengths": [10**30, 1, 1]}),
    ]
    watched = (x, *state, lengths, *flat(outs), x.dtype)

    def calls() -> None:
        for _ in range(20):
            assert same(model(x, state, lengths=lengths, out=outs), expected)
            assert same(model(x[..., ::-1][..., ::-1], state, lengths=lengths), expected)
            for given, named in bad:
                with pytest.raises(rnnc.RnncError):
                    model(*given, **named)

    calls()
    gc.collect()
    held, blocks = [sys.getrefcount(it) for it in watched], sys.getallocatedblocks()
    calls()
    gc.collect()
    assert sys.getallocatedblocks() - blocks < 60
    assert all(abs(sys.getrefcount(it) - n) < 20 for it, n in zip(watched, held, strict=True))
    with ThreadPoolExecutor(4) as pool:
        for job in [pool.submit(model, x, state, lengths=lengths, out=outs) for _ in range(200)]:
            assert same(job.result(), expected)
