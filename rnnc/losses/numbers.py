"""Losses of targets that are numbers: each target column has a loss of its own, and may be missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnc.checking import checks
from rnnc.checking.arguments import explained_class
from rnnc.checking.arrays import as_array
from rnnc.ir.equations import Value, absolute, maximum, square, total, where
from rnnc.ir.errors import ArgumentError, ArgumentTypeError
from rnnc.losses.base import Loss, columns, constant_of, constants_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

__all__ = ["Huber", "MeanAbsoluteError", "MeanSquaredError", "Numbers", "Quantile"]


@dataclass(frozen=True)
class Numbers(Loss):
    """The base of losses that are a mean over the numbers of the targets. A subclass defines `element`.

    missing: "error" refuses a target that is NaN. With "skip" such a number does not count: neither in the loss nor in
        what it is divided by.
    """

    missing: str = field(default="error", kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "missing", checks.choice("missing", self.missing, ("error", "skip")))

    @property
    def skips(self) -> bool:
        """Whether targets may be missing. An encoded target has twice the columns then: numbers, and 1 or 0 for each.

        A missing number is encoded as one of those that are there, so that equations meet no number that a target
        cannot be: 0 times the derivative of log(0) would be NaN.
        """
        return self.missing == "skip"

    def element(self, output: Value, target: Value) -> Value:
        """The equations: the loss of each number of the target, (B, width)."""
        raise NotImplementedError(f"{type(self).__name__} has no equations: define element(self, output, target)")

    def width(self, size: int) -> int:
        """The numbers per target, for an output of this size. By default they are as many."""
        return size

    def target_width(self, size: int) -> int:
        return self.width(size) * (1 + self.skips)

    def row(self, output: Value, target: Value) -> Value:
        if not self.skips:
            return total(self.element(output, target))
        numbers, there = target.split(2)
        return total(where(there > 0.5, self.element(output, numbers), 0.0))

    def encode(self, targets: Array, size: int, dtype: str) -> tuple[Array, Array]:
        numbers = columns(self.read(as_array("targets", targets)), self.width(size)).astype(dtype)
        if self.skips:
            there = ~np.isnan(numbers)
            numbers = np.concatenate([np.where(there, numbers, _fillers(numbers, there)), there.astype(dtype)], -1)
        return numbers, self.counted(numbers)

    def read(self, targets: Array) -> Array:
        """The targets, if they are such numbers as the loss takes. Raises ArgumentError or ArgumentTypeError."""
        if targets.dtype.kind != "f":
            raise ArgumentTypeError(f"targets: {self.name} takes floating-point numbers, got {targets.dtype}")
        return targets

    def counted(self, encoded: Array) -> Array:
        if not self.skips:
            return super().counted(encoded)
        return np.asarray(_halves(encoded)[1].sum(-1, dtype=np.int64))

    def check(self, name: str, encoded: Array, size: int) -> None:
        if self.skips and not ((there := _halves(encoded)[1]) * (1 - there) == 0).all():
            raise ArgumentError(f"{name}: expected numbers, then 1 for each that is there and 0 for each missing one")

    def decoded(self, encoded: Array) -> Array:
        if not self.skips:
            return encoded
        numbers, there = _halves(encoded)
        return np.where(there > 0, numbers, np.nan).astype(encoded.dtype)


def _fillers(numbers: Array, there: Array) -> Array:
    """For each column a number that is there; 1 if none is."""
    rows, marks = (array.reshape(-1, array.shape[-1]) for array in (numbers, there))
    if not len(rows):
        return np.ones(rows.shape[1], numbers.dtype)
    first = rows[marks.argmax(0), np.arange(rows.shape[1])]
    return np.where(marks.any(0), first, 1).astype(numbers.dtype)


def _halves(encoded: Array) -> tuple[Array, Array]:
    half = encoded.shape[-1] // 2
    return encoded[..., :half], encoded[..., half:]


@explained_class
@dataclass(frozen=True)
class MeanSquaredError(Numbers):
    """The mean of (output - target)^2 over all elements, as torch.nn.functional.mse_loss.

    Targets are floating-point vectors (..., N), like the output; (...) will do if N is 1. missing: see `Numbers`.
    """

    name = "mse"

    def element(self, output: Value, target: Value) -> Value:
        return square(output - target)


@explained_class
@dataclass(frozen=True)
class MeanAbsoluteError(Numbers):
    """The mean of |output - target| over all elements, as torch.nn.functional.l1_loss. Targets: as for `mse`."""

    name = "mae"

    def element(self, output: Value, target: Value) -> Value:
        return absolute(output - target)


@explained_class
@dataclass(frozen=True)
class Huber(Numbers):
    """The mean of e^2 / 2 where |e| <= delta, and delta (|e| - delta / 2) elsewhere, for e = output - target.

    As torch.nn.functional.huber_loss (Huber 1964, "Robust estimation of a location parameter"). Targets: as for `mse`.
    """

    delta: float = 1.0
    name = "huber"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "delta", checks.number("delta", self.delta, above=True))

    def element(self, output: Value, target: Value) -> Value:
        error = output - target
        far = absolute(error)
        return where(far > self.delta, self.delta * (far - 0.5 * self.delta), 0.5 * square(error))


@explained_class
@dataclass(frozen=True)
class Quantile(Numbers):
    """The pinball loss of several quantiles: max(q e, (q - 1) e) for e = target - output, the mean over all elements.

    The best output for a level q is the quantile q of the target (Koenker & Bassett 1978, "Regression quantiles").
    Targets are floating-point vectors (..., W), and the output has all levels of the first number, then those of the
    second, and so on: `output.reshape(T, B, W, len(levels))`.
    levels: numbers between 0 and 1.
    """

    levels: tuple[float, ...] = (0.1, 0.5, 0.9)
    name = "quantile"

    def __post_init__(self) -> None:
        super().__post_init__()
        given = self.levels
        levels = given if isinstance(given, Sequence | np.ndarray) and not isinstance(given, str) else (given,)
        read = tuple(checks.number("levels", level, above=True) for level in levels)
        if not read or max(read) >= 1:
            raise ArgumentError(f"levels: expected numbers between 0 and 1, got {checks.shown(given)}")
        object.__setattr__(self, "levels", read)

    def width(self, size: int) -> int:
        if size % len(self.levels):
            raise ArgumentError(
                f"loss: quantile has {len(self.levels)} levels, so the output has a multiple of so many columns; "
                f"it has {size}"
            )
        return size // len(self.levels)

    def element(self, output: Value, target: Value) -> Value:
        """The sum over the levels of each number."""
        levels = constant_of(output, "levels", self.levels)
        assert levels is not None
        by_level = output.reshape(-1, int(target.shape[-1]), len(self.levels))
        error = target[..., None] - by_level
        return maximum(levels * error, (levels - 1.0) * error).sum(axis=-1, keepdims=False)

    def constants(self, size: int, dtype: str) -> dict[str, Array]:
        return constants_of("levels", self.levels, dtype)

    def counted(self, encoded: Array) -> Array:
        return super().counted(encoded) * len(self.levels)
