"""Metrics: numbers about a network's outputs on the validation data, computed by NumPy functions.

A metric is a mean over steps, and perhaps a function of the mean. Means over batches of different sizes add up exactly,
so that a metric does not depend on the batches of an evaluation, and no output has to be kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnc.checking import checks
from rnnc.checking.arguments import explained_class
from rnnc.ir.errors import ArgumentError, ArgumentTypeError, ShapeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rnnc.train.ranks import Ranks

    Array = NDArray[Any]

__all__ = ["Metric"]


@explained_class
@dataclass(frozen=True)
class Metric:
    """A mean over steps, and what becomes of it in the end.

    of: a function of the outputs (N, width) and targets (N, target width) of N steps, both in the network's dtype. A
        class is one number; a target that is missing is NaN; steps of which no target counts are left out. It
        returns a number per step, (N,), or several, (N, K); or one number, the mean over the N steps.
    finish: a function of the mean over all steps of the data, a float or an array (K,), that returns the metric. Such
        are a root (`numpy.sqrt`), or the F1 score from the rates of hits and misses. Default: the mean of all numbers.
    """

    of: Callable[[Any, Any], Any]
    finish: Callable[[Any], Any] | None = None

    def __post_init__(self) -> None:
        for name in ("of", "finish"):
            value = getattr(self, name)
            if not callable(value) and (name == "of" or value is not None):
                raise ArgumentTypeError(f"{name}: expected a function, got {checks.came(value)}")


def _accuracy(output: Array, target: Array) -> Any:
    """1 where the class with the highest score is the target's. One output per class, one number per target."""
    if target.shape[1] != 1 or output.shape[1] < 2:
        raise ShapeError(f"accuracy: expected scores of classes and one class per step, {_widths(output, target)}")
    return output.argmax(-1) == target[:, 0]


def _squares(output: Array, target: Array) -> Array:
    return _summed(np.square(_errors(output, target)))


def _distances(output: Array, target: Array) -> Array:
    return _summed(np.abs(_errors(output, target)))


def _errors(output: Array, target: Array) -> Array:
    if output.shape != target.shape:
        raise ShapeError(f"metrics: expected targets as wide as the output, {_widths(output, target)}")
    return np.subtract(output, target, dtype=np.float64)


def _summed(errors: Array) -> Array:
    """For each step the sum over the columns that have a target, and their number: (N, 2)."""
    return np.stack([np.nansum(errors, -1), np.isfinite(errors).sum(-1)], -1)


def _ratio(means: Array) -> Any:
    return means[0] / means[1]


def _root(means: Array) -> Any:
    return np.sqrt(_ratio(means))


def _widths(output: Array, target: Array) -> str:
    return f"got outputs of width {output.shape[1]} and targets of width {target.shape[1]}"


METRICS: Mapping[str, Metric] = {
    "accuracy": Metric(_accuracy),
    "mae": Metric(_distances, _ratio),
    "mse": Metric(_squares, _ratio),
    "rmse": Metric(_squares, _root),
}
"""Metrics by name. "mae", "mse" and "rmse" are means over all numbers of the targets that are not missing (NaN)."""


RESERVED = ("epoch", "loss", "learning_rate", "seconds", "data_seconds", "validation_loss", "skipped")


def read_metrics(given: object, outputs: tuple[str, ...]) -> dict[str, tuple[str, Metric]]:
    """Metric's name in the history -> (output, metric).

    given: None, names, or name -> function or Metric. For a network of several outputs: output -> any of these; the
        names in the history are "output.metric" then.
    Raises ArgumentError or ArgumentTypeError.
    """
    if given is None:
        return {}
    if len(outputs) == 1:
        return {name: (outputs[0], metric) for name, metric in _named("metrics", given).items()}
    if not isinstance(given, Mapping) or not set(given) <= set(outputs):
        listed = ", ".join(map(repr, outputs))
        raise ArgumentError(
            f"metrics: the network has the outputs {listed}; expected {{output: metrics}}, got {checks.came(given)}"
        )
    return {
        f"{output}.{name}": (output, metric)
        for output, some in given.items()
        for name, metric in _named(f"metrics[{output!r}]", some).items()
    }


def _named(label: str, given: object) -> dict[str, Metric]:
    if isinstance(given, str):
        given = (given,)
    if isinstance(given, (list, tuple)):
        given = {name: name for name in given}
    if not isinstance(given, Mapping):
        expected = "expected names, or a mapping of names to functions"
        raise ArgumentTypeError(f"{label}: {expected}, got {checks.came(given)}")
    return {_name(label, name): _metric(f"{label}[{name!r}]", value) for name, value in given.items()}


def _name(label: str, name: object) -> str:
    if name in RESERVED:
        raise ArgumentError(f"{label}: {name!r} is the name of something else in the history; give another")
    if not isinstance(name, str) or not name:
        raise ArgumentTypeError(f"{label}: expected names of metrics, got {checks.came(name)}")
    return name


def _metric(label: str, value: object) -> Metric:
    if isinstance(value, Metric):
        return value
    if isinstance(value, str):
        return METRICS[checks.choice(label, value, tuple(METRICS))]
    if callable(value):
        return Metric(value)
    raise ArgumentTypeError(f"{label}: expected a function of (output, target), got {checks.came(value)}")


class MetricSum:
    """The sum of a metric over the steps seen so far."""

    def __init__(self, name: str, metric: Metric) -> None:
        self._name, self._metric = name, metric
        self._total: Any = 0.0
        self._steps = 0

    def add(self, output: Array, target: Array) -> None:
        """Adds N steps. output: (N, width). target: (N, target width). Raises ArgumentError or ArgumentTypeError."""
        steps = len(output)
        if not steps:
            return
        found = self._read(self._metric.of(output, target))
        if found.ndim not in (0, 1, 2) or (found.ndim and found.shape[0] != steps):
            raise self._error(found, f"one number, or one per step, ({steps},)")
        self._total = self._total + (found.sum(0) if found.ndim else found * steps)
        self._steps += steps

    def join(self, ranks: Ranks) -> None:
        """Adds the steps of all other ranks, of which some may have none."""
        if not ranks.several:
            return
        seen = [np.shape(self._total)] if self._steps else []
        axes, widths = ranks.gather(
            np.array([len(s) for s in seen], np.int64), np.array([np.prod(s) for s in seen], np.int64)
        )
        (totals,) = ranks.gather(np.ravel(self._total).astype(np.float64) if seen else np.zeros(0))
        if len(set(axes.tolist())) > 1 or len(set(widths.tolist())) > 1:
            raise self._error(self._total, "as many numbers on all ranks")
        if len(axes):
            total = totals.reshape(len(axes), -1).sum(0)
            self._total = total if axes[0] else total[0]
        self._steps = int(ranks.sum([self._steps])[0])

    def result(self) -> float:
        """The metric over all steps; NaN if there were none."""
        if not self._steps:
            return float("nan")
        mean = self._total / self._steps
        found = np.mean(mean) if self._metric.finish is None else self._read(self._metric.finish(mean))
        if np.ndim(found):
            raise self._error(found, "one number from finish")
        return float(found)

    def _read(self, found: object) -> Array:
        array = np.asarray(found)
        if array.dtype.kind not in "biuf":
            came = f"the function returned {checks.came(found)}"
            raise ArgumentTypeError(f"metrics[{self._name!r}]: expected numbers, {came}")
        return array.astype(np.float64)

    def _error(self, found: Array, expected: str) -> ArgumentError:
        return ArgumentError(
            f"metrics[{self._name!r}]: expected {expected}, the function returned an array of shape {np.shape(found)}"
        )
