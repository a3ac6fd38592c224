"""A function as a loss: equations over the output and the target of a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnc.checking import checks
from rnnc.checking.arguments import explained_class, misfit
from rnnc.ir.equations import Value, mean
from rnnc.ir.errors import ArgumentError, ArgumentTypeError
from rnnc.ir.shape_rules import BATCH
from rnnc.losses.numbers import Numbers

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

__all__ = ["Function"]


@explained_class
@dataclass(frozen=True)
class Function(Numbers):
    """A loss that is a function of the output y (B, N) and the target t (B, W), written as equations.

    The values are symbolic: operators, NumPy's functions and those of `rnnc.ir.equations` work on them. The function
    returns one or more losses per row, (B, K). The loss is the mean of them all, over all steps and sequences.

    Targets are numbers of any kind. shape: that of one target: () for a number, then W is 1, or (W,). By default `fit`
    takes it from the data; without data it is that of the output, (N,).
    missing: "skip" leaves out what the function returns for a number that is NaN in the target; in t another number
        stands in its place. The function then returns one loss for each number of the target, (B, W).
    """

    function: Callable[[Any, Any], Any]
    shape: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.function):
            raise ArgumentTypeError(f"loss: expected a function of (output, target), got {checks.came(self.function)}")
        if self.shape is not None:
            sizes = tuple(checks.integer("shape", size, 1) for size in self.shape)
            object.__setattr__(self, "shape", sizes)

    @property
    def name(self) -> str:  # type: ignore[override]
        """The function's own name."""
        return getattr(self.function, "__name__", type(self.function).__name__)

    @property
    def _users_code(self) -> Callable[..., object]:
        return self.function

    def fitted(self, targets: Sequence[Array], size: int) -> Function:
        return self if self.shape is not None else replace(self, shape=np.shape(targets[0]))

    def width(self, size: int) -> int:
        return size if self.shape is None else prod(self.shape)

    def row(self, output: Value, target: Value) -> Value:
        return super().row(output, target) if self.skips else mean(self._returned(output, target))

    def element(self, output: Value, target: Value) -> Value:
        losses = self._returned(output, target)
        if losses.shape != target.shape:
            raise ArgumentError(
                f"loss {self.name}: with missing='skip' it returns one loss for each number of the target, of shape "
                f"{_shown(target.shape)}; it returned {_shown(losses.shape)}"
            )
        return losses

    def _returned(self, output: Value, target: Value) -> Value:
        """What the function returns, its columns on one axis."""
        losses = self._called(output, target)
        given = f"from y of shape {_shown(output.shape)} and t of shape {_shown(target.shape)}"
        if not isinstance(losses, Value):
            raise ArgumentTypeError(
                f"loss {self.name}: expected symbolic losses of shape (B, K) {given}, it returned {checks.came(losses)}"
            )
        node = losses.as_numbers().node
        if len(node.shape) != 2 or node.shape[0] != BATCH:
            raise ArgumentError(
                f"loss {self.name}: expected losses of shape (B, K) {given}, it returned shape {_shown(losses.shape)}"
            )
        return Value(output.graph, node)

    def _called(self, output: Value, target: Value) -> object:
        try:
            return self.function(output, target)
        except TypeError as error:
            fault = misfit(self.function, (output, target), {})
            if not fault:
                raise
            raise ArgumentTypeError(f"loss: it is called with (output, target): {fault}") from error

    def encode(self, targets: Array, size: int, dtype: str) -> tuple[Array, Array]:
        targets = np.asarray(targets)
        shape = (size,) if self.shape is None else self.shape
        if targets.shape[targets.ndim - len(shape) :] != shape:
            raise ArgumentError(
                f"targets: expected numbers of shape (..., {', '.join(map(str, shape))}), got shape {targets.shape}"
            )
        return super().encode(targets.reshape(*targets.shape[: targets.ndim - len(shape)], -1), size, dtype)

    def read(self, targets: Array) -> Array:
        if targets.dtype.kind not in "biuf":
            raise ArgumentTypeError(f"targets: expected numbers, got {targets.dtype}")
        return targets

    def counted(self, encoded: Array) -> Array:
        """Each target is one, or with missing="skip" each of its numbers."""
        return super().counted(encoded) if self.skips else np.ones(encoded.shape[:-1], np.int64)


def _shown(shape: tuple[int | str, ...]) -> str:
    return f"({', '.join(map(str, shape))}{',' * (len(shape) == 1)})"
