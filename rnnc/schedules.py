"""Learning-rate schedules: functions of the progress of a training that return a factor of the optimiser's rate.

    schedule(epoch, losses) -> factor

epoch: the number of epochs done, with the fraction of the current one. losses: one validation loss per epoch so far, or
the training loss if there is no validation. Any function of these two is a schedule. A schedule keeps no state, so a
resumed training goes on exactly as it would have done. All numbers of a schedule are >= 0; others raise ArgumentError
or ArgumentTypeError.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from rnnc.checking import checks
from rnnc.checking.arguments import explained_class
from rnnc.ir.errors import ArgumentError, ArgumentTypeError

__all__ = ["Constant", "Cosine", "LinearWarmup", "OneCycle", "ReduceOnPlateau", "Schedule", "StepDecay"]

Schedule = Callable[[float, Sequence[float]], float]


def _check(schedule: object, *names: str, above: Iterable[str] = ()) -> None:
    """Raises an error unless the fields `names` of a schedule are >= 0, and those of `above` are > 0."""
    for name in (*above, *names):
        checks.number(name, getattr(schedule, name), above=name in above)


@explained_class
@dataclass(frozen=True)
class Constant:
    """The factor is always `factor`."""

    factor: float = 1.0

    def __post_init__(self) -> None:
        _check(self, "factor")

    def __call__(self, epoch: float, losses: Sequence[float] = ()) -> float:
        return self.factor


@explained_class
@dataclass(frozen=True)
class StepDecay:
    """The factor starts at 1, and is multiplied by `factor` after every `epochs` epochs."""

    epochs: float
    factor: float = 0.1

    def __post_init__(self) -> None:
        _check(self, "factor", above=["epochs"])

    def __call__(self, epoch: float, losses: Sequence[float] = ()) -> float:
        return self.factor ** math.floor(epoch / self.epochs)


@explained_class
@dataclass(frozen=True)
class Cosine:
    """The factor falls from 1 to `final` within `epochs` epochs, along half a cosine, and stays there.

    Loshchilov & Hutter 2017, "SGDR: stochastic gradient descent with warm restarts", without restarts.
    """

    epochs: float
    final: float = 0.0

    def __post_init__(self) -> None:
        _check(self, "final", above=["epochs"])

    def __call__(self, epoch: float, losses: Sequence[float] = ()) -> float:
        return _between(1.0, self.final, epoch / self.epochs)


@explained_class
@dataclass(frozen=True)
class LinearWarmup:
    """The factor rises linearly from `start` to 1 within `epochs` epochs, and then follows the schedule `then`.

    The epochs of `then` are counted from the end of the rise.
    """

    epochs: float
    start: float = 0.0
    then: Schedule = Constant()

    def __post_init__(self) -> None:
        _check(self, "start", above=["epochs"])
        if isinstance(self.then, type) or not callable(self.then):
            raise ArgumentTypeError(f"then: expected a schedule such as Cosine(10), got {checks.came(self.then)}")

    def __call__(self, epoch: float, losses: Sequence[float] = ()) -> float:
        done = min(epoch / self.epochs, 1.0)
        return (self.start + (1 - self.start) * done) * self.then(max(epoch - self.epochs, 0.0), losses)


@explained_class
@dataclass(frozen=True)
class OneCycle:
    """The factor rises from `start` to 1 and then falls to `final`, along half cosines, within `epochs` epochs.

    rise: the fraction of the epochs in which the factor rises, between 0 and 1.
    Smith & Topin 2019, "Super-convergence: very fast training of neural networks using large learning rates".
    """

    epochs: float
    rise: float = 0.3
    start: float = 0.04
    final: float = 1e-4

    def __post_init__(self) -> None:
        _check(self, "start", "final", above=["epochs", "rise"])
        if self.rise >= 1:
            raise ArgumentError(f"rise: expected a number between 0 and 1, got {self.rise}")

    def __call__(self, epoch: float, losses: Sequence[float] = ()) -> float:
        done = min(epoch / self.epochs, 1.0)
        if done < self.rise:
            return _between(self.start, 1.0, done / self.rise)
        return _between(1.0, self.final, (done - self.rise) / (1 - self.rise))


@explained_class
@dataclass(frozen=True)
class ReduceOnPlateau:
    """The factor is multiplied by `factor` each time that the loss has not fallen for `patience` + 1 epochs.

    The loss has fallen if it is less than the best one times (1 - `threshold`). The factor is never less than `final`.
    As torch.optim.lr_scheduler.ReduceLROnPlateau in its default mode.
    """

    patience: int = 10
    factor: float = 0.1
    threshold: float = 1e-4
    final: float = 0.0

    def __post_init__(self) -> None:
        checks.integer("patience", self.patience, 0)
        checks.probability("threshold", self.threshold)
        _check(self, "factor", "final")

    def __call__(self, epoch: float, losses: Sequence[float] = ()) -> float:
        best, bad, result = math.inf, 0, 1.0
        for loss in losses:
            if loss < best * (1 - self.threshold) or math.isinf(best):
                best, bad = loss, 0
            else:
                bad += 1
            if bad > self.patience:
                result, bad = max(result * self.factor, self.final), 0
        return result


def _between(first: float, last: float, done: float) -> float:
    """The value between first and last along half a cosine, after the fraction `done` of it."""
    return last + (first - last) * (1 + math.cos(math.pi * min(done, 1.0))) / 2
