"""What the ranks of a training do together: sums, exchanges, and agreement on errors.

All ranks make the same exchanges in the same order, and what they decide by is a sum over all of them: the same bits. A
rank that fails while it makes a batch, a validation or a callback tells the others in the next exchange. A rank that
has died lets the exchange fail. So none waits for another that will not come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from rnnc.backends.training.protocol import Gradients
from rnnc.backends.training.sparse import SparseRows, grouped
from rnnc.ir.errors import RankError
from rnnc.train.groups import Alone

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from rnnc.train.batch import Batch
    from rnnc.train.groups import Group

    Array = NDArray[Any]

T = TypeVar("T")


class Ranks:
    """The ranks of a training, of which this process is one. One rank alone exchanges nothing."""

    def __init__(self, group: Group) -> None:
        self._group = group
        self.rank, self.size = int(group.rank()), int(group.size())

    @property
    def several(self) -> bool:
        """Whether there is another rank."""
        return self.size > 1

    def share(self, count: int) -> slice:
        """Which of the `count` rows of a batch are this rank's."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    # ---- exchanges

    def sum_in_place(self, array: Array) -> None:
        """Replaces an array (N,) by its sum over all ranks. Raises RankError if one of them has ended."""
        if not self.several:
            return
        try:
            self._group.sum(array)
        except Exception as error:
            raise RankError(
                f"distributed: rank {self.rank} of {self.size} has lost another rank, which has ended or cannot be "
                f"reached; what it says itself tells why. A training goes on from its checkpoint. ({error})"
            ) from error

    def sum(self, numbers: Sequence[float]) -> list[float]:
        """The sums of some numbers over all ranks."""
        found = np.array(numbers, np.float64)
        self.sum_in_place(found)
        return [float(number) for number in found]

    def any(self, holds: bool) -> bool:
        """Whether something holds on any rank."""
        return self.sum([holds])[0] > 0

    def gather(self, *arrays: Array) -> list[Array]:
        """Each array with those of the same place of all ranks behind each other, in the order of ranks.

        arrays: of as many rows each on one rank, and of the same dtypes and widths on all.
        """
        if not self.several:
            return list(arrays)
        sizes = np.zeros(self.size, np.int64)
        sizes[self.rank] = len(arrays[0])
        self.sum_in_place(sizes)
        stops = np.cumsum(sizes)
        own = slice(int(stops[self.rank] - sizes[self.rank]), int(stops[self.rank]))
        found = []
        for array in arrays:
            joined = np.zeros((int(stops[-1]), *array.shape[1:]), array.dtype)
            joined[own] = array
            self.sum_in_place(joined.reshape(-1))
            found.append(joined)
        return found

    def first(self, data: bytes) -> bytes:
        """What rank 0 gave."""
        own = data if self.rank == 0 else b""
        return bytes(self.gather(np.frombuffer(own, np.uint8))[0].tobytes())

    def summed(self, losses: Sequence[float], dense: Array, rows: Mapping[str, SparseRows]) -> Gradients:
        """Losses and gradients, summed over all ranks."""
        every = np.append(dense, np.array(losses, dense.dtype))
        self.sum_in_place(every)
        sums = tuple(every[len(dense) :].tolist())
        return Gradients(sums, every[: len(dense)], {table: self._rows(some) for table, some in rows.items()})

    def _rows(self, own: SparseRows) -> SparseRows:
        """Rows that any rank has, with the sums of their gradients."""
        numbers, values = self.gather(own.rows.astype(np.int64), own.values)
        groups = grouped(numbers)
        if not len(groups.rows):
            return SparseRows(groups.rows, values)
        return SparseRows(groups.rows, np.add.reduceat(values[groups.order], groups.starts[:-1], axis=0))

    # ---- agreement

    def together(self, make: Callable[[], tuple[T, Sequence[float]]], count: int = 0) -> tuple[T, list[float]]:
        """The first of what a function returns, and the sums over all ranks of the second, `count` numbers.

        An error of the function on one rank is raised there, and a RankError that tells it on the others.
        """
        try:
            made, numbers = make()
        except RankError:
            raise
        except Exception as error:
            if self.several:
                self._tell(f"rank {self.rank}, {type(error).__name__}: {error}", count)
            raise
        failed, *sums = self.sum([0.0, *numbers])
        if failed:
            raise RankError(f"distributed: another rank has raised an error: {self._told('')}")
        return made, sums

    def _tell(self, text: str, count: int) -> None:
        """Takes the part of a rank that has failed in `together`."""
        self.sum([1.0, *[0.0] * count])
        self._told(text)

    def _told(self, text: str) -> str:
        """The texts of all ranks."""
        return self.gather(np.frombuffer(text.encode(), np.uint8))[0].tobytes().decode()

    def alike(self, what: str, text: str) -> None:
        """Raises RankError on all ranks unless all gave the same text. what: it is about, in the plural."""
        if self.any(text.encode() != self.first(text.encode())):
            raise RankError(f"distributed: the ranks were given different {what}: expected the same on all")

    def groups(
        self, groups: Iterator[list[Batch]], outputs: Sequence[str]
    ) -> Iterator[tuple[list[Batch], dict[str, float]]]:
        """This rank's batches of each update, and by output the terms of all ranks together.

        Raises RankError if the data of one rank is over before that of another.
        """

        def take() -> tuple[list[Batch] | None, list[float]]:
            group = next(groups, None)
            terms = [sum(part.terms[output] for part in group or ()) for output in outputs]
            return group, [float(group is None), *terms]

        while True:
            group, (ended, *terms) = self.together(take, 1 + len(outputs))
            if group is None and ended == self.size:
                return
            if group is None or ended:
                raise RankError(
                    f"distributed: the data of {ended:.0f} of {self.size} ranks is over before that of the others; "
                    "expected the same elements in the same order on all ranks: each takes its rows of each batch"
                )
            yield group, dict(zip(outputs, terms, strict=True))


ALONE = Ranks(Alone())
