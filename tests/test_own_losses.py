"""Losses of one's own at every step: they compile on each backend, with equal numbers and with right gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rnnc
from rnnc import losses, optimizers, train
from rnnc.backends.cuda.emulator import find_compiler
from rnnc.ir.equations import Value, absolute, exp, greater, log, maximum, relu, rsqrt, select, sigmoid, tanh, total
from tests.random_cells import BINARY, RECIPES, UNARY, Recipe, cook, cooked

X, SIZE = 2, 3
MODEL = rnnc.Sequential(rnnc.RNN(X, 4, dtype="float64"), rnnc.Linear(4, SIZE))

Row = Callable[[Value, Value], Value]


@dataclass(frozen=True)
class Own(losses.Loss):
    """A loss made of one function."""

    equations: Row
    name = "own"

    def row(self, output: Value, target: Value) -> Value:
        return self.equations(output, target)

    def target_width(self, size: int) -> int:
        return size

    def encode(self, targets: Any, size: int, dtype: str) -> tuple[Any, Any]:
        encoded = targets.astype(dtype)
        return encoded, self.counted(encoded)

    def counted(self, encoded: Any) -> Any:
        return np.ones(encoded.shape[:-1], np.int64)


def several_labels(output: Value, target: Value) -> Value:
    return total(relu(output) - output * target + log(1 + exp(-absolute(output))))


def focal(output: Value, target: Value) -> Value:
    right = sigmoid(output)
    return -total(target * (1 - right) * (1 - right) * log(right + 1e-6))


def huber(output: Value, target: Value) -> Value:
    far = absolute(output - target)
    return total(select(greater(far, 1.0), far - 0.5, 0.5 * far * far))


ROWS: dict[str, Row] = {
    "absolute": lambda o, t: total(absolute(o - t)),
    "quantile": lambda o, t: total(maximum(0.9 * (t - o), -0.1 * (t - o))),
    "several labels": several_labels,
    "focal": focal,
    "huber": huber,
    "cosine": lambda o, t: 1 - total(o * t) * rsqrt(total(o * o) * total(t * t) + 1e-6),
    "one unit": lambda o, t: absolute((o - t).split(SIZE)[1]),
    "the sum itself": lambda o, t: -total(o),
}


def batch_of(loss: losses.Loss, ragged: bool) -> Any:
    rng = np.random.default_rng(0)
    sizes = (4, 2, 3) if ragged else (4, 4, 4)
    pairs = [(rng.standard_normal((n, X)), rng.uniform(0, 1, (n, SIZE))) for n in sizes]
    return train.Sequences(MODEL, loss, pairs).batch(np.arange(3))


def step_of(row: Row, backend: str) -> Any:
    return train.TrainingStep(MODEL, Own(row), optimizers.SGD(0.1), seed=1, backend=backend)


def assert_same(row: Row, backends: tuple[str, ...]) -> None:
    """Losses and parameters after a step of each kind of batch."""
    made = []
    for backend in backends:
        step = step_of(row, backend)
        losses_of = [step.step(batch_of(Own(row), ragged))[0].loss for ragged in (False, True)]
        made.append((losses_of, step.flat))
    for losses_of, parameters in made[1:]:
        np.testing.assert_allclose(losses_of, made[0][0], rtol=1e-12)
        np.testing.assert_allclose(parameters, made[0][1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ("absolute", "quantile", "several labels", "focal", "cosine"))
def test_machine_code_trains_with_it(name: str) -> None:
    assert_same(ROWS[name], ("reference", "llvm"))


@pytest.mark.skipif(find_compiler() is None, reason="emulating CUDA needs a C++ compiler")
def test_an_emulated_gpu_trains_with_it() -> None:
    assert_same(ROWS["quantile"], ("reference", "cuda-emulated"))


def test_its_evaluation() -> None:
    batch = batch_of(Own(ROWS["cosine"]), True)
    found, expected = (
        train.Evaluation(MODEL, Own(ROWS["cosine"]), backend=backend)(MODEL.init(0), batch)
        for backend in ("llvm", "reference")
    )
    assert found[0] == pytest.approx(expected[0], rel=1e-13)
    np.testing.assert_allclose(found[1], expected[1], atol=1e-14)


@pytest.mark.parametrize("name", ROWS)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    step, batch = step_of(ROWS[name], "reference"), batch_of(Own(ROWS[name]), True)
    _, gradients = step.gradients(batch)
    rng = np.random.default_rng(1)
    direction = {name: rng.standard_normal(array.shape) for name, array in step.params.items()}
    along = sum(float((gradients[name] * direction[name]).sum()) for name in gradients)
    losses_at = []
    for shift in (1e-6, -1e-6):
        moved = step_of(ROWS[name], "reference")
        for parameter, array in moved.params.items():
            array += shift * direction[parameter]
        losses_at.append(moved.gradients(batch)[0])
    assert (losses_at[0] - losses_at[1]) / 2e-6 == pytest.approx(along, rel=1e-6, abs=1e-8)


ENDS: tuple[Callable[[Value], Value], ...] = (absolute, lambda v: -v, relu, lambda v: maximum(v, 0.5 * v), sigmoid)


@settings(max_examples=4)
@given(st.lists(RECIPES, min_size=1, max_size=5), st.integers(0, 9))
def test_random_losses(recipes: list[Recipe], pick: int) -> None:
    """Equations over output and target, as those of a cell are over x and a state, without parameters."""

    def row(output: Value, target: Value) -> Value:
        plain = [recipe for recipe in recipes if recipe[0] in {*UNARY, *BINARY, "half", "first"}]
        pool = cooked(plain, [output, target], lambda *_: output.split(SIZE)[0], cook)
        return ENDS[pick % len(ENDS)](total(tanh(pool[-1 - pick % len(pool)])))

    assert_same(row, ("reference", "llvm"))
