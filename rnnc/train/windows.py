"""Batches cut into pieces of a few steps, for truncated backpropagation through time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnc.checking import checks
from rnnc.ir.errors import ArgumentError
from rnnc.train.batch import Batch, inside, is_timed
from rnnc.train.check import counted

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rnnc.checking.networks import Kind
    from rnnc.layered import Layered
    from rnnc.losses import Loss

    Array = NDArray[Any]


def windows(batch: Batch, size: int | None, model: Layered, losses: Mapping[str, Loss]) -> Iterator[Batch]:
    """A checked batch in pieces of at most `size` steps, in the order of time; in one piece if size is None.

    Raises ArgumentError if an output has one target per sequence, or if pieces would not be whole frames.
    """
    if size is None:
        return iter([batch])
    graph, size = model.graph(), checks.integer("size", size, 1)
    kinds = {output: graph.kinds[graph.outputs[output]] for output in losses}
    for output, kind in kinds.items():
        if not kind.timed or losses[output].per_row:
            raise ArgumentError(f"size: the output {output!r} has one target per sequence, and no pieces")
    if size % graph.frame:
        raise ArgumentError(
            f"size: the layers make one step of several, and pieces are whole frames: expected a multiple of "
            f"{graph.frame}, got {size}"
        )
    return _windows(batch, size, kinds, losses)


def _windows(batch: Batch, size: int, kinds: Mapping[str, Kind], losses: Mapping[str, Loss]) -> Iterator[Batch]:
    steps, rows = batch.sizes
    lengths = np.full(rows, steps) if batch.lengths is None else batch.lengths
    for start in range(0, steps, size):
        stop = min(start + size, steps)
        left = np.clip(lengths - start, 0, stop - start)
        ragged = None if bool((left == stop - start).all()) else left
        inputs = {k: x[start:stop] if is_timed(x) else x for k, x in batch.inputs.items()}
        cuts = {k: _cut(kind, start, stop) for k, kind in kinds.items()}
        targets = {k: target[cuts[k]] for k, target in batch.targets.items()}
        weights = {k: weight[cuts[k]] for k, weight in batch.weights.items()}
        terms = {}
        for k, target in targets.items():
            there = None if ragged is None else inside(len(target), kinds[k].steps(ragged))
            terms[k] = counted(losses[k], target, weights.get(k), there)
        yield Batch(inputs, targets, ragged, terms, weights, batch.row, batch.start + start)


def _cut(kind: Kind, start: int, stop: int) -> slice:
    """The steps of an output that belong to some steps of the inputs, which begin with a frame."""
    first = int(start * kind.rate)
    return slice(first, first + int(kind.steps(stop - start)))
