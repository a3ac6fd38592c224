"""Locks that are safe across a fork.

The child of a fork has one thread, the one that forked. A lock that another thread held at that moment would stay held
in the child for ever, with its work half done. So a fork first takes all of these locks, and releases them afterwards
in both processes.
"""

from __future__ import annotations

import itertools
import os
import weakref
from _thread import RLock  # the class behind RLock(); stored code needs no more of that module

_numbers = itertools.count()
_locks: weakref.WeakValueDictionary[int, RLock] = weakref.WeakValueDictionary()
_forking = RLock()
_taken: list[RLock] = []


def new_lock() -> RLock:
    """A new re-entrant lock. Hold it by `with`, so that a signal handler that raises cannot leave it held.

    It must be re-entrant because a signal handler, or a finalizer run by garbage collection, may take it on the thread
    that already holds it. Work that must not be entered twice by one thread needs a flag of its own.
    """
    lock = RLock()
    _locks[next(_numbers)] = lock
    return lock


def _take_all() -> None:
    """Takes all locks. It holds no other lock while it waits for one, so it cannot deadlock with any other order."""
    _forking.acquire()
    busy: RLock | None = None
    while True:
        if busy is not None:
            busy.acquire()
            _taken.append(busy)
        busy = _take_free()
        if busy is None:
            return
        _release()


def _take_free() -> RLock | None:
    """Takes locks until one is held by another thread, and returns that one; None if all are taken."""
    for lock in filter(None, (reference() for reference in _locks.valuerefs())):
        if not lock.acquire(blocking=False):
            return lock
        _taken.append(lock)
    return None


def _release() -> None:
    while _taken:
        _taken.pop().release()


def _release_all() -> None:
    _release()
    _forking.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_take_all, after_in_parent=_release_all, after_in_child=_release_all)
