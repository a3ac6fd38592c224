"""The crew: helping threads of this process that wait in machine code, and how a call makes a team of them.

    rnnc_run_in_team(context, team)   runs a plan with the helpers that are free, or alone if there are none
    rnnc_serve(slot)                  what a helper does, for ever

A helper waits in its slot: awake, it polls for about 0.1 ms after its last work; then it sleeps in a semaphore. A call
takes helpers that are awake. It wakes others if it is long, and waits for them, or if calls follow each other closely,
for the next one. A call never waits for a helper that may not come: with none, it runs alone.

Other work on the machine may make a team slower than one thread, because each barrier waits for a member that does not
run. So each code keeps the time per row of both ways, takes the faster one, and tries the other one now and then.
"""

from __future__ import annotations

from rnnc.backends.llvm.asm.builder import COLD, Function, Module, Val, define, i64, null
from rnnc.backends.llvm.asm.records import Record
from rnnc.backends.llvm.kernels.context import HEAD
from rnnc.backends.llvm.kernels.team_function import PROGRESS_BYTES
from rnnc.backends.llvm.kernels.waiting import PATIENCE, load_word, relax, replaces, store_word

TEAM = Record(
    "team",
    "ptr call, ptr run, ptr share, ptr crew, i64 least_rows, i64 most_batch, i64 members, i64 worth_waking, "
    "i64 alone, i64 shared, i64 calls, i64 period",
)
"""How a code may be run by several threads. call: rnnc_run_in_team. run: rnnc_run. share: rnnc_share. least_rows: steps
* batch from which several threads pay, up to a batch of most_batch. members: the most threads. worth_waking: steps *
batch from which it pays to wake a helper and wait for it.
alone, shared: ticks per TICKS_OF rows of one thread, and of a team; 0 if not known. calls: so far. period: the calls
between two trials of a team, while it is slower. Threads that call at the same time may lose a change."""
TICKS_OF = 16
TRIAL, TRIAL_ALONE = 4, 1
"""The runs of a trial. A team is tried several times, because the caches of its cores begin without its weights."""
PERIOD, MOST_PERIOD = 16, 512
"""The calls between two trials of a team: the first number, doubled up to the second one. Other work that made a team
slow may end at any time, so trials go on."""
PERIOD_ALONE = 256
MOST_SLOWER = 3
"""How many times as long as one thread a team may take before it is doubted."""
CREW = Record("crew", "i64 slots, i64 last")
"""slots: their number. last: when the last call ended, in ticks. The slots, of SLOT_BYTES each, begin at SLOT_BYTES."""
SLOT = Record("slot", "i64 state, ptr share, ptr context, ptr progress, i64 member, i64 members")
"""A helper's place. share ... members: its next work. A semaphore follows, at half of SLOT_BYTES."""
SLOT_BYTES = 128
ABSENT, ASLEEP, AWAKE, TAKEN, CALLED = range(5)
"""States of a slot: no thread serves it; its thread sleeps, polls, was taken by a call, or works."""
MOST_HELPERS = 63
SOON = 1_000_000
"""Ticks (a third of a millisecond) within which one call is said to follow another closely."""


def emit_crew(module: Module) -> None:
    """Adds `i32 rnnc_run_in_team(ptr context, ptr team)` and `void rnnc_serve(ptr slot)`."""
    for function in (_take(), _wake(), _run_in_team(), _serve()):
        module.add(function)


def _slot(f: Function, crew: Val, number: Val) -> Val:
    return f.element(crew, f.mul(f.add(number, 1), SLOT_BYTES), "i8")


def _state(f: Function, slot: Val) -> Val:
    return SLOT.place(f, slot, "state")


