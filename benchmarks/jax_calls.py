"""An LSTM by `rnnc.jax.function` against the same cell by `jax.lax.scan`, both in jitted functions, on one thread.

    taskset -c 0 python -m benchmarks.jax_calls

Prints microseconds of the output alone, and of gradients with respect to the parameters, and the largest error of a
gradient relative to its parameter's largest one.
"""

from __future__ import annotations

import os

os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
os.environ["JAX_PLATFORMS"] = "cpu"

import statistics  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from typing import Any  # noqa: E402

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

import rnnc  # noqa: E402
import rnnc.jax  # noqa: E402

SIZES = ((16, 32, 1, 1), (64, 128, 50, 32), (32, 256, 100, 8))
"""Input, units, T, B."""
ROUNDS, CALLS = 5, 15


def lstm(params: Any, x: Any) -> Any:
    """The output (T, B, H) of an LSTM, with the parameters of torch.nn.LSTM."""
    weight, bias = params["weight_hh_l0"].T, params["bias_ih_l0"] + params["bias_hh_l0"]

    def step(state: Any, x: Any) -> Any:
        h, c = state
        i, f, g, o = jnp.split(x + h @ weight, 4, -1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    zeros = jnp.zeros((x.shape[1], weight.shape[0]), x.dtype)
    return jax.lax.scan(step, (zeros, zeros), x @ params["weight_ih_l0"].T + bias)[1]


def main() -> None:
    for inputs, units, steps, batch in SIZES:
        spec = rnnc.LSTM(inputs, units)
        f = rnnc.jax.function(spec, threads=1)
        x = jnp.asarray(np.random.default_rng(0).standard_normal((steps, batch, inputs)), jnp.float32)
        params = {name: jnp.asarray(array) for name, array in spec.init(0).items()}
        calls: dict[str, Callable[..., Any]] = {}
        for name, output in (("rnnc", lambda params, x, f=f: f(params, x)[0]), ("jax", lstm)):
            calls[f"output {name}"] = jax.jit(output)
            calls[f"gradients {name}"] = jax.jit(jax.grad(lambda p, x, output=output: (output(p, x) ** 2).sum()))
        mine, theirs = (calls[f"gradients {name}"](params, x) for name in ("rnnc", "jax"))
        error = max(float(abs(mine[name] - theirs[name]).max() / abs(theirs[name]).max()) for name in mine)
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(ROUNDS):
            for name, call in calls.items():
                times[name] += [_seconds(call, params, x) for _ in range(CALLS)]
        shown = ", ".join(f"{name} {1e6 * statistics.median(found):,.0f} us" for name, found in times.items())
        print(f"{inputs} {units} T={steps} B={batch}: {shown}; error {error:.1e}", flush=True)


def _seconds(call: Callable[..., Any], *arguments: Any) -> float:
    start = time.perf_counter()
    jax.block_until_ready(call(*arguments))
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
