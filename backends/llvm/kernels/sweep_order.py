"""The order of the sweeps that pack an arena: those that a call of a single step needs come first.

A loop's last step has no next one, so phases whose results only a next step reads are left out there
(`rnnc.backends.planning.last_step`), and their weights are not read by a call of one step.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from rnnc.backends.llvm.kernels.packers import Sweep, sweeps_of
from rnnc.backends.llvm.kernels.plan_module import Emitted
from rnnc.backends.llvm.packing.layout import PackedPhase
from rnnc.backends.planning.last_step import for_the_next_step
from rnnc.backends.planning.plan import Plan


class OrderedSweeps(NamedTuple):
    """Sweeps. of_one_step: how many of them, from the first on, a call of a single step needs."""

    sweeps: list[Sweep]
    of_one_step: int


def ordered_sweeps(plan: Plan, emitted: Emitted, in_place: Collection[int] = ()) -> OrderedSweeps:
    """The sweeps that pack the arena of a plan. in_place: where the weights start that are not packed."""
    starts = {block.start for block in emitted.layout.blocks}
    later = starts - _read_by_one_step(plan, emitted)
    first = sweeps_of(emitted.layout, (starts & set(in_place)) | later)
    return OrderedSweeps(first + sweeps_of(emitted.layout, (starts - later) | set(in_place)), len(first))


def _read_by_one_step(plan: Plan, emitted: Emitted) -> set[int]:
    """Where the weights start that something reads beside the loops' steps that have a next one."""
    left_out = {number for region in plan.regions for number in for_the_next_step(region)}
    return {start for p in emitted.phases if id(p.phase) not in left_out for start in _reads(p)}


def _reads(p: PackedPhase) -> tuple[int, ...]:
    """Where the operands start that a phase reads."""
    return (*p.weights, p.vectors) if p.phase.vectors else p.weights
