"""What every part of the benchmark shares: jobs, how long they may take, and a race among contestants that agree."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from benchmarks.machine import Machine
from benchmarks.peers.entries import Entry
from benchmarks.results.record import OURS, Row
from benchmarks.timing import Timing, clock_for, race
from benchmarks.workloads import NamedArrays


@dataclass(frozen=True)
class Setting:
    """rounds: of a race, at most. seconds: of a race, after which it ends. runs: fresh processes per figure."""

    machine: Machine
    peers: tuple[str, ...]
    seconds: float = 10.0
    rounds: int = 11
    runs: int = 5


@dataclass(frozen=True)
class Job:
    """A piece of work that gives one row of its name, or several whose names go on after a comma."""

    part: str
    name: str
    threads: int
    measure: Callable[[Setting], list[Row]]

    def gave(self, row: Row) -> bool:
        of_this_name = row.name == self.name or row.name.startswith(self.name + ",")
        return (row.part, row.threads) == (self.part, self.threads) and of_this_name


def contest(
    entries: Mapping[str, Entry],
    exact: NamedArrays,
    tolerance: Mapping[str, float] | float,
    threads: int,
    setting: Setting,
) -> tuple[dict[str, Timing], dict[str, float], dict[str, str]]:
    """Timings, errors, and why a peer was left out.

    tolerance: of each name, or of all. A peer whose result is further off than this is not timed. Raises ValueError if
    it is rnnc that is off.
    """
    errors, notes = {}, {}
    for name, entry in entries.items():
        allowed = tolerance if isinstance(tolerance, float) else tolerance[name]
        errors[name] = worst_error(entry.result(), exact)
        if not errors[name] <= allowed:
            notes[name] = f"off by {errors[name]:.3g} relative to the exact result, {allowed:g} allowed"
            if name.split()[0] == OURS:
                raise ValueError(f"{name} is {notes[name]}: not timed")
    timed = {name: entry.timed for name, entry in entries.items() if name not in notes}
    timings = race(timed, setting.rounds, clock_for(threads), limit=setting.seconds, settle=threads > 1)
    return timings, errors, notes


def worst_error(found: NamedArrays, exact: NamedArrays) -> float:
    """The worst array's: its largest error over its largest magnitude. Infinite if any is missing or not finite."""
    if found.keys() != exact.keys() or any(found[name].shape != exact[name].shape for name in exact):
        return float("inf")
    if not all(np.isfinite(value).all() for value in found.values()):
        return float("inf")
    return max(float(np.max(np.abs(found[name] - value)) / np.max(np.abs(value))) for name, value in exact.items())
