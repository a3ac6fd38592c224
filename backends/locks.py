"""Locks that a fork waits for.

The child of a fork has one thread, the one that forked. A lock that another thread held at that moment would stay held
in the child for ever, and what it guards would be half done. So a fork takes all of these locks before it happens, and
releases them in both processes afterwards.
"""

from __future__ import annotations

import itertools
import os
import threading
import weakref

_numbers = itertools.count()
_locks: weakref.WeakValueDictionary[int, threading.RLock] = weakref.WeakValueDictionary()
_forking = threading.RLock()
_taken: list[threading.RLock] = []


def new_lock() -> threading.RLock:
    """A lock, to be held by `with`: a signal handler that raises cannot leave it held.

    It is re-entrant: a signal handler, or a finalizer that garbage collection runs, may meet it on the thread that has
    it. What must not be done twice at a time needs a flag besides.
    """
    lock = threading.RLock()
    _locks[next(_numbers)] = lock
    return lock


def _take_all() -> None:
    """Waits for one lock at a time while it holds no other: the order in which threads take locks does not matter."""
    _forking.acquire()
    busy: threading.RLock | None = None
    while True:
        if busy is not None:
            busy.acquire()
            _taken.append(busy)
        busy = _take_free()
        if busy is None:
            return
        _release()


def _take_free() -> threading.RLock | None:
    """Takes locks up to the first that another thread has, which it returns."""
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
