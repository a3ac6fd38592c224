"""Streams: random steps, resets, saves and restores of random streams, against one state per stream."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

import rnnc
from tests.refusals import raises_saying
from tests.test_realtime import LAYERS, compiled
from tests.test_streams import host

MODELS: dict[str, Any] = {
    "two states, two layers": rnnc.LSTM(3, 4, 2),
    "batch first, float64": rnnc.GRU(3, 4, batch_first=True, dtype="float64"),
    "delay line and mean": rnnc.Sequential(rnnc.Conv1d(3, 4, 3), rnnc.LSTM(4, 4), rnnc.Mean()),
    "begins elsewhere": rnnc.Sequential(rnnc.LearnedStart(rnnc.RNN(3, 4))),
    "two inputs, two outputs": rnnc.Graph({"a": 3, "n": "numbers"}, LAYERS, ("g", "d")),
    "no state": rnnc.Sequential(rnnc.Linear(3, 2)),
}
CAPACITY = 7


def x_of(model: Any, steps: int, batch: int, rng: np.random.Generator) -> Any:
    lead = (batch, steps) if model.batch_first else (steps, batch)
    floats = rng.standard_normal((*lead, 3)).astype(model.dtype)
    return {"a": floats, "n": rng.integers(0, 9, lead)} if isinstance(model, rnnc.Graph) else floats


def mapped(function: Any, value: Any) -> Any:
    return {k: function(v) for k, v in value.items()} if isinstance(value, dict) else function(value)


def assert_same(found: Any, expected: Any) -> None:
    pairs = zip(found.values(), expected.values(), strict=True) if isinstance(found, dict) else [(found, expected)]
    for one, other in pairs:
        np.testing.assert_allclose(host(one), host(other), atol=1e-6)


class OneByOne:
    """The oracle: a state of its own for each stream, and calls of the model with one row."""

    def __init__(self, made: Any, batch_first: bool) -> None:
        self.made, self.axis = made, 0 if batch_first else 1
        self.states: list[Any] = [None] * CAPACITY

    def step(self, ids: list[int], x: Any) -> Any:
        outputs = []
        for place, one in enumerate(ids):
            row = mapped(lambda array, k=place: np.ascontiguousarray(np.take(array, [k], self.axis)), x)
            output, self.states[one] = self.made.advance(row, self.states[one])
            outputs.append(output)
        if isinstance(outputs[0], dict):
            return {name: self._joined([output[name] for output in outputs]) for name in outputs[0]}
        return self._joined(outputs)

    def _joined(self, arrays: list[Any]) -> Any:
        return np.concatenate(list(map(host, arrays)), self.axis if arrays[0].ndim == 3 else 0)


@pytest.mark.parametrize("name", MODELS)
def test_streams_are_models_of_their_own(name: str) -> None:
    model, rng = MODELS[name], np.random.default_rng(0)
    made = compiled(model)
    streams, oracle = rnnc.Streams(made, CAPACITY), OneByOne(made, model.batch_first)
    time = 1 if model.batch_first else 0
    for turn in range(24):
        ids = rng.permutation(CAPACITY)[: rng.integers(1, CAPACITY + 1)].tolist()
        steps = int(rng.integers(1, 4))
        x = x_of(model, steps, len(ids), rng)
        expected = oracle.step(ids, x)
        if steps > 1:
            found = streams.step(ids, x)
        elif len(ids) > 1 or turn % 2:  # one step: its axis may be left out
            found = streams.step(np.array(ids, np.uint8), mapped(lambda array: array.squeeze(time), x))
            expected = mapped(lambda array: array.squeeze(time) if array.ndim == 3 else array, expected)
        else:
            found = streams.step(ids[0], mapped(lambda array: array.reshape(array.shape[2:]), x))
            expected = mapped(lambda array: array.reshape(-1), expected)
        assert_same(found, expected)
        if turn % 4 == 1:
            streams.reset(ids[:2])
            oracle.states = [None if one in ids[:2] else state for one, state in enumerate(oracle.states)]
        if turn % 4 == 3:
            target, source = rng.permutation(CAPACITY)[:2].tolist()
            saved = streams.save(source)
            if turn % 8 == 3:
                streams.restore(target, saved)
            else:
                streams.restore([target], streams.save([source]))
            oracle.states[target] = oracle.states[source]
            streams = copy.deepcopy(streams) if turn % 8 == 3 else pickle.loads(pickle.dumps(streams))


def test_on_every_backend_a_step_leaves_other_streams_alone(backend: str) -> None:
    spec = rnnc.GRU(3, 4, 2)
    model = rnnc.compile(spec, spec.init(1), backend=backend)
    streams, xp = rnnc.Streams(model, CAPACITY), model._arrays.xp
    x = np.random.default_rng(0).standard_normal((5, 2, 3)).astype("float32")
    poison = {key: xp.full((CAPACITY, 4), np.nan, "float32") for key in ("h_l0", "h_l1")}
    streams.restore(range(CAPACITY), poison)
    streams.reset([5, 2])
    found = [host(streams.step([5, 2], xp.asarray(step))) for step in x]
    np.testing.assert_allclose(np.stack(found), host(model(xp.asarray(x))[0]), atol=1e-6)
    kept = {key: host(array) for key, array in streams.save().items()}
    assert all(np.isnan(array[[0, 1, 3, 4, 6]]).all() and np.isfinite(array[[2, 5]]).all() for array in kept.values())
    streams.reset()
    assert all((host(array) == 0).all() for array in streams.save().values())


def test_lengths_and_the_model_s_own_states() -> None:
    model = compiled(MODELS["two states, two layers"])
    streams = rnnc.Streams(model, 4)
    x = np.random.default_rng(0).standard_normal((5, 3, 3)).astype("float32")
    y, state = model.advance(x, lengths=[5, 0, 2])
    assert_same(streams.step([3, 0, 1], x, lengths=[5, 0, 2]), y)
    assert_same(streams.save([3, 0, 1]), state)
    streams.restore([1, 2, 3], state)
    assert_same(streams.step((1, 2, 3), x), model.advance(x, state)[0])
    streams.reset(0)
    assert_same(streams.step(0, x[:, 0], lengths=3), model.advance(x[:, :1], lengths=[3])[0][:, 0])
    assert streams.step([], np.zeros((0, 3), "float32")).shape == (0, 4)


def test_mistakes_are_refused_and_change_nothing() -> None:
    model = compiled(MODELS["two states, two layers"])
    streams = rnnc.Streams(model, 4)
    x = np.ones((2, 3), "float32")
    streams.step([0, 3], x)
    before = streams.save()
    for ids, words in (([0, 4], ("0..3", "4")), ([-1, 0], ("0..3", "-1")), ([3, 1, 3], ("3", "more than once"))):
        for refused in (streams.reset, streams.save, lambda ids: streams.step(ids, np.ones((len(ids), 3), "float32"))):
            with raises_saying(rnnc.ArgumentError, "ids", *words):
                refused(ids)
    for wrong in ([0.0, 1.0], [[0]], "0", {0: 1}, None, [True, False]):
        with raises_saying(rnnc.ArgumentTypeError, "ids", "integers"):
            streams.step(wrong, x)
    with raises_saying(rnnc.ShapeError, "x", "2 ids", "3 rows"):
        streams.step([0, 1], np.ones((3, 3), "float32"))
    with raises_saying(rnnc.ShapeError, "x", "I = 3", "(1, 2, 4)"):
        streams.step([0, 1], np.ones((2, 4), "float32"))
    with raises_saying(rnnc.DtypeError, "x", "float64"):
        streams.step([0, 1], np.ones((2, 3)))
    with raises_saying(rnnc.LengthError, "lengths"):
        streams.step([0, 1], np.ones((4, 2, 3), "float32"), lengths=[5, 0])
    with raises_saying(rnnc.ArgumentTypeError, "saved", "'h_l0'", "None"):
        streams.restore([0], None)
    with raises_saying(rnnc.ShapeError, "saved['c_l1']", "(2, 4)", "(3, 4)"):
        streams.restore([0, 1], streams.save([0, 1]) | {"c_l1": np.zeros((3, 4), "float32")})
    with raises_saying(rnnc.DtypeError, "saved['h_l0']", "float64"):
        streams.restore([0], streams.save([0]) | {"h_l0": np.zeros((1, 4))})
    after = streams.save()
    assert all((before[key] == after[key]).all() for key in before)
    with raises_saying(rnnc.ArgumentTypeError, "model", "LSTM"):
        rnnc.Streams(rnnc.LSTM(3, 4), 4)
    with raises_saying(rnnc.ArgumentError, "capacity", "0"):
        rnnc.Streams(model, 0)
    with raises_saying(rnnc.ArgumentError, "bidirectional"):
        rnnc.Streams(compiled(rnnc.GRU(3, 4, bidirectional=True)), 4)
    big = rnnc.LSTM(1, 4096)
    with raises_saying(rnnc.SizeError, "2000000000 streams"):
        rnnc.Streams(rnnc.compile(big, {k: np.zeros(s, "f4") for k, s in big.parameter_shapes().items()}), 2 * 10**9)
