"""Cells that leave something unread: its derivatives are zeros, and all others what they were."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

import rnnc
from rnnc import train
from rnnc.ir.equations import Value, greater, linear, select, tanh

UNREAD: Mapping[str, set[str]] = {
    "a parameter": {"d_spare"},
    "x": {"d_spare", "d_w", "d_x"},
    "a state": {"d_spare", "d_c"},
    "all but a state": {"d_spare", "d_u", "d_w", "d_x"},
    "all states": {"d_spare", "d_u", "d_h", "d_c"},
    "the size of x": {"d_spare", "d_x", "d_w", "d_c"},
}
"""What a cell leaves unread -> what has no gradient."""


@dataclass(frozen=True)
class Leaves(rnnc.Cell):
    """A cell that leaves something unread."""

    unread: str
    name: ClassVar[str] = "leaves"

    def parameters(self, input_size: int, hidden_size: int, bias: bool) -> dict[str, tuple[int, ...]]:
        return {"w": (hidden_size, input_size), "u": (hidden_size, hidden_size), "spare": (3,)}

    def states(self, hidden_size: int) -> dict[str, int]:
        return {"h": hidden_size, "c": hidden_size}

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> tuple[Value, dict[str, Value]]:
        match self.unread:
            case "a parameter":
                h = tanh(linear(x, p.w) + linear(state.h, p.u))
                return h, {"h": h, "c": 0.5 * state.c + h}
            case "x":
                h = tanh(linear(state.h, p.u))
                return h, {"h": h, "c": state.c * h}
            case "a state":
                h = tanh(linear(x, p.w) + linear(state.h, p.u))
                return h, {"h": h, "c": h * h}
            case "all but a state":
                return state.c, {"h": tanh(state.h), "c": state.c * state.h}
            case "all states":
                h = tanh(linear(x, p.w))
                return h, {"h": h, "c": h * h}
        h = tanh(select(greater(x, 0.0), linear(state.h, p.u), state.h))
        return h, {"h": h, "c": h}


def spec_of(unread: str) -> rnnc.Recurrent:
    return rnnc.Recurrent(Leaves(unread), 3, 3, dtype="float64")


def named(values: tuple[Any, Any, Any], prefix: str = "") -> dict[str, Any]:
    params, x, (h, c) = values
    return {prefix + k.removesuffix("_l0"): v for k, v in params.items()} | dict(
        zip((prefix + "x", prefix + "h", prefix + "c"), (x, h, c), strict=True)
    )


def dot(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    return sum(float((a * b).sum()) for a, b in zip(one.values(), other.values(), strict=True))


@pytest.mark.sampled(3)
@pytest.mark.parametrize("unread", UNREAD)
def test_derivatives_of_what_is_unread_are_zeros(unread: str, backend: str) -> None:
    check_derivatives(unread, backend)


def test_on_the_gpu_too() -> None:
    check_derivatives("x", "cuda-emulated")


def check_derivatives(unread: str, backend: str) -> None:
    """Forward and reverse mode are transposes, second order has the same gradients, zeros are zeros."""
    spec, random, lengths = spec_of(unread), np.random.default_rng(0), np.array([4, 2])
    at, along = (
        (spec.init(seed), random.standard_normal((4, 2, 3)), tuple(random.standard_normal((2, 1, 2, 3))))
        for seed in (0, 1)
    )
    (output, state), pull = rnnc.vjp(spec, backend=backend)(*at, lengths)
    seeds = (np.ones_like(output), tuple(map(np.ones_like, state)))
    gradients = named(pull(*seeds), "d_")
    assert {name for name, value in gradients.items() if not value.any()} == UNREAD[unread]
    _, tangents = rnnc.jvp(spec, backend=backend)(at, along, lengths=lengths)
    results = {"output": tangents[0], "h": tangents[1][0], "c": tangents[1][1]}
    total = sum(float(value.sum()) for value in results.values())  # all seeds are ones; tangents of padding are zeros
    assert dot(gradients, named(along)) == pytest.approx(total, rel=1e-10)
    again, changes = rnnc.hvp(spec, backend=backend)(at, seeds, along, (None, seeds[1]), lengths=lengths)
    for name, value in named(again, "d_").items():
        np.testing.assert_allclose(value, gradients[name], rtol=1e-12, atol=1e-12, err_msg=name)
    assert all(not value.any() for name, value in named(changes, "d_").items() if name in UNREAD[unread])
    _, pull = rnnc.vjp(spec, backend=backend, remat=2)(*at, lengths)
    for name, value in named(pull(*seeds), "d_").items():
        np.testing.assert_allclose(value, gradients[name], rtol=1e-12, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("unread", ("x", "the size of x"))
def test_a_table_that_nothing_depends_on_is_trained_by_zeros(unread: str, backend: str) -> None:
    check_training(unread, backend)


def test_such_a_table_on_the_gpu_too() -> None:
    check_training("the size of x", "cuda-emulated")


def check_training(unread: str, backend: str) -> None:
    """Rows of the batch have a gradient of zeros: weight decay moves them, and nothing else does."""
    model = rnnc.Sequential(rnnc.Embedding(5, 3), spec_of(unread), rnnc.Linear(3, 2))
    params = model.init(0)
    decay = rnnc.optimizers.SGD(0.5, weight_decay=0.5)
    step = train.TrainingStep(model, "cross_entropy", decay, params=params, backend=backend)
    pairs = [(np.array(words), np.zeros(len(words), np.int64)) for words in ([1, 2, 1], [3])]
    batch = train.Sequences(model, step.loss, pairs).batch(np.arange(2))
    _, gradients = step.gradients(batch)
    still = {"0.weight", "1.w_l0", "1.spare_l0"}
    assert not any(gradients[name].any() for name in still) and gradients["2.bias"].any()
    step.step(batch)
    expected = params["0.weight"] * np.array([1, 0.75, 0.75, 0.75, 1])[:, None]
    np.testing.assert_allclose(step.params["0.weight"], expected, rtol=1e-12)
    np.testing.assert_allclose(step.params["1.w_l0"], 0.75 * params["1.w_l0"], rtol=1e-12)
