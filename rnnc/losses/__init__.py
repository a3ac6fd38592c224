"""Losses: equations over a network's output and a target, compiled and differentiated with the network.

`fit` takes a function of both, the name of a loss of this module, or an object that one of its functions makes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rnnc.checking import checks
from rnnc.checking.arguments import explained
from rnnc.ir.errors import ArgumentTypeError
from rnnc.losses.attaching import ONLY, Roles, add_loss
from rnnc.losses.base import Loss, SequenceLoss
from rnnc.losses.classes import BinaryCrossEntropy, CrossEntropy
from rnnc.losses.ctc import CTC
from rnnc.losses.functions import Function
from rnnc.losses.identity import identity
from rnnc.losses.numbers import Huber, MeanAbsoluteError, MeanSquaredError, Numbers, Quantile

__all__ = [
    "CTC",
    "BinaryCrossEntropy",
    "CrossEntropy",
    "Function",
    "Huber",
    "Loss",
    "LossLike",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "ONLY",
    "Numbers",
    "Roles",
    "Quantile",
    "SequenceLoss",
    "add_loss",
    "bce",
    "check_loss",
    "cross_entropy",
    "ctc",
    "function",
    "huber",
    "identity",
    "mae",
    "mse",
    "quantile",
]


@explained
def cross_entropy(
    ignore_index: int = -100, class_weights: Sequence[float] | None = None, label_smoothing: float = 0.0
) -> CrossEntropy:
    """The loss `CrossEntropy`, for targets that are classes. ignore_index: the target that does not count."""
    return CrossEntropy(ignore_index, class_weights, label_smoothing)  # type: ignore[arg-type]


@explained
def mse(missing: str = "error") -> MeanSquaredError:
    """The loss `MeanSquaredError`, for targets that are vectors of numbers. missing: "skip" leaves out NaN."""
    return MeanSquaredError(missing=missing)


@explained
def mae(missing: str = "error") -> MeanAbsoluteError:
    """The loss `MeanAbsoluteError`. missing: "skip" leaves out targets that are NaN."""
    return MeanAbsoluteError(missing=missing)


@explained
def huber(delta: float = 1.0, missing: str = "error") -> Huber:
    """The loss `Huber`: squares of errors up to delta, and straight lines beyond."""
    return Huber(delta, missing=missing)


@explained
def quantile(levels: Sequence[float] | float = (0.1, 0.5, 0.9), missing: str = "error") -> Quantile:
    """The loss `Quantile`: the output has one column per level for each number of the target."""
    return Quantile(levels, missing=missing)  # type: ignore[arg-type]


@explained
def bce(pos_weight: Sequence[float] | float | None = None, missing: str = "error") -> BinaryCrossEntropy:
    """The loss `BinaryCrossEntropy`, of scores (logits), for targets in [0, 1]."""
    return BinaryCrossEntropy(pos_weight, missing=missing)  # type: ignore[arg-type]


@explained
def ctc(blank: int = 0, zero_infinity: bool = False, longest: int | None = None) -> CTC:
    """The loss `CTC`, for targets that are the labels of a sequence in their order."""
    return CTC(blank, zero_infinity, longest)


@explained
def function(
    function: Callable[[Any, Any], Any], shape: tuple[int, ...] | None = None, missing: str = "error"
) -> Function:
    """The loss `Function`: equations over output and target. A bare function will do where its defaults will."""
    return Function(function, shape, missing=missing)


LossLike = Loss | str | Callable[[Any, Any], Any]
"""A loss, the name of one, or a function of output and target."""

LOSSES: dict[str, Callable[[], Loss]] = {
    "cross_entropy": CrossEntropy,
    "mse": MeanSquaredError,
    "mae": MeanAbsoluteError,
    "huber": Huber,
    "quantile": Quantile,
    "bce": BinaryCrossEntropy,
    "ctc": CTC,
}
_MAKERS = (cross_entropy, mse, mae, huber, quantile, bce, ctc, function)


def check_loss(value: object) -> Loss:
    """The loss. value: a loss, the name of one, or a function. Raises ArgumentError or ArgumentTypeError."""
    if isinstance(value, Loss):
        return value
    if isinstance(value, str):
        return LOSSES[checks.choice("loss", value, tuple(LOSSES))]()
    if isinstance(value, type) or value in _MAKERS:
        name = getattr(value, "__name__", "")
        raise ArgumentTypeError(f"loss: {name} makes a loss; call it: {name}()")
    if callable(value):
        return Function(value)
    names = ", ".join(map(repr, LOSSES))
    raise ArgumentTypeError(
        f"loss: expected {names}, a function of (output, target) or a rnnc.losses.Loss, got {checks.came(value)}"
    )
