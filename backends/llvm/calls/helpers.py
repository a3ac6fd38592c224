"""The helping threads that wait in machine code (`rnnc.backends.llvm.kernels.crew`), and the teams of codes.

Threads are started once, by the first code that may use them, and serve all codes. They are daemons of Python that
never come back to it, so they never need the interpreter lock. After a fork, the child starts its own.
"""

from __future__ import annotations

import _thread
import ctypes
import os
import sys
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rnnc.backends.llvm.asm.image import can_map
from rnnc.backends.llvm.asm.records import Struct, address
from rnnc.backends.llvm.kernels.crew import ABSENT, CREW, MOST_HELPERS, PERIOD, SLOT, SLOT_BYTES, TEAM

if TYPE_CHECKING:
    from rnnc.backends.llvm.asm.builder import Module
    from rnnc.backends.llvm.code import LlvmCode
    from rnnc.backends.llvm.runtime import Runtime


class Team(NamedTuple):
    """How several threads run one code. record: of `kernels.crew.TEAM`. run: (context, record) -> 0 or an error.

    least_rows, most_batch: see `rnnc.backends.llvm.teams`. owned: what the record leads to.
    """

    record: Struct
    run: Callable[[int, int], int]
    least_rows: int
    most_batch: int
    owned: tuple[object, ...]

    def takes(self, steps: int, batch: int) -> bool:
        """True if a call is one for a team."""
        return batch <= self.most_batch and steps * batch >= self.least_rows


def team_of(code: LlvmCode) -> Team | None:
    """The team of a code; None if it does not pay, or on a system on which it has not been tried."""
    work, members = code.manifest.team, min(code.threads, MOST_HELPERS + 1)
    if work is None or not sys.platform.startswith("linux") or not can_map():
        return None
    most, least = work.most_batch(members), work.least_rows(members)
    if not most:
        return None

    def emit() -> Module:
        from rnnc.backends.llvm.kernels.team_function import emit_team

        return emit_team(code.plan, code.emitted)

    linked, crew = code.linked_beside("team", emit, calls=True), _crew()
    crew.ready(members - 1, code.runtime)
    entry = code.runtime.address("rnnc_run_in_team")
    record = TEAM.new(
        call=entry,
        run=code.address("rnnc_run"),
        share=linked.address("rnnc_share"),
        crew=crew.address,
        least_rows=least,
        most_batch=most,
        members=members,
        worth_waking=work.worth_waking(members),
        period=PERIOD,
    )
    call = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p)  # releases the interpreter lock
    return Team(record, call(entry), least, most, (code.linked, linked, crew))


class _Crew:
    """The slots of all helpers, at one place for as long as the process lives, and the threads that serve them."""

    def __init__(self) -> None:
        block = np.zeros((MOST_HELPERS + 2) * SLOT_BYTES, np.uint8)
        self._first = -address(block) % SLOT_BYTES
        self._block = block
        self._record = CREW.struct.from_buffer(block.data, self._first)
        self._started: list[None] = []  # an item per thread: appending needs no lock
        self._clear()

    @property
    def address(self) -> int:
        """The address of the record `kernels.crew.CREW`."""
        return address(self._block) + self._first

    def ready(self, helpers: int, runtime: Runtime) -> None:
        """Starts threads until there are so many."""
        serve = _serve(runtime)
        while len(self._started) < min(helpers, MOST_HELPERS):
            slot = self._slot(len(self._started))
            self._started.append(None)
            self._record.slots = len(self._started)
            try:
                _thread.start_new_thread(serve, (slot,))
            except RuntimeError:  # no more threads, or the interpreter is exiting: calls run on fewer
                return

    def forget(self) -> None:
        """Makes all slots free, in a process that has none of their threads."""
        self._started.clear()
        self._record.slots = 0
        self._clear()

    def _slot(self, number: int) -> int:
        return self.address + (number + 1) * SLOT_BYTES

    def _clear(self) -> None:
        library = ctypes.CDLL(None)
        for number in range(MOST_HELPERS):
            offset = self._first + (number + 1) * SLOT_BYTES
            SLOT.struct.from_buffer(self._block.data, offset).fill({"state": ABSENT, "context": 0})
            library.sem_init(ctypes.c_void_p(self._slot(number) + SLOT_BYTES // 2), 0, 0)


@cache
def _crew() -> _Crew:
    made = _Crew()
    os.register_at_fork(after_in_child=made.forget)
    return made


@cache
def _serve(runtime: Runtime) -> Callable[[int], None]:
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(runtime.address("rnnc_serve"))
