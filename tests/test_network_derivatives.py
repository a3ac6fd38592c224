"""Derivatives of networks of layers: finite differences, and forward mode against reverse mode."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

import rnnc
from tests.derivative_oracles import TRANSFORMS

WORDS = 9
NETWORKS: dict[str, rnnc.Graph] = {
    "an encoder and a decoder that share a table, which is a matrix, too": rnnc.Graph(
        inputs={"src": rnnc.NUMBERS, "dst": rnnc.NUMBERS},
        layers={
            "table": (rnnc.Embedding(WORDS, 3), "src"),
            "again": ("table", "dst"),
            "enc": (rnnc.GRU(3, 2, bidirectional=True, dtype="float64"), "table"),
            "both": (rnnc.Concat(), "again", "enc.h"),
            "dec": (rnnc.GRU(7, 4, dtype="float64"), "both", {"h": "enc.h"}),
            "out": (rnnc.Linear(4, 3), "dec"),
            "pool": (rnnc.AttentionPooling(3), "out"),
            "largest": (rnnc.Max(), "out"),
            "scores": (rnnc.Linear(3, WORDS), "out", {"weight": "table.weight"}),
        },
        outputs=("out", "pool", "largest", "scores"),
    ),
    "convolutions, norms and a residual": rnnc.Graph(
        inputs={"x": 4},
        layers={
            "conv": (rnnc.Conv1d(4, 6, 3, dilation=2, groups=2), "x"),
            "norm": (rnnc.LayerNorm(6), "conv"),
            "act": (rnnc.PReLU(6), "norm"),
            "same": (rnnc.Conv1d(6, 4, 2, padding="same"), "act"),
            "sum": (rnnc.Add(), "same", "x"),
            "lstm": (rnnc.LSTM(4, 3, dtype="float64", batch_first=True), "sum", {"bias_ih_l0": "lstm.bias_hh_l0"}),
            "own": (rnnc.Conv1d(3, 3, 3, groups=3), "lstm"),
            "mean": (rnnc.Mean(), "own"),
        },
        outputs="mean",
    ),
}


@cache
def compiled(transform: str, name: str, backend: str) -> Any:
    """rnnc.vjp, jvp or hvp of a network: one function for all lengths and tests."""
    return TRANSFORMS[transform](NETWORKS[name], backend=backend)


def arguments(net: rnnc.Graph, rng: Any) -> tuple[Any, Any]:
    """(T, B) = (4, 3) in the network's layout."""
    sizes = (3, 4) if net.batch_first else (4, 3)
    x = {
        name: rng.standard_normal((*sizes, width)) if width else rng.integers(0, WORDS, sizes)
        for name, width in net.inputs.items()
    }
    return net.init(1), (x if len(x) > 1 else next(iter(x.values())))


def parts(values: Any) -> dict[str, Any]:
    """What a network gives or takes, by name."""
    return values if isinstance(values, dict) else {"": values}


def inner(a: Any, b: Any) -> float:
    """The sum of the products of two sets of arrays; None is zeros."""
    return float(sum((parts(a)[name] * value).sum() for name, value in parts(b).items() if value is not None))


@pytest.mark.parametrize("lengths", (None, (4, 1, 3)))
@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_are_slopes(name: str, lengths: Any, backend: str) -> None:
    rng, net = np.random.default_rng(0), NETWORKS[name]
    params, x = arguments(net, rng)
    (output, _), pullback = compiled("vjp", name, backend)(params, x, None, lengths)
    seeds = {key: rng.standard_normal(value.shape) for key, value in parts(output).items()}
    d_params, d_x, _ = pullback(seeds if len(seeds) > 1 else seeds[next(iter(seeds))])
    direction = {key: rng.standard_normal(value.shape) for key, value in params.items()}
    network, step = compiled("jvp", name, backend), 1e-6
    _, (tangent, _) = network((params, x, None), (direction, None, None), lengths=lengths)
    slope = inner(d_params, direction)
    assert inner(tangent, seeds) == pytest.approx(slope, rel=1e-9)

    def loss(sign: float) -> float:
        moved = {key: value + sign * step * direction[key] for key, value in params.items()}
        return inner(net.compile(moved, backend="reference")(x, lengths=lengths), seeds)

    assert (loss(1) - loss(-1)) / (2 * step) == pytest.approx(slope, rel=1e-6, abs=1e-7)
    assert all(value is None or np.isfinite(value).all() for value in parts(d_x).values())


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", NETWORKS)
def test_second_order_is_the_slope_of_gradients(name: str, backend: str) -> None:
    rng, net, step = np.random.default_rng(2), NETWORKS[name], 1e-6
    params, x = arguments(net, rng)
    f = compiled("vjp", name, "reference")
    seeds = {key: rng.standard_normal(value.shape) for key, value in parts(f(params, x)[0][0]).items()}
    seed = seeds if len(seeds) > 1 else seeds[next(iter(seeds))]
    direction = {key: rng.standard_normal(value.shape) for key, value in params.items()}
    (found, _, _), (changes, _, _) = compiled("hvp", name, backend)(
        (params, x, None), (seed, None), (direction, None, None)
    )
    moved = [{key: value + s * step * direction[key] for key, value in params.items()} for s in (1, -1)]
    up, down = (f(p, x)[1](seed)[0] for p in moved)
    for key, value in f(params, x)[1](seed)[0].items():
        np.testing.assert_allclose(found[key], value, rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(changes[key], (up[key] - down[key]) / (2 * step), rtol=1e-5, atol=1e-6)
