"""Storage: the buffers and the places of values, as far as the steps of planning have decided them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from rnnc.backends.planning.plan import Buffer, Place, Space
from rnnc.ir.families import Family

Copy = tuple[Family, Place]
"""A value that is loaded and stored again without computation, and the place where it is stored."""


@dataclass
class Storage:
    """The places of values.

    places: the place where a value is read, and written if it is computed. extra: other places where it must be
    written. over_time: the place where a carry is read outside its loop. concat_copies: the parts of a concat that must
    be copied, because they are not computed in place. lines: the state of a delay line -> the buffer of its source.
    """

    buffers: list[Buffer] = field(default_factory=list)
    places: dict[Family, Place] = field(default_factory=dict)
    extra: dict[Family, list[Place]] = field(default_factory=lambda: defaultdict(list))
    over_time: dict[Family, Place] = field(default_factory=dict)
    concat_copies: dict[Family, list[Copy]] = field(default_factory=lambda: defaultdict(list))

    lines: dict[Family, Buffer] = field(default_factory=dict)

    def buffer(self, name: str, space: Space, width: int) -> Buffer:
        """A new buffer."""
        buffer = Buffer(name, space, width)
        self.buffers.append(buffer)
        return buffer

    def new(self, prefix: str, family: Family, space: Space) -> Place:
        """The place of a value in a new buffer of its own."""
        return Place(self.buffer(f"{prefix}{family.index}", space, int(family.shape[-1])))

    def targets(self, family: Family) -> list[Place]:
        """The places where a value must be written."""
        own = self.places.get(family)
        return ([own] if own is not None else []) + self.extra[family]

    def homes(self, concat: Family) -> list[Place]:
        """The places where a concat must be written. After this call its parts are written there, not the concat."""
        return [self.places[concat], *self.extra.pop(concat, ())]
