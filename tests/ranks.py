"""Ranks of a training as threads of one process, for tests."""

from __future__ import annotations

from collections.abc import Callable
from threading import Condition, Thread
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

SECONDS = 60.0
"""The longest wait for another rank, which only a failing test needs."""


class Meeting:
    """What ranks have given so far. given: by rank, an array per sum. ended: ranks that give nothing more."""

    def __init__(self, size: int) -> None:
        self.given: list[list[Array]] = [[] for _ in range(size)]
        self.ended: set[int] = set()
        self.changed = Condition()

    def end(self, rank: int) -> None:
        """Lets the sums of others fail that wait for this rank."""
        with self.changed:
            self.ended.add(rank)
            self.changed.notify_all()


class ThreadGroup:
    """A `rnnc.train.Group` whose ranks are threads."""

    def __init__(self, rank: int, meeting: Meeting) -> None:
        self._rank, self.meeting = rank, meeting

    def rank(self) -> int:
        return self._rank

    def size(self) -> int:
        return len(self.meeting.given)

    def sum(self, array: Array) -> None:
        assert array.flags.c_contiguous and array.ndim == 1
        given, changed = self.meeting.given, self.meeting.changed
        with changed:
            number = len(given[self._rank])
            given[self._rank].append(array.copy())
            changed.notify_all()
            while missing := {rank for rank, arrays in enumerate(given) if len(arrays) <= number}:
                if missing & self.meeting.ended or not changed.wait(SECONDS):
                    raise ConnectionError("closed by peer")
        terms = [arrays[number] for arrays in given]
        assert {(term.shape, term.dtype) for term in terms} == {(array.shape, array.dtype)}
        array[...] = np.sum(terms, axis=0, dtype=array.dtype)


def on_ranks(size: int, work: Callable[[ThreadGroup], Any]) -> list[Any]:
    """What `work` returns on each rank, or the exception that it raises there."""
    meeting = Meeting(size)
    results: list[Any] = [None] * size

    def run(rank: int) -> None:
        try:
            results[rank] = work(ThreadGroup(rank, meeting))
        except BaseException as error:  # also one that `fit` does not tell the others
            results[rank] = error
        finally:
            meeting.end(rank)

    threads = [Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
