"""Rules for shapes that several operators share."""

from __future__ import annotations

from collections.abc import Sequence

from rnnc.onnx.sizes import Dim, Dims, NeedsNumber, SameSize, Size, same, static

__all__ = ["broadcast", "meet"]


def meet(a: Dim, b: Dim) -> Dim:
    """The size of an axis that two tensors share. Two that are not known are taken for one (`SameSize`).

    Raises ValueError if they differ.
    """
    if isinstance(a, Size) and isinstance(b, Size) and a.terms != b.terms:
        _unify(a, b)
    if not same(a, b):
        raise ValueError(f"{a} and {b}")
    return a if isinstance(a, Size) else b


def _unify(a: Size, b: Size) -> None:
    """Two names for one size become one."""
    if a.known and b.known and int(a) != int(b):
        return
    if a.known != b.known:
        raise NeedsNumber(min(a.unknown | b.unknown))
    if a.symbol and b.symbol:
        raise SameSize(a.symbol, b.symbol)


def broadcast(*shapes: Dims) -> Dims:
    """NumPy's rule. Raises ValueError."""
    rank = max(map(len, shapes))
    return tuple(_widest([shape[axis] for shape in shapes if len(shape) >= -axis]) for axis in range(-rank, 0))


def _widest(sizes: Sequence[Dim]) -> Dim:
    widest: Dim = 1
    for size in sizes:
        if static(size) != 1:
            widest = size if static(widest) == 1 else meet(widest, size)
    return widest
