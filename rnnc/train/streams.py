"""Streams: data that comes one element after the other, and batches of consecutive elements.

To go on in a stream, what was seen before is skipped. An object with __len__ and __getitem__ is a stream of its items
in a random order; of these, only the ones that are needed are read.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, count, islice
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from rnnc import random
from rnnc.checking import checks
from rnnc.ir.errors import ArgumentError, ArgumentTypeError
from rnnc.train.batch import Batch
from rnnc.train.data import Batching, batches

if TYPE_CHECKING:
    from rnnc.losses import Loss
    from rnnc.train.check import Rules
    from rnnc.train.items import ItemReader

SPREAD = 0x9E3779B97F4A7C15
"""2**64 divided by the golden ratio: its multiples are seeds far from each other (Steele et al. 2014, SplitMix)."""
BLOCK = 8
"""The number of updates whose items are read together, and sorted by length, if the lengths are not known before."""


class Elements(Protocol):
    """What a stream is made of: items with their numbers, batches, or arrays of several items.

    once_only: whether it can be gone through only once. count: of its elements, or None. buffer: the number of updates
    whose items are read together, and sorted by length; 0: none are.
    """

    once_only: bool
    count: int | None
    buffer: int
    identity: str

    def start(self, number: int, skipped: int) -> Iterator[tuple[int, Any]]:
        """Pass `number` over the elements, without the first ones."""


class Passes:
    """The elements of an iterable, or of what a function returns for each pass."""

    buffer = 0

    def __init__(self, name: str, data: Any) -> None:
        self._name, self._data = name, data
        self._takes_number = callable(data) and _takes_one(name, data)
        self.once_only = not callable(data) and iter(data) is data
        self.count = None if callable(data) else _length(data)
        self.identity = f"a stream, {getattr(data, '__qualname__', type(data).__qualname__)}"

    def start(self, number: int, skipped: int) -> Iterator[tuple[int, Any]]:
        found = self._data
        if callable(found):
            found = found(number) if self._takes_number else found()
        if not isinstance(found, Iterable):
            raise ArgumentTypeError(
                f"{self._name}: expected a generator function; the function returned {checks.came(found)}"
            )
        return islice(enumerate(found), skipped, None)


class Dataset:
    """The elements of an object with __len__ and __getitem__, in an order that depends on seed and pass alone."""

    once_only, buffer = False, BLOCK

    def __init__(self, name: str, data: Any, seed: int) -> None:
        self._data, self._seed = data, seed
        self.count: int | None = len(data)
        self._size = len(data)
        self.identity = f"{self.count} items of {type(data).__qualname__}"

    def start(self, number: int, skipped: int) -> Iterator[tuple[int, Any]]:
        order = random.permutation(self._seed, 2 * number, self._size)[skipped:]
        return ((row, self._data[row]) for row in order.tolist())


Draft = Batch | tuple[list[int], list[Any]]
"""A batch, or the numbers and the items of one that is not made yet."""


class Streamed:
    """A source of elements that come one after the other."""

    def __init__(self, reader: ItemReader, rules: Callable[..., Rules], elements: Elements, plan: Batching) -> None:
        self._reader, self._elements, self._plan = reader, elements, plan
        self._running: Iterator[list[Draft]] | None = None
        self._new_rules = rules
        self.identity = elements.identity
        number, element = self._peek()
        self._several = isinstance(element, Batch) or reader.is_batch(element)
        if isinstance(element, Batch):
            self._samples: list[Any] = []
            self.weighted = bool(element.weights)
        else:
            self._samples = reader.split(number, element) if self._several else [element]
            self.weighted = reader.weighted(number, self._samples[0])
        self.updates = plan.updates
        if self.updates is None and elements.count is not None:
            self.updates = -(-elements.count // (plan.parts if self._several else plan.rows))

    def _peek(self) -> tuple[int, Any]:
        """The first element, which is kept for the first pass."""
        elements = self._elements.start(0, 0)
        for first in elements:
            self._first: Iterator[tuple[int, Any]] | None = chain((first,), elements)
            return first
        raise ArgumentError(f"{self._reader.name}: expected at least one item, got none")

    def check(self, epochs: int) -> None:
        """Raises ArgumentError for an iterator that would be over after the first of several epochs."""
        if self._elements.once_only and epochs > 1 and self._plan.updates is None:
            raise ArgumentError(
                f"{self._reader.name}: an iterator can be gone through once, and there are {epochs} epochs; pass the "
                f"generator function itself{', or steps_per_epoch=' if self._reader.name == 'data' else ''}"
            )

    def samples(self) -> Iterable[Any]:
        """The items of the first element."""
        return self._samples

    def prepare(self, losses: Mapping[str, Loss]) -> None:
        """Takes the losses that have seen the samples."""
        self._reader.losses = losses
        self._rules = self._new_rules(losses, self.weighted)

    def epoch(self, number: int, done: int) -> Iterator[list[Batch]]:
        if self._plan.updates is None:
            drafts = self._pass(number, done)
        else:
            if self._running is None:
                self._running = islice(self._passes(), number * self._plan.updates + done, None)
            drafts = islice(self._running, self._plan.updates - done)
        for update in drafts:
            yield self._made(update)

    def once(self) -> Iterator[Batch]:
        for items in self._batched(self._start(0, 0), self._plan.size):
            yield from self._made([items])

    def _made(self, update: list[Draft]) -> list[Batch]:
        """This rank's parts of batches, without those that have no rows."""
        made: list[Batch] = []
        first = 0
        for draft in update:
            if isinstance(draft, Batch):
                draft = self._rules.batch(self._reader.name, draft)
            size = draft.sizes[1] if isinstance(draft, Batch) else len(draft[0])
            share = self._plan.ranks.share(size)
            if share.start < share.stop:
                made.append(self._part(draft, share)._replace(row=first + share.start))
            first += size
        return made

    def _part(self, draft: Draft, share: slice) -> Batch:
        """Some rows of a batch. Only their items are checked, and encoded."""
        if isinstance(draft, Batch):
            return self._rules.part(draft, share)
        return self._reader.columns(draft[1][share], draft[0][share]).whole()

    # ---- the batches of a pass, before they are made

    def _passes(self) -> Iterator[list[Draft]]:
        """Pass after pass, without an end unless the stream has one."""
        for number in count():
            yield from self._pass(number, 0)
            if self._elements.once_only:
                return

    def _start(self, number: int, skipped: int) -> Iterator[tuple[int, Any]]:
        """The elements of a pass, without the first ones. Raises ArgumentError if there is none."""
        if number == 0 and self._first is not None:
            first, self._first = self._first, None
            return islice(first, skipped, None)
        elements = self._elements.start(number, skipped)
        if skipped or self._elements.once_only:
            return elements
        for element in elements:
            return chain((element,), elements)
        raise ArgumentError(
            f"{self._reader.name}: it gave no item when it was started again; pass a function that makes a generator"
        )

    def _pass(self, number: int, done: int) -> Iterator[list[Draft]]:
        """The updates of a pass, without the first ones."""
        plan, buffer = self._plan, self._buffer
        if not buffer:
            drafts = self._batched(self._start(number, 0), plan.size)
            return islice(_grouped(drafts, plan.parts), done, None)
        per_block = buffer // plan.rows
        blocks, rest = divmod(done, per_block)
        return islice(self._shuffled(number, blocks), rest, None)

    @property
    def _buffer(self) -> int:
        """The number of items that are read together, those of whole updates; 0: none are."""
        return -(-self._plan.buffer // self._plan.rows) * self._plan.rows or self._elements.buffer * self._plan.rows

    def _shuffled(self, number: int, blocks: int) -> Iterator[list[Draft]]:
        """The updates of blocks of items, of similar length and in random order within a block."""
        plan = self._plan
        if self._several:
            raise ArgumentError(f"shuffle_buffer: {self._reader.name} comes in batches, not in single items")
        items = self._start(number, blocks * self._buffer)
        while block := list(islice(items, self._buffer)):
            lengths = np.array([self._reader.steps(n, item) for n, item in block], np.int64)
            seed = plan.seed ^ (blocks * SPREAD) % 2**64
            order = batches(lengths, plan.size, seed, number)
            yield from _grouped((_draft([block[i] for i in rows]) for rows in order), plan.parts)
            blocks += 1

    def _batched(self, elements: Iterator[tuple[int, Any]], size: int) -> Iterator[Draft]:
        """Batches of consecutive items, or, if each element is several items, of one element."""
        number = 0
        while chunk := list(islice(elements, 1 if self._several else size)):
            if not self._several:
                yield _draft(chunk)
                continue
            ((_, element),) = chunk
            if isinstance(element, Batch):
                number += element.sizes[1]
                yield element
            else:
                items = self._reader.split(number, element)
                yield list(range(number, number + len(items))), items
                number += len(items)


def _draft(items: Sequence[tuple[int, Any]]) -> Draft:
    numbers, given = zip(*items, strict=True)
    return list(numbers), list(given)


def _grouped(drafts: Iterable[Draft], parts: int) -> Iterator[list[Draft]]:
    """The batches of each update."""
    drafts = iter(drafts)
    while group := list(islice(drafts, parts)):
        yield group


def _length(data: object) -> int | None:
    try:
        return len(data)  # type: ignore[arg-type]
    except TypeError:  # it has none, or it is that of an endless DataLoader
        return None


def _takes_one(name: str, function: Callable[..., Any]) -> bool:
    """Whether a function takes one argument, the number of the pass. Raises ArgumentTypeError if it needs more."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return False
    needed = [p for p in signature.parameters.values() if p.default is p.empty and p.kind not in (2, 4)]
    if len(needed) > 1:
        raise ArgumentTypeError(
            f"{name}: expected a function of no argument or one, the number of the epoch; got {signature}"
        )
    return bool(needed)
