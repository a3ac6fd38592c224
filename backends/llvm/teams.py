"""Teams: when it pays that several threads compute a batch together (`rnnc.backends.llvm.kernels.team_function`).

A batch may be split by rows, or each step by units. Units need a barrier or two per step, so a step must be long
enough; in return each thread reads only its share of the weights, and a single row is enough. The two directions of a
layer need no barriers. On two threads, units gain more than rows up to some 32 rows (docs/llvm.md has the figures).

The estimates of times are rough. They decide from when on a team is tried; whether it stays is measured in each process
(`rnnc.backends.llvm.kernels.crew`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from rnnc.backends.llvm.kernels.plan_module import Emitted
    from rnnc.backends.planning.plan import Phase, Plan, Region

BARRIER_NS = 250
"""Nanoseconds that a barrier takes, on neighbouring cores."""
START_NS = 1500
"""Nanoseconds that it takes to call the others, and to wait for the last one."""
WAKE_NS = 60_000
"""Nanoseconds after which a helper that was asleep begins."""
PHASE_NS = 20
"""Nanoseconds around the loops of a phase."""
WEIGHTS_PER_NS = 60
"""Bytes of weights that a core reads per nanosecond from its second-level cache, to multiply them with one row."""
FLOPS_PER_NS = 80
VECTOR_NS = 2.0
"""Nanoseconds that an equation takes per vector."""
MORE_ROWS = 0.25
"""The time of another row beside the first one, which reads the weights from the cache."""
GAIN = 1.15
"""How many times as fast as one thread a team must be."""
OF_ROWS = 0.8
"""The share of what rows may gain at best that a team must gain."""
MOST_BATCH = 64
"""The largest batch that a team runs."""


class PhaseWork(NamedTuple):
    """ns: of one row, on one thread. panels: how many threads can share, or 1."""

    ns: float
    panels: int

    def alone(self, batch: int) -> float:
        """The nanoseconds of some rows."""
        return self.ns * (1 + MORE_ROWS * (batch - 1))

    def shared(self, members: int, batch: int) -> float:
        """The nanoseconds of the member that has most to do."""
        return PHASE_NS + max(0.0, self.alone(batch) - PHASE_NS) * -(-self.panels // members) / self.panels


class RegionWork(NamedTuple):
    """The phases of a step, the phases over many steps (per row), and the barriers of a step."""

    steps: tuple[PhaseWork, ...]
    hoisted: tuple[PhaseWork, ...]
    barriers: int

    def alone(self, batch: int) -> float:
        """Nanoseconds per step on one thread."""
        return sum(work.alone(batch) for work in (*self.steps, *self.hoisted))

    def shared(self, members: int, batch: int) -> float:
        """Nanoseconds per step of a team."""
        units = sum(work.shared(members, batch) for work in (*self.steps, *self.hoisted))
        return units + self.barriers * BARRIER_NS


class TeamWork(NamedTuple):
    """Groups of regions that threads may run side by side."""

    groups: tuple[tuple[RegionWork, ...], ...]

    def alone(self, batch: int = 1) -> float:
        """Nanoseconds per step on one thread."""
        return sum(region.alone(batch) for group in self.groups for region in group)

    def shared(self, members: int, batch: int = 1) -> float:
        """Nanoseconds per step of a team."""
        return sum(_of_group(group, members, batch) for group in self.groups)

    def most_batch(self, members: int) -> int:
        """The largest batch for which a team is a good choice; 0 if there is none."""
        for batch in range(MOST_BATCH, 0, -1):
            gain = self.alone(batch) / max(1.0, self.shared(members, batch))
            if gain >= max(GAIN, OF_ROWS * batch / -(-batch // members)):
                return batch
        return 0

    def least_rows(self, members: int) -> int:
        """The number of rows, over all steps, from which a team pays."""
        return max(1, int(START_NS / max(1.0, self.alone() - self.shared(members))))

    def worth_waking(self, members: int) -> int:
        """The number of rows from which it pays to wait for a helper that is asleep."""
        return max(1, int(3 * WAKE_NS / max(1.0, self.alone() - self.shared(members))))


def _of_group(group: Sequence[RegionWork], members: int, batch: int) -> float:
    if 1 < len(group) and members <= len(group):  # a region after the other for each member
        return max(sum(region.alone(batch) for region in group[n::members]) for n in range(members))
    return sum(region.shared(members, batch) for region in group)


def team_work(plan: Plan, emitted: Emitted) -> TeamWork | None:
    """What threads may share of a plan; None if it has two halves, or phases with a workspace of their own."""
    from rnnc.backends.llvm.kernels.team_function import groups

    if plan.late or plan.sums or any(phase.product.activations for _, phase in plan.phases()):
        return None
    found = groups(plan.regions)
    return TeamWork(tuple(tuple(_region(region, emitted) for region in group) for group in found))


def _region(region: Region, emitted: Emitted) -> RegionWork:
    from rnnc.backends.llvm.kernels.team_function import waits_of

    units = {id(each.phase): each.tile.units for each in emitted.phases}
    steps = tuple(_phase(phase, emitted, hoisted=False) for phase in region.steps)
    hoisted = tuple(_phase(phase, emitted, hoisted=True) for phase in region.batched)
    return RegionWork(steps, hoisted, len(waits_of(region, units)))


def _phase(phase: Phase, emitted: Emitted, *, hoisted: bool) -> PhaseWork:
    from rnnc.backends.llvm.kernels.team_function import can_share

    tile = next(each.tile for each in emitted.phases if each.phase is phase)
    item, panels = emitted.layout.dtype.itemsize, tile.panels(phase.width)
    weights = sum(phase.product.words(feed.inner) * len(feed.blocks) for feed in phase.feeds) * panels * tile.units
    flops = sum(2 * feed.inner * len(feed.blocks) * phase.width for feed in phase.feeds)
    work = flops / FLOPS_PER_NS if hoisted else weights * item / WEIGHTS_PER_NS
    equations = len(phase.values) * panels * tile.vectors * VECTOR_NS
    return PhaseWork(work + equations + PHASE_NS * (not hoisted), panels if can_share(phase) else 1)
