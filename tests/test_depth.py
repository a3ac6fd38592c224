"""Many equations in a step, many layers, and sizes beyond any memory: time and memory are the only limits."""

from __future__ import annotations

import cProfile
import inspect
import pstats
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

import rnnc
from rnnc import optimizers, train
from rnnc.backends.planning.planner import plan
from rnnc.ir.equations import Value, concat, linear, tanh


@dataclass(frozen=True)
class Chain(rnnc.Cell):
    """So many pairs of equations, one after the other."""

    pairs: int
    name: ClassVar[str] = "chain"

    def parameters(self, input_size: int, hidden_size: int, bias: bool) -> dict[str, tuple[int, ...]]:
        return {"ih": (hidden_size, input_size), "hh": (hidden_size, hidden_size)}

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> tuple[Value, dict[str, Value]]:
        h = linear(x, p.ih) + linear(state.h, p.hh)
        for _ in range(self.pairs):
            h = tanh(h) * 0.5 + state.h
        return h, {"h": h}


def planned(derivative: Any) -> Any:
    computation = derivative._computation
    return plan(computation.program(), computation.late)


@contextmanager
def low_stack() -> Iterator[None]:
    """Python's stack ends 150 calls from here."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 150)
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


@pytest.mark.rare
def test_a_long_chain_of_equations() -> None:
    """All stages before machine code, and their texts, of more equations than there is stack for."""
    spec = rnnc.Recurrent(Chain(90), 2, 2)
    program = rnnc.compile(spec)
    with low_stack():
        assert program.ir("plan").count("tanh") == 90
        assert len(program.ir("optimized", steps=1).splitlines()) > 180
        for kind in (rnnc.vjp, rnnc.jvp):
            assert planned(kind(spec, backend="reference")).regions


def test_it_runs(backend: str) -> None:
    spec, x = rnnc.Recurrent(Chain(40), 2, 2), np.ones((2, 1, 2), np.float32)
    params = spec.init(0)
    expected, _ = rnnc.compile(spec, params, backend="reference")(x)
    with low_stack():
        found, _ = rnnc.compile(spec, params, backend=backend)(x)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def sums(h: Value, s: SimpleNamespace, p: SimpleNamespace) -> Value:
    for number in range(LENGTH):
        h = h + (s.h if number % 2 else p.b)
    return tanh(h)


def parts(h: Value, s: SimpleNamespace, p: SimpleNamespace) -> Value:
    for _ in range(LENGTH):
        h = concat([h[:, 1:], h[:, :1]])
    return tanh(h)


def columns_of_shared_values(h: Value, s: SimpleNamespace, p: SimpleNamespace) -> Value:
    """Looked at once per reader, the first of them is looked at 2**LENGTH times."""
    for _ in range(LENGTH):
        h = h * h + h
    return tanh(concat([h[:, :1], h[:, :1]]))


def computed_biases(h: Value, s: SimpleNamespace, p: SimpleNamespace) -> Value:
    b = p.b
    for _ in range(LENGTH):
        b = b * b + p.b
    return tanh(h + b)


def computed_weights(h: Value, s: SimpleNamespace, p: SimpleNamespace) -> Value:
    w = p.hh
    for _ in range(LENGTH):
        w = tanh(concat([w[1:, :], w[:1, :]], axis=0))
    return tanh(h + linear(s.h, w))


def turned_weights(h: Value, s: SimpleNamespace, p: SimpleNamespace) -> Value:
    w = p.hh
    for _ in range(LENGTH):
        w = concat([w[1:, :], w[:1, :]], axis=0)
    return tanh(h + linear(s.h, w))


LENGTH = 160
CHAINS = (sums, parts, columns_of_shared_values, computed_biases, computed_weights, turned_weights)


@dataclass(frozen=True)
class Chained(rnnc.Cell):
    """What a function of CHAINS makes of a sum of products."""

    number: int
    name: ClassVar[str] = "chained"

    def parameters(self, input_size: int, hidden_size: int, bias: bool) -> dict[str, tuple[int, ...]]:
        return {"ih": (hidden_size, input_size), "hh": (hidden_size, hidden_size), "b": (hidden_size,)}

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> tuple[Value, dict[str, Value]]:
        h = CHAINS[self.number](linear(x, p.ih) + linear(state.h, p.hh), state, p)
        return h, {"h": h}


@pytest.mark.rare
@pytest.mark.parametrize("number", range(len(CHAINS)), ids=[f.__name__ for f in CHAINS])
def test_what_a_chain_is_made_of(number: int) -> None:
    """Plans of a cell and of its gradient; of one whose weights are computed, also gradients and a training step."""
    spec, x = rnnc.Recurrent(Chained(number), 2, 2), np.full((2, 1, 2), 0.1, np.float32)
    rnnc.compile(spec)
    with low_stack():
        assert rnnc.compile(spec).ir("plan")
        assert planned(rnnc.vjp(spec, backend="reference")).regions
        if CHAINS[number] in (computed_biases, computed_weights, turned_weights):
            params = {name: 0.1 * array for name, array in spec.init(0).items()}
            gradients = []
            for backend in ("reference", "llvm"):
                (output, _), pull = rnnc.vjp(spec, backend=backend)(params, x, None)
                gradients.append(pull(np.ones_like(output), None)[1])
            np.testing.assert_allclose(*gradients, rtol=1e-4, atol=1e-7)
            train.TrainingStep(rnnc.Sequential(spec), "mse", optimizers.SGD(0.1))


def calls_made(work: Callable[[], object]) -> int:
    profile = cProfile.Profile()
    profile.runcall(work)
    return int(pstats.Stats(profile).total_calls)  # type: ignore[attr-defined]


@pytest.mark.rare
@pytest.mark.parametrize("kind", (rnnc.vjp, rnnc.hvp))
def test_work_is_linear_in_layers(kind: Any) -> None:
    """Four times as many layers make no more than four and a half times as many calls."""
    few, many = (calls_made(lambda n=n: planned(kind(rnnc.RNN(2, 2, n), backend="reference"))) for n in (3, 12))
    assert many < 4.5 * few


def huge(*shape: int) -> Any:
    """An array of zeros that takes no memory."""
    return np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), shape, (0,) * len(shape))


SMALL = rnnc.RNN(1, 4)
WIDE = rnnc.RNN(10**6, 10**6)
TOO_LARGE: dict[str, Callable[[], object]] = {
    "steps": lambda: rnnc.compile(SMALL, SMALL.init())(huge(10**13, 1, 1)),
    "rows": lambda: rnnc.compile(SMALL, SMALL.init(), backend="reference")(huge(1, 10**13, 1)),
    "steps of a gradient": lambda: rnnc.vjp(SMALL)(SMALL.init(), huge(10**12, 1, 1)),
    "units": lambda: WIDE.init(),
    "parameters": lambda: rnnc.compile(WIDE, {name: huge(*shape) for name, shape in WIDE.parameter_shapes().items()}),
    "a table": lambda: rnnc.Sequential(rnnc.Embedding(10**9, 10**9), rnnc.RNN(10**9, 3)).init(),
    "a training": lambda: train.TrainingStep(rnnc.Sequential(WIDE), "mse", optimizers.SGD(0.1)),
}


@pytest.mark.parametrize("what", TOO_LARGE)
def test_sizes_that_cannot_fit_are_named(what: str) -> None:
    with pytest.raises(rnnc.SizeError, match=r"no memory for .*\d{6}.*make the network smaller"):
        TOO_LARGE[what]()
