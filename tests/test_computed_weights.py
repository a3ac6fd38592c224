"""Weights that are computed from parameters: scaled, normalised, factored. Each parameter's gradient is computed from
the sum over rows that the weight has as its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

import rnnc
from rnnc import optimizers, train
from rnnc.backends.cuda.emulator import find_compiler
from rnnc.ir.equations import Value, concat, exp, greater, linear, mean, rsqrt, select, tanh, total

X, H, T, B = 3, 5, 4, 3

Made = Callable[[SimpleNamespace], Value]

WEIGHTS: dict[Made, dict[str, tuple[int, ...]]] = {
    lambda p: p.a0 * p.scalar: {"a0": (H, H), "scalar": (1,)},
    lambda p: p.a1 * p.columns: {"a1": (H, H), "columns": (H,)},
    lambda p: p.a2 * p.rows: {"a2": (H, H), "rows": (H, 1)},
    lambda p: p.left * p.right: {"left": (H, 1), "right": (1, H)},
    lambda p: linear(p.thin, p.thinner): {"thin": (H, 2), "thinner": (H, 2)},
    lambda p: tanh(linear(p.a3, p.a4)) * p.a3: {"a3": (H, H), "a4": (H, H)},
    lambda p: exp(p.a5) / total(exp(p.a5)): {"a5": (H, H)},
    lambda p: (p.a6 - mean(p.a6)) * rsqrt(mean(p.a6 * p.a6) + 0.1): {"a6": (H, H)},
    lambda p: concat(p.column, p.tall.split(2)[1]): {"column": (H, 1), "tall": (2 * H, H - 1)},
    lambda p: select(greater(p.a7, p.limit), p.a7, 0.5): {"a7": (H, H), "limit": (H,)},
}
"""A weight -> the parameters it is made of."""


@dataclass(frozen=True)
class Computed(rnnc.Cell):
    """A cell with the sum of all of them, and vectors that are computed from parameters."""

    name: ClassVar[str] = "computed"

    def parameters(self, input_size: int, hidden_size: int, bias: bool) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {"ih": (H, X), "b": (H,), "g": (1,)}
        for more in WEIGHTS.values():
            shapes |= more
        return shapes

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> tuple[Value, dict[str, Value]]:
        first, *others = (made(p) for made in WEIGHTS)
        h = linear(x, p.ih) + linear(state.h, sum(others, first))
        gated = select(greater(p.b, mean(p.b)), tanh(h), p.g * tanh(h))
        h = gated * (exp(p.b) / total(exp(p.b))) + total(p.b * p.limit)
        return h, {"h": h}


SPEC = rnnc.Recurrent(Computed(), X, H, dtype="float64")
LENGTHS = np.array([4, 2, 0])


def values(seed: int) -> tuple[dict[str, Any], Any, Any]:
    """Parameters, x and state."""
    rng = np.random.default_rng(seed)
    params = {name: 0.5 * rng.standard_normal(shape) for name, shape in SPEC.parameter_shapes().items()}
    return params, rng.standard_normal((T, B, X)), rng.standard_normal((1, B, H))


def flat(results: Any) -> list[Any]:
    if isinstance(results, Mapping):
        results = tuple(results.values())
    return [array for part in results for array in flat(part)] if isinstance(results, tuple) else [results]


def reverse(backend: str) -> Any:
    results, pullback = rnnc.vjp(SPEC, backend=backend)(*values(0), lengths=LENGTHS)
    return results, pullback(np.ones((T, B, H)), np.ones((1, B, H)))


def forward(backend: str) -> Any:
    return rnnc.jvp(SPEC, backend=backend)(values(0), values(1), lengths=LENGTHS)


def second(backend: str) -> Any:
    return rnnc.hvp(SPEC, backend=backend)(values(0), (np.ones((T, B, H)), None), values(1))


def trained(backend: str) -> Any:
    model = rnnc.Sequential(SPEC, rnnc.Linear(H, 2))
    step = train.TrainingStep(model, "mse", optimizers.SGD(0.1), seed=3, backend=backend)
    rng = np.random.default_rng(0)
    pairs = [(rng.standard_normal((n, X)), rng.standard_normal((n, 2))) for n in (4, 2, 3)]
    batch = train.Sequences(model, step.loss, pairs).batch(np.arange(3))
    loss, gradients = step.gradients(batch)
    step.step(batch)
    return np.array(loss), gradients, step.params


def assert_same(found: Any, expected: Any) -> None:
    for a, b in zip(flat(found), flat(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * max(1, np.abs(b).max(initial=0)))


@pytest.mark.parametrize("derivative", (reverse, forward, second, trained))
def test_derivatives_of_computed_weights(derivative: Callable[[str], Any]) -> None:
    assert_same(derivative("llvm"), derivative("reference"))


@pytest.mark.parametrize("name", ("llvm", "reference", "cuda-emulated"))
def test_parameters_that_change_after_the_call_do_not_reach_the_pullback(name: str) -> None:
    """Gradients are computed of sums over rows and of the parameters, in the second half."""
    if name == "cuda-emulated" and find_compiler() is None:
        pytest.skip("emulating CUDA needs a C++ compiler")
    params, x, state = values(0)
    results, pullback = rnnc.vjp(SPEC, backend=name)(params, x, state, lengths=LENGTHS)
    expected = pullback(*results)
    _, pullback = rnnc.vjp(SPEC, backend=name)(params, x, state, lengths=LENGTHS)
    for array in params.values():
        array += 1.0
    assert_same(pullback(*results), expected)


@pytest.mark.skipif(find_compiler() is None, reason="emulating CUDA needs a C++ compiler")
def test_derivatives_of_computed_weights_on_an_emulated_gpu() -> None:
    assert_same(reverse("cuda-emulated"), reverse("reference"))
    assert_same(trained("cuda-emulated"), trained("reference"))


def test_gradients_of_computed_weights_are_those_of_finite_differences() -> None:
    params, x, state = values(0)
    model = rnnc.compile(SPEC)

    def summed(shift: float) -> float:
        output, last = model.bind({n: a + shift * direction[n] for n, a in params.items()})(x, state, lengths=LENGTHS)
        return float(output.sum() + last.sum())

    direction = values(1)[0]
    _, (gradients, _, _) = reverse("llvm")
    along = sum(float((gradients[name] * direction[name]).sum()) for name in params)
    assert (summed(1e-6) - summed(-1e-6)) / 2e-6 == pytest.approx(along, rel=1e-6)


def test_it_is_said_what_numpy_computes() -> None:
    assert "computed by NumPy from sums over rows, once per call: d:scalar_l0" in (
        rnnc.vjp(rnnc.Recurrent(OneScale(), X, H)).explain()
    )


@dataclass(frozen=True)
class OneScale(rnnc.Cell):
    """The least of them: a weight times a number."""

    name: ClassVar[str] = "one_scale"

    def parameters(self, input_size: int, hidden_size: int, bias: bool) -> dict[str, tuple[int, ...]]:
        return {"ih": (hidden_size, input_size), "scalar": (1,), "hh": (hidden_size, hidden_size)}

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> tuple[Value, dict[str, Value]]:
        h = tanh(linear(x, p.ih) + linear(state.h, p.hh * p.scalar))
        return h, {"h": h}
