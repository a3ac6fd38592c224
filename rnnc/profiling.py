"""Profiles: where the time of calls goes, from counters in generated code.

`model.profile(x)` compiles a twin of the model whose code counts, and calls that. RNNC_PROFILE=1 in the environment has
all code count, and prints a table when the process ends; RNNC_PROFILE=trace.json writes a Chrome trace there instead.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rnnc.checking import checks
from rnnc.explanation import layers_of
from rnnc.ir import settings
from rnnc.ir.errors import ArgumentError, ArgumentTypeError

if TYPE_CHECKING:
    from rnnc.backends.base import CallCounters, SectionTime, TimedRun
    from rnnc.compiled import Compiled

__all__ = ["Profile", "ProfileRow"]

LEAST_CALLS, MOST_CALLS = 3, 10_000


@dataclass(frozen=True)
class ProfileRow:
    """A section of generated code, such as a phase of a layer.

    kind: "copies", "hoisted", "step", "sums" or "wait". site: the layers and directions whose equations it computes,
    such as "l0.fwd", by their names in a network. seconds, runs, rows: per call; of several threads, the sum of all.
    share: of the time of all. gflops: 1e9 multiplications and additions of matrix products per second; 0 without any.
    weight_bytes: the weights that each run reads.
    """

    name: str
    kind: str
    site: str
    seconds: float
    runs: float
    rows: float
    share: float
    gflops: float
    weight_bytes: int


@dataclass(frozen=True)
class Profile:
    """Where the time of a call goes. `print` it, read `rows`, or write a `chrome_trace`.

    calls: how many were made. seconds: of a call, measured from outside. inside: of its sections, all threads together.
    threads: how many ran sections at the same time.
    trace: the sections of the first calls one by one: (name, start in seconds, duration in seconds, thread), where
    threads count from 0.
    """

    what: str
    calls: int
    seconds: float
    inside: float
    threads: int
    rows: tuple[ProfileRow, ...]
    trace: tuple[tuple[str, float, float, int], ...]

    def __str__(self) -> str:
        if self.threads > 1:
            where = f"{_time(self.inside)} in generated code on {self.threads} threads together"
        else:
            where = f"{_time(self.inside)} in generated code, {_time(max(0.0, self.seconds - self.inside))} around it"
        head = f"{self.what}\n{_time(self.seconds)} per call (mean of {self.calls}): {where}\n"
        titles = ("section", "kind", "layer", "time", "share", "runs", "rows", "GFLOP/s", "weights")
        table = [titles, *(_cells(row) for row in self.rows if row.runs)]
        widths = [max(len(cells[n]) for cells in table) for n in range(len(titles))]
        return head + "".join(f"{_line(cells, widths)}\n" for cells in table)

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data, for JSON."""
        rows = [vars(row) for row in self.rows]
        return {name: value for name, value in vars(self).items() if name != "trace"} | {"rows": rows}

    def chrome_trace(self, path: str | os.PathLike[str]) -> None:
        """Writes the sections of the first calls as a Chrome trace: open it in chrome://tracing or ui.perfetto.dev."""
        Path(path).write_text(json.dumps({"traceEvents": self._events(), "displayTimeUnit": "ns"}), encoding="utf-8")

    def _events(self) -> list[dict[str, Any]]:
        known = {row.name: row for row in self.rows}
        return [
            {
                "name": name,
                "cat": known[name].kind,
                "ph": "X",
                "pid": 0,
                "tid": thread,
                "ts": start * 1e6,
                "dur": duration * 1e6,
                "args": {"layer": known[name].site},
            }
            for name, start, duration, thread in self.trace
        ]


def profiled(compiled: Compiled, arguments: Sequence[Any], named: Mapping[str, Any], seconds: float) -> Profile:
    """See `rnnc.compiled.Compiled.profile`."""
    limit = checks.number("seconds", seconds)
    if compiled.backend != "llvm":
        raise ArgumentError(f"profile: backend {compiled.backend!r} has no counters; compile with backend 'llvm'")
    call = compiled._profiled_call()
    if call is None:
        kind = type(compiled).__name__
        raise ArgumentTypeError(f"profile: {kind} is not called with arrays; profile a bound model, network or vjp")
    counters: list[CallCounters] = []
    token = settings.COUNTED.set(counters)
    try:
        twin = call()
        twin(*arguments, **named)  # compiles what only calls compile, and takes its memory
        for each in counters:
            each.clear()
        clock, begin, calls = counters[0], time.perf_counter(), 0
        ticks = clock.now()
        while calls < LEAST_CALLS or (calls < MOST_CALLS and time.perf_counter() - begin < limit):
            twin(*arguments, **named)
            calls += 1
        elapsed, ticks = time.perf_counter() - begin, clock.now() - ticks
    finally:
        settings.COUNTED.reset(token)
    return made(repr(compiled), counters, calls, elapsed, elapsed / max(ticks, 1), compiled._layer_names())


