"""Words that threads share: atomic reads and writes, and what a waiting thread does between polls."""

from __future__ import annotations

import os

from rnnc.backends.llvm.asm.builder import Function, Val, i64
from rnnc.backends.llvm.asm.target import processor

PATIENCE, IMPATIENCE = 4000, 50
"""Polls (about 25 ns each) before a waiting thread lets others use its processor: at first, and once it has done so."""


def load_word(f: Function, pointer: Val) -> Val:
    """Reads a word, and sees all that was written before it was."""
    return f.value("i64", f"load atomic i64, {pointer} acquire, align 8")


def store_word(f: Function, value: Val, pointer: Val) -> None:
    """Writes a word, after all that was written before."""
    f.line(f"store atomic {value}, {pointer} release, align 8")


def add_to(f: Function, pointer: Val, amount: int) -> None:
    """Adds to a word that others add to."""
    f.value("i64", f"atomicrmw add {pointer}, i64 {amount} acq_rel, align 8")


def replaces(f: Function, pointer: Val, old: int, new: int) -> Val:
    """The i1 that is 1 if the word was `old`, and is `new` now."""
    pair = f.value("{ i64, i1 }", f"cmpxchg {pointer}, i64 {old}, i64 {new} acq_rel monotonic, align 8")
    return f.value("i1", f"extractvalue {pair}, 1")


def relax(f: Function) -> None:
    """Tells the processor that its thread is waiting."""
    architecture = processor().triple.split("-")[0]
    if hint := {"x86_64": "pause", "aarch64": "yield", "arm64": "yield"}.get(architecture):
        f.line(f'call void asm sideeffect "{hint}", "~{{memory}}"()')


def pause(f: Function, slept: Val, poll: Val) -> None:
    """Between polls. A thread that has waited for long lets others run, and says so in the word `slept`."""
    relax(f)
    most = f.select(f.compare("eq", f.load("i64", slept, 8), 0), i64(PATIENCE), i64(IMPATIENCE))
    with f.when(f.compare("ugt", poll, most)):
        f.store(i64(1), slept, 8)
        if os.name == "nt":
            f.call("i32", "SwitchToThread")
        else:
            f.call("i32", "sched_yield")
