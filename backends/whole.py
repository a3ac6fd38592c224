"""Work that no signal handler interrupts: it is done completely, or not begun.

Python runs signal handlers on the main thread between two instructions. A handler that raises (Ctrl-C) leaves the work
that it interrupted half done. Machine code is not interrupted; `whole` is for work that consists of several calls.
"""

from __future__ import annotations

# The module below `signal`, which makes an enum of every number. For all signals, that takes 100 us instead of 6.
import _signal  # type: ignore[import-not-found]
import signal
import threading
from collections.abc import Callable
from types import FrameType

_SIGNALS = tuple(map(int, signal.valid_signals()))


def whole(work: Callable[[], object]) -> None:
    """Does the work. Signals that arrive meanwhile are handled after it."""
    if threading.get_ident() != threading.main_thread().ident:  # handlers run on the main thread alone
        work()
        return
    handlers = [(number, _signal.getsignal(number)) for number in _SIGNALS]
    waiting = [_Waiting(number, handler) for number, handler in handlers if callable(handler)]
    try:
        for one in waiting:
            signal.signal(one.number, one)
        for one in waiting:
            one.waits = True
        work()
    finally:
        _restore(waiting)
        for number in [one.number for one in waiting if one.came]:
            signal.raise_signal(number)


def _restore(waiting: list[_Waiting]) -> None:
    """Restores the handlers, also if one of them raises meanwhile because its signal arrives now."""
    for one in waiting:
        one.waits = False
    try:
        for one in waiting:
            signal.signal(one.number, one.handler)
    except BaseException:
        for one in waiting:
            signal.signal(one.number, one.handler)
        raise


class _Waiting:
    """A handler that records its signal while `waits` is set, and otherwise passes it on."""

    def __init__(self, number: int, handler: Callable[[int, FrameType | None], object]) -> None:
        self.number, self.handler = number, handler
        self.waits = self.came = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.waits:
            self.came = True
        else:
            self.handler(number, frame)
