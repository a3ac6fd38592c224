"""Losses of targets that are classes: one of several (cross-entropy), or each of several or not (binary)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnc.checking import checks
from rnnc.checking.arguments import explained_class
from rnnc.checking.arrays import as_array
from rnnc.ir.equations import (
    Value,
    absolute,
    exp,
    iota,
    largest,
    log,
    mean,
    softplus,
    stop_gradient,
    total,
    where,
)
from rnnc.ir.errors import ArgumentError, ArgumentTypeError
from rnnc.losses.base import Loss, check_count, constant_of, constants_of
from rnnc.losses.numbers import Numbers

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

__all__ = ["BinaryCrossEntropy", "CrossEntropy"]


@explained_class
@dataclass(frozen=True)
class CrossEntropy(Loss):
    """Minus the log of the softmax probability of the right class, as torch.nn.functional.cross_entropy.

    Targets are integers: classes 0..C-1, or ignore_index for a target that does not count in the mean. The loss is
    computed as log(sum(exp(z - max z))) + max z - z[target], which does not overflow.

    class_weights: C numbers >= 0, factors of the losses of each class. The mean is divided by the weights of the
        targets, not by their number.
    label_smoothing: in [0, 1). The target is 1 - label_smoothing for the right class, and label_smoothing / C is added
        for every class (Szegedy et al. 2016, "Rethinking the Inception architecture for computer vision").
    """

    ignore_index: int = -100
    class_weights: tuple[float, ...] | None = None
    label_smoothing: float = 0.0
    name = "cross_entropy"

    def __post_init__(self) -> None:
        lowest = -(2**31)
        object.__setattr__(self, "ignore_index", checks.integer("ignore_index", self.ignore_index, lowest))
        object.__setattr__(self, "class_weights", factors("class_weights", self.class_weights))
        object.__setattr__(self, "label_smoothing", checks.probability("label_smoothing", self.label_smoothing))

    def row(self, output: Value, target: Value) -> Value:
        """target: (B, 1), the number of the class. Negative numbers are ignored."""
        size, smoothing = int(output.shape[-1]), self.label_smoothing
        top = stop_gradient(largest(output))
        normalizer = log(total(exp(output - top))) + top
        weights = constant_of(output, "class_weights", self.class_weights)
        hot = 0.5 > absolute(target - iota(output.graph, size))
        loss = normalizer - total(where(hot, output, 0.0))
        if weights is not None:
            loss = loss * total(where(hot, weights, 0.0))
        if smoothing:
            loss = (1.0 - smoothing) * loss + smoothing * _spread_out(output, normalizer, weights)
        return where(target > -0.5, loss, 0.0)

    def target_width(self, size: int) -> int:
        check_count("class_weights", self.class_weights, size)
        return 1

    def constants(self, size: int, dtype: str) -> dict[str, Array]:
        return constants_of("class_weights", self.class_weights, dtype)

    def encode(self, targets: Array, size: int, dtype: str) -> tuple[Array, Array]:
        targets = as_array("targets", targets)
        if targets.dtype.kind not in "iu":
            raise ArgumentTypeError(f"targets: cross_entropy takes integers, got {targets.dtype}")
        counted = targets != self.ignore_index
        bad = targets[counted & ((targets < 0) | (targets >= size))]
        if bad.size:
            raise ArgumentError(
                f"targets: expected classes 0..{size - 1} or ignore_index = {self.ignore_index}, got {bad.flat[0]}"
            )
        encoded = np.where(counted, targets, -1).astype(dtype)[..., None]
        return encoded, self.counted(encoded)

    def counted(self, encoded: Array) -> Array:
        numbers = encoded[..., 0]
        if self.class_weights is None:
            return (numbers >= 0).astype(np.int64)
        return np.where(numbers >= 0, np.array(self.class_weights)[np.maximum(numbers, 0).astype(np.int64)], 0.0)

    def check(self, name: str, encoded: Array, size: int) -> None:
        good = (encoded < size) & (encoded == np.floor(encoded))  # False for NaN
        if not good.all():
            raise ArgumentError(
                f"{name}: expected whole numbers, classes 0..{size - 1} or negative ones that are ignored, "
                f"got {encoded[~good][0]}"
            )


def _spread_out(output: Value, normalizer: Value, weights: Value | None) -> Value:
    """The mean over all classes of their weighted losses."""
    if weights is None:
        return normalizer - mean(output)
    return mean(weights * (normalizer - output))


@explained_class
@dataclass(frozen=True)
class BinaryCrossEntropy(Numbers):
    """For each column, minus the log of the probability of what is the case: of sigmoid(z), or of 1 - sigmoid(z).

    As torch.nn.functional.binary_cross_entropy_with_logits: the output is scores z, without a sigmoid, and the loss is
    the mean over all elements of softplus(z) - z target, which does not overflow.

    Targets are numbers in [0, 1], bool or integers (..., N), like the output; (...) will do if N is 1.
    pos_weight: a factor of the losses of targets that are 1, or one for each column. missing: see `Numbers`.
    """

    pos_weight: tuple[float, ...] | None = None
    name = "bce"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "pos_weight", factors("pos_weight", self.pos_weight, single=True))

    def element(self, output: Value, target: Value) -> Value:
        weights = constant_of(output, "pos_weight", self.pos_weight)
        if weights is None:
            return softplus(output) - output * target
        return (1.0 - target) * softplus(output) + weights * target * softplus(-output)

    def target_width(self, size: int) -> int:
        if self.pos_weight is not None and len(self.pos_weight) > 1:
            check_count("pos_weight", self.pos_weight, size)
        return super().target_width(size)

    def constants(self, size: int, dtype: str) -> dict[str, Array]:
        return constants_of("pos_weight", self.pos_weight, dtype)

    def read(self, targets: Array) -> Array:
        if targets.dtype.kind not in "biuf":
            raise ArgumentTypeError(f"targets: bce takes numbers in [0, 1], got {targets.dtype}")
        bad = (targets < 0) | (targets > 1)
        if bad.any():
            raise ArgumentError(f"targets: bce takes numbers in [0, 1], got {targets[bad][0]}")
        return targets


def factors(name: str, value: object, single: bool = False) -> tuple[float, ...] | None:
    """Numbers >= 0 as a tuple; None stays None. single: one number will do. Raises an ArgumentError."""
    if value is None:
        return None
    if single and not isinstance(value, Sequence | np.ndarray):
        return (checks.number(name, value),)
    if not isinstance(value, Sequence | np.ndarray) or isinstance(value, str) or not len(value):
        raise ArgumentTypeError(f"{name}: expected a list of numbers >= 0, got {checks.came(value)}")
    return tuple(checks.number(name, factor) for factor in value)