def made(
    what: str,
    counters: Sequence[CallCounters],
    calls: int,
    elapsed: float,
    per_tick: float,
    layers: Sequence[str] = (),
) -> Profile:
    """The profile of what was counted. elapsed: the seconds of all calls. per_tick: the seconds of a tick. layers: the
    names of a network's layers.
    """
    read = [each.read() for each in counters]
    sections = [section for each, _ in read for section in each]
    inside = sum(section.ticks for section in sections) * per_tick
    rows = tuple(_row(section, calls, per_tick, inside, layers) for section in sections)
    runs = [run for _, log in read for run in log]
    trace = _trace(runs, per_tick)
    threads = 1 + max((thread for *_, thread in trace), default=0)
    return Profile(what, calls, elapsed / calls, inside / calls, threads, rows, trace)


def _row(section: SectionTime, calls: int, per_tick: float, inside: float, layers: Sequence[str]) -> ProfileRow:
    seconds = section.ticks * per_tick
    return ProfileRow(
        section.name,
        section.kind,
        " ".join(layers_of(section.site, layers)),
        seconds / calls,
        section.runs / calls,
        section.rows / calls,
        seconds / inside if inside else 0.0,
        section.flops / seconds / 1e9 if seconds else 0.0,
        section.weight_bytes,
    )


def _trace(runs: Sequence[TimedRun], per_tick: float) -> tuple[tuple[str, float, float, int], ...]:
    first, lanes = min((run.begin for run in runs), default=0), _lanes(runs)
    return tuple(
        (run.section, (run.begin - first) * per_tick, (run.end - run.begin) * per_tick, lanes[run.thread])
        for run in sorted(runs, key=lambda run: run.begin)
    )


def _lanes(runs: Sequence[TimedRun]) -> dict[int, int]:
    """The threads, from 0 on, of what `TimedRun.thread` names: each is the least that is free during its runs."""
    spans: dict[int, tuple[int, int]] = {}
    for run in runs:
        begin, end = spans.get(run.thread, (run.begin, run.end))
        spans[run.thread] = min(begin, run.begin), max(end, run.end)
    found: dict[int, int] = {}
    ends: list[int] = []
    for name, (begin, end) in sorted(spans.items(), key=lambda each: each[1]):
        lane = next((n for n, last in enumerate(ends) if last <= begin), len(ends))
        ends[lane:] = [end, *ends[lane + 1 :]]
        found[name] = lane
    return found


# ---- the table


def _cells(row: ProfileRow) -> tuple[str, ...]:
    speed = f"{row.gflops:.1f}" if row.gflops else ""
    weights = f"{row.weight_bytes / 1024:.0f} KiB" if row.weight_bytes else ""
    numbers = f"{row.runs:,.0f}", f"{row.rows:,.0f}"
    return row.name, row.kind, row.site, _time(row.seconds), f"{row.share:.1%}", *numbers, speed, weights


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    """A line of the table: text on the left, numbers on the right."""
    left = [f"{cell:<{width}}" for cell, width in zip(cells[:3], widths[:3], strict=True)]
    right = [f"{cell:>{width}}" for cell, width in zip(cells[3:], widths[3:], strict=True)]
    return "  ".join([*left, *right]).rstrip()


def _time(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"


# ---- the whole process


@cache
def at_exit() -> None:
    """Arranges for the profile of the process (RNNC_PROFILE) to be printed, or written, when it ends."""
    began = time.perf_counter()

    def report() -> None:
        counters = settings.OF_THE_PROCESS
        if not counters:
            return
        elapsed = time.perf_counter() - began
        profile = made("RNNC_PROFILE: all calls of this process", counters, 1, elapsed, _seconds_per_tick(counters[0]))
        path = settings.profile()
        if path == "1":
            print(profile, end="", file=sys.stderr)
        else:
            profile.chrome_trace(path)

    atexit.register(report)


def _seconds_per_tick(clock: CallCounters) -> float:
    """The length of a tick, measured for 20 milliseconds."""
    begin, ticks = time.perf_counter(), clock.now()
    time.sleep(0.02)
    return (time.perf_counter() - begin) / max(1, clock.now() - ticks)

