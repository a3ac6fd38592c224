"""Lockstep: threads that run lists of generated functions together, stage by stage, in one call each.

    for each stage:
        for each member, from my own on: unless a thread has taken its calls of this stage: take them, and do them
        wait until the calls of all members are done

Each member has a script: what is called for it in each stage. A function takes one pointer and returns 0, or an error,
after which nothing more is called. The calling thread is enough: threads that come to its help take what is not taken,
so a run depends on nobody, and several runs may share threads.

A run is one call of machine code on the calling thread: no signal handler runs between its beginning and its end, and
nothing is called outside of it. Whoever comes before it begins waits, and goes home if it does not begin; whoever comes
after its end finds everything taken. Each run has a record of its progress, which late threads keep alive.

A waiting thread spins for a tenth of a millisecond, then sleeps between polls: on a machine that is busy, the processor
is of more use to others. A return to Python and a new call of every thread would cost thirty microseconds per stage.
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
"""The address of a function, and of what it is given."""
Script = Sequence[Sequence[Call]]
"""The calls of each stage; all members have equally many stages."""


class Scripts:
    """Scripts as numbers, to be run any number of times.

    How many members and stages; for each stage and member where its calls are; those: how many, and each call.
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
    """Runs scripts on as many threads as there are members; returns 0, or the error of a function.

    Fewer threads do as well, if there are no more.
    """
    function = _function(runtime)
    progress = scripts.progress()
    if scripts.members > 1:
        offer([partial(_help, function, scripts, progress, number) for number in range(1, scripts.members)])
    return function(scripts.address, ctypes.addressof(progress), 0)


def run_all(calls: Sequence[Call], runtime: Runtime) -> int:
    """Makes some calls at once; returns 0, or the error of one of them."""
    return run_together(Scripts([[[call]] for call in calls]), runtime)


_Function = Callable[[int, int, int], int]


@cache
def _function(runtime: Runtime) -> _Function:
    prototype = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
    return prototype(runtime.address("rnnc_lockstep"))  # releases the interpreter lock


def _help(function: _Function, scripts: Scripts, progress: ctypes.Array[ctypes.c_int64], number: int) -> None:
    """What the thread of a member does."""
    function(scripts.address, ctypes.addressof(progress), number)
