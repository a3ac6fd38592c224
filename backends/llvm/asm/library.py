"""The only access to LLVM: by one thread at a time, without interruption, and never across a fork.

LLVM's state belongs to the process. llvmlite keeps it in objects that free it twice if a signal handler raises at the
wrong moment. So all code that uses llvmlite goes through `use`:

- It holds a lock that a fork waits for (`rnnc.backends.locks`).
- Python runs signal handlers on the main thread. There, `use` starts a thread for the work (about 50 us), which ends
  with it. An interrupt ends only the wait: the work is still completed.
- llvmlite's objects are freed in the work that made them, except for the engines that hold machine code (`Engine`).

llvmlite is imported by work that needs it. A process that takes all its code from the disk cache never does.
"""

from __future__ import annotations

import _thread
import atexit
import itertools
import os
import sys
import threading
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from rnnc.backends.locks import new_lock

if TYPE_CHECKING:
    import llvmlite.binding as llvm

T = TypeVar("T")

_lock = new_lock()
_engines: dict[int, llvm.ExecutionEngine] = {}
_numbers = itertools.count()
_unused: deque[int] = deque()
_awaited: list[_Errand[Any]] = []
"""The work that the main thread waits for. There is more than one if a signal handler compiles."""


def binding() -> ModuleType:
    """llvmlite's functions, with LLVM's code generator for this machine. Only work within `use` calls it."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    llvm.initialize_native_asmparser()
    return cast("ModuleType", llvm)


def use(work: Callable[[], T]) -> T:
    """The result of work that uses llvmlite, or its exception."""
    errand = _Errand(work)
    if threading.get_ident() != threading.main_thread().ident or not _started(errand):
        errand()
        return errand.result()
    _awaited.append(errand)
    try:
        return errand.result()
    finally:
        _awaited.remove(errand)


def _started(work: Callable[[], object]) -> bool:
    """Starts a thread for the work. Returns False if there can be none, as at exit or at the system's limit."""
    try:
        _thread.start_new_thread(work, ())
    except RuntimeError:
        return False
    return True


class _Errand(Generic[T]):
    """Work for another thread, whose result can be waited for."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work: Callable[[], T] | None = work
        self._results: list[T] = []
        self._errors: list[BaseException] = []
        self._orphaned = False
        self._bell = _thread.allocate_lock()
        self._bell.acquire()

    def __call__(self) -> None:
        with _lock:
            if self._work is None:
                return
            _drop_engines()
            try:
                self._results.append(self._work())
            except BaseException as error:
                traceback.clear_frames(error.__traceback__)  # frames that hold objects of llvmlite
                self._errors.append(error)
            self._work = None
            self._bell.release()

    def result(self) -> T:
        """Waits for the result. An interrupt ends the wait: work that has not begun is dropped, other work goes on."""
        try:
            while not self._results and not self._errors:
                self._bell.acquire()
                if self._orphaned:
                    self._orphaned = False
                    self()
        except BaseException:
            self._work = None
            raise
        if self._errors:
            raise self._errors.pop()
        return self._results[0]

    def orphan(self) -> None:
        """Called in the child of a fork that a signal handler made during the wait: the working thread is gone."""
        self._orphaned = True
        self._bell.release()


class Engine:
    """Machine code in memory, for as long as this object lives. It must be made within `use`."""

    def __init__(self, engine: llvm.ExecutionEngine, addresses: Mapping[str, int]) -> None:
        self.addresses = addresses
        number = next(_numbers)
        _engines[number] = engine
        weakref.finalize(self, _forget, number).atexit = False


def _forget(number: int) -> None:
    """Marks an engine as unused. Garbage collection calls this on any thread, at any moment."""
    _unused.append(number)
    if len(_unused) == 1 and not sys.is_finalizing():
        _started(_tidy)  # if no thread can be started, the next `use` tidies up


def _tidy() -> None:
    with _lock:
        _drop_engines()


def _drop_engines() -> None:
    while _unused:
        _engines.pop(_unused.popleft()).close()


@atexit.register
def _settle() -> None:
    """At exit, waits for work that nobody waits for any more, because LLVM ends with the process."""
    try:
        with _lock:
            pass
    finally:
        with _lock:
            pass


def _after_fork() -> None:
    for errand in _awaited:
        errand.orphan()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
