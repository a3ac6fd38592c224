"""Training data: sequences of different lengths, kept end to end, and cut into batches of similar lengths."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rnnc import checks, random
from rnnc.arrays import check_dtype
from rnnc.ir.errors import ArgumentError, ArgumentTypeError, ShapeError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from rnnc.losses import Loss
    from rnnc.sequential import Sequential

    Array = NDArray[Any]
    Rows = NDArray[np.int64]

POOL = 50
"""Batches' worth of shuffled sequences that are sorted by length together."""


class Batch(NamedTuple):
    """Padded sequences, time first.

    x: integers (T, B), or (T, B, I). target: as the loss encodes it, (T, B, W), or (B, W) behind a readout.
    lengths: (B,), or None if all rows have T steps. terms: how many the mean loss of the batch has.
    row: the number of the first row in the batch of one update; start: the step its first step is of its sequences.
    """

    x: Array
    target: Array
    lengths: Rows | None
    terms: int
    row: int = 0
    start: int = 0

    @property
    def sizes(self) -> tuple[int, int]:
        """(T, B)."""
        return int(self.x.shape[0]), int(self.x.shape[1])


class Sequences:
    """Pairs (x, target), checked against a network and a loss."""

    def __init__(self, model: Sequential, loss: Loss, pairs: object, name: str = "data") -> None:
        """pairs: a sequence of (x, target).

        x: integers (T,) for an embedding, else vectors (T, I) in the network's dtype; T >= 1 differs from pair to pair.
        target: for cross_entropy integers (T,), for mse numbers (T, N); behind a readout one of them, () or (N,).
        """
        if not isinstance(pairs, Sequence) or len(pairs) == 0:
            raise ArgumentTypeError(f"{name}: expected a sequence of pairs (x, target), got {checks.came(pairs)}")
        self.model, self.loss = model, loss
        self.timed = model.readout == "every"
        xs, targets = zip(*(_pair(name, number, pair) for number, pair in enumerate(pairs)), strict=True)
        for number, x in enumerate(xs):
            _check_x(f"{name}[{number}][0]", model, x)
        if self.timed:
            for number, (x, target) in enumerate(zip(xs, targets, strict=True)):
                if target.shape[:1] != x.shape[:1]:
                    raise ShapeError(
                        f"{name}[{number}]: x has {len(x)} steps, target shape {target.shape}; give one target a step"
                    )
        self.lengths = np.array([len(x) for x in xs], dtype=np.int64)
        self.offsets = np.concatenate(([0], np.cumsum(self.lengths)[:-1]))
        self.x = np.ascontiguousarray(np.concatenate(xs))
        stacked = np.concatenate(targets) if self.timed else np.stack(targets)
        encoded, self.counts = loss.encode(stacked, model.output_size, model.dtype)
        self.target = np.ascontiguousarray(encoded)

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def digest(self) -> str:
        """A short text that differs, almost surely, for other data."""
        parts = (self.lengths, self.x, self.target)
        sums = [f"{zlib.crc32(np.ascontiguousarray(part).tobytes()):08x}" for part in parts]
        return f"{len(self)} sequences, {len(self.x)} steps, {' '.join(sums)}"

    def batch(self, rows: Rows, first: int = 0) -> Batch:
        """The sequences `rows` side by side, padded to the longest with row 0 of the embedding, or zeros.

        first: the number of their first row in the batch of one update.
        """
        lengths = self.lengths[rows]
        longest = int(lengths.max())
        inside = np.arange(longest)[:, None] < lengths[None, :]
        places = np.where(inside, self.offsets[rows][None, :] + np.arange(longest)[:, None], 0)
        x = self.x[places]
        x[~inside] = 0
        if self.timed:
            target, counts = self.target[places], self.counts[places]
            count = int(counts[inside].sum())
        else:
            target, count = self.target[rows], int(self.counts[rows].sum())
        full = bool((lengths == longest).all())
        return Batch(x, target, None if full else lengths, count, first)

    def windows(self, batch: Batch, size: int | None) -> Iterator[Batch]:
        """The batch in pieces of `size` steps; whole if size is None."""
        steps, rows = batch.sizes
        if size is None:
            yield batch
            return
        lengths = np.full(rows, steps) if batch.lengths is None else batch.lengths
        for start in range(0, steps, size):
            stop = min(start + size, steps)
            left = np.clip(lengths - start, 0, stop - start)
            inside = np.arange(stop - start)[:, None] < left[None, :]
            target = batch.target[start:stop]
            count = int(self.loss.counted(target)[inside].sum())
            ragged = None if bool(inside.all()) else left
            yield Batch(batch.x[start:stop], target, ragged, count, batch.row, batch.start + start)


def batches(lengths: Rows, batch_size: int, seed: int, epoch: int) -> list[Rows]:
    """The order of an epoch: numbers of sequences, batch by batch, lengths alike within one.

    A function of its arguments alone. All sequences are shuffled, those of every `POOL` batches sorted by length, and
    the batches shuffled again.
    """
    order = random.permutation(seed, 2 * epoch, len(lengths))
    parts: list[Rows] = []
    for start in range(0, len(order), POOL * batch_size):
        pool = order[start : start + POOL * batch_size]
        pool = pool[np.argsort(-lengths[pool], kind="stable")]
        parts += [pool[i : i + batch_size] for i in range(0, len(pool), batch_size)]
    return [parts[i] for i in random.permutation(seed, 2 * epoch + 1, len(parts))]


def in_order(lengths: Rows, batch_size: int) -> list[Rows]:
    """Batches of similar lengths, for evaluation."""
    order = np.argsort(-lengths, kind="stable")
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


def _pair(name: str, number: int, pair: object) -> tuple[Array, Array]:
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise ArgumentTypeError(f"{name}[{number}]: expected a pair (x, target), got {checks.came(pair)}")
    x, target = (_array(f"{name}[{number}][{i}]", value) for i, value in enumerate(pair))
    return x, target


def _array(name: str, value: ArrayLike) -> Array:
    try:
        return np.asarray(value)
    except ValueError as error:
        raise ArgumentError(f"{name}: not an array: {error}") from error


def _check_x(name: str, model: Sequential, x: Array) -> None:
    if model.embedding is not None:
        if x.ndim != 1 or x.dtype.kind not in "iu":
            raise ArgumentTypeError(f"{name}: the first layer is an Embedding: expected integers (T,), got {_is(x)}")
        if x.size and not (0 <= int(x.min()) and int(x.max()) < model.embedding.num_embeddings):
            raise ArgumentError(f"{name}: expected numbers 0..{model.embedding.num_embeddings - 1}, rows of the table")
    else:
        check_dtype(name, x, np.dtype(model.dtype))
        if x.ndim != 2 or x.shape[1] != model.input_size:
            raise ShapeError(f"{name}: expected (T, {model.input_size}), got {_is(x)}")
    if not len(x):
        raise ShapeError(f"{name}: a sequence has at least one step")


def _is(array: Array) -> str:
    return f"{array.dtype} of shape {array.shape}"
