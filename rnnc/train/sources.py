"""Where the batches of a training come from: data in memory, read item by item, or streamed.

Data whose items have numbers and known lengths is taken in an order that depends on the seed and the epoch alone, so
that a training goes on anywhere. A stream is taken as it comes; to go on in it, what was seen before is skipped.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from rnnc.checking import checks
from rnnc.checking.arrays import attribute
from rnnc.ir.errors import ArgumentError, ArgumentTypeError
from rnnc.train.batch import Batch
from rnnc.train.check import Rules
from rnnc.train.data import Batching, Sequences, batches, in_order
from rnnc.train.items import ItemReader, fitted
from rnnc.train.streams import Dataset, Elements, Passes, Streamed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rnnc.layered import Layered
    from rnnc.losses import Loss

    Rows = NDArray[np.int64]


class Source(Protocol):
    """Data of which batches are made, once it has been prepared.

    weighted: whether its items have weights. updates: the number of updates per epoch; None if it is not known.
    identity: a text that tells it from other data, as far as that is known before it is read.

    Where several ranks train together, all go through the same batches, and each makes its own rows of them. The row
    numbers of batches are those of all ranks.
    """

    weighted: bool
    updates: int | None
    identity: str

    def check(self, epochs: int) -> None:
        """Raises ArgumentError unless the data is enough for so many epochs."""

    def samples(self) -> Iterable[Any]:
        """Items whose targets have the shapes of all."""

    def prepare(self, losses: Mapping[str, Loss]) -> None:
        """Takes the losses that have seen the samples, and checks what is in memory."""

    def epoch(self, number: int, done: int) -> Iterator[list[Batch]]:
        """The batches of each update of an epoch, from 0, without those of the first updates, which are done."""

    def once(self) -> Iterator[Batch]:
        """All batches, for an evaluation."""


# ---- items with numbers and lengths


class Store(Protocol):
    """Items of known lengths, in memory or not."""

    lengths: Rows

    @property
    def weighted(self) -> bool: ...
    @property
    def digest(self) -> str: ...
    def batch(self, rows: Rows, first: int = 0) -> Batch: ...


class Listed:
    """A source of items whose lengths are known. kept: whether they are in memory."""

    def __init__(self, model: Layered, reader: ItemReader, items: Sequence[Any], plan: Batching, kept: bool) -> None:
        self._model, self._reader, self._items, self._plan, self._kept = model, reader, items, plan, kept
        self.updates: int | None = -(-len(items) // plan.rows)

    def check(self, epochs: int) -> None:
        """Nothing: every epoch takes all items."""

    def samples(self) -> Iterable[Any]:
        return self._items if self._kept else [self._items[0]]

    def prepare(self, losses: Mapping[str, Loss]) -> None:
        reader = self._reader
        reader.losses = losses
        self._store: Store = (
            Sequences(self._model, losses, self._items, reader.name) if self._kept else OnDisk(reader, self._items)
        )
        self.weighted, self.identity = self._store.weighted, self._store.digest

    def epoch(self, number: int, done: int) -> Iterator[list[Batch]]:
        plan = self._plan
        order = batches(self._store.lengths, plan.size, plan.seed, number)
        for start in range(done * plan.parts, len(order), plan.parts):
            group = order[start : start + plan.parts]
            firsts = np.cumsum([0, *map(len, group)]).tolist()
            yield [batch for rows, first in zip(group, firsts, strict=False) for batch in self._own(rows, first)]

    def once(self) -> Iterator[Batch]:
        for rows in in_order(self._store.lengths, self._plan.size):
            yield from self._own(rows, 0)

    def _own(self, rows: Rows, first: int) -> Iterator[Batch]:
        """This rank's part of a batch, unless it has no rows. first: the number of the batch's first row."""
        share = self._plan.ranks.share(len(rows))
        if share.start < share.stop:
            yield self._store.batch(rows[share], first + share.start)


class OnDisk:
    """A store of items that stay where they are, such as in memory-mapped files, until a batch reads them."""

    def __init__(self, reader: ItemReader, items: Sequence[Any]) -> None:
        self._reader, self._items = reader, items
        if isinstance(items, Slices):
            steps: Iterable[int] = items.steps(reader.clock)
        else:
            steps = (reader.steps(n, item) for n, item in enumerate(items))
        self.lengths = np.fromiter(steps, np.int64, len(items))
        self.weighted = reader.weighted(0, items[0])
        self.digest = f"{len(items)} sequences, {int(self.lengths.sum())} steps in files"

    def batch(self, rows: Rows, first: int = 0) -> Batch:
        return self._reader.columns([self._items[row] for row in rows], rows.tolist()).whole(first)


class Slices(Sequence[Any]):
    """The rows of several arrays as items. Arrays are read when an item is."""

    def __init__(self, arrays: Sequence[Any], size: int) -> None:
        self._arrays, self._size = arrays, size

    def __len__(self) -> int:
        return self._size

    def steps(self, clock: str) -> Iterable[int]:
        """The number of steps of each item. clock: the input that has them, if there are several."""
        x = self._arrays[0]
        shape = (x[clock] if isinstance(x, Mapping) else x).shape
        return repeat(int(shape[1]) if len(shape) > 1 else 0, self._size)

    def __getitem__(self, row: Any) -> Any:
        return tuple(
            {name: value[row] for name, value in part.items()} if isinstance(part, Mapping) else part[row]
            for part in self._arrays
        )


# ---- any data


def source(model: Layered, losses: Mapping[str, Loss], data: Any, plan: Batching, name: str = "data") -> Source:
    """The source of whatever a user gives as data, not yet prepared. name: what messages call it.

    Raises ArgumentError or ArgumentTypeError.
    """
    reader = ItemReader(model, losses, name)
    size = _rows(name, data)
    if size is None and not isinstance(data, (list, tuple)):
        return Streamed(reader, partial(Rules, model), _elements(name, data, plan), plan)
    for argument, value in (("shuffle_buffer", plan.buffer), ("steps_per_epoch", plan.updates)):
        if value:
            raise ArgumentError(f"{argument}: {name} is no stream: an epoch is one pass, in random order; leave it out")
    items: Sequence[Any] = data if size is None else Slices(data, size)
    if not len(items):
        raise ArgumentTypeError(f"{name}: expected a list of pairs (x, target), got {checks.came(data)}")
    kept = not any(is_stored(leaf) for item in (items if size is None else [data]) for leaf in _leaves(item))
    return Listed(model, reader, list(items) if kept else items, plan, kept)


def prepare(model: Layered, losses: Mapping[str, Loss], sources: Sequence[Source]) -> dict[str, Loss]:
    """Prepares all sources of a training, and returns the losses, which have seen samples of all their targets."""
    found = fitted(model, losses, chain.from_iterable(source.samples() for source in sources))
    for source in sources:
        source.prepare(found)
    return found


def _elements(name: str, data: Any, plan: Batching) -> Elements:
    if isinstance(data, (str, bytes, Mapping, np.ndarray)) or isinstance(data, type):
        raise _unusable(name, data)
    if attribute(data, "__len__") is not None and attribute(data, "__getitem__") is not None:
        if plan.updates is not None:
            raise ArgumentError(f"steps_per_epoch: {name} is no stream: an epoch is one pass over it; leave it out")
        return Dataset(name, data, plan.seed)
    if callable(data) or isinstance(data, Iterable):
        return Passes(name, data)
    raise _unusable(name, data)


def _unusable(name: str, data: object) -> ArgumentTypeError:
    return ArgumentTypeError(
        f"{name}: expected a list of pairs (x, target), a tuple of arrays (X, Y), an object with __len__ and "
        f"__getitem__, a generator function or an iterable, got {checks.came(data)}"
    )


def _rows(name: str, data: object) -> int | None:
    """The number of sequences of a tuple of arrays (X, Y) or (X, Y, weight). None if the data is no such tuple."""
    if not isinstance(data, tuple) or len(data) not in (2, 3):
        return None
    leaves = list(_leaves(data))
    if any(not hasattr(leaf, "shape") or not hasattr(leaf, "__getitem__") for leaf in leaves):
        return None
    sizes = {tuple(leaf.shape)[:1] for leaf in leaves}
    if len(sizes) != 1 or sizes == {()}:
        came = ", ".join(str(tuple(leaf.shape)) for leaf in leaves)
        raise ArgumentError(
            f"{name}: expected arrays with one sequence per row, of as many rows each, got shapes {came}"
        )
    return int(sizes.pop()[0])


def _leaves(item: Any) -> Iterator[Any]:
    """The arrays of an item."""
    for part in item if isinstance(item, (tuple, list)) else ():
        yield from part.values() if isinstance(part, Mapping) else (part,)


def is_stored(array: object) -> bool:
    """Whether reading an array reads a file: it is memory-mapped, or of a library such as h5py or zarr."""
    if not isinstance(array, np.ndarray):
        shaped = attribute(array, "shape") is not None and attribute(array, "__getitem__") is not None
        return shaped and attribute(array, "__array_interface__") is None and attribute(array, "__dlpack__") is None
    base: Any = array
    while isinstance(base, np.ndarray):
        if isinstance(base, np.memmap):
            return True
        base = base.base
    return isinstance(base, mmap.mmap)
