"""Crews: threads that run a list of generated functions together, stage by stage, in one call each.

    for each stage:
        call each of my functions of it
        wait until all members have come this far

Every member has a script: what it calls in each stage. A function takes one pointer and returns 0, or else an error
that ends the work of all. Members meet in machine code, which costs a microsecond where a return to Python and a new
call of every thread cost thirty. Whoever waits asks for a tenth of a millisecond, then sleeps between questions: on a
machine that is busy, the processor is of more use to others.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial

import llvmlite.binding as llvm
import numpy as np

from rnnc.backends.llvm.emitter import Function, Module, Val, i64
from rnnc.backends.llvm.jit import compile_assembly
from rnnc.backends.llvm.parallel import MOST_WORKERS, run_all
from rnnc.backends.llvm.parts import address
from rnnc.backends.llvm.target import Target, host
from rnnc.ir.ops import Array

Call = tuple[int, int]
"""The address of a function, and of what it is given."""
Script = Sequence[Sequence[Call]]
"""The calls of each stage; all members have equally many stages."""

PATIENCE = 4000
"""Questions in a row, of some 25 nanoseconds each."""
SLEEP = 30
"""Microseconds between later ones."""
GIVEN_UP = 2**31 - 1
LINE = 8
"""64-bit words of a cache line: what members write lies apart."""


@cache
def crew(target: Target | None = None) -> Crew:
    """The one crew of a target: its machine code does not depend on what is called."""
    return Crew(target or host())


class Crew:
    """The machine code of a member."""

    def __init__(self, target: Target) -> None:
        module = Module()
        module.add(_emit())
        self._code = compile_assembly(module.text(), target)
        prototype = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p)  # releases the interpreter lock
        self._function = prototype(self._code.address("rnnc_crew"))

    def written(self, scripts: Sequence[Script]) -> list[Array]:
        """Scripts as numbers, to be run any number of times: where members meet, then one script each."""
        shared = np.zeros(2 * LINE, np.int64)
        return [shared, *(_written(script, address(shared), len(scripts)) for script in scripts)]

    def run(self, written: Sequence[Array]) -> int:
        """Runs each script on a thread, the first on the calling one; returns 0, or the error of a function.

        At most MOST_WORKERS threads are members of crews, in the whole process; more wait. A script is not to be run
        twice at the same time.
        """
        shared, *scripts = written
        shared[:] = 0
        jobs = [partial(self._function, address(script)) for script in scripts]
        if len(jobs) == 1:
            return int(jobs[0]())
        with _enlisted(len(jobs) - 1):
            run_all(jobs, give_up=lambda: shared.__setitem__(LINE, GIVEN_UP))
        return int(shared[LINE])


def _written(script: Script, shared: int, members: int) -> Array:
    """The address where members meet, how many they are, how many stages; of each stage how many calls, and those."""
    numbers = [shared, members, len(script)]
    for stage in script:
        numbers.append(len(stage))
        for call in stage:
            numbers += call
    return np.array(numbers, np.int64)


_places = threading.Semaphore(MOST_WORKERS)
_door = threading.Lock()


@contextmanager
def _enlisted(count: int) -> Iterator[None]:
    """Room for `count` threads that wait for each other: if they could not all run, none would ever end."""
    with _door:  # one crew at a time takes its places, or two might each take half of theirs
        for _ in range(count):
            _places.acquire()
    try:
        yield
    finally:
        _places.release(count)


def _after_fork() -> None:
    global _places, _door
    _places, _door = threading.Semaphore(MOST_WORKERS), threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _emit() -> Function:
    """i32 rnnc_crew(ptr script)."""
    f = Function("rnnc_crew", [Val("ptr", "%script")], result="i32")
    (script,) = f.parameters
    shared = f.load("ptr", script, 8)
    error = f.element(shared, LINE, "i64")
    members, stages = (f.load("i64", f.element(script, n, "i64"), 8) for n in (1, 2))
    with f.loop(0, stages, carried=(i64(3),)) as stage:
        (place,) = stage.values
        calls = f.load("i64", f.element(script, place, "i64"), 8)
        first = f.element(script, f.add(place, 1), "i64")
        with f.loop(0, calls) as call, f.when(_is_well(f, error)):
            entry = f.element(first, f.mul(call.index, 2), "i64")
            function, given = (f.load("ptr", f.element(entry, n, "i64"), 8) for n in range(2))
            result = f.value("i32", f"call i32 {function.name}({given})")
            with f.when(f.value("i1", f"icmp ne {result}, 0")):
                _atomic_store(f, f.value("i64", f"zext {result} to i64"), error)
        f.value("i64", f"atomicrmw add {shared}, i64 1 acq_rel")
        target = f.mul(members, f.add(stage.index, 1))
        f.until(lambda target=target: _may_go(f, shared, error, target), lambda turn: _pause(f, turn))  # type: ignore[misc]
        stage.next([f.add(f.add(place, 1), f.mul(calls, 2))])
    f.ret(f.value("i32", f"trunc {_atomic_load(f, error)} to i32"))
    return f


def _atomic_load(f: Function, pointer: Val) -> Val:
    return f.value("i64", f"load atomic i64, {pointer} acquire, align 8")


def _atomic_store(f: Function, value: Val, pointer: Val) -> None:
    f.line(f"store atomic {value}, {pointer} release, align 8")


def _is_well(f: Function, error: Val) -> Val:
    return f.compare("eq", _atomic_load(f, error), 0)


def _may_go(f: Function, shared: Val, error: Val, target: Val) -> Val:
    """All members are here, or there is no point in waiting."""
    here = f.compare("uge", _atomic_load(f, shared), target)
    return f.binary("or", here, f.compare("ne", _atomic_load(f, error), 0))


def _pause(f: Function, turn: Val) -> None:
    processor = llvm.get_process_triple().split("-")[0]
    if hint := {"x86_64": "pause", "aarch64": "yield", "arm64": "yield"}.get(processor):
        f.line(f'call void asm sideeffect "{hint}", "~{{memory}}"()')
    with f.when(f.compare("ugt", turn, PATIENCE)):
        if os.name == "nt":
            f.call("i32", "SwitchToThread")
        else:
            f.call("i32", "usleep", Val("i32", str(SLEEP)))
