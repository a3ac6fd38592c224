"""Meanings of ops that are more than one NumPy function, and scalar code that is more than one primitive (`emit_`)."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from rnnc.ir.ops import Primitives

Array = np.ndarray[tuple[Any, ...], np.dtype[Any]]


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)) without overflow: the argument of exp is never positive."""
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
    """Each run of `inner` columns, repeated `size` times."""
    runs: Array = x.reshape(*x.shape[:-1], x.shape[-1] // inner, 1, inner)
    return runs.repeat(size, axis=-2).reshape(*x.shape[:-1], x.shape[-1] * size)


def _grouped(x: Array, size: int, inner: int) -> Array:
    return x.reshape(*x.shape[:-1], x.shape[-1] // (size * inner), size, inner)


def group_sum(x: Array, *, size: int, inner: int) -> Array:
    """The sums over groups of `size` columns that are `inner` apart."""
    total: Array = _grouped(x, size, inner).sum(axis=-2)
    return total.reshape(*x.shape[:-1], x.shape[-1] // size)


def group_max(x: Array, *, size: int, inner: int) -> Array:
    """The maxima over groups of `size` columns that are `inner` apart."""
    most: Array = _grouped(x, size, inner).max(axis=-2)
    return most.reshape(*x.shape[:-1], x.shape[-1] // size)


def iota(x: Array) -> Array:
    """0, 1, 2, ... in the place of the elements of a vector. Of x's library: not np.arange."""
    ones = np.logical_or(np.isnan(x), True)
    up_to: Array = ones.astype(x.dtype).cumsum(axis=-1)
    return up_to - x.dtype.type(1)  # type: ignore[no-any-return]


def emit_sum(e: Primitives, *terms: Any) -> Any:
    """The sum of all terms, in their order."""
    result = terms[0]
    for term in terms[1:]:
        result = e.add(result, term)
    return result


def emit_floor(e: Primitives, a: Any) -> Any:
    """The nearest integer, minus 1 if it is larger than a."""
    nearest = e.rint(a)
    return e.select(e.greater(nearest, a), e.sub(nearest, e.constant(1.0)), nearest)


def emit_sign(e: Primitives, a: Any) -> Any:
    """1 for positive and -1 for negative numbers. Zeros and NaN are returned as they are."""
    zero = e.constant(0.0)
    return e.select(e.greater(a, zero), e.constant(1.0), e.select(e.greater(zero, a), e.constant(-1.0), a))


def emit_log1p(e: Primitives, a: Any) -> Any:
    """log(w) + (a - (w - 1)) / w, where w is 1 + a rounded. The second term corrects the rounding.

    Where w is 0 or infinite, the correction is NaN, and the result is log(w).
    """
    one = e.constant(1.0)
    shifted = e.add(a, one)
    whole = e.log(shifted)
    lost = e.div(e.sub(a, e.sub(shifted, one)), shifted)
    return e.select(e.greater(e.constant(inf), e.absolute(whole)), e.add(whole, lost), whole)


def emit_expm1(e: Primitives, a: Any) -> Any:
    """exp(a) - 1; where that cancels, 2 t / (1 - t) with t = tanh(a / 2)."""
    one = e.constant(1.0)
    t = e.tanh(e.mul(a, e.constant(0.5)))
    return e.select(e.greater(one, e.absolute(a)), e.div(e.add(t, t), e.sub(one, t)), e.sub(e.exp(a), one))
