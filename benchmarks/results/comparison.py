"""Two records side by side: what became faster or slower, and whether noise explains it."""

from __future__ import annotations

from dataclasses import dataclass
from math import hypot
from statistics import geometric_mean

from benchmarks.results.record import OURS, Record, Row
from benchmarks.results.tables import microseconds

NORMAL = 1.4826
"""The standard deviation of normal numbers over their median absolute deviation."""
DEVIATIONS = 3


@dataclass(frozen=True)
class Change:
    """One row in both records. ratio: the old time over the new one, so that more is faster."""

    old: Row
    new: Row

    @property
    def ratio(self) -> float:
        return self.old.ours / self.new.ours

    @property
    def peers(self) -> float | None:
        """The same ratio of the peers that both rows have, which did not change: what the machine did."""
        both = self.old.peers.keys() & self.new.peers.keys()
        return geometric_mean(self.old.peers[name] / self.new.peers[name] for name in both) if both else None

    @property
    def beyond_noise(self) -> bool:
        """True if the medians differ by more than three standard deviations of single samples."""
        spread = NORMAL * hypot(self.old.timings[OURS].spread, self.new.timings[OURS].spread)
        return abs(self.old.ours - self.new.ours) > DEVIATIONS * spread

    @property
    def verdict(self) -> str:
        return ("faster" if self.ratio > 1 else "slower") if self.beyond_noise else ""

    def slower_by(self, percent: float) -> bool:
        """True if it is slower by more than this, and noise does not explain it."""
        return self.beyond_noise and self.new.ours > self.old.ours * (1 + percent / 100)


def changes(old: Record, new: Record) -> list[Change]:
    """Of the rows that both have, in the order of the new record."""
    before = old.by_key()
    return [Change(before[row.key], row) for row in new.rows if row.key in before]


def report(old: Record, new: Record) -> str:
    """A Markdown table, and what it does not show: other machines, rows that only one record has."""
    found = changes(old, new)
    lines = ["| row | old us | new us | old / new | peers old / new | beyond noise |", "|---|---|---|---|---|---|"]
    for change in found:
        row, peers = change.new, "" if change.peers is None else f"{change.peers:.2f}"
        times = f"{microseconds(change.old.ours)} | {microseconds(row.ours)} | {change.ratio:.2f}"
        lines.append(f"| {row.part}, {row.name}, {row.threads} | {times} | {peers} | {change.verdict} |")
    if found:
        lines.append(f"\nGeometric mean of old / new: {geometric_mean(change.ratio for change in found):.3f}.")
    if old.machine["name"] != new.machine["name"]:
        lines.append(f"\nThe machines differ: {old.machine['name']} before, {new.machine['name']} now.")
    missing = len(old.rows) - len(found), len(new.rows) - len(found)
    if any(missing):
        lines.append(f"\nRows that only the old record has: {missing[0]}; only the new one: {missing[1]}.")
    return "\n".join(lines)
