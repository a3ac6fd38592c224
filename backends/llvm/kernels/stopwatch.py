"""Stopwatch: counters in generated code of how long each section of a run takes.

    call @phase_loop0_step0(...)   ->   %begin = readcyclecounter
                                        call @phase_loop0_step0(...)
                                        %end = readcyclecounter
                                        call @rnnc_count(counters, number of the section, begin, end, rows, context)

Code that is not profiled has none of this. The counters are one block of 64-bit integers (`BLOCK`), then three per
section (`COUNTS`), then a log of the first runs of sections, four per run (`LOG`). Threads add to them atomically.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rnnc.backends.llvm.asm.builder import COLD, Function, Module, Val, define, i64
from rnnc.backends.llvm.kernels.python_objects import exists
from rnnc.backends.planning.plan import Phase, Region, RowSum

BLOCK = ("sections", "log_size", "logged")
"""The number of sections, the runs that the log has room for, the runs so far."""
COUNTS = ("ticks", "runs", "rows")
LOG = ("section", "begin", "end", "context")

COPIES, HOISTED, STEP, SUMS, WAIT = "copies", "hoisted", "step", "sums", "wait"
"""Kinds of sections: copies of rows between the caller's arrays and scratch memory; phases over the rows of many steps;
phases of each step of a recurrence; sums over rows, such as gradients of weights; waiting for other threads."""


@dataclass(frozen=True)
class TimedSection:
    """A part of a run that is timed.

    site: the layers and directions whose equations it computes, such as "l0.fwd". flops: multiplications and additions
    of matrix products per row. weight_bytes: the packed weights that it reads, once for all rows.
    """

    name: str
    kind: str
    site: str = ""
    flops: int = 0
    weight_bytes: int = 0

    @staticmethod
    def of_phase(region: Region, phase: Phase, weight_bytes: int) -> TimedSection:
        """The section of a phase."""
        sites = dict.fromkeys(str(f.site) for f in (*phase.accumulators, *phase.values, *phase.sums) if f.site)
        flops = sum(2 * feed.inner * len(feed.blocks) * phase.width for feed in phase.feeds)
        kind = STEP if any(phase is step for step in region.steps) else HOISTED
        return TimedSection(phase.name, kind, " ".join(sites), flops, weight_bytes)

    @staticmethod
    def of_sum(total: RowSum) -> TimedSection:
        """The section of a sum over rows."""
        flops = sum(2 * term.rows * term.units for term in total.terms)
        return TimedSection(f"sum {total.target.name}", SUMS, str(total.target.site or ""), flops)


BARRIERS = TimedSection("barriers", WAIT)
"""What a team waits for. It is a section of every module, since a team's module has the sections of the plan's."""


class Stopwatch:
    """The counters of a function under construction. sections: those of the module, to which it adds its own.

    lane: a pointer that is different for each thread of a run.
    """

    def __init__(self, f: Function, counters: Val, lane: Val, sections: list[TimedSection]) -> None:
        self._f, self._counters, self._lane, self._sections = f, counters, lane, sections

    @contextmanager
    def timed(self, section: TimedSection, rows: Val) -> Iterator[None]:
        """Times the code that is emitted within."""
        f, begin = self._f, self._f.call("i64", "llvm.readcyclecounter")
        before = len(f.lines)
        yield
        if len(f.lines) == before:  # no code
            f.lines.pop()
            return
        if section not in self._sections:
            self._sections.append(section)
        number = i64(self._sections.index(section))
        end = f.call("i64", "llvm.readcyclecounter")
        f.call("void", "rnnc_count", self._counters, number, begin, end, rows, self._lane)


def emit_stopwatch(module: Module) -> None:
    """Adds `rnnc_count`, and `i64 rnnc_ticks(i64)`, which returns the time in the unit of the counters."""
    module.add(_count())
    module.add(_ticks())


def _count() -> Function:
    """Adds a run of a section to its counts, and to the log if it has room. Does nothing without counters."""
    f = define("void rnnc_count(ptr counters, i64 section, i64 begin, i64 end, i64 rows, ptr context)", COLD)
    counters, section, begin, end, rows, context = f.parameters
    with f.when(exists(f, counters)):
        counts = f.add(i64(len(BLOCK)), f.mul(section, len(COUNTS)))
        for place, amount in enumerate((f.sub(end, begin), i64(1), rows)):
            _add(f, f.element(counters, f.add(counts, place), "i64"), amount)
        sections, size = (f.load("i64", f.element(counters, n, "i64"), 8) for n in (0, 1))
        number = _add(f, f.element(counters, 2, "i64"), i64(1))
        with f.when(f.compare("ult", number, size)):
            log = f.add(f.add(i64(len(BLOCK)), f.mul(sections, len(COUNTS))), f.mul(number, len(LOG)))
            address = f.value("i64", f"ptrtoint {context} to i64")
            for place, value in enumerate((section, begin, end, address)):
                f.store(value, f.element(counters, f.add(log, place), "i64"), 8)
    f.ret()
    return f


def _add(f: Function, place: Val, amount: Val) -> Val:
    """Adds to a number that other threads add to, and returns what it was."""
    return f.value("i64", f"atomicrmw add {place}, {amount} monotonic, align 8")


def _ticks() -> Function:
    f = define("i64 rnnc_ticks(i64 unused)", COLD)
    f.ret(f.call("i64", "llvm.readcyclecounter"))
    return f
