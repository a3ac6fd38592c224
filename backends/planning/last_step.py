"""Phases whose results nobody reads after a loop's last step: what they compute is for a step that does not come.

A backward loop ends with the product that carries the adjoint of h to the step before the first one. It is the gradient
of the initial state, which a training step does not ask for. At one step, this product is a fifth of the work.
"""

from __future__ import annotations

from collections.abc import Iterator

from rnnc.backends.planning.plan import Phase, Place, Region


def for_the_next_step(region: Region) -> set[int]:
    """The ids of the step phases that store nothing but states, of which only the next step reads the values."""
    unread = {state.buffer for state in region.states if not state.finals and state.kept is None}
    unread -= {place.buffer for phase in region.steps for place in _reads(phase) if not place.previous}
    return {id(phase) for phase in region.steps if all(place.buffer in unread for _, place in phase.stores)}


def _reads(phase: Phase) -> Iterator[Place]:
    yield from phase.loads.values()
    yield from (feed.lhs for feed in phase.feeds)
