"""Counters: the memory that profiled code counts in, and what it says (`rnnc.backends.llvm.kernels.stopwatch`)."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rnnc.backends.base import SectionTime, TimedRun
from rnnc.backends.llvm.asm.records import address
from rnnc.backends.llvm.kernels.stopwatch import BLOCK, COUNTS, LOG

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from rnnc.backends.llvm.kernels.stopwatch import TimedSection
    from rnnc.backends.llvm.runtime import Runtime

LOG_SIZE = 20_000
"""The runs of sections that are kept one by one."""


class Counts(NamedTuple):
    """What was counted since a clearing. ticks are in the unit of `Counters.now`."""

    sections: tuple[SectionTime, ...]
    log: tuple[TimedRun, ...]


class Counters:
    """The counters of one code. All its calls add to them."""

    def __init__(self, sections: Sequence[TimedSection], runtime: Runtime) -> None:
        self._sections = tuple(sections)
        counts = len(BLOCK) + len(COUNTS) * len(self._sections)
        self._memory: NDArray[np.int64] = np.zeros(counts + len(LOG) * LOG_SIZE, np.int64)
        self._memory[:2] = len(self._sections), LOG_SIZE
        self._counts = self._memory[len(BLOCK) : counts].reshape(-1, len(COUNTS))
        self._log = self._memory[counts:].reshape(-1, len(LOG))
        self._ticks = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(runtime.address("rnnc_ticks"))

    @property
    def address(self) -> int:
        """Where generated code counts."""
        return address(self._memory)

    def now(self) -> int:
        """The time, in ticks."""
        return int(self._ticks(0))

    def clear(self) -> None:
        """Sets all counts to zero, and empties the log."""
        self._counts[...] = 0
        self._memory[2] = 0

    def read(self) -> Counts:
        """What was counted since the last clearing."""
        sections = tuple(
            SectionTime(s.name, s.kind, s.site, ticks, runs, rows, s.flops * rows, s.weight_bytes)
            for s, (ticks, runs, rows) in zip(self._sections, self._counts.tolist(), strict=True)
        )
        logged = self._log[: min(int(self._memory[2]), LOG_SIZE)].tolist()
        names = [section.name for section in self._sections]
        return Counts(sections, tuple(TimedRun(names[n], begin, end, thread) for n, begin, end, thread in logged))
