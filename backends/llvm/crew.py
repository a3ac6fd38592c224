"""Crews: threads that run lists of generated functions together, stage by stage, in one call each.

    for each stage:
        for each member, from my own on: unless a thread has taken its calls of this stage: take them, and do them
        wait until the calls of all members are done

Each member has a script: what is called for it in each stage. A function takes one pointer and returns 0, or an error,
after which nothing more is called. The calling thread is enough: threads that come to its help take what is not taken,
so a run depends on nobody, and several crews may share threads.

A run is one call of machine code on the calling thread: no signal handler runs between its beginning and its end, and
nothing is called outside of it. Whoever comes before it begins waits, and goes home if it does not begin; whoever comes
after its end finds everything taken. Each run has a record of its own, which late threads keep alive.

A waiting thread spins for a tenth of a millisecond, then sleeps between polls: on a machine that is busy, the processor
is of more use to others. A return to Python and a new call of every thread would cost thirty microseconds per stage.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from functools import cache, partial

import numpy as np

from rnnc.backends.llvm.emitter import Function, Module, Val, i64
from rnnc.backends.llvm.jit import compile_assembly
from rnnc.backends.llvm.parallel import offer
from rnnc.backends.llvm.parts import address
from rnnc.backends.llvm.target import Target, host, processor

Call = tuple[int, int]
"""The address of a function, and of what it is given."""
Script = Sequence[Sequence[Call]]
"""The calls of each stage; all members have equally many stages."""

PATIENCE = 4000
"""Polls (about 25 ns each) before a waiting thread sleeps."""
SLEEP = 30
"""Microseconds between later polls."""
STAY = PATIENCE + 200
"""Polls (some 20 ms) before a thread goes home from a run that does not begin."""
LINE = 8
"""64-bit words of a cache line: what threads write lies apart."""
OPEN, ERROR, DONE, TAKEN = (LINE * n for n in range(4))
"""Words of a record: whether the run has begun; the error of a function; how many members' calls of a stage are done;
and from TAKEN on, for each stage and member, whether a thread has taken its calls."""


@cache
def crew(target: Target | None = None) -> Crew:
    """The one crew of a target: its machine code does not depend on what is called."""
    return Crew(target or host())


def run_all(calls: Sequence[Call]) -> int:
    """Makes some calls at once; returns 0, or the error of one of them."""
    return crew().run(Plan([[[call]] for call in calls]))


class Crew:
    """The machine code of a member."""

    def __init__(self, target: Target) -> None:
        module = Module()
        module.add(_emit())
        self._code = compile_assembly(module.text(), target)
        prototype = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
        self._function = prototype(self._code.address("rnnc_crew"))  # releases the interpreter lock

    def run(self, plan: Plan) -> int:
        """Runs the scripts of a plan on as many threads as there are members; returns 0, or the error of a function.

        Fewer threads do as well, if there are no more.
        """
        record = plan.record()
        if plan.members > 1:
            offer([partial(_help, self._function, plan, record, number) for number in range(1, plan.members)])
        return int(self._function(plan.address, ctypes.addressof(record), 0))


class Plan:
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
        self.record = ctypes.c_int64 * (TAKEN + stages * self.members)


def _help(function: Callable[[int, int, int], int], plan: Plan, record: ctypes.Array[ctypes.c_int64], n: int) -> None:
    """What the thread of member n does."""
    function(plan.address, ctypes.addressof(record), n)


def _emit() -> Function:
    """i32 rnnc_crew(ptr plan, ptr record, i64 number): what the thread of member `number` does; 0 leads."""
    f = Function("rnnc_crew", [Val("ptr", "%plan"), Val("ptr", "%record"), Val("i64", "%number")], result="i32")
    plan, record, number = f.parameters
    error, done = (f.element(record, place, "i64") for place in (ERROR, DONE))
    members, stages = (f.load("i64", f.element(plan, n, "i64"), 8) for n in range(2))
    leads = f.compare("eq", number, 0)
    _begin(f, leads, record)
    stages = f.select(f.compare("eq", _atomic_load(f, record), 1), stages, i64(0))  # none if it does not begin
    with f.loop(0, stages) as stage:
        first = f.mul(stage.index, members)
        with f.loop(0, members) as turn:
            beyond = f.add(number, turn.index)
            member = f.select(f.compare("uge", beyond, members), f.sub(beyond, members), beyond)
            place = f.add(first, member)
            with f.when(_takes(f, f.element(record, f.add(place, TAKEN), "i64"))):
                _call_all(f, plan, f.load("i64", f.element(plan, f.add(place, 2), "i64"), 8), error)
                f.value("i64", f"atomicrmw add {done}, i64 1 acq_rel")
        all_done = f.add(first, members)
        last = f.compare("eq", f.add(stage.index, 1), stages)
        leaves = f.binary("and", last, f.binary("xor", leads, Val("i1", "true")))
        wanted = f.select(leaves, i64(0), all_done)  # only the leader waits for the end of the last stage
        f.until(lambda wanted=wanted: f.compare("uge", _atomic_load(f, done), wanted), lambda poll: _pause(f, poll))  # type: ignore[misc]
        stage.next([])
    f.ret(f.value("i32", f"trunc {_atomic_load(f, error)} to i32"))
    return f


def _begin(f: Function, leads: Val, record: Val) -> None:
    """The leader opens the run; the others wait for that, for a while."""
    with f.when(leads):
        _atomic_store(f, i64(1), record)
    stays = f.alloca("i1", 1, 1)
    f.store(Val("i1", "true"), stays, 1)

    def ready() -> Val:
        return f.binary(
            "or",
            f.compare("ne", _atomic_load(f, record), 0),
            f.binary("xor", f.load("i1", stays, 1), Val("i1", "true")),
        )

    def pause(poll: Val) -> None:
        f.store(f.compare("ult", poll, STAY), stays, 1)
        _pause(f, poll)

    f.until(ready, pause)


def _takes(f: Function, flag: Val) -> Val:
    """Whether this thread is the first to set a flag. It looks first: most are set."""
    first = f.alloca("i1", 1, 1)
    f.store(Val("i1", "false"), first, 1)
    with f.when(f.compare("eq", f.value("i64", f"load atomic i64, {flag} monotonic, align 8"), 0)):
        pair = f.value("{ i64, i1 }", f"cmpxchg {flag}, i64 0, i64 1 acq_rel monotonic")
        f.store(f.value("i1", f"extractvalue {pair}, 1"), first, 1)
    return f.load("i1", first, 1)


def _call_all(f: Function, plan: Val, place: Val, error: Val) -> None:
    """The calls of a list, while there is no error."""
    count = f.load("i64", f.element(plan, place, "i64"), 8)
    first = f.element(plan, f.add(place, 1), "i64")
    with f.loop(0, count) as call, f.when(f.compare("eq", _atomic_load(f, error), 0)):
        entry = f.element(first, f.mul(call.index, 2), "i64")
        function, given = (f.load("ptr", f.element(entry, n, "i64"), 8) for n in range(2))
        result = f.value("i32", f"call i32 {function.name}({given})")
        with f.when(f.value("i1", f"icmp ne {result}, 0")):
            _atomic_store(f, f.value("i64", f"zext {result} to i64"), error)


def _atomic_load(f: Function, pointer: Val) -> Val:
    return f.value("i64", f"load atomic i64, {pointer} acquire, align 8")


def _atomic_store(f: Function, value: Val, pointer: Val) -> None:
    f.line(f"store atomic {value}, {pointer} release, align 8")


def _pause(f: Function, turn: Val) -> None:
    architecture = processor().triple.split("-")[0]
    if hint := {"x86_64": "pause", "aarch64": "yield", "arm64": "yield"}.get(architecture):
        f.line(f'call void asm sideeffect "{hint}", "~{{memory}}"()')
    with f.when(f.compare("ugt", turn, PATIENCE)):
        if os.name == "nt":
            f.call("i32", "SwitchToThread")
        else:
            f.call("i32", "usleep", Val("i32", str(SLEEP)))
