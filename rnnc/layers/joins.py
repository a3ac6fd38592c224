"""Layers that put values together, take parts of them, or scale them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from types import SimpleNamespace
from typing import ClassVar

from rnnc.cells import Parameter, Shape
from rnnc.checking import checks
from rnnc.checking.arguments import explained_class
from rnnc.initializers import Ones, Zeros
from rnnc.ir.equations import Value, concat
from rnnc.ir.errors import ArgumentError, ArgumentTypeError, ShapeError
from rnnc.layers.base import Layer, size

__all__ = ["Add", "Concat", "Multiply", "Scale", "Select", "Shift"]

Xs = tuple[Value, ...]


@explained_class
@dataclass(frozen=True)
class Concat(Layer):
    """What it reads, side by side: widths N1, N2, ... -> N1 + N2 + ..."""

    inputs: ClassVar[int | None] = None

    def output_width(self, *widths: int) -> int:
        return sum(widths)

    def step(self, x: Xs, state: SimpleNamespace, p: SimpleNamespace) -> Value:
        return concat(x)


class _Elementwise(Layer):
    """One function of all values that it reads, which have one width, or width 1."""

    inputs: ClassVar[int | None] = None
    combine: ClassVar[Callable[[Value, Value], Value]]

    def output_width(self, *widths: int) -> int:
        widest = max(widths)
        if any(width not in (1, widest) for width in widths):
            came = ", ".join(map(str, widths))
            raise ShapeError(f"{type(self).__name__} takes vectors of one size, or of size 1; got sizes {came}")
        return widest

    def step(self, x: Xs, state: SimpleNamespace, p: SimpleNamespace) -> Value:
        return reduce(type(self).combine, x)


@explained_class
@dataclass(frozen=True)
class Add(_Elementwise):
    """The sum of what it reads, such as a residual connection."""

    combine: ClassVar[Callable[[Value, Value], Value]] = Value.__add__


@explained_class
@dataclass(frozen=True)
class Multiply(_Elementwise):
    """The product of what it reads, number by number, such as a gate."""

    combine: ClassVar[Callable[[Value, Value], Value]] = Value.__mul__


@explained_class
@dataclass(frozen=True)
class Scale(Layer):
    """weight * x + bias, number by number, with trained vectors.

    size: the width of x. bias: whether a bias is added.
    """

    size: int
    bias: bool = False

    def __post_init__(self) -> None:
        size(self, "size")
        self._set("bias", checks.flag("bias", self.bias))

    def parameter_shapes(self) -> dict[str, Shape]:
        shapes: dict[str, Shape] = {"weight": Parameter((self.size,), Ones())}
        return shapes | ({"bias": Parameter((self.size,), Zeros())} if self.bias else {})

    @property
    def width(self) -> int | None:
        return self.size

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> Value:
        scaled: Value = x * p.weight
        return scaled + p.bias if self.bias else scaled


@explained_class
@dataclass(frozen=True)
class Shift(Layer):
    """x + bias, number by number, with a trained vector. size: the width of x."""

    size: int

    def __post_init__(self) -> None:
        size(self, "size")

    def parameter_shapes(self) -> dict[str, Shape]:
        return {"bias": Parameter((self.size,), Zeros())}

    @property
    def width(self) -> int | None:
        return self.size

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> Value:
        shifted: Value = x + p.bias
        return shifted


@explained_class
@dataclass(frozen=True)
class Select(Layer):
    """Some columns of x, in an order of one's own.

    columns: their numbers, from 0.
    """

    columns: tuple[int, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.columns, (tuple, list, range)):
            raise ArgumentTypeError(f"columns: expected a tuple of integers, got {checks.came(self.columns)}")
        if not self.columns:
            raise ArgumentError("columns: expected at least one")
        self._set("columns", tuple(checks.integer("columns", column, 0) for column in self.columns))

    def output_width(self, *widths: int) -> int:
        if max(self.columns) >= widths[0]:
            raise ShapeError(f"Select reads column {max(self.columns)} of vectors of size {widths[0]}")
        return len(self.columns)

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> Value:
        return concat([x[:, start:stop] for start, stop in _runs(self.columns)])


def _runs(columns: tuple[int, ...]) -> list[tuple[int, int]]:
    """Neighbouring columns together: (3, 4, 5, 0) -> [(3, 6), (0, 1)]."""
    runs: list[tuple[int, int]] = []
    for column in columns:
        if runs and runs[-1][1] == column:
            runs[-1] = (runs[-1][0], column + 1)
        else:
            runs.append((column, column + 1))
    return runs
