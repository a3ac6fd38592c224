"""A plan by itself: every column that is read has been written before, and every output is written.

A plan that forgets to write a value reads whatever lies in memory, and its results may be right by chance.
"""

from __future__ import annotations

from rnnc.backends.llvm.kernels.epilogue import signature
from rnnc.backends.planning.plan import Buffer, Phase, Place, Plan, Space
from rnnc.backends.planning.planner import plan
from rnnc.ir.computation import Computation
from rnnc.ir.stacks import Stack


def columns(place: Place, width: int) -> set[int]:
    return set(range(place.column, place.column + width))


def reads(phase: Phase) -> list[tuple[Place, int]]:
    """Places a phase reads, with their widths."""
    loads = [(place, read_columns(place) or int(family.shape[-1])) for family, place in phase.loads.items()]
    return loads + [(feed.lhs, feed.inner) for feed in phase.feeds]


def read_columns(place: Place) -> int:
    """The columns that a grid covers; 0 for a place that is read one column after the other."""
    return sum((size - 1) * step for size, step in place.grid) + 1 if place.grid else 0


def assert_all_is_written_before_it_is_read(made: Plan) -> None:
    written: dict[Buffer, set[int]] = {buffer: set() for buffer in made.buffers}
    for buffer in made.buffers:
        if buffer.space is Space.INPUT:
            written[buffer] = set(range(buffer.width))
    for region in made.regions:
        for phase in (*region.batched, *region.steps):
            assert all(place in signature(phase).places for place in phase.loads.values())
            for place, width in reads(phase):
                missing = columns(place, width) - written[place.buffer]
                assert place.previous or not missing, f"{phase.name} reads {place}, never written: {sorted(missing)}"
            for family, place in phase.stores:
                assert place.column + int(family.shape[-1]) <= place.buffer.width
                written[place.buffer] |= columns(place, int(family.shape[-1]))
        for state in region.states:
            changes = state.carry.source is not state.carry
            assert written[state.buffer] == (set(range(state.buffer.width)) if changes else set())
    for output in made.outputs.values():
        assert written[output] == set(range(output.width))


def finals(made: Plan) -> set[str]:
    ends = [*made.lines, *(state for region in made.regions for state in region.states)]
    return {final for end in ends for final in end.finals}


def assert_plan_is_complete(stack: Stack) -> None:
    made = plan(Computation.of_stack(stack).program())
    assert_all_is_written_before_it_is_read(made)
    assert finals(made) == {name for name in made.program.outputs if name != "output"}
