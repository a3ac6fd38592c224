"""Which phases of a step must wait for the other blocks, or threads, of their group.

Phases between two barriers may run at once on different units and rows of a tile. A barrier is needed where a phase
reads what another thread has written since the last one, or overwrites what another thread may still read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rnnc.backends.planning.plan import Phase, Place, Region, Space

STEPS = 3
"""Steps looked at: the third reads what the second has written into the half that the first one read."""


@dataclass(frozen=True)
class Access:
    """One access to a buffer. moment: which of its values, where it has several. columns: those that one thread
    touches, if it is the thread of the same row and unit (first column, width), or None: any thread."""

    place: Place
    moment: int
    written: bool
    columns: tuple[int, int] | None


def barriers(region: Region) -> set[int]:
    """The phases, by number, before which all must have arrived; 0: before every step but the first."""
    needed: set[int] = set()
    while (more := _first_conflict(region, needed)) is not None:
        needed.add(more)
    return needed


def _first_conflict(region: Region, known: set[int]) -> int | None:
    since: list[Access] = []
    for step in range(STEPS):
        for number, phase in enumerate(region.steps):
            if number in known:
                since = []
            found = list(_accesses(phase, step))
            if any(_conflict(a, b) for a in since for b in found):
                return number
            since += found
    return None


def _conflict(a: Access, b: Access) -> bool:
    if a.place.buffer is not b.place.buffer or a.moment != b.moment or not (a.written or b.written):
        return False
    if a.columns is None or b.columns is None:
        return True
    (first, width), (other, more) = a.columns, b.columns
    return a.columns != b.columns and first < other + more and other < first + width


def _accesses(phase: Phase, step: int) -> Iterator[Access]:
    for feed in phase.feeds:
        yield Access(feed.lhs, _moment(feed.lhs, step), False, None)
    for family, place in phase.loads.items():
        own = not phase.sums and family.shape[-1] == phase.width and not place.grid
        yield Access(place, _moment(place, step), False, (place.column, phase.width) if own else None)
    for family, place in phase.stores:
        own = not phase.sums and family not in phase.sums
        yield Access(place, _moment(place, step), True, (place.column, phase.width) if own else None)


def _moment(place: Place, step: int) -> int:
    """Buffers over time have one value a step, double buffers two in turn, all others one."""
    if place.buffer.space in (Space.STATE, Space.STEP, Space.ROWS):
        return (step + (not place.previous)) % 2 if place.buffer.double else 0
    return step
