"""Lockstep: what each thread of a run does, stage by stage (`rnnc.backends.llvm.calls.lockstep`).

for each stage:
    for each member, from my own on: unless a thread has taken its calls of this stage: take them, and do them
    wait until the calls of all members are done
"""

from __future__ import annotations

import os

from rnnc.backends.llvm.asm.builder import Function, Module, Val, define, i64
from rnnc.backends.llvm.kernels.waiting import PATIENCE, load_word, relax, store_word

SLEEP = 30
"""Microseconds between later polls, in which the thread sleeps."""
STAY = PATIENCE + 200
"""Polls (about 20 ms) before a thread leaves a run that does not begin."""
CACHE_LINE = 8
"""64-bit words per cache line. Words that different threads write lie on different lines."""
OPEN, ERROR, DONE, TAKEN = (CACHE_LINE * n for n in range(4))
"""Words of a run's progress: whether it has begun; the error of a function; the number of members whose calls are done;
and from TAKEN on, per stage and member, whether a thread has taken the calls."""


def emit_lockstep(module: Module) -> None:
    """Adds `i32 rnnc_lockstep(ptr scripts, ptr progress, i64 number)`."""
    module.add(_emit())


def _emit() -> Function:
    """The function that the thread of member `number` runs. Member 0 leads."""
    f = define("i32 rnnc_lockstep(ptr scripts, ptr progress, i64 number)")
    scripts, progress, number = f.parameters
    error, done = (f.element(progress, place, "i64") for place in (ERROR, DONE))
    members, stages = (f.load("i64", f.element(scripts, n, "i64"), 8) for n in range(2))
    leads = f.compare("eq", number, 0)
    _begin(f, leads, progress)
    stages = f.select(f.compare("eq", load_word(f, progress), 1), stages, i64(0))  # none if it does not begin
    with f.loop(0, stages) as stage:
        first = f.mul(stage.index, members)
        with f.loop(0, members) as turn:
            beyond = f.add(number, turn.index)
            member = f.select(f.compare("uge", beyond, members), f.sub(beyond, members), beyond)
            place = f.add(first, member)
            with f.when(_takes(f, f.element(progress, f.add(place, TAKEN), "i64"))):
                _call_all(f, scripts, f.load("i64", f.element(scripts, f.add(place, 2), "i64"), 8), error)
                f.value("i64", f"atomicrmw add {done}, i64 1 acq_rel")
        all_done = f.add(first, members)
        last = f.compare("eq", f.add(stage.index, 1), stages)
        leaves = f.binary("and", last, f.binary("xor", leads, Val("i1", "true")))
        wanted = f.select(leaves, i64(0), all_done)  # only the leader waits for the end of the last stage
        f.until(lambda wanted=wanted: f.compare("uge", load_word(f, done), wanted), lambda poll: _pause(f, poll))  # type: ignore[misc]
        stage.next([])
    f.ret(f.value("i32", f"trunc {load_word(f, error)} to i32"))
    return f


def _begin(f: Function, leads: Val, progress: Val) -> None:
    """The leader begins the run. The others wait until it has begun, but not longer than STAY polls."""
    with f.when(leads):
        store_word(f, i64(1), progress)
    stays = f.alloca("i1", 1, 1)
    f.store(Val("i1", "true"), stays, 1)

    def ready() -> Val:
        return f.binary(
            "or",
            f.compare("ne", load_word(f, progress), 0),
            f.binary("xor", f.load("i1", stays, 1), Val("i1", "true")),
        )

    def pause(poll: Val) -> None:
        f.store(f.compare("ult", poll, STAY), stays, 1)
        _pause(f, poll)

    f.until(ready, pause)


def _takes(f: Function, flag: Val) -> Val:
    """The i1 that is 1 if this thread is the first to set a flag. It reads the flag first, because most are set."""
    first = f.alloca("i1", 1, 1)
    f.store(Val("i1", "false"), first, 1)
    with f.when(f.compare("eq", f.value("i64", f"load atomic i64, {flag} monotonic, align 8"), 0)):
        pair = f.value("{ i64, i1 }", f"cmpxchg {flag}, i64 0, i64 1 acq_rel monotonic")
        f.store(f.value("i1", f"extractvalue {pair}, 1"), first, 1)
    return f.load("i1", first, 1)


def _call_all(f: Function, scripts: Val, place: Val, error: Val) -> None:
    """Makes the calls of a list, as long as there is no error."""
    count = f.load("i64", f.element(scripts, place, "i64"), 8)
    first = f.element(scripts, f.add(place, 1), "i64")
    with f.loop(0, count) as call, f.when(f.compare("eq", load_word(f, error), 0)):
        entry = f.element(first, f.mul(call.index, 2), "i64")
        function, given = (f.load("ptr", f.element(entry, n, "i64"), 8) for n in range(2))
        result = f.value("i32", f"call i32 {function.name}({given})")
        with f.when(f.value("i1", f"icmp ne {result}, 0")):
            store_word(f, f.value("i64", f"zext {result} to i64"), error)


def _pause(f: Function, turn: Val) -> None:
    relax(f)
    with f.when(f.compare("ugt", turn, PATIENCE)):
        if os.name == "nt":
            f.call("i32", "SwitchToThread")
        else:
            f.call("i32", "usleep", Val("i32", str(SLEEP)))
