"""Readouts: one value per sequence, (B, N), of values per step, (T, B, N). Padding of a ragged batch is not read."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

from rnnc.cells import Shape
from rnnc.checking.arguments import explained_class
from rnnc.ir.equations import Value, exp, linear, maximum, stop_gradient, where
from rnnc.ir.errors import ShapeError
from rnnc.layers.base import Readout, size

__all__ = ["AttentionPooling", "First", "Last", "Max", "Mean", "SoftmaxPooling", "Sum"]

New = dict[str, Value]


@explained_class
@dataclass(frozen=True)
class Last(Readout):
    """The value of each row's last step.

    Read right behind a recurrent layer it is each direction's own last output, side by side, as PyTorch's h_n: that of
    the reverse direction belongs to the first step.
    """

    def states(self, *widths: int) -> dict[str, int]:
        return {"last": widths[0]}

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> New:
        return {"last": x}

    def result(self, state: SimpleNamespace, p: SimpleNamespace) -> Value:
        last: Value = state.last
        return last


@explained_class
@dataclass(frozen=True)
class First(Readout):
    """The value of the first step."""

    def states(self, *widths: int) -> dict[str, int]:
        return {"first": widths[0], "seen": 1}

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> New:
        return {"first": where(state.seen > 0.0, state.first, x), "seen": state.seen * 0.0 + 1.0}

    def result(self, state: SimpleNamespace, p: SimpleNamespace) -> Value:
        first: Value = state.first
        return first


@explained_class
@dataclass(frozen=True)
class Mean(Readout):
    """The mean over each row's steps; zeros for a row without steps."""

    def states(self, *widths: int) -> dict[str, int]:
        return {"sum": widths[0], "count": 1}

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> New:
        return {"sum": state.sum + x, "count": state.count + 1.0}

    def result(self, state: SimpleNamespace, p: SimpleNamespace) -> Value:
        mean: Value = state.sum * (1.0 / maximum(state.count, 1.0))
        return mean


@explained_class
@dataclass(frozen=True)
class Sum(Readout):
    """The sum over each row's steps; zeros for a row without steps."""

    def states(self, *widths: int) -> dict[str, int]:
        return {"sum": widths[0]}

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> New:
        return {"sum": state.sum + x}

    def result(self, state: SimpleNamespace, p: SimpleNamespace) -> Value:
        total: Value = state.sum
        return total


@explained_class
@dataclass(frozen=True)
class Max(Readout):
    """The largest of each row's steps, unit by unit; zeros for a row without steps."""

    def states(self, *widths: int) -> dict[str, int]:
        return {"largest": widths[0], "seen": 1}

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> New:
        largest = where(state.seen > 0.0, maximum(state.largest, x), x)
        return {"largest": largest, "seen": state.seen * 0.0 + 1.0}

    def result(self, state: SimpleNamespace, p: SimpleNamespace) -> Value:
        largest: Value = state.largest
        return largest


@explained_class
@dataclass(frozen=True)
class AttentionPooling(Readout):
    """The mean over each row's steps, weighted by a softmax over them of the scores weight . x.

    Yang et al. 2016, "Hierarchical attention networks for document classification", without the hidden layer: put a
    Linear and an Activation before the scores, and `Concat` them, where one is wanted. The sums are carried along from
    step to step, scaled to the largest score so far (Milakov & Gimelshein 2018, "Online normalizer calculation for
    softmax"). Zeros for a row without steps. A bias would change no weight: it adds the same number to all scores.

    size: the width of x.
    """

    size: int

    def __post_init__(self) -> None:
        size(self, "size")

    def parameter_shapes(self) -> dict[str, Shape]:
        return {"weight": (1, self.size)}

    @property
    def width(self) -> int | None:
        return self.size

    def states(self, *widths: int) -> dict[str, int]:
        return {"sum": self.size, "weight": 1, "largest": 1}

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> New:
        return _weighted(x, linear(x, p.weight), state)

    def result(self, state: SimpleNamespace, p: SimpleNamespace) -> Value:
        return _weighted_mean(state)


@explained_class
@dataclass(frozen=True)
class SoftmaxPooling(Readout):
    """The mean over each row's steps, weighted by a softmax over them of scores: it reads the values and the scores.

    As `AttentionPooling`, with scores of any kind, one number per step. Zeros for a row without steps.
    """

    inputs: ClassVar[int | None] = 2

    def output_width(self, *widths: int) -> int:
        if widths[1] != 1:
            raise ShapeError(f"SoftmaxPooling reads values and scores of size 1; got scores of size {widths[1]}")
        return widths[0]

    def states(self, *widths: int) -> dict[str, int]:
        return {"sum": widths[0], "weight": 1, "largest": 1}

    def step(self, x: tuple[Value, Value], state: SimpleNamespace, p: SimpleNamespace) -> New:
        return _weighted(*x, state)

    def result(self, state: SimpleNamespace, p: SimpleNamespace) -> Value:
        return _weighted_mean(state)


def _weighted(x: Value, score: Value, state: SimpleNamespace) -> New:
    """The sums with one more step."""
    largest = stop_gradient(where(state.weight > 0.0, maximum(state.largest, score), score))
    kept = exp(where(state.weight > 0.0, state.largest - largest, 0.0))  # else nothing is kept, whatever the factor
    added = exp(score - largest)
    return {"sum": state.sum * kept + x * added, "weight": state.weight * kept + added, "largest": largest}


def _weighted_mean(state: SimpleNamespace) -> Value:
    mean: Value = state.sum / where(state.weight > 0.0, state.weight, 1.0)
    return mean
