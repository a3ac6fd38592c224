"""NumPy's functions on symbolic values: `np.tanh(v)` in a cell means `tanh(v)`.

A ufunc that is the NumPy meaning of an op in the table stands for that op. The others are listed here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from rnnc.ir import equations
from rnnc.ir.errors import ArgumentTypeError
from rnnc.ir.ops import OPS, Kind
from rnnc.ir.symbolic import Value, apply, modulo, product, raised

Function = Callable[..., Any]


@cache
def _ufuncs() -> Mapping[np.ufunc, Function]:
    """Each ufunc that takes symbolic values -> its function."""
    made: dict[np.ufunc, Function] = {}
    for op in OPS.values():
        if op.kind is Kind.ELEMENTWISE and isinstance(op.meaning, np.ufunc):
            made[op.meaning] = lambda *operands, name=op.name: apply(name, *operands)
    products = {"matvec": equations.matvec, "vecmat": equations.vecmat}  # of NumPy 2.2 and later
    made |= {getattr(np, name): function for name, function in products.items() if hasattr(np, name)}
    return made | {
        np.add: lambda a, b: apply("add", a, b),
        np.power: raised,
        np.mod: modulo,
        np.floor_divide: lambda a, b: apply("floor", apply("div", a, b)),
        np.matmul: product,
        np.positive: lambda v: +v,
        np.square: equations.square,
        np.reciprocal: lambda v: 1.0 / v,
        np.ceil: equations.ceil,
        np.trunc: lambda v: v.__trunc__(),
        np.fabs: equations.absolute,
        np.less: equations.less,
        np.less_equal: equations.less_equal,
        np.equal: equations.equal,
        np.not_equal: equations.not_equal,
        np.logical_and: lambda a, b: a & b,
        np.logical_or: lambda a, b: a | b,
        np.logical_not: lambda v: ~v,
        np.bitwise_and: lambda a, b: a & b,
        np.bitwise_or: lambda a, b: a | b,
        np.bitwise_xor: lambda a, b: a ^ b,
        np.invert: lambda v: ~v,
    }


_FUNCTIONS: Mapping[Function, Function] = {
    np.where: equations.where,
    np.clip: equations.clip,
    np.concatenate: lambda values, axis=0: equations.concat(*values, axis=axis),
    np.transpose: equations.transpose,
    np.reshape: lambda v, shape: v.reshape(shape),
    np.sum: lambda v, axis=None, keepdims=True: v.sum(axis, keepdims),
    np.mean: lambda v, axis=None, keepdims=True: v.mean(axis, keepdims),
    np.max: lambda v, axis=None, keepdims=True: v.max(axis, keepdims),
    np.min: lambda v, axis=None, keepdims=True: v.min(axis, keepdims),
    np.round: lambda v: round(v),
    np.shape: lambda v: v.shape,
    np.ndim: lambda v: v.ndim,
}


def call_ufunc(ufunc: np.ufunc, method: str, operands: Sequence[Any], keywords: Mapping[str, object]) -> Value:
    """The ufunc applied to symbolic values. Raises ArgumentTypeError if rnnc has no such function."""
    name = f"np.{ufunc.__name__}"
    if method != "__call__":
        raise ArgumentTypeError(f"{name}.{method} does not take symbolic values; v.sum(), v.max() reduce over units")
    if keywords:
        raise ArgumentTypeError(f"{name} on a symbolic value takes no {min(keywords)!r}")
    function = _ufuncs().get(ufunc)
    if function is None:
        raise ArgumentTypeError(f"{name} does not take symbolic values; {_known()}")
    result: Value = function(*operands)
    return result


def call_function(function: Function, operands: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
    """A function of NumPy that is no ufunc, applied to symbolic values.

    Raises ArgumentTypeError if rnnc has no such function, or if it does not take these arguments.
    """
    name = f"np.{getattr(function, '__name__', function)}"
    meant = _FUNCTIONS.get(function)
    if meant is None:
        raise ArgumentTypeError(f"{name} does not take symbolic values; {_known()}")
    try:
        return meant(*operands, **keywords)
    except TypeError as error:
        if isinstance(error, ArgumentTypeError):
            raise
        raise ArgumentTypeError(f"{name} on a symbolic value: {error}") from error


def _known() -> str:
    return f"rnnc.ir.equations has {', '.join(n for n in equations.__all__ if n != 'Value')}"
