"""`rnnc.jax`: values and gradients of `rnnc.vjp`, in programs that JAX compiles."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import rnnc
from rnnc.ir.errors import ArgumentError, ArgumentTypeError, DtypeError, ShapeError
from rnnc.layers import Last
from tests import user_cells

jax = pytest.importorskip("jax")
import rnnc.jax  # noqa: E402  (it needs the package)

NETWORK = rnnc.Graph(
    {"a": 3, "b": rnnc.Static(2)},
    {
        "g": (rnnc.GRU(3, 4, batch_first=True), "a"),
        "d": (rnnc.Linear(4, 2), "g"),
        "last": (Last(), "g"),
        "shift": (rnnc.Linear(2, 4), "b"),
        "sum": (rnnc.Add(), "last", "shift"),
    },
    ("d", "sum"),
    batch_first=True,
)
NATIVE: dict[str, Any] = {
    "two layers": rnnc.GRU(5, 24, 2),
    "both directions, biases that share a gradient": rnnc.LSTM(3, 13, bidirectional=True),
    "batch first": rnnc.RNN(3, 5, batch_first=True),
    "projection": rnnc.LSTM(4, 8, proj_size=3),
    "a cell of one's own": rnnc.Recurrent(user_cells.NestedLSTM(), 6, 11),
    "several inputs and outputs": NETWORK,
}
BY_CALLBACK: dict[str, Any] = {
    "a table": rnnc.Sequential(rnnc.Embedding(7, 4), rnnc.GRU(4, 5), rnnc.Linear(5, 2)),
}


def arguments(model: Any, steps: int = 5, batch: int = 3, dtype: str = "float32") -> tuple[Any, Any]:
    """Parameters and x."""
    rng = np.random.default_rng(1)
    params = model.init(0)
    if not isinstance(model, rnnc.Graph | rnnc.Sequential):
        lead = (batch, steps) if model.batch_first else (steps, batch)
        return params, rng.standard_normal((*lead, model.input_size)).astype(dtype)
    if model is NETWORK:
        a, b = rng.standard_normal((batch, steps, 3)), rng.standard_normal((batch, 2))
        return params, {"a": a.astype(dtype), "b": b.astype(dtype)}
    return params, rng.integers(0, 7, (steps, batch)).astype(np.int32)


def seeds_like(results: Any) -> Any:
    rng = np.random.default_rng(2)
    return jax.tree.map(lambda array: rng.standard_normal(array.shape).astype(array.dtype), results)


def check_alike(found: Any, expected: Any) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(np.asarray(one), other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("lengths", (None, (5, 2, 3)), ids=("plain", "ragged"))
@pytest.mark.parametrize("name", (*NATIVE, *BY_CALLBACK))
def test_values_and_gradients_are_those_of_the_vjp(name: str, lengths: Any) -> None:
    """Jitted, twice with other numbers, and from states that are given."""
    model = (NATIVE | BY_CALLBACK)[name]
    params, x = arguments(model)
    made, f = rnnc.vjp(model), rnnc.jax.function(model)
    assert f.explain().startswith(f"plain calls: {'a custom call' if name in NATIVE else 'a host callback'}")
    state = seeds_like(made(params, x)[0][1]) if name in NATIVE else None
    floats = (0, 1) if name in NATIVE else 0

    def loss(params: Any, x: Any, seeds: Any) -> Any:
        found = f(params, x, state, lengths=None if lengths is None else np.array(lengths))
        return sum((one * seed).sum() for one, seed in zip(jax.tree.leaves(found), jax.tree.leaves(seeds), strict=True))

    forward = jax.jit(lambda params, x: f(params, x, state, None if lengths is None else np.array(lengths)))
    backward = jax.jit(jax.grad(loss, argnums=floats))
    for scale in (1, 0.5):
        scaled = {name: (array * scale).astype(array.dtype) for name, array in params.items()}
        results, pullback = made(scaled, x, state, lengths)
        check_alike(forward(scaled, x), results)
        seeds = seeds_like(results)
        d_params, d_x, _ = pullback(*seeds)
        check_alike(backward(scaled, x, seeds), (d_params, d_x) if name in NATIVE else d_params)


def test_float64_and_a_pullback_that_is_used_twice() -> None:
    """The second half writes to what the first has kept, of which XLA makes a copy where both need it."""
    with jax.enable_x64(True):
        spec = rnnc.LSTM(3, 4, dtype="float64")
        params, x = arguments(spec, dtype="float64")
        f = rnnc.jax.function(spec)
        results, pullback = jax.vjp(lambda params: f(params, x), params)
        expected, numpys = rnnc.vjp(spec)(params, x)
        check_alike(results, expected)
        seeds = seeds_like(expected)
        for _ in range(2):
            for part in (seeds, jax.tree.map(lambda seed: 2 * seed, seeds)):
                check_alike(pullback(part)[0], numpys(*part)[0])
        both = jax.jit(jax.vmap(lambda scale: pullback(jax.tree.map(lambda seed: scale * seed, seeds))[0]))
        twice = both(np.array([1.0, 3.0]))
        check_alike(jax.tree.map(lambda array: array[1], twice), {k: 3 * v for k, v in numpys(*seeds)[0].items()})


def test_a_batch_of_calls_by_vmap() -> None:
    spec = rnnc.GRU(3, 4)
    params, x = arguments(spec)
    f = rnnc.jax.function(spec)
    xs = np.stack([x, -x, 2 * x])
    found = jax.jit(jax.vmap(f, in_axes=(None, 0)))(params, xs)
    for number, each in enumerate(xs):
        check_alike(jax.tree.map(lambda array, n=number: array[n], found), rnnc.vjp(spec)(params, each)[0])


def test_training_in_one_jitted_step() -> None:
    """Parameters are a pytree, beside those of a layer of JAX."""
    spec = rnnc.GRU(2, 8)
    f = rnnc.jax.function(spec)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((12, 16, 2)).astype(np.float32)
    target = np.tanh(x[..., :1] + np.roll(x, 1, 0)[..., 1:])
    params = {"gru": spec.init(0), "head": 0.1 * rng.standard_normal((8, 1)).astype(np.float32)}

    def loss(params: Any) -> Any:
        return ((f(params["gru"], x)[0] @ params["head"] - target) ** 2).mean()

    @jax.jit
    def step(params: Any) -> Any:
        value, slopes = jax.value_and_grad(loss)(params)
        return value, jax.tree.map(lambda array, slope: array - slope, params, slopes)

    losses = []
    for _ in range(80):
        value, params = step(params)
        losses.append(float(value))
    assert losses[-1] < losses[0] / 2


def test_what_does_not_fit_is_refused_when_it_is_traced() -> None:
    spec = rnnc.LSTM(3, 4)
    params, x = arguments(spec)
    f = jax.jit(rnnc.jax.function(spec))
    with pytest.raises(ShapeError, match=r"x: expected shape \(5, 3, 3\), got \(5, 3, 2\)"):
        f(params, x[..., :2])
    with pytest.raises(ArgumentError, match=r"params: expected a dict of .*, got 'weight_ih_l0'"):
        f({"weight_ih_l0": params["weight_ih_l0"]}, x)
    with pytest.raises(DtypeError, match="x: expected float32, got int32"):
        f(params, x.astype(np.int32))
    with pytest.raises(ArgumentTypeError, match=r"state: expected a tuple of 2 arrays"):
        f(params, x, x)
    with pytest.raises(ArgumentError, match="at least one step and one row"):
        f(params, x[:, :0])
