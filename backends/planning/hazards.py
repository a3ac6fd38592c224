"""Hazards: the phases of a step that must wait for the other blocks, or threads, of their group.

Phases between two barriers may run at the same time on different units and rows of a tile. A barrier is needed before a
phase that reads what another thread has written since the last barrier, or overwrites what another thread may still
read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rnnc.backends.planning.plan import Phase, Place, Region, Space

STEPS = 3
"""The number of steps analysed. A double buffer repeats after two steps, so the third step meets all hazards of later
ones: it writes the half that the first step wrote and the second one reads."""


@dataclass(frozen=True)
class Access:
    """One access to a buffer.

    moment: the number of the value, if the buffer has several. columns: (first column, width, division of the phase) if
    each thread accesses only the columns of its own rows and units; None if any thread may access any of them.
    """

    place: Place
    moment: int
    written: bool
    columns: tuple[int, int, int] | None


Division = Callable[[Phase], int | None]
"""How threads divide the units of a phase. Phases of the same width and the same number have the same divisions; None:
any thread may compute any unit."""


def _all_alike(phase: Phase) -> int | None:
    return None if phase.sums else 1


def barriers(region: Region, division: Division = _all_alike) -> set[int]:
    """The numbers of the phases that need a barrier before them. 0: before every step but the first.

    division: default: all phases without reductions divide their units in the same way.
    """
    needed: set[int] = set()
    while (more := _first_conflict(region, needed, division)) is not None:
        needed.add(more)
    return needed


def _first_conflict(region: Region, known: set[int], division: Division) -> int | None:
    since: list[Access] = []
    for step in range(STEPS):
        for number, phase in enumerate(region.steps):
            if number in known:
                since = []
            found = list(_accesses(phase, step, division(phase)))
            if any(_conflict(a, b) for a in since for b in found):
                return number
            since += found
    return None


def _conflict(a: Access, b: Access) -> bool:
    if a.place.buffer is not b.place.buffer or a.moment != b.moment or not (a.written or b.written):
        return False
    if a.columns is None or b.columns is None:
        return True
    (first, width, _), (other, more, _) = a.columns, b.columns
    return a.columns != b.columns and first < other + more and other < first + width


def _accesses(phase: Phase, step: int, division: int | None) -> Iterator[Access]:
    for feed in phase.feeds:
        yield Access(feed.lhs, _moment(feed.lhs, step), False, None)
    for family, place in phase.loads.items():
        own = family.shape[-1] == phase.width and not place.grid
        columns = (place.column, phase.width, division) if own and division is not None else None
        yield Access(place, _moment(place, step), False, columns)
    for _, place in phase.stores:
        columns = None if division is None else (place.column, phase.width, division)
        yield Access(place, _moment(place, step), True, columns)


def _moment(place: Place, step: int) -> int:
    """The number of the value accessed. Buffers over time have one per step, double buffers two, others one."""
    if place.buffer.space in (Space.STATE, Space.STEP, Space.ROWS):
        return (step + (not place.previous)) % 2 if place.buffer.double else 0
    return step
