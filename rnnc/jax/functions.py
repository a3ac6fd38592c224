"""`function`: a spec or network as a differentiable function of JAX arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rnnc.checking.arguments import explained
from rnnc.derivatives import VJP, vjp
from rnnc.jax.callbacks import ByCallback
from rnnc.jax.native import Native

if TYPE_CHECKING:
    from rnnc.layered import Layered
    from rnnc.specs import Spec

__all__ = ["function"]


@explained
def function(
    spec: Spec | Layered, *, backend: str = "llvm", threads: int | None = None, matmul: str | None = None
) -> Callable[..., Any]:
    """A spec or network as a function of JAX arrays: f(params, x, state=None, lengths=None) -> (output, state).

    The arguments and results are those of the function of `rnnc.vjp`, as JAX arrays on the CPU: params is name ->
    array, a pytree. It may be called under `jax.jit`, `jax.grad` (reverse mode, once) and `jax.vmap`. A plain call
    is a custom call of machine code, without Python, on the thread of XLA that makes it. A call with lengths runs in a
    host callback. So does every call of a network with tables, of a computation in which NumPy has a part, and of
    another backend. float64 needs JAX's `jax_enable_x64`.

    spec: a recurrent spec, `rnnc.Graph` or `rnnc.Sequential`. backend, threads, matmul: as in `rnnc.compile`; threads
    is for host callbacks.
    f raises, when it is traced, ParameterError, ShapeError, DtypeError or ArgumentTypeError.
    """
    made = vjp(spec, backend=backend, threads=threads, matmul=matmul)
    return _Function(made)


class _Function:
    """What `function` returns."""

    def __init__(self, made: VJP) -> None:
        self._vjp = made
        self._by_callback = ByCallback(made)
        plain = made.plain_halves()
        self._native = None
        if plain is not None:
            first, second, halves = plain
            self._native = Native(first, second, halves.xla(), made.spec.dtype)

    def __repr__(self) -> str:
        return f"rnnc.jax.function({self._vjp.spec!r}, backend={self._vjp.backend!r})"

    def __call__(self, params: Any, x: Any, state: Any = None, lengths: Any = None) -> tuple[Any, Any]:
        if self._native is not None and lengths is None:
            return self._native(params, x, state)
        return self._by_callback(params, x, state, lengths)

    def explain(self) -> str:
        """How calls are made, and what the backend says about its code."""
        way = "a custom call of XLA" if self._native is not None else "a host callback"
        return f"plain calls: {way}; with lengths: a host callback\n" + self._vjp.explain()
