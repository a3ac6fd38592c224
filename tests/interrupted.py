"""Signals at every moment: where Python may run a signal handler, one after another.

CPython runs handlers on the main thread, on entry to a function and after a call: these are the "call" and "c_return"
events of a profiler.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

EVENTS = ("call", "c_return")


class Interrupt(BaseException):
    """What the handler raises, as KeyboardInterrupt is raised."""


@contextmanager
def handler() -> Iterator[None]:
    """SIGUSR1 raises Interrupt."""

    def interrupt(*_: object) -> None:
        raise Interrupt

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


def moments(work: Callable[[], object], files: str = "/rnnc/") -> int:
    """How many moments work has, in code of files whose name contains `files`."""
    return _Profile(-1, files).run(work)


def at_moment(number: int, work: Callable[[], object], files: str = "/rnnc/") -> bool:
    """Does work, with a signal at one of its moments. Whether Interrupt came out of it."""
    try:
        _Profile(number, files).run(work)
    except Interrupt:
        return True
    return False


class _Profile:
    def __init__(self, number: int, files: str) -> None:
        self.number, self.files, self.count = number, files, 0

    def run(self, work: Callable[[], object]) -> int:
        sys.setprofile(self)
        try:
            work()
        finally:
            sys.setprofile(None)
        return self.count

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        if event in EVENTS and self.files in frame.f_code.co_filename:
            self.count += 1
            if self.count - 1 == self.number:
                signal.raise_signal(signal.SIGUSR1)
