"""Lockstep: threads that run lists of generated functions together, stage by stage, in one call per thread.

    for each stage:
        for each member, from my own on: unless a thread has taken its calls of this stage: take them, and do them
        wait until the calls of all members are done

Each member has a script: the calls to make for it in each stage. A function takes one pointer, and returns 0 or an
error, after which nothing more is called. The calling thread alone is enough. Helping threads take calls that are not
taken yet, so a run depends on none of them, and several runs may share threads.

A run is one call of machine code on the calling thread. So no signal handler runs between its beginning and its end,
and no function of it is called at any other time. A thread that comes before the run begins waits, and leaves if it
does not begin. A thread that comes after its end finds all calls taken. Each run has a record of its progress, which
late threads keep alive.

A waiting thread spins for 0.1 ms, then sleeps between polls, because on a busy machine others can use the processor.
Returning to Python and calling every thread anew would cost 30 us per stage.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import cache, partial

import numpy as np

from rnnc.backends.llvm.asm.records import address
from rnnc.backends.llvm.calls.threads import offer
from rnnc.backends.llvm.kernels.lockstep_loop import TAKEN
from rnnc.backends.llvm.runtime import Runtime

Call = tuple[int, int]
"""The address of a function, and the address of its argument."""
Script = Sequence[Sequence[Call]]
"""The calls of each stage. All members have the same number of stages."""


class Scripts:
    """Scripts in the form that machine code reads. They may be run any number of times.

    The numbers of members and stages; for each stage and member, the place of its calls; there, their number and the
    calls.
    """

    def __init__(self, scripts: Sequence[Script]) -> None:
        self.members, stages = len(scripts), len(scripts[0])
        places, lists = list[int](), list[int]()
        for stage in range(stages):
            for script in scripts:
                places.append(2 + stages * self.members + len(lists))
                lists += [len(script[stage]), *(number for call in script[stage] for number in call)]
        self._numbers = np.array([self.members, stages, *places, *lists], np.int64)
        self.address = address(self._numbers)
        self.progress = ctypes.c_int64 * (TAKEN + stages * self.members)


def run_together(scripts: Scripts, runtime: Runtime) -> int:
    """Runs scripts on as many threads as there are members, or fewer. Returns 0, or the error of a function."""
    function = _function(runtime)
    progress = scripts.progress()
    if scripts.members > 1:
        offer([partial(_help, function, scripts, progress, number) for number in range(1, scripts.members)])
    return function(scripts.address, ctypes.addressof(progress), 0)


def run_all(calls: Sequence[Call], runtime: Runtime) -> int:
    """Makes calls side by side on several threads. Returns 0, or the error of one of them."""
    return run_together(Scripts([[[call]] for call in calls]), runtime)


_Function = Callable[[int, int, int], int]


@cache
def _function(runtime: Runtime) -> _Function:
    prototype = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
    return prototype(runtime.address("rnnc_lockstep"))  # releases the interpreter lock


def _help(function: _Function, scripts: Scripts, progress: ctypes.Array[ctypes.c_int64], number: int) -> None:
    """The work of a member's thread."""
    function(scripts.address, ctypes.addressof(progress), number)
