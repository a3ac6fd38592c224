"""Validation: losses and metrics of a network on data that it is not trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rnnc.checking import checks
from rnnc.ir.errors import ArgumentError, ArgumentTypeError, ShapeError
from rnnc.losses import CrossEntropy
from rnnc.train.batch import Batch, inside
from rnnc.train.metrics import METRICS, MetricSum, read_metrics

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rnnc.layered import Layered
    from rnnc.losses import Loss
    from rnnc.train.evaluation import Evaluation
    from rnnc.train.ranks import Ranks
    from rnnc.train.sources import Source

    Array = NDArray[Any]


class Validated(NamedTuple):
    """The result of a validation. loss: the mean over targets; of several outputs, the sum of the means, each times its
    factor. losses: the means by output, if there are several. accuracy: None, but for a single cross-entropy. metrics:
    by name.
    """

    loss: float | None = None
    losses: Mapping[str, float] = {}
    accuracy: float | None = None
    metrics: Mapping[str, float] = {}


class Validation:
    """The validation data, with what is to be computed of it."""

    def __init__(
        self,
        model: Layered,
        losses: Mapping[str, Loss],
        source: Source,
        evaluation: Evaluation,
        metrics: object,
        ranks: Ranks,
    ) -> None:
        self._ranks = ranks
        self._graph, self._losses, self._source, self._evaluation = model.graph(), losses, source, evaluation
        self._metrics = read_metrics(metrics, tuple(losses))
        for name, (output, _) in self._metrics.items():
            if self._losses[output].per_row and self._graph.kinds[self._graph.outputs[output]].timed:
                raise ArgumentError(
                    f"metrics: {name!r} compares steps with targets, and {output!r} has no target per step"
                )
        only = next(iter(losses.items())) if len(self._graph.outputs) == 1 else None
        self._classes = only[0] if only and isinstance(only[1], CrossEntropy) else None

    def __call__(self, params: Mapping[str, Array]) -> Validated:
        """Evaluates the network with these parameters, on all ranks together."""
        metrics = {name: (output, MetricSum(name, metric)) for name, (output, metric) in self._metrics.items()}
        accuracy = MetricSum("accuracy", METRICS["accuracy"])
        wanted = [*metrics.values(), *([(self._classes, accuracy)] if self._classes else [])]
        count = len(self._losses)
        _, found = self._ranks.together(lambda: (None, self._evaluate(params, wanted)), 2 * count)
        for _, metric in wanted:
            metric.join(self._ranks)
        sums = zip(self._losses, found[:count], found[count:], strict=True)
        means = {output: loss / (terms or 1.0) for output, loss, terms in sums}
        return Validated(
            self._evaluation.objective.total(means),
            means if len(self._graph.outputs) > 1 else {},
            accuracy.result() if self._classes else None,
            {name: metric.result() for name, (_, metric) in metrics.items()},
        )

    def _evaluate(self, params: Mapping[str, Array], wanted: Sequence[tuple[str, MetricSum]]) -> list[float]:
        """The summed losses of this rank's rows, by output, then their terms. The rows are added to the metrics."""
        sums, terms = dict.fromkeys(self._losses, 0.0), dict.fromkeys(self._losses, 0.0)
        for batch in self._source.once():
            found, outputs = self._evaluation._of(params, batch)
            for output in self._losses:
                sums[output] += found[output] if isinstance(found, dict) else found
                terms[output] += batch.terms[output]
            steps = {output: self._steps(output, outputs, batch) for output in {output for output, _ in wanted}}
            for output, metric in wanted:
                metric.add(*steps[output])
        return [*sums.values(), *terms.values()]

    def _steps(self, output: str, outputs: Any, batch: Batch) -> tuple[Array, Array]:
        """An output and its targets at all steps that have a target: (N, width) and (N, target width)."""
        values = outputs[output] if isinstance(outputs, dict) else outputs
        encoded, kind, loss = (
            batch.targets[output],
            self._graph.kinds[self._graph.outputs[output]],
            self._losses[output],
        )
        there = loss.counted(encoded) > 0
        if kind.timed and batch.lengths is not None:
            there &= np.arange(len(encoded))[:, None] < kind.steps(batch.lengths)
        return values[there], loss.decoded(encoded[there])


def right(output: Array, batch: Batch) -> int:
    """The number of targets of a batch for which the class with the highest score is right.

    output: scores (T, B, C), or (B, C) after a readout, as `Evaluation` returns them. Targets that are ignored, and
    the padding, are left out. Divided by the number of the others, the result is the accuracy.
    Raises ShapeError or ArgumentTypeError.
    """
    if not isinstance(batch, Batch):
        raise ArgumentTypeError(f"batch: expected a rnnc.train.Batch, got {checks.came(batch)}")
    target = batch.target[..., 0]
    if np.shape(output)[:-1] != target.shape:
        raise ShapeError(f"output: expected shape {(*target.shape, 'classes')}, got {np.shape(output)}")
    counted: Array = target >= 0
    if target.ndim == 2 and (there := inside(len(target), batch.lengths)) is not None:
        counted &= there
    return int((output.argmax(-1) == target)[counted].sum())
