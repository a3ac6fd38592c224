"""What ops mean, if it takes more than a function of NumPy's or a primitive: in NumPy and as scalar code (`emit_`)."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from rnnc.ir.ops import Primitives

Array = NDArray[Any]


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)) without overflow: exp only ever sees a non-positive argument."""
    small = np.exp(-np.abs(x))
    one = x.dtype.type(1)
    result: Array = np.where(x >= 0, one / (one + small), small / (one + small))  # of x's library: not np.asarray
    return result


def added(*terms: Array) -> Array:
    """The sum of all terms."""
    result = terms[0]
    for term in terms[1:]:
        result = result + term
    return result


def sliced(x: Array, *, axis: int, start: int, stop: int) -> Array:
    """x[start:stop] along an axis."""
    index: list[slice] = [slice(None)] * x.ndim
    index[axis] = slice(start, stop)
    return x[tuple(index)]


def expanded(x: Array, *, size: int, inner: int) -> Array:
    """Each run of `inner` columns, `size` times."""
    runs: Array = x.reshape(*x.shape[:-1], x.shape[-1] // inner, 1, inner)
    return runs.repeat(size, axis=-2).reshape(*x.shape[:-1], x.shape[-1] * size)


def _grouped(x: Array, size: int, inner: int) -> Array:
    return x.reshape(*x.shape[:-1], x.shape[-1] // (size * inner), size, inner)


def group_sum(x: Array, *, size: int, inner: int) -> Array:
    """The sum over `size` columns that lie `inner` apart."""
    total: Array = _grouped(x, size, inner).sum(axis=-2)
    return total.reshape(*x.shape[:-1], x.shape[-1] // size)


def group_max(x: Array, *, size: int, inner: int) -> Array:
    """The largest of `size` columns that lie `inner` apart."""
    most: Array = _grouped(x, size, inner).max(axis=-2)
    return most.reshape(*x.shape[:-1], x.shape[-1] // size)


def emit_sum(e: Primitives, *terms: Any) -> Any:
    """The sum of all terms, in their order."""
    result = terms[0]
    for term in terms[1:]:
        result = e.add(result, term)
    return result


def emit_floor(e: Primitives, a: Any) -> Any:
    """The nearest integer, less 1 where that lies above."""
    nearest = e.rint(a)
    return e.select(e.greater(nearest, a), e.sub(nearest, e.constant(1.0)), nearest)


def emit_sign(e: Primitives, a: Any) -> Any:
    """0 and NaN are themselves."""
    zero = e.constant(0.0)
    return e.select(e.greater(a, zero), e.constant(1.0), e.select(e.greater(zero, a), e.constant(-1.0), a))


def emit_log1p(e: Primitives, a: Any) -> Any:
    """log(w) + (a - (w - 1)) / w for w = 1 + a rounded: the second term is what the rounding lost.

    The ends, where w is 0 or infinite and the lost part NaN, are those of log(w).
    """
    one = e.constant(1.0)
    shifted = e.add(a, one)
    whole = e.log(shifted)
    lost = e.div(e.sub(a, e.sub(shifted, one)), shifted)
    return e.select(e.greater(e.constant(inf), e.absolute(whole)), e.add(whole, lost), whole)


def emit_expm1(e: Primitives, a: Any) -> Any:
    """exp(a) - 1, and where that cancels 2 t / (1 - t) with t = tanh(a / 2)."""
    one = e.constant(1.0)
    t = e.tanh(e.mul(a, e.constant(0.5)))
    return e.select(e.greater(one, e.absolute(a)), e.div(e.add(t, t), e.sub(one, t)), e.sub(e.exp(a), one))
