"""What a loss is: equations over an output and its target, and the form in which targets are given to them.

A loss is one number per row. Training sums it over rows and steps, and divides the sum by the number of targets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from rnnc.checking.arrays import as_array
from rnnc.ir.equations import Value
from rnnc.ir.errors import ArgumentError, ArgumentTypeError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Array = NDArray[Any]

__all__ = ["Loss", "SequenceLoss"]


class Loss:
    """The base of losses. A subclass is a frozen dataclass that defines `row`, and the methods that differ from below.

    name: what messages call it.
    per_row: True if there is one target per sequence even where the output has a value per step.
    """

    name: str = "the loss"
    per_row: ClassVar[bool] = False

    def row(self, output: Value, target: Value) -> Value:
        """The equations: the loss of each row, (B, 1).

        output: (B, N). target: (B, target_width), as `encode` gives it. The values are symbolic.
        """
        raise NotImplementedError(f"{type(self).__name__} has no equations: define row(self, output, target)")

    @property
    def _users_code(self) -> Callable[..., object]:
        """The user's code that messages about the equations name."""
        return self.row

    def target_width(self, size: int) -> int:
        """The number of columns of an encoded target, for an output of this size. By default it is the same."""
        return size

    def constants(self, size: int, dtype: str) -> dict[str, Array]:
        """Further inputs of the equations that are the same in every call: name -> array in the dtype.

        `output.graph.input(name, shape)` reads one.
        """
        return {}

    def fitted(self, targets: Sequence[Array], size: int) -> Loss:
        """The loss for these targets: one that needs to know their shapes returns a copy that does.

        targets: single ones as users give them, such as the first of each sequence, or all of those that are one per
        sequence. size: the width of the output.
        """
        return self

    def encode(self, targets: Array, size: int, dtype: str) -> tuple[Array, Array]:
        """Targets as the equations read them, (..., target_width) in the dtype, and their `counted`.

        By default targets are numbers (..., target_width), or (...) if the width is 1.
        targets: as users give them, end to end. size: the width of the output. Raises ArgumentError or
        ArgumentTypeError.
        """
        targets = as_array("targets", targets)
        if targets.dtype.kind not in "biuf":
            raise ArgumentTypeError(f"targets: {self.name} takes numbers, got {targets.dtype}")
        encoded = columns(targets, self.target_width(size)).astype(dtype)
        return encoded, self.counted(encoded)

    def counted(self, encoded: Array) -> Array:
        """The number of terms of the mean that each encoded target is: (..., target_width) -> numbers (...).

        By default each column is one.
        """
        return np.full(encoded.shape[:-1], encoded.shape[-1])

    def check(self, name: str, encoded: Array, size: int) -> None:
        """Raises ArgumentError, which calls them `name`, unless encoded targets are such as `encode` returns."""

    def decoded(self, encoded: Array) -> Array:
        """Encoded targets in the form that metrics read: (..., target_width) -> (..., W). NaN stands for no target."""
        return encoded


class SequenceLoss(Loss):
    """The base of losses that read all steps of a row before they have a number: a recurrence over time, with states.

    The output has a value per step, and there is one target per sequence. Padding is not read. A subclass defines
    `states`, `step` and `result`, and `start` unless all states start at zeros.
    """

    per_row: ClassVar[bool] = True

    def states(self, size: int) -> Mapping[str, int]:
        """Name -> width of each state, for an output of this size."""
        raise NotImplementedError(f"{type(self).__name__} has no states: define states(self, size)")

    def start(self, target: Value) -> Mapping[str, Value]:
        """The states before the first step, (B, width) each. A state that is left out starts at zeros."""
        return {}

    def step(self, output: Value, target: Value, state: SimpleNamespace) -> Mapping[str, Value]:
        """The equations of a step: the new states, from the output (B, N), the target (B, target_width) and the old."""
        raise NotImplementedError(f"{type(self).__name__} has no equations: define step(self, output, target, state)")

    def result(self, state: SimpleNamespace, target: Value) -> Value:
        """The loss of each row, (B, 1), from the states after its last step."""
        raise NotImplementedError(f"{type(self).__name__} has no result: define result(self, state, target)")

    def encode(self, targets: Any, size: int, dtype: str) -> tuple[Array, Array]:
        """Targets as the equations read them, (rows, target_width) in the dtype, and their `counted`.

        targets: one array per row. By default all have one shape.
        """
        arrays = [as_array(f"targets[{number}]", target) for number, target in enumerate(targets)]
        odd = next((number for number, array in enumerate(arrays) if array.shape != arrays[0].shape), None)
        if odd is not None:
            raise ArgumentError(f"targets[{odd}]: shape {arrays[odd].shape}, those before have {arrays[0].shape}")
        return super().encode(np.stack(arrays), size, dtype)

    def counted(self, encoded: Array) -> Array:
        """Each row is one term of the mean."""
        return np.ones(encoded.shape[:-1], np.int64)


def columns(targets: Array, width: int) -> Array:
    """Targets (..., width), or (...) if the width is 1, as (..., width). Raises ArgumentError for other shapes."""
    if width == 1 and (targets.ndim == 1 or targets.shape[-1:] != (1,)):
        return targets[..., None]
    if targets.shape[-1:] != (width,):
        raise ArgumentError(f"targets: expected vectors of size {width}, got shape {targets.shape}")
    return targets


def constant_of(output: Value, name: str, values: Sequence[float] | None) -> Value | None:
    """Numbers of a loss, (len,), that `constants_of` gives to its equations; None if there are none."""
    return None if values is None else Value(output.graph, output.graph.input(name, (len(values),)))


def constants_of(name: str, values: Sequence[float] | None, dtype: str) -> dict[str, Array]:
    """Numbers of a loss as a constant of its equations."""
    return {} if values is None else {name: np.array(values, dtype)}


def check_count(name: str, values: Sequence[float] | None, size: int) -> None:
    """Raises ArgumentError unless there is one number for each column of an output of this size."""
    if values is not None and len(values) != size:
        raise ArgumentError(f"{name}: expected {size} numbers, one for each column of the output, got {len(values)}")
