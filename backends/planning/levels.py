"""Levels: the schedule of one group of values, such as a loop's step, into phases.

A matmul needs whole rows of its left operand, and a sum over units needs whole rows too; everything else works unit by
unit. So a value's **level** is the number of such barriers before it; values of one level and one width are one phase,
computed in registers. A value read across a barrier gets a buffer, and nothing else does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from rnnc.backends.planning.plan import Buffer, Feed, Phase, Place, Space, Weight
from rnnc.backends.planning.reading import Read, Reading
from rnnc.ir.deep import Calls, run
from rnnc.ir.errors import BackendError
from rnnc.ir.families import Family
from rnnc.ir.ops import Kind

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


class Levels:
    """The schedule of one group of values into phases."""

    def __init__(
        self,
        reading: Reading,
        storage: Storage,
        members: list[Family],
        name: str,
        space: Space,
        copies: Sequence[Copy] = (),
        loop: int | None = None,
    ) -> None:
        self.reading = reading
        self.storage = storage
        self.loop = loop
        self.copies = [*copies, *(c for f in members for c in storage.concat_copies[f])]
        self.members = members
        self.inside = set(members)
        self.name = name
        self.space = space
        self.level = self._late(self._early())

    def _weight(self, read: Read) -> int:
        return int(read.barrier and read.operand in self.inside)

    def _early(self) -> dict[Family, int]:
        early: dict[Family, int] = {}
        for family in self.members:
            inputs = [r for r in self.reading.reads(family) if r.operand in self.inside]
            early[family] = max((early[r.operand] + self._weight(r) for r in inputs), default=0)
        return early

    def _late(self, early: dict[Family, int]) -> dict[Family, int]:
        """As late as the readers allow: a value is computed where it is needed, instead of being kept."""
        late: dict[Family, int] = {}
        bound: dict[Family, int] = {}
        for family in reversed(self.members):
            late[family] = bound.get(family, early[family])
            for read in self.reading.reads(family):
                if read.operand in self.inside:
                    limit = late[family] - self._weight(read)
                    bound[read.operand] = min(bound.get(read.operand, limit), limit)
        return late

    def phases(self, also_stored: set[Family] | None = None) -> list[Phase]:
        """The phases in order, with their loads and stores."""
        self._give_buffers(also_stored or set())
        groups: dict[tuple[int, bool, int], list[Family]] = defaultdict(list)
        for family in self.members:
            if family.op == "concat" or (self.reading.inline_scalar(family) and not self.storage.targets(family)):
                continue
            width = int(family.inputs[0].shape[-1]) if family.spec.kind is Kind.REDUCE else int(family.shape[-1])
            groups[self.level[family], family.spec.kind is Kind.REDUCE, width].append(family)
        copies: dict[tuple[int, bool, int], list[Copy]] = defaultdict(list)
        for family, place in self.copies:
            base = self.reading.base(family)[0]
            level = self.level[base] + 1 if base in self.inside else 0
            copies[level, False, int(family.shape[-1])].append((family, place))
        result = []
        for number, key in enumerate(sorted(groups.keys() | copies.keys())):
            level, sums, width = key
            group = set(groups[key])
            if sums:  # what a sum reads is computed on the way, even if the tiles of this level compute it too
                group.update(groups.get((level, False, width), ()))
            roots = [f for f in groups[key] if sums or self.storage.targets(f)]
            if roots or copies[key]:
                builder = _PhaseBuilder(self, f"{self.name}{number}", width, group)
                result.append(builder.build(roots, copies[key]))
        return result

    def _give_buffers(self, also_stored: set[Family]) -> None:
        kept = {f for f in also_stored if f in self.inside} | {f for f in self.members if f.spec.kind is Kind.REDUCE}
        for family in self.members:
            for read in self.reading.reads(family):
                operand = read.operand
                if family.op == "concat" and self.loop is not None:
                    continue  # its parts are written where the concat is
                if operand in self.inside and not (self.reading.inline_scalar(operand) and not read.barrier):
                    if read.barrier or self.level[family] > self.level[operand]:
                        kept.add(operand)
        kept.update(self._copied(self.copies))
        for family in reversed(self.members):  # concats before their parts, and before concats whose columns they copy
            if family.op == "concat" and self.loop is not None and (family in kept or self.storage.targets(family)):
                kept.update(self._copied(self._place_concat(family)))
        for family in self.members:
            if family in kept and family not in self.storage.places:
                self._place(family)

    def _copied(self, copies: Sequence[Copy]) -> list[Family]:
        """What copies read of the values of this group."""
        return [base for base in (self.reading.base(family)[0] for family, _ in copies) if base in self.inside]

    def _place(self, family: Family) -> None:
        current = next((p for p in self.storage.extra[family] if p.buffer.space is Space.STATE), None)
        if current is not None:  # a new state is read where it is kept
            self.storage.extra[family].remove(current)
            self.storage.places[family] = current
            return
        shared = next((p for p in self.storage.extra[family] if p.buffer.space in (Space.TIMED, Space.STEP)), None)
        if shared is not None:  # a part of a concat is read there
            self.storage.extra[family].remove(shared)
            self.storage.places[family] = shared
            return
        self.storage.places[family] = self.storage.new("v", family, self.space)

    def _place_concat(self, family: Family) -> list[Copy]:
        """A concat is never computed: its parts are written wherever it must be. Returns those that are copied."""
        copies: list[Copy] = []
        if family not in self.storage.places:
            self._place(family)
        for home in self.storage.homes(family):
            column = home.column
            for part in family.inputs:
                place = Place(home.buffer, column)
                if part in self.inside:
                    self.storage.extra[part].append(place)
                else:
                    copies.append((part, place))
                column += int(part.shape[-1])
        self.copies += copies
        return copies


class _PhaseBuilder:
    """One phase: from its roots down to loads, accumulators and vectors."""

    def __init__(self, levels: Levels, name: str, width: int, group: set[Family]) -> None:
        self.reading = levels.reading
        self.storage = levels.storage
        self.loop = levels.loop
        self.phase = Phase(name, width)
        self.group = group
        self.done: set[Family] = set()
        self.feeds: list[tuple[Place, int, dict[int, Weight]]] = []

    def build(self, roots: list[Family], copies: Sequence[Copy]) -> Phase:
        for root in roots:
            if root.spec.kind is Kind.REDUCE:
                run(self._need(root.inputs[0]))
                self.phase.sums.append(root)
            else:
                run(self._need(root, compute=True))
            for place in self.storage.targets(root):
                self.phase.stores.append((root, place))
        for family, place in copies:
            if family not in self.done and family.op not in ("const", "zeros"):
                self.done.add(family)
                self._load(family)
            self.phase.stores.append((family, place))
        for place, inner, blocks in self.feeds:
            self.phase.feeds.append(Feed(place, inner, tuple(blocks.items())))
        return self.phase

    def _need(self, family: Family, compute: bool = False) -> Calls:
        """Makes a value available in registers."""
        if family in self.done or family.op in ("const", "zeros"):
            return
        self.done.add(family)
        if self.reading.time_free(family):
            self.phase.vectors.append(family)
        elif compute or family in self.group or self._recomputed(family):
            yield self._compute(family)
        else:
            self._load(family)

    def _recomputed(self, family: Family) -> bool:
        return (
            self.reading.computed(family) and self.reading.inline_scalar(family) and family not in self.storage.places
        )

    def _compute(self, family: Family) -> Calls:
        products = [i for i in family.inputs if self.reading.absorbed(i)] if family.op == "add" else []
        if self.reading.product(family):
            products = [family]
        if not products:
            for operand in family.inputs:
                yield self._need(operand)
            self.phase.values.append(family)
            return
        others = [] if products == [family] else [i for i in family.inputs if i not in products]
        for operand in others:
            yield self._need(operand)
        known = [i for i in others if i in self.phase.loads or i in self.phase.vectors or i.op in ("const", "zeros")]
        late = [i for i in others if i not in known]
        number = len(self.phase.accumulators)
        self.phase.accumulators.append(family)
        self.phase.initial[family] = known
        if late:
            self.phase.late[family] = late
            self.phase.values.append(family)
        for product in products:
            self._feed(number, product)

    def _feed(self, number: int, family: Family) -> None:
        """Adds a product to the loop over k that reads the same columns, or to a new one.

        A place is where the columns begin: products of one place and of another width are loops of their own, and so
        are several products of one operand in one sum.
        """
        product = self.reading.product(family)
        assert product is not None
        place, inner = self._where(product.lhs), int(product.lhs.shape[-1])
        for known, size, blocks in self.feeds:
            if (known, size) == (place, inner) and number not in blocks:
                blocks[number] = product.weight
                return
        self.feeds.append((place, inner, {number: product.weight}))

    def _load(self, family: Family) -> None:
        self.phase.loads[family] = self._where(family)

    def _where(self, family: Family) -> Place:
        base, column = self.reading.base(family)
        away = base.op == "carry" and self.reading.loop_of[base] != self.loop
        place = (self.storage.over_time if away else self.storage.places).get(base)
        if place is None:
            raise BackendError(f"{family!r} has no place to be read from")
        return Place(place.buffer, place.column + column, place.previous)
