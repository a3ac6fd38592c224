"""Specs and networks in JAX programs: compiled functions under `jax.jit`, `jax.grad` and `jax.vmap`.

    f = rnnc.jax.function(rnnc.LSTM(64, 128))
    output, state = f(params, x)                 # under jit, too; params: name -> array, a pytree
    gradients = jax.grad(lambda params: f(params, x)[0].sum())(params)

`pip install 'rnnc[jax]'` installs JAX.
"""

from __future__ import annotations

from rnnc.extras import load

load("jax", "functions of JAX", "'rnnc[jax]'")

from rnnc.jax.functions import function  # noqa: E402

__all__ = ["function"]
