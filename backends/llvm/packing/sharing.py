"""Weights that several left sides of a phase multiply, such as the positions of a convolution within a frame.

    %1, %5 += x[k] * (U, V)           one feed per left side, all with the same blocks:
    %2, %6 += x+64[k] * (U, V)        the weights lie in the arena once, and a loop over k loads them once for all sides
    %3, %7 += x+128[k] * (U, V)

The planner joins products by their left side. Where left sides share weights but not all of them, as in a convolution
of several taps, these feeds would interleave the weights differently, and each would need a copy of its own.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from rnnc.backends.llvm.packing.rectangles import columns_of
from rnnc.backends.llvm.packing.tile import Tile, blocks_of
from rnnc.backends.planning.plan import Feed, Phase, Place, Plan, Weight

__all__ = ["layout_key", "loops_of", "with_shared_weights"]

Side = tuple[Place, int]
"""A left side, and the accumulator of its product with a weight."""


def with_shared_weights(plan: Plan) -> Plan:
    """The plan, with the feeds of each phase arranged so that feeds of the same weights have the same blocks."""
    for _, phase in plan.phases():
        phase.feeds = arranged(phase.feeds)
    return plan


def arranged(feeds: Sequence[Feed]) -> list[Feed]:
    """Feeds with the same products. They stay as they are unless a weight has several left sides."""
    if len({feed.inner for feed in feeds}) == len(feeds):
        return list(feeds)
    sides = _sides(feeds)
    if all(len(each) == 1 for each in sides.values()):
        return list(feeds)
    inner = {weight: feed.inner for feed in feeds for _, weight in feed.blocks}
    alike: dict[tuple[Place, ...], list[Weight]] = {}
    for weight, each in sides.items():
        alike.setdefault(tuple(lhs for lhs, _ in each), []).append(weight)
    found: list[Feed] = []
    for places, weights in alike.items():
        for together in _apart(weights, sides):
            for number, lhs in enumerate(places):
                blocks = tuple((sides[weight][number][1], weight) for weight in together)
                found.append(Feed(lhs, inner[together[0]], blocks))
    return found


def _sides(feeds: Sequence[Feed]) -> dict[Weight, list[Side]]:
    """The left sides of each weight. Of equal weights, the first one stands for all."""
    known: dict[Hashable, Weight] = {}
    sides: dict[Weight, list[Side]] = {}
    for feed in feeds:
        for accumulator, weight in feed.blocks:
            first = known.setdefault((weight.transposed, *columns_of(weight)), weight)
            sides.setdefault(first, []).append((feed.lhs, accumulator))
    return sides


def _apart(weights: Sequence[Weight], sides: dict[Weight, list[Side]]) -> list[list[Weight]]:
    """Weights of the same left sides, as blocks of one feed or of several: each adds to an accumulator once."""
    found: list[tuple[list[Weight], set[tuple[int, int]]]] = []
    for weight in weights:
        targets = {(number, accumulator) for number, (_, accumulator) in enumerate(sides[weight])}
        for members, taken in found:
            if not taken & targets:
                members.append(weight)
                taken |= targets
                break
        else:
            found.append(([weight], targets))
    return [members for members, _ in found]


def layout_key(feed: Feed, tile: Tile, phase: Phase) -> Hashable:
    """A key that is equal for feeds whose packed weights are equal: their weights, in the order of reading."""
    groups = (blocks_of(feed, group) for group in tile.groups(len(phase.accumulators)))
    return feed.inner, tuple(tuple(feed.blocks[b][1] for b in blocks) for blocks in groups if blocks)


def loops_of(phase: Phase, tile: Tile, groups: Sequence[range]) -> list[list[int]]:
    """The loops over k of a pass: for each, the numbers of the feeds that read the same packed weights.

    The feeds of a loop add to accumulators of their own. Feeds without a part in these groups are left out.
    """
    found: list[tuple[Hashable, list[int], set[int]]] = []
    for number, feed in enumerate(phase.feeds):
        targets = {feed.blocks[b][0] for group in groups for b in blocks_of(feed, group)}
        if not targets:
            continue
        key = layout_key(feed, tile, phase), _parts(feed, tile, groups)
        for known, members, taken in found:
            if known == key and not taken & targets:
                members.append(number)
                taken |= targets
                break
        else:
            found.append((key, [number], targets))
    return [members for _, members, _ in found]


def _parts(feed: Feed, tile: Tile, groups: Sequence[range]) -> tuple[int, ...]:
    """Which parts of a feed's packed weights some groups read: its blocks lie group by group."""
    before = sum(len(blocks_of(feed, group)) for group in tile.groups(groups[0].start))
    return before, *(count for group in groups if (count := len(blocks_of(feed, group))))
