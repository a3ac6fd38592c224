"""Training data: sequences of different lengths, stored end to end, and batches of sequences of similar length."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnc import random
from rnnc.checking import checks
from rnnc.checking.arrays import as_array, check_dtype
from rnnc.ir.errors import ArgumentError, ArgumentTypeError, ShapeError
from rnnc.losses import check_loss
from rnnc.sequential import Sequential
from rnnc.train.batch import Batch, inside
from rnnc.train.check import Rules, check_model

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from rnnc.losses import Loss, LossLike

    Array = NDArray[Any]
    Rows = NDArray[np.int64]

POOL = 50
"""The number of batches whose sequences are sorted by length together."""


class Sequences:
    """A data set: pairs (x, target), checked against a network and a loss, of which `batch` makes batches.

    lengths: int64 (N,), the number of steps of each sequence. x and target hold all sequences end to end, encoded for
    the network and the loss; sequence i begins at offsets[i].
    """

    def __init__(self, model: Sequential, loss: LossLike, pairs: object, name: str = "data") -> None:
        """
        model: the network. loss: a loss of `rnnc.losses`, its name, or a function of output and target.
        pairs: a sequence of pairs (x, target). All numbers must be finite.
            x: integers (T,) for an embedding, otherwise vectors (T, I) in the network's dtype. T >= 1 may differ from
            pair to pair.
            target: integers (T,) for cross_entropy, numbers (T, N) for mse. After a readout there is one target per
            sequence, () or (N,).
        name: what error messages call the pairs.
        Raises ShapeError, DtypeError, ArgumentError or ArgumentTypeError.
        """
        self.model, self.loss = check_model(model), check_loss(loss)
        if not isinstance(pairs, Sequence) or len(pairs) == 0:
            raise ArgumentTypeError(f"{name}: expected a sequence of pairs (x, target), got {checks.came(pairs)}")
        _check_plain(self.model)
        self.loss = fitted(model, self.loss, pairs)
        self.timed = model.timed and not self.loss.per_row
        (self._input,), (self._output,) = model.graph().inputs, model.graph().outputs
        self._rules = Rules(model, {self._output: self.loss})
        xs, targets = zip(*(_pair(name, number, pair) for number, pair in enumerate(pairs)), strict=True)
        self._check_shapes(name, xs, targets)
        self.lengths = np.array([len(x) for x in xs], dtype=np.int64)
        self.offsets = np.concatenate(([0], np.cumsum(self.lengths)[:-1]))
        if model.embedding is not None:
            xs = tuple(x.astype(np.int64) for x in xs)
        self.x = np.ascontiguousarray(np.concatenate(xs))
        stacked = np.concatenate(targets) if self.timed else targets if self.loss.per_row else np.stack(targets)
        with np.errstate(over="ignore"):  # a number too large for float32 becomes infinite, and is refused below
            encoded, self.counts = self.loss.encode(stacked, model.output_size, model.dtype)  # type: ignore[arg-type]
        self._check_encoded(name, targets[0], encoded)
        self.target = np.ascontiguousarray(encoded)
        self._check_finite(name, 0, self.x, self.lengths)
        self._check_finite(name, 1, self.target, self.lengths if self.timed else np.ones_like(self.lengths))

    def _check_shapes(self, name: str, xs: Sequence[Array], targets: Sequence[Array]) -> None:
        """Raises ShapeError unless each x fits the network, and targets have as many steps and the same shape."""
        for number, (x, target) in enumerate(zip(xs, targets, strict=True)):
            _check_x(f"{name}[{number}][0]", self.model, x)
            if self.loss.per_row:
                continue
            if self.timed and target.shape[:1] != x.shape[:1]:
                raise ShapeError(
                    f"{name}[{number}]: x has {len(x)} steps, target shape {target.shape}; give one target per step"
                )
            one, first = (array.shape[1:] if self.timed else array.shape for array in (target, targets[0]))
            if one != first:
                raise ShapeError(f"{name}[{number}][1]: a target of shape {one}, those before have {first}")

    def _check_encoded(self, name: str, target: Array, encoded: Array) -> None:
        """Raises ShapeError unless there is one target per step or sequence, of the width that the loss reads."""
        size = self.model.output_size
        width, one = self.loss.target_width(size), target.shape[1:] if self.timed else target.shape
        if encoded.ndim == 2 and encoded.shape[1] == width:
            return
        hint = ""
        if width == 1 and one == (1,):
            hint = "; pass target[..., 0]"
        elif width == 1 and one == (size,):
            hint = "; if it is one-hot, pass the number of the class, target.argmax(-1)"
        raise ShapeError(
            f"{name}[0][1]: {self.loss.name} takes {width} number{'s' * (width > 1)} per "
            f"{'step' if self.timed else 'sequence'}, got an array of shape {one}{hint}"
        )

    def _check_finite(self, name: str, part: int, values: Array, lengths: Rows) -> None:
        """Raises ArgumentError if a value is not finite. values: of all pairs end to end; lengths: rows per pair."""
        finite = np.isfinite(values)
        if finite.all():
            return
        place = np.unravel_index(int(finite.argmin()), values.shape)
        ends = np.cumsum(lengths)
        pair = int(np.searchsorted(ends, place[0], side="right"))
        step = int(place[0] - ends[pair] + lengths[pair])
        where = f" at step {step}" if part == 0 or self.timed else ""
        hint = "; missing='skip' of a loss leaves NaN out" if part and np.isnan(values[place]) else ""
        raise ArgumentError(f"{name}[{pair}][{part}]: expected finite numbers, got {values[place]}{where}{hint}")

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def digest(self) -> str:
        """A short text that almost surely differs between different data sets."""
        parts = (self.lengths, self.x, self.target)
        sums = [f"{zlib.crc32(np.ascontiguousarray(part).tobytes()):08x}" for part in parts]
        return f"{len(self)} sequences, {len(self.x)} steps, {' '.join(sums)}"

    def batch(self, rows: Rows, first: int = 0) -> Batch:
        """A batch of the given sequences, padded to the longest with zeros (row 0 of an embedding).

        rows: numbers of sequences, integers (B,) within 0..len-1. first: the number of the batch's first row within
        its update, if an update takes several batches.
        Raises ShapeError, ArgumentError or ArgumentTypeError.
        """
        rows = _integers("rows", rows, 0, len(self) - 1)
        if not len(rows):
            raise ShapeError("rows: expected the number of at least one sequence")
        lengths = self.lengths[rows]
        longest = int(lengths.max())
        full = bool((lengths == longest).all())
        there = np.arange(longest)[:, None] < lengths[None, :]
        places = np.where(there, self.offsets[rows][None, :] + np.arange(longest)[:, None], 0)
        x = self.x[places]
        x[~there] = 0
        if self.timed:
            target, counts = self.target[places], self.counts[places]
            count = float(counts[there].sum())
        else:
            target, count = self.target[rows], float(self.counts[rows].sum())
        row = checks.integer("first", first, 0)
        return self._made(x, target, None if full else lengths, count, row, 0)

    def _made(self, x: Array, target: Array, lengths: Rows | None, terms: float, row: int, start: int) -> Batch:
        output = self._output
        return Batch({self._input: x}, {output: target}, lengths, {output: terms}, row=row, start=start)

    def windows(self, batch: Batch, size: int | None) -> Iterator[Batch]:
        """The batch cut into pieces of at most `size` steps, in the order of time. If size is None, there is one piece.

        Raises ArgumentError after a readout, where a sequence has only one target, and what `TrainingStep.step` raises
        for a batch that does not fit.
        """
        batch = self._rules.batch("batch", batch)
        if size is None:
            return iter([batch])
        if not self.timed:
            raise ArgumentError("size: behind a readout a sequence has one target, no pieces")
        return self._windows(batch, checks.integer("size", size, 1))

    def _windows(self, batch: Batch, size: int) -> Iterator[Batch]:
        steps, rows = batch.sizes
        lengths = np.full(rows, steps) if batch.lengths is None else batch.lengths
        for start in range(0, steps, size):
            stop = min(start + size, steps)
            left = np.clip(lengths - start, 0, stop - start)
            there = inside(stop - start, left)
            target = batch.target[start:stop]
            count = float(self.loss.counted(target)[there].sum())
            ragged = None if bool((left == stop - start).all()) else left
            yield self._made(batch.x[start:stop], target, ragged, count, batch.row, batch.start + start)


def fitted(model: Sequential, loss: Loss, *data: object) -> Loss:
    """The loss, which has seen the shapes of the targets of several data sets. What is no pair is passed over."""
    pairs = [pair for pairs in data if isinstance(pairs, Sequence) for pair in pairs]
    targets = [pair[1] for pair in pairs if isinstance(pair, tuple | list) and len(pair) == 2]
    if model.timed and not loss.per_row:
        targets = [target[0] for target in targets if np.ndim(target) and len(target)]
    return loss.fitted(targets, model.output_size) if targets else loss


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


def _check_plain(model: object) -> None:
    """Raises ArgumentError unless data may be pairs of one input and one output with as many steps."""
    hint = "make batches of its data, rnnc.train.Batch, for rnnc.train.TrainingStep"
    if not isinstance(model, Sequential):
        raise ArgumentError(f"model: pairs are data of a rnnc.Sequential, got a rnnc.Graph; {hint}")
    if not model.graph().even:
        raise ArgumentError(f"model: it has layers whose steps are not those of x (strides, padding); {hint}")


def _pair(name: str, number: int, pair: object) -> tuple[Array, Array]:
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise ArgumentTypeError(f"{name}[{number}]: expected a pair (x, target), got {checks.came(pair)}")
    x, target = (_array(f"{name}[{number}][{i}]", value) for i, value in enumerate(pair))
    return x, target


def _array(name: str, value: ArrayLike) -> Array:
    if not isinstance(value, (list, tuple, int, float)):
        return as_array(name, value)
    try:
        return np.asarray(value)
    except (ValueError, TypeError, OverflowError) as error:
        raise ArgumentError(f"{name}: not an array: {error}") from error


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
