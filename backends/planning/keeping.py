"""The values that the first half of a plan keeps for the second."""

from __future__ import annotations

from collections.abc import Iterator

from rnnc.backends.planning.plan import Buffer, Place, Plan


def kept_buffers(planned: Plan) -> list[Buffer]:
    """The buffers that the first half writes and the second half reads, in the order of the plan."""
    if not planned.late:
        return []
    read, written = set(_touched(planned, True)), set(_touched(planned, False))
    written |= {buffer for name, buffer in planned.inputs.items() if name not in planned.late}
    written |= {place.buffer for name, place in planned.row_inputs if name not in planned.late}
    crossing = {place.buffer for name, place in planned.row_outputs if name in planned.late}
    return [buffer for buffer in planned.buffers if buffer in (read | crossing) & written]


def _touched(planned: Plan, late: bool) -> Iterator[Buffer]:
    """The buffers that one half reads or writes."""
    for region in planned.regions:
        if region.late != late:
            continue
        for state in region.states:
            yield from (p.buffer for p in (state.initial, state.kept) if isinstance(p, Place))
        for phase in (*region.batched, *region.steps):
            yield from (place.buffer for place in phase.loads.values())
            yield from (place.buffer for _, place in phase.stores)
            yield from (feed.lhs.buffer for feed in phase.feeds)
    for total in planned.sums:
        if total.late == late:
            for term in total.terms:
                yield from (place.buffer for place in (term.lhs, term.rhs) if place is not None)
