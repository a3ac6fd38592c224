"""Helping threads: they wait for tasks, take them in turn, and end with the process.

A task is offered, not handed over, because there may be no thread to take it. The threads share a queue and a list with
the rest of the process. Both are implemented in C and have no lock of ours, so neither a signal handler that raises nor
garbage collection can leave them half changed. The threads are daemons, so calls also work at exit, and from a thread
that outlives the main one. After a fork, the child starts its own threads.
"""

from __future__ import annotations

import _thread
import os
import queue
import warnings
from collections.abc import Callable, Sequence

from rnnc.ir.errors import RnncWarning

MOST_WORKERS = 256

Task = Callable[[], object]


class _Pool:
    """Threads, and a queue of tasks."""

    def __init__(self) -> None:
        self._tasks: queue.SimpleQueue[Task] = queue.SimpleQueue()
        self._idle: list[None] = []  # an item per waiting thread
        self._started: list[None] = []

    def offer(self, tasks: Sequence[Task]) -> None:
        """Offers tasks to the threads. Starts threads if too few are waiting."""
        missing = len(tasks) + self._tasks.qsize() - len(self._idle)
        for _ in range(min(missing, MOST_WORKERS - len(self._started))):
            if not self._start():
                break
        for task in tasks if self._started else ():
            self._tasks.put(task)

    def _start(self) -> bool:
        try:
            _thread.start_new_thread(self._serve, ())
        except RuntimeError as error:  # the process has all the threads it may have, or the interpreter is exiting
            _warn(len(self._started), error)
            return False
        self._started.append(None)
        return True

    def _serve(self) -> None:
        while True:
            self._idle.append(None)
            task = self._tasks.get()
            self._idle.pop()
            task()
            del task  # because it keeps arrays alive


_pool = _Pool()
_warned: list[None] = []


def offer(tasks: Sequence[Task]) -> None:
    """Offers tasks that may run at once to threads. They are not run if no thread can be started."""
    _pool.offer(tasks)


def _warn(count: int, error: RuntimeError) -> None:
    if not _warned:
        _warned.append(None)
        warnings.warn(
            f"{error}: calls run on {count + 1} thread{'s' * (count > 0)}, and take longer",
            RnncWarning,
            stacklevel=2,
        )


def _after_fork() -> None:
    global _pool
    _pool = _Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
