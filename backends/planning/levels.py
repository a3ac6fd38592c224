"""Levels: one group of values, such as a loop's step, scheduled into phases.

A matmul needs whole rows of its left operand, and a sum over units needs whole rows too. Everything else works unit by
unit. A value's **level** is the number of such barriers before it. The values of one level and one width are one phase,
computed in registers. A value gets a buffer if it is read across a barrier or by a later phase, and otherwise none.

    members -> levels_of -> place_kept -> phases_of -> phases
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count

from rnnc.backends.planning.grids import are_alike, group_bounds, is_group
from rnnc.backends.planning.phases import PhaseBuilder
from rnnc.backends.planning.plan import Phase, Place, Space
from rnnc.backends.planning.reading import Read, Reading
from rnnc.backends.planning.storage import Copy, Storage
from rnnc.ir.families import Family
from rnnc.ir.ops import Kind

Level = dict[Family, int]


@dataclass(frozen=True)
class Group:
    """Values that are computed together, operands first.

    name: the prefix of its phases' names. space: the space of its buffers. copies: values that are loaded and stored
    again. loop: the number of the loop whose step this is, or None. wanted: members that values outside the group read
    from a buffer.
    """

    reading: Reading
    members: list[Family]
    name: str
    space: Space
    copies: Sequence[Copy] = ()
    loop: int | None = None
    wanted: frozenset[Family] = field(default_factory=frozenset)

    @cached_property
    def inside(self) -> frozenset[Family]:
        """The members as a set."""
        return frozenset(self.members)

    def reads(self, family: Family) -> list[Read]:
        """The reads of other members by a member."""
        return [read for read in self.reading.reads(family) if read.operand in self.inside]


def schedule(group: Group, storage: Storage) -> list[Phase]:
    """The phases of a group, in order, with their loads and stores. Adds the buffers that they need to the storage."""
    level = levels_of(group)
    copies = [*group.copies, *(copy for f in group.members for copy in storage.concat_copies[f])]
    copies += place_kept(group, level, copies, storage)
    return phases_of(group, level, copies, storage)


# ---- levels


def levels_of(group: Group) -> Level:
    """The level of each member, as late as its readers allow, so that values are computed where they are needed."""
    early = _early(group)
    late: Level = {}
    bound: Level = {}
    for family in reversed(group.members):
        late[family] = bound.get(family, early[family])
        for read in group.reads(family):
            limit = late[family] - int(read.barrier)
            bound[read.operand] = min(bound.get(read.operand, limit), limit)
    return late


def _early(group: Group) -> Level:
    """The number of barriers before each value."""
    early: Level = {}
    for family in group.members:
        early[family] = max((early[r.operand] + int(r.barrier) for r in group.reads(family)), default=0)
    return early


# ---- buffers


def place_kept(group: Group, level: Level, copies: Sequence[Copy], storage: Storage) -> list[Copy]:
    """Adds buffers for values read across a barrier or by a later phase. Returns copies of parts of concats."""
    kept = {f for f in group.wanted if f in group.inside} | {f for f in group.members if f.spec.kind is Kind.REDUCE}
    kept.update(_read_later(group, level))
    kept.update(_copied(group, copies))
    made: list[Copy] = []
    for family in reversed(group.members):  # concats before their parts, and before concats whose columns they copy
        if _written_by_parts(group, family) and (family in kept or storage.targets(family)):
            parts = _place_concat(group, family, storage)
            kept.update(_copied(group, parts))
            made += parts
    for family in group.members:
        if family in kept and family not in storage.places:
            _place(group, family, storage)
    return made


def _written_by_parts(group: Group, family: Family) -> bool:
    """True for a concat of a step: it is never computed, as its parts are written into its place."""
    return family.op == "concat" and group.loop is not None


def _read_later(group: Group, level: Level) -> Iterable[Family]:
    for family in group.members:
        if _written_by_parts(group, family):
            continue
        for read in group.reads(family):
            again = group.reading.inline_scalar(read.operand) and not read.barrier  # recomputed by the reader
            if not again and (read.barrier or level[family] > level[read.operand]):
                yield read.operand


def _copied(group: Group, copies: Sequence[Copy]) -> list[Family]:
    """The members that copies read."""
    return [base for base in (group.reading.base(family)[0] for family, _ in copies) if base in group.inside]


def _place(group: Group, family: Family, storage: Storage) -> None:
    """Decides the place of a value: one where it must be written anyway (a state, a concat), or a new buffer."""
    for spaces in ((Space.STATE,), (Space.TIMED, Space.LINE, Space.STEP)):
        shared = next((p for p in storage.extra[family] if p.buffer.space in spaces), None)
        if shared is not None:
            storage.extra[family].remove(shared)
            storage.places[family] = shared
            return
    storage.places[family] = storage.new("v", family, group.space)


def _place_concat(group: Group, family: Family, storage: Storage) -> list[Copy]:
    """Has the parts of a concat written to all its places. Returns copies of the parts outside the group."""
    copies: list[Copy] = []
    if family not in storage.places:
        _place(group, family, storage)
    for home in storage.homes(family):
        column = home.column
        for part in family.inputs:
            place = Place(home.buffer, column)
            if part in group.inside:
                storage.extra[part].append(place)
            else:
                copies.append((part, place))
            column += int(part.shape[-1])
    return copies


# ---- phases

Key = tuple[int, int, int]
"""The values that one phase computes: their level, the number of a set of reductions over units that can be walked
together (0: no reductions), and their width."""


def phases_of(group: Group, level: Level, copies: Sequence[Copy], storage: Storage) -> list[Phase]:
    """The phases in order: one for each key with something to store."""
    values, stored = _by_key(group, level, storage), _copies_by_key(group, level, copies)
    at_once = {
        (at, 0, width) for at, number, width in values if number == 1 and _walked_at_once(group, values, at, width)
    }
    phases = []
    for number, key in enumerate(sorted(values.keys() | stored.keys())):
        at, reduces, width = key
        tiles = (at, 0, width)
        computed = set(values.get(key, ()))
        if reduces:  # a sum computes its operands itself, even if the tiles of this level compute them too
            computed.update(values.get(tiles, ()))
        roots = [f for f in values.get(key, ()) if reduces or key not in at_once and storage.targets(f)]
        copied = stored.get(key, []) if key not in at_once else []
        if reduces == 1 and tiles in at_once:
            roots += [f for f in values.get(tiles, ()) if storage.targets(f)]
            copied = stored.get(tiles, [])
        if roots or copied:
            builder = PhaseBuilder(group.reading, storage, group.loop, f"{group.name}{number}", width, computed)
            phases.append(builder.build(roots, copied))
    return phases


def _by_key(group: Group, level: Level, storage: Storage) -> dict[Key, list[Family]]:
    found: dict[Key, list[Family]] = defaultdict(list)
    bounds: dict[Key, frozenset[int]] = defaultdict(frozenset)
    for family in group.members:
        if family.op == "concat" or (group.reading.inline_scalar(family) and not storage.targets(family)):
            continue
        if family.spec.kind is not Kind.REDUCE:
            found[level[family], 0, int(family.shape[-1])].append(family)
            continue
        width, own = int(family.inputs[0].shape[-1]), group_bounds(family)
        keys = ((level[family], number, width) for number in count(1))
        key = next(key for key in keys if are_alike(bounds[key] | own))
        bounds[key] |= own
        found[key].append(family)
    return dict(found)


def _walked_at_once(group: Group, values: Mapping[Key, list[Family]], at: int, width: int) -> bool:
    """True if one phase computes a level's reductions together with the values that the level stores.

    That needs units on a grid, and no stored value with a matmul. Such values are wide, because they are matrices per
    row, so a second pass over them would cost more than the arithmetic.
    """
    reading, stored = group.reading, values.get((at, 0, width), [])
    reductions = values[at, 1, width]
    repeated = any(reading.addressed(i) for f in (*reductions, *stored) for i in f.inputs)
    grids = repeated or any(map(is_group, reductions))
    return grids and not any(map(reading.has_product, stored))


def _copies_by_key(group: Group, level: Level, copies: Sequence[Copy]) -> dict[Key, list[Copy]]:
    found: dict[Key, list[Copy]] = defaultdict(list)
    for family, place in copies:
        base = group.reading.base(family)[0]
        at = level[base] + 1 if base in group.inside else 0
        found[at, 0, int(family.shape[-1])].append((family, place))
    return dict(found)
