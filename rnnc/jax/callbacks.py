"""Calls by a host callback: whatever `rnnc.vjp` can, at the price of Python in each call, and of one more forward pass
per gradient.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import numpy as np

if TYPE_CHECKING:
    from rnnc.derivatives import VJP


class ByCallback:
    """A function (params, x, state, lengths) -> (output, state)."""

    def __init__(self, made: VJP) -> None:
        self._vjp = made
        self._call = jax.custom_vjp(self._forward)
        self._call.defvjp(lambda *given: (self._forward(*given), given), self._backward)

    def __call__(self, params: Any, x: Any, state: Any, lengths: Any) -> tuple[Any, Any]:
        output, last = self._call(params, x, state, lengths)
        return output, last

    def _forward(self, *given: Any) -> Any:
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), self._of_zeros(given))
        return jax.pure_callback(lambda *arrays: self._run(arrays)[0], shapes, *given, vmap_method="sequential")

    def _backward(self, given: Any, seeds: Any) -> tuple[Any, ...]:
        def gradients(seeds: Any, arrays: Any) -> Any:
            found = self._run(arrays)[1](*_as_numpy(seeds))
            return [leaf for leaf in jax.tree.leaves(found[: 2 if arrays[2] is None else 3])]

        params, x, state, _ = given
        trained, form = jax.tree.flatten((params, x, state))
        floats = [leaf for leaf in trained if leaf.dtype.kind == "f"]  # integers have no gradient
        shapes = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in floats]
        made = iter(jax.pure_callback(gradients, shapes, seeds, given, vmap_method="sequential"))
        d_params, d_x, d_state = jax.tree.unflatten(
            form, [next(made) if leaf.dtype.kind == "f" else None for leaf in trained]
        )
        return d_params, d_x, d_state, None

    def _run(self, given: Any) -> Any:
        params, x, state, lengths = _as_numpy(given)
        return self._vjp(params, x, state, None if lengths is None else lengths.astype(np.int64))

    def _of_zeros(self, given: Any) -> Any:
        """The results of a call of zeros: the shapes of results. It raises the errors of a call that does not fit."""
        return self._run(jax.tree.map(lambda leaf: np.zeros(np.shape(leaf), leaf.dtype), given))[0]


def _as_numpy(given: Any) -> Any:
    return jax.tree.map(np.asarray, given)
