"""Connectionist temporal classification: labels in the order in which they occur, without their steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnc.checking import checks
from rnnc.checking.arguments import explained_class
from rnnc.checking.arrays import as_array
from rnnc.ir.equations import (
    Value,
    absolute,
    concat,
    exp,
    iota,
    largest,
    log,
    log_softmax,
    maximum,
    stop_gradient,
    total,
    where,
)
from rnnc.ir.errors import ArgumentError, ArgumentTypeError
from rnnc.losses.base import SequenceLoss

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

__all__ = ["CTC"]

NEVER = -1e30
"""The log of the probability 0. It is finite, so that no difference of two of them is NaN."""


@explained_class
@dataclass(frozen=True)
class CTC(SequenceLoss):
    """Minus the log of the probability of a row's labels, summed over all their alignments with its steps.

    An alignment has one class per step. Its labels are what is left when runs of one class become one, and blanks are
    taken out (Graves et al. 2006, "Connectionist temporal classification"). The output is scores of C classes, one of
    which is the blank: the loss is that of torch.nn.functional.ctc_loss(log_softmax(output), ..., reduction="mean"),
    where each row's loss is divided by the number of its labels (at least 1), and then the mean over rows is taken.

    A target is the labels of a sequence, integers (L,); L may differ from sequence to sequence, and may be 0.
    blank: the class that stands for no label.
    zero_infinity: what the loss of a row is that has too few steps for its labels: infinite if False, else 0.
    longest: the largest L. By default `fit` takes it from the data.
    """

    blank: int = 0
    zero_infinity: bool = False
    longest: int | None = None
    name = "ctc"

    def __post_init__(self) -> None:
        object.__setattr__(self, "blank", checks.integer("blank", self.blank, 0))
        object.__setattr__(self, "zero_infinity", checks.flag("zero_infinity", self.zero_infinity))
        if self.longest is not None:
            object.__setattr__(self, "longest", checks.integer("longest", self.longest, 1))

    # ---- targets

    def fitted(self, targets: Sequence[Array], size: int) -> CTC:
        if self.longest is not None:
            return self
        return replace(self, longest=max(1, *(np.size(labels) for labels in targets)))

    def target_width(self, size: int) -> int:
        if self.longest is None:
            raise ArgumentError("loss: ctc needs the largest number of labels of a sequence: give ctc(longest=...)")
        if self.blank >= size:
            raise ArgumentError(f"blank: expected a class 0..{size - 1} of the output, got {self.blank}")
        return self.longest

    def encode(self, targets: Any, size: int, dtype: str) -> tuple[Array, Array]:
        """targets: one array of labels (L,) per row. Encoded, they are padded with -1 to (rows, longest)."""
        encoded = np.full((len(targets), self.target_width(size)), -1, dtype)
        for number, row in enumerate(targets):
            labels = as_array(f"targets[{number}]", row)
            self._check_labels(f"targets[{number}]", labels, size)
            encoded[number, : len(labels)] = labels
        return encoded, self.counted(encoded)

    def _check_labels(self, name: str, labels: Array, size: int) -> None:
        if labels.ndim != 1 or (labels.dtype.kind not in "iu" and labels.size):
            raise ArgumentTypeError(
                f"{name}: ctc takes the labels of a sequence, integers (L,); got {labels.dtype} of shape {labels.shape}"
            )
        bad = (labels < 0) | (labels >= size) | (labels == self.blank)
        if bad.any():
            raise ArgumentError(
                f"{name}: expected classes 0..{size - 1} without the blank, {self.blank}; got {labels[bad][0]}"
            )
        if self.longest is not None and len(labels) > self.longest:
            raise ArgumentError(f"{name}: {len(labels)} labels, ctc was made for at most {self.longest} (longest=)")

    def check(self, name: str, encoded: Array, size: int) -> None:
        there = encoded >= 0
        whole = (encoded < size) & (encoded == np.floor(encoded)) & (encoded != self.blank)  # False for NaN
        if not whole.all() or (there[..., 1:] > there[..., :-1]).any():
            raise ArgumentError(
                f"{name}: expected the labels of each row, classes 0..{size - 1} without the blank, {self.blank}, and "
                "then negative numbers"
            )

    def decoded(self, encoded: Array) -> Array:
        return np.where(encoded < 0, np.nan, encoded).astype(encoded.dtype)

    # ---- equations

    def states(self, size: int) -> Mapping[str, int]:
        """Logs of probabilities of all beginnings of alignments, by where among the labels they have come to.

        blank: at the blank before each label, or behind the last. label: at each label. The largest of a row is 0, and
        scale what was taken off them: numbers that grew with the steps would lose digits.
        """
        labels = self.target_width(size)
        return {"blank": labels + 1, "label": labels, "scale": 1}

    def start(self, target: Value) -> Mapping[str, Value]:
        """Before the first step all is before the first label."""
        blanks = iota(target.graph, int(target.shape[-1]) + 1)
        nowhere = _nowhere(target)
        return {"blank": where(blanks < 0.5, 0.0, nowhere), "label": nowhere + 0.0 * target}

    def step(self, output: Value, target: Value, state: SimpleNamespace) -> Mapping[str, Value]:
        count = int(target.shape[-1])
        scores = log_softmax(output)
        before = concat(_nowhere(target), state.label)  # at the label before each blank
        blank = _log_sum(state.blank, before) + scores[:, self.blank : self.blank + 1]
        passed = where(_repeated(target), NEVER, before[:, :count])  # from label to label, without a blank between
        label = _log_sum(state.label, state.blank[:, :count], passed) + _of_labels(scores, target)
        label = where(target > -0.5, label, NEVER)  # not at one that the row has not
        top = stop_gradient(maximum(largest(blank), largest(label)))
        return {"blank": blank - top, "label": label - top, "scale": state.scale + top}

    def result(self, state: SimpleNamespace, target: Value) -> Value:
        count = total(where(target > -0.5, 1.0, 0.0))
        behind = total(where(_at(count, state.blank), state.blank, 0.0))
        last = where(count > 0.5, total(where(_at(count - 1.0, state.label), state.label, 0.0)), NEVER)
        loss = -(state.scale + _log_sum(behind, last))
        impossible = 0.0 if self.zero_infinity else float("inf")
        return where(loss > -0.5 * NEVER, impossible, loss / maximum(count, 1.0))


def _nowhere(target: Value) -> Value:
    """The log of 0 for each row, (B, 1)."""
    return 0.0 * target[:, :1] + NEVER


def _log_sum(*logs: Value) -> Value:
    """log(exp(a) + exp(b) + ...), without overflow."""
    top = logs[0]
    for other in logs[1:]:
        top = maximum(top, other)
    top = stop_gradient(top)
    powers = [exp(value - top) for value in logs]
    return top + log(sum(powers[1:], start=powers[0]))


def _at(number: Value, like: Value) -> Value:
    """The mask of the column of that number, (B, 1) -> (B, N), where `like` has N columns."""
    return 0.5 > absolute(number - iota(number.graph, int(like.shape[-1])))


def _repeated(target: Value) -> Value:
    """The mask of labels that are equal to the one before: a blank must lie between them."""
    before = concat(0.0 * target[:, :1] - 2.0, target[:, :-1]) if int(target.shape[-1]) > 1 else 0.0 * target - 2.0
    return 0.5 > absolute(target - before)


def _of_labels(scores: Value, target: Value) -> Value:
    """The score of each label, (B, L), from those of all classes, (B, C)."""
    hot = 0.5 > absolute(target[..., None] - iota(target.graph, int(scores.shape[-1])))
    return where(hot, scores[..., None, :], 0.0).sum(axis=-1, keepdims=False)
