"""Training data: sequences of different lengths, stored end to end, and batches of sequences of similar length."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnc import random
from rnnc.checking import checks
from rnnc.ir.errors import ArgumentError, ArgumentTypeError, ShapeError
from rnnc.train.check import Rules, check_model
from rnnc.train.items import ItemReader, fitted
from rnnc.train.objective import objective_of
from rnnc.train.ranks import ALONE, Ranks
from rnnc.train.windows import windows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rnnc.layered import Layered
    from rnnc.train.batch import Batch
    from rnnc.train.objective import Given

    Array = NDArray[Any]
    Rows = NDArray[np.int64]

POOL = 50
"""The number of batches whose sequences are sorted by length together."""


@dataclass(frozen=True)
class Batching:
    """How batches are made of items. sizes: items per batch; parts: batches per update; ranks: they share a batch."""

    size: int
    parts: int
    seed: int
    buffer: int = 0  # items of a stream that are held and shuffled
    updates: int | None = None  # per epoch of a stream; None: as many as it has
    ranks: Ranks = ALONE

    @property
    def rows(self) -> int:
        """The number of items per update."""
        return self.size * self.parts


class Sequences:
    """A data set in memory, checked against a network and its losses, of which `batch` makes batches.

    lengths: int64 (N,), the number of steps of each sequence. losses: output -> its loss.
    """

    def __init__(self, model: Layered, loss: Given, items: object, name: str = "data") -> None:
        """
        model: the network. loss: a loss of `rnnc.losses`, its name, or a function of output and target; for several
            outputs: output -> loss.
        items: a list of (x, target) or (x, target, weight). All numbers must be finite.
            x: integers (T,) for an embedding, otherwise vectors (T, I) in the network's dtype, or (I,) for an input
            that is one per sequence. T >= 1 may differ from item to item.
            target: integers (T,) for cross_entropy, numbers (T, N) for mse. For an output that is one per sequence
            there is one target, () or (N,). T is the output's own number of steps (`rnnc.Graph.output_lengths`).
            weight: a factor >= 0 of the losses of an item, or of each of its steps, (T,).
            For several inputs or outputs each is a dict of arrays by their names.
        name: what error messages call the items.
        Raises ShapeError, DtypeError, ArgumentError or ArgumentTypeError, with the number of the item.
        """
        self.model = check_model(model)
        self.losses = objective_of(model, loss).losses
        if not isinstance(items, Sequence) or isinstance(items, str) or len(items) == 0:
            raise ArgumentTypeError(f"{name}: expected a list of pairs (x, target), got {checks.came(items)}")
        self.losses = fitted(model, self.losses, items)
        self._columns = ItemReader(model, self.losses, name).columns(items, range(len(items)))
        self._rules = Rules(model, self.losses, self.weighted)
        self.lengths = self._columns.lengths

    @property
    def loss(self) -> Any:
        """The loss of the only output; of several, output -> loss."""
        return next(iter(self.losses.values())) if len(self.losses) == 1 else self.losses

    @property
    def weighted(self) -> bool:
        """Whether the items have weights."""
        return bool(self._columns.weights)

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def digest(self) -> str:
        """A short text that almost surely differs between different data sets."""
        found = self._columns
        parts = [self.lengths, *(part for group in found[:4] if group is not found.terms for part in group.values())]
        sums = [f"{zlib.crc32(np.ascontiguousarray(part).tobytes()):08x}" for part in parts]
        return f"{len(self)} sequences, {int(self.lengths.sum())} steps, {' '.join(sums)}"

    def batch(self, rows: Rows, first: int = 0) -> Batch:
        """A batch of the given sequences, padded to the longest with zeros (row 0 of an embedding).

        rows: numbers of sequences, integers (B,) within 0..len-1. first: the number of the batch's first row within
        its update, if an update takes several batches.
        Raises ShapeError, ArgumentError or ArgumentTypeError.
        """
        rows = _integers("rows", rows, 0, len(self) - 1)
        if not len(rows):
            raise ShapeError("rows: expected the number of at least one sequence")
        return self._columns.batch(rows, checks.integer("first", first, 0))

    def windows(self, batch: Batch, size: int | None) -> Iterator[Batch]:
        """The batch cut into pieces of at most `size` steps, in the order of time. If size is None, there is one piece.

        For layers with strides, pieces are whole frames (`rnnc.Graph.frame`). Raises ArgumentError for an output that
        has one target per sequence, and no pieces, and what `TrainingStep.step` raises for a batch that does not fit.
        """
        return windows(self._rules.batch("batch", batch), size, self.model, self.losses)


def batches(lengths: Rows, batch_size: int, seed: int, epoch: int) -> list[Rows]:
    """The batches of an epoch, each an array of numbers of sequences of similar length. All sequences are in one.

    The result depends on the arguments alone. All sequences are shuffled, then those of every `POOL` batches are
    sorted by length, and then the batches are shuffled.

    lengths: integers (N,), the number of steps of each sequence. seed: 0 <= seed < 2**64. epoch: counted from 0.
    Raises ArgumentError or ArgumentTypeError.
    """
    lengths, batch_size = _integers("lengths", lengths, 0), checks.integer("batch_size", batch_size, 1)
    seed, epoch = checks.integer("seed", seed, 0, 2**64 - 1), checks.integer("epoch", epoch, 0)
    order = random.permutation(seed, 2 * epoch, len(lengths))
    parts: list[Rows] = []
    for start in range(0, len(order), POOL * batch_size):
        pool = order[start : start + POOL * batch_size]
        pool = pool[np.argsort(-lengths[pool], kind="stable")]
        parts += [pool[i : i + batch_size] for i in range(0, len(pool), batch_size)]
    return [parts[i] for i in random.permutation(seed, 2 * epoch + 1, len(parts))]


def in_order(lengths: Rows, batch_size: int) -> list[Rows]:
    """Batches of sequences of similar length, longest first, for evaluation."""
    order = np.argsort(-lengths, kind="stable")
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


def _integers(name: str, value: object, lowest: int, highest: int | None = None) -> Rows:
    """The value as int64 (N,), with every number within the bounds."""
    try:
        found = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise ArgumentError(f"{name}: not one row of integers: {error}") from error
    if found.ndim != 1 or (found.dtype.kind not in "iu" and found.size):
        raise ArgumentTypeError(f"{name}: expected one row of integers, got {_is(found)}")
    bad = (found < lowest) | (found > (checks.MAX_SIZE if highest is None else highest))
    if bad.any():
        bound = f">= {lowest}" if highest is None else f"{lowest}..{highest}"
        raise ArgumentError(f"{name}: expected integers {bound}, got {found[bad.argmax()]}")
    return found.astype(np.int64)


def _is(array: Array) -> str:
    return f"{array.dtype} of shape {array.shape}"