def _semaphore(f: Function, slot: Val) -> Val:
    return f.element(slot, SLOT_BYTES // 2, "i8")


def _take() -> Function:
    """Takes helpers that are awake for the call of a context. Returns how many are taken now.

    Their context tells the call that took them from others. A helper clears it before it is free.
    """
    f = define("i64 rnnc_take_helpers(ptr crew, ptr context, i64 taken, i64 wanted)", COLD)
    crew, context, taken, wanted = f.parameters
    count = f.alloca("i64", 1, 8)
    f.store(taken, count, 8)
    with f.loop(0, CREW.load(f, crew, "slots")) as each:
        slot, known = _slot(f, crew, each.index), f.load("i64", count, 8)
        state = _state(f, slot)
        awake = f.binary("and", f.compare("eq", load_word(f, state), AWAKE), f.compare("ult", known, wanted))
        with f.when(awake), f.when(replaces(f, state, AWAKE, TAKEN)):
            number = f.add(known, 1)
            f.store(number, SLOT.place(f, slot, "member"), 8)
            f.store(context, SLOT.place(f, slot, "context"), 8)
            f.store(number, count, 8)
    f.ret(f.load("i64", count, 8))
    return f


def _wake() -> Function:
    """Wakes up to `wanted` helpers. Returns how many."""
    f = define("i64 rnnc_wake_helpers(ptr crew, i64 wanted)", COLD)
    crew, wanted = f.parameters
    count = f.alloca("i64", 1, 8)
    f.store(i64(0), count, 8)
    with f.loop(0, CREW.load(f, crew, "slots")) as each:
        slot, known = _slot(f, crew, each.index), f.load("i64", count, 8)
        state = _state(f, slot)
        asleep = f.binary("and", f.compare("eq", load_word(f, state), ASLEEP), f.compare("ult", known, wanted))
        with f.when(asleep), f.when(replaces(f, state, ASLEEP, AWAKE)):
            f.call("i32", "sem_post", _semaphore(f, slot))
            f.store(f.add(known, 1), count, 8)
    f.ret(f.load("i64", count, 8))
    return f


def _run_in_team() -> Function:
    f = define("i32 rnnc_run_in_team(ptr context, ptr team)", COLD)
    context, given = f.parameters
    team = TEAM.loads(f, given)
    batch = HEAD.load(f, context, "batch")
    rows = f.mul(HEAD.load(f, context, "steps"), batch)
    small = f.binary("or", f.compare("ult", rows, team["least_rows"]), f.compare("ugt", batch, team["most_batch"]))
    with f.when(small):
        f.ret(_run(f, team, context))
        f._begin(f._label("dead"))
    result, taken = f.alloca("i32", 1, 4), f.alloca("i64", 1, 8)
    f.store(i64(0), taken, 8)
    begin = f.call("i64", "llvm.readcyclecounter")
    with f.when(_prefers_team(f, given, team)):
        wanted, waits = f.sub(team["members"], 1), f.compare("uge", rows, team["worth_waking"])
        f.store(_helpers(f, team["crew"], context, wanted, waits), taken, 8)
    together = f.value("i64", f"zext {f.compare('ne', f.load('i64', taken, 8), 0)} to i64")
    with f.switch(together, (0, 1)) as cases:
        for case in cases:
            helpers = f.load("i64", taken, 8)
            status = _run_together(f, team, context, helpers) if case else _run(f, team, context)
            f.store(status, result, 4)
            cost = _note(f, TEAM.place(f, given, "shared" if case else "alone"), begin, rows)
            if case:
                _doubt(f, given, cost)
    f.store(f.call("i64", "llvm.readcyclecounter"), CREW.place(f, team["crew"], "last"), 8)
    f.ret(f.load("i32", result, 4))
    return f


def _run(f: Function, team: dict[str, Val], context: Val) -> Val:
    return f.value("i32", f"call i32 {team['run'].name}({context})")


def _prefers_team(f: Function, given: Val, team: dict[str, Val]) -> Val:
    """The i1 that is 1 if the call is one for a team: it is faster, or its turn to be tried."""
    one, calls = Val("i1", "true"), team["calls"]
    f.store(f.add(calls, 1), TEAM.place(f, given, "calls"), 8)
    faster = f.compare("ule", team["shared"], team["alone"])
    turn = f.binary("and", calls, f.sub(f.select(faster, i64(PERIOD_ALONE), team["period"]), 1))
    last_of_trial = f.binary("and", f.binary("xor", faster, one), f.compare("eq", turn, TRIAL))
    longer = f.minimum(f.mul(team["period"], 2), i64(MOST_PERIOD))
    period = f.select(faster, i64(PERIOD), f.select(last_of_trial, longer, team["period"]))
    f.store(period, TEAM.place(f, given, "period"), 8)
    tries_other = f.compare("ult", turn, f.select(faster, i64(TRIAL_ALONE), i64(TRIAL)))
    chosen = f.binary("xor", faster, tries_other)
    chosen = f.select(f.compare("eq", team["alone"], 0), Val("i1", "false"), chosen)
    return f.select(f.compare("eq", team["shared"], 0), one, chosen)


def _note(f: Function, place: Val, begin: Val, rows: Val) -> Val:
    """Notes the time of a run: a faster one at once, a slower one, which other work may have held up, by an eighth.

    Returns the ticks per TICKS_OF rows.
    """
    ticks = f.sub(f.call("i64", "llvm.readcyclecounter"), begin)
    cost, old = f.udiv(f.mul(ticks, TICKS_OF), rows), f.load("i64", place, 8)
    slower = f.add(old, f.udiv(f.sub(cost, old), i64(8)))
    known = f.binary("and", f.compare("ne", old, 0), f.compare("ugt", cost, old))
    f.store(f.maximum(f.select(known, slower, cost), i64(1)), place, 8)
    return cost


def _doubt(f: Function, given: Val, cost: Val) -> None:
    """After a team's run that took several times as long as one thread does: members wait for cores.

    The trial ends, the next one is later, and the next run measures one thread anew, in case that is what was slow.
    """
    team = TEAM.loads(f, given)
    with f.when(f.compare("ugt", cost, f.mul(team["alone"], MOST_SLOWER))):
        with f.when(f.compare("ne", team["alone"], 0)):
            f.store(i64(0), TEAM.place(f, given, "alone"), 8)
            f.store(f.add(team["calls"], TRIAL), TEAM.place(f, given, "calls"), 8)
            period = f.minimum(f.mul(team["period"], 2), i64(MOST_PERIOD))
            f.store(period, TEAM.place(f, given, "period"), 8)


def _helpers(f: Function, crew: Val, context: Val, wanted: Val, waits: Val) -> Val:
    """Takes helpers, and wakes more. Returns the number of those taken."""
    count = f.alloca("i64", 1, 8)
    f.store(f.call_defined("i64", "rnnc_take_helpers", crew, context, i64(0), wanted), count, 8)
    missing = f.sub(wanted, f.load("i64", count, 8))
    since = f.sub(f.call("i64", "llvm.readcyclecounter"), CREW.load(f, crew, "last"))
    wakes = f.binary("or", waits, f.compare("ult", since, SOON))
    with f.when(f.binary("and", wakes, f.compare("ne", missing, 0))):
        woken = f.call_defined("i64", "rnnc_wake_helpers", crew, missing)
        expected = f.select(waits, f.add(f.load("i64", count, 8), woken), i64(0))
        polls = f.alloca("i64", 1, 8)
        f.store(i64(0), polls, 8)

        def over() -> Val:
            ended = f.compare("uge", f.load("i64", polls, 8), PATIENCE)
            return f.binary("or", f.compare("uge", f.load("i64", count, 8), expected), ended)

        def poll(number: Val) -> None:
            relax(f)
            f.store(number, polls, 8)
            known = f.load("i64", count, 8)
            f.store(f.call_defined("i64", "rnnc_take_helpers", crew, context, known, wanted), count, 8)

        f.until(over, poll)
    return f.load("i64", count, 8)


def _run_together(f: Function, team: dict[str, Val], context: Val, taken: Val) -> Val:
    """Calls the helpers that were taken, and takes part as member 0."""
    crew, share = team["crew"], team["share"]
    progress = f.alloca("i8", PROGRESS_BYTES, 64)
    f.call("void", "llvm.memset.p0.i64", progress, Val("i8", "0"), i64(PROGRESS_BYTES), Val("i1", "false"))
    members = f.add(taken, 1)
    with f.loop(0, CREW.load(f, crew, "slots")) as each:
        slot = _slot(f, crew, each.index)
        with f.when(f.compare("eq", load_word(f, _state(f, slot)), TAKEN)):
            with f.when(f.value("i1", f"icmp eq ptr {SLOT.load(f, slot, 'context').name}, {context.name}")):
                for name, value in {"share": share, "progress": progress, "members": members}.items():
                    f.store(value, SLOT.place(f, slot, name), 8)
                store_word(f, i64(CALLED), _state(f, slot))
    return f.value("i32", f"call i32 {share.name}({context}, {progress}, i64 0, {members})")


def _serve() -> Function:
    f = define("void rnnc_serve(ptr slot)", COLD)
    (slot,) = f.parameters
    state = _state(f, slot)
    store_word(f, i64(AWAKE), state)
    with f.loop(0, i64(1 << 62)):
        f.until(lambda: f.compare("eq", load_word(f, state), CALLED), lambda poll: _sleep_after(f, slot, poll))
        work = SLOT.loads(f, slot)
        given = ", ".join(str(work[name]) for name in ("context", "progress", "member", "members"))
        f.value("i32", f"call i32 {work['share'].name}({given})")
        f.store(null(), SLOT.place(f, slot, "context"), 8)
        store_word(f, i64(AWAKE), state)
    f.ret()
    return f


def _sleep_after(f: Function, slot: Val, poll: Val) -> None:
    """Between polls of a helper: it sleeps after a while, unless a call has just taken it."""
    relax(f)
    due = f.compare("eq", f.value("i64", f"urem {poll}, {PATIENCE}"), PATIENCE - 1)
    with f.when(due), f.when(replaces(f, _state(f, slot), AWAKE, ASLEEP)):
        f.until(
            lambda: f.value("i1", f"icmp eq {f.call('i32', 'sem_wait', _semaphore(f, slot))}, 0"), lambda _: None
        )  # a signal may interrupt it
