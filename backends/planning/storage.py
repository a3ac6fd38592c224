"""Where values are, as far as it is decided: what the steps of planning hand on to one another."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from rnnc.backends.planning.plan import Buffer, Place, Space
from rnnc.ir.families import Family

Copy = tuple[Family, Place]
"""A value that is stored as it was read."""


@dataclass
class Storage:
    """Where values are.

    places: where a value is read, and written if it is computed. extra: where else it must be written.
    over_time: where a carry is read outside its loop. concat_copies: parts of a concat that are not computed for it.
    """

    buffers: list[Buffer] = field(default_factory=list)
    places: dict[Family, Place] = field(default_factory=dict)
    extra: dict[Family, list[Place]] = field(default_factory=lambda: defaultdict(list))
    over_time: dict[Family, Place] = field(default_factory=dict)
    concat_copies: dict[Family, list[Copy]] = field(default_factory=lambda: defaultdict(list))

    def buffer(self, name: str, space: Space, width: int) -> Buffer:
        """A new buffer."""
        buffer = Buffer(name, space, width)
        self.buffers.append(buffer)
        return buffer

    def new(self, prefix: str, family: Family, space: Space) -> Place:
        """A new buffer for a value."""
        return Place(self.buffer(f"{prefix}{family.index}", space, int(family.shape[-1])))

    def targets(self, family: Family) -> list[Place]:
        """Where a value must be written."""
        own = self.places.get(family)
        return ([own] if own is not None else []) + self.extra[family]

    def homes(self, concat: Family) -> list[Place]:
        """Where a concat must be written; from here on that is up to its parts."""
        return [self.places[concat], *self.extra.pop(concat, ())]
