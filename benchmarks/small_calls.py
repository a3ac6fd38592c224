"""Calls of one step, where what surrounds the arithmetic decides: a network against its model, and a vjp.

    python -m benchmarks.small_calls                   # one thread, CPU time, medians of 9 rounds
    python -m benchmarks.small_calls --jax             # a vjp against jax's jit, which must be installed; wall time

A network of one LSTM computes what the model of that LSTM does, so both take turns and must give the same bits.
jax is asked for the gradients of the same equations, compiled by one `jit`, on one thread.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import rnnc
from benchmarks.timing import Contestant, clock_for, race

WIDTHS = (32, 128, 512)
SPECS: dict[str, tuple[rnnc.Spec, int]] = {
    "GRU 80/192 x 2, T = 1": (rnnc.GRU(80, 192, 2), 1),
    "LSTM 40/96, T = 50": (rnnc.LSTM(40, 96), 50),
}


def networks(rounds: int) -> None:
    """Streamed steps, T = 1, B = 1."""
    print("a streamed step, us      model   network   ratio")
    for width in WIDTHS:
        spec = rnnc.LSTM(width, width)
        params = spec.init(seed=0)
        model = rnnc.compile(spec, params, threads=1)
        network = rnnc.Sequential(spec).compile({f"0.{name}": array for name, array in params.items()}, threads=1)
        x = np.random.default_rng(0).standard_normal((1, 1, width), dtype=np.float32)
        output, state = model(x)
        streamed, states = network.advance(x)
        assert output.tobytes() == streamed.tobytes()
        contestants = {
            "model": Contestant(lambda model=model, x=x, state=state: model(x, state)),  # type: ignore[misc]
            "network": Contestant(lambda n=network, x=x, states=states: n.advance(x, states)),  # type: ignore[misc]
        }
        times = race(contestants, rounds, clock_for(1))
        one, other = times["model"].median * 1e6, times["network"].median * 1e6
        print(f"  LSTM({width}){'':<{12 - len(str(width))}}{one:10.2f}{other:10.2f}{other / one:8.2f}")


def pullbacks(rounds: int, with_jax: bool) -> None:
    """Output and all gradients, B = 1."""
    print("\na vjp, us" + " " * 20 + "rnnc" + ("       jax   ratio" if with_jax else ""))
    for name, (spec, steps) in SPECS.items():
        params = spec.init(seed=0)
        x = np.random.default_rng(0).standard_normal((steps, 1, spec.input_size), dtype=np.float32)
        f = rnnc.vjp(spec, threads=1)
        seed = np.ones((steps, 1, spec.output_size), np.float32)

        def call(f: Any = f, params: Any = params, x: Any = x, seed: Any = seed) -> Any:
            return f(params, x)[1](seed)

        contestants = {"rnnc": Contestant(call)}
        if with_jax:
            contestants["jax"] = Contestant(jax_vjp(spec, params, x, call()))
        times = race(contestants, rounds, time.perf_counter if with_jax else clock_for(1))
        shown = [f"{timing.median * 1e6:10.1f}" for timing in times.values()]
        ratio = f"{times['rnnc'].median / times['jax'].median:8.2f}" if with_jax else ""
        print(f"  {name:<22}{''.join(shown)}{ratio}")


def jax_vjp(spec: rnnc.Spec, params: Any, x: Any, expected: Any) -> Callable[[], Any]:
    """The same gradients by jax. Raises AssertionError if they are others."""
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    import jax
    import jax.numpy as jnp

    cell = {rnnc.GRU: _gru, rnnc.LSTM: _lstm}[type(spec)]

    def network(p: Any, xs: Any) -> Any:
        for layer in range(spec.num_layers):
            named = {name.removesuffix(f"_l{layer}"): array for name, array in p.items() if name.endswith(f"_l{layer}")}
            start = tuple(jnp.zeros(width) for width in spec.states.values())
            xs = jax.lax.scan(lambda state, x, named=named: cell(jax, named, state, x), start, xs)[1]
        return xs

    given = {name: jnp.asarray(array) for name, array in params.items()}
    steps = jnp.asarray(x[:, 0])
    seed = jnp.ones((len(steps), spec.output_size))
    both = jax.jit(lambda p, xs, d: jax.vjp(network, p, xs)[1](d))
    for name, array in both(given, steps, seed)[0].items():
        np.testing.assert_allclose(expected[0][name], array, atol=2e-4)
    return lambda: jax.block_until_ready(both(given, steps, seed))


def _gru(jax: Any, p: Any, state: Any, x: Any) -> Any:
    (h,) = state
    gates = p["weight_ih"] @ x + p["bias_ih"]
    carried = p["weight_hh"] @ h + p["bias_hh"]
    (r, z, n), (r_h, z_h, n_h) = jax.numpy.split(gates, 3), jax.numpy.split(carried, 3)
    r, z = jax.nn.sigmoid(r + r_h), jax.nn.sigmoid(z + z_h)
    n = jax.numpy.tanh(n + r * n_h)
    h = (1 - z) * n + z * h
    return (h,), h


def _lstm(jax: Any, p: Any, state: Any, x: Any) -> Any:
    h, c = state
    i, f, g, o = jax.numpy.split(p["weight_ih"] @ x + p["bias_ih"] + p["weight_hh"] @ h + p["bias_hh"], 4)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jax.numpy.tanh(g)
    h = jax.nn.sigmoid(o) * jax.numpy.tanh(c)
    return (h, c), h


def main() -> None:
    parser = argparse.ArgumentParser("benchmarks.small_calls", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--jax", action="store_true", help="time jax beside the vjp")
    options = parser.parse_args()
    networks(options.rounds)
    pullbacks(options.rounds, options.jax)


if __name__ == "__main__":
    main()
