"""Wide values: values with several axes of units, such as one matrix per row, computed from narrow ones by `expand`.

They are cheap to compute from narrow values, but expensive to keep over time. So rolling moves their reductions into
the loop that computes them, and computes them again in each loop that reads them.

    %69[t] = mul(%61, %68[t])       [B, 4096]           in a loop
    %70[t] = group_sum(%69[t])      [T, B, 64]          after the loop: moved into it, so that %69 is not kept
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from rnnc.ir.families import Family
from rnnc.ir.ops import Kind
from rnnc.ir.ordering import readers

Placement = dict[Family, int]
MOST_LINKS = 8
"""The most elementwise values that are recomputed instead of keeping one."""


def wide_values(members: Iterable[Family]) -> set[Family]:
    """The wide values: results of `expand`, operands of reductions over groups, and what is computed from them.

    The last are elementwise values of the same width, and states of such values.
    """
    listed = list(members)
    wide = {i for f in listed if f.spec.kind is Kind.REDUCE and "size" in f.spec.attrs for i in f.inputs}
    wide |= {f for f in listed if f.op == "expand"}
    found = -1
    while len(wide) != found:  # repeated, because a state is known to be wide once its source is
        found = len(wide)
        for family in listed:
            reads = (family.source,) if family.op == "carry" else family.inputs
            through = family.op == "carry" or family.spec.kind is Kind.ELEMENTWISE
            if through and any(i in wide and i.shape == family.shape for i in reads if i is not None):
                wide.add(family)
    return wide


def narrows(family: Family, wide: set[Family]) -> bool:
    """True if a value is a reduction of a wide one."""
    return family.spec.kind is Kind.REDUCE and family.inputs[0] in wide


def copy_into_loops(
    members: list[Family],
    place: Placement,
    following: Mapping[Family, Sequence[Family]],
    wide: set[Family],
    outputs: set[Family],
) -> list[Family]:
    """Moves copies of wide values outside loops into each loop that reads them. Returns all values, copies last.

    place: the loop of each value that is in one. Copies are added to it, and to the wide values.
    """
    users = {family: list(readers) for family, readers in following.items()}
    copies: list[Family] = []
    dropped: set[Family] = set()
    number = max((f.index for f in members), default=0) + 1
    for family in reversed(members):
        readers = list(dict.fromkeys(users.get(family, ())))
        if not _is_free(family, place, wide, outputs) or not readers or any(r not in place for r in readers):
            continue
        made: dict[int, Family] = {}
        for reader in readers:
            loop = place[reader]
            if loop not in made:
                made[loop] = replace(family, index=number, members={})
                wide.add(made[loop])
                number += 1
                place[made[loop]] = loop
                for operand in family.inputs:
                    users.setdefault(operand, []).append(made[loop])
            reader.inputs = tuple(made[loop] if i is family else i for i in reader.inputs)
        for operand in family.inputs:
            users[operand] = [r for r in users[operand] if r is not family]
        copies = [*made.values(), *copies]
        dropped.add(family)
    return [f for f in members if f not in dropped] + copies


def recompute_elsewhere(
    members: list[Family], place: Placement, stored: Iterable[Family], wide: set[Family], outputs: set[Family]
) -> list[Family]:
    """Recomputes wide values of a loop where other loops read them, from narrow values and values that are kept.

    Without it, a state and its next value would both be kept if a derivative reads both. Returns all values, copies
    last.
    """
    kept, number = set(stored), max((f.index for f in members), default=0) + 1
    users = readers({family: family.inputs for family in members})
    result = list(members)
    for family in members:
        elsewhere = [r for r in dict.fromkeys(users[family]) if place.get(r) != place.get(family) and r.op != "exit"]
        chain = _chain(family, kept, wide) if family in kept and family in place and family not in outputs else []
        if not chain or not all(r.spec.kind in (Kind.ELEMENTWISE, Kind.REDUCE) for r in elsewhere):
            continue
        for home in dict.fromkeys(place.get(r) for r in elsewhere):
            copies: dict[Family, Family] = {}
            for link in chain:
                inputs = tuple(copies.get(i, i) for i in link.inputs)
                copies[link] = replace(link, index=number, inputs=inputs, members={})
                number += 1
                if home is not None:
                    place[copies[link]] = home
            for reader in elsewhere:
                if place.get(reader) == home:
                    reader.inputs = tuple(copies[family] if i is family else i for i in reader.inputs)
            result += copies.values()
    return result


def recompute_apart(
    members: list[Family], place: Mapping[Family, int], wide: set[Family], outputs: set[Family]
) -> list[Family]:
    """Computes a wide value outside loops once for each of its readers, from narrow values. Returns all, copies last.

    Without it, a mask that a gradient reads too would be kept for all steps from one to the other.
    """
    users, number = readers({f: f.inputs for f in members}), max((f.index for f in members), default=0) + 1
    result = list(members)
    for family in members:
        others = list(dict.fromkeys(users[family]))[1:]
        chain = _chain(family, set(), wide) if others and _is_free(family, place, wide, outputs) else []
        if not chain or any(r in place or r.spec.kind not in (Kind.ELEMENTWISE, Kind.REDUCE) for r in users[family]):
            continue
        for reader in others:
            copies: dict[Family, Family] = {}
            for link in chain:
                inputs = tuple(copies.get(i, i) for i in link.inputs)
                copies[link] = replace(link, index=number, inputs=inputs, members={})
                number += 1
            reader.inputs = tuple(copies[family] if i is family else i for i in reader.inputs)
            result += copies.values()
    return result


def _chain(family: Family, kept: set[Family], wide: set[Family]) -> list[Family]:
    """The values to compute for a value from narrow and kept ones, operands first; [] if there are too many."""
    found: dict[Family, None] = {}
    todo = [family]
    while todo:
        link = todo.pop()
        if link.spec.kind is not Kind.ELEMENTWISE or link.spec.costly or link not in wide or len(found) == MOST_LINKS:
            return []
        found.pop(link, None)
        found[link] = None
        todo += [i for i in link.inputs if not _at_hand(i, kept, wide)]
    return list(found)[::-1]


def _at_hand(family: Family, kept: set[Family], wide: set[Family]) -> bool:
    """True if a value can be read at any step, because it is kept, or narrow and therefore cheap to keep."""
    while family.op == "expand":
        family = family.inputs[0]
    return not family.timed or family.spec.kind is Kind.LEAF or family in kept or family not in wide


def _is_free(family: Family, place: Mapping[Family, int], wide: set[Family], outputs: set[Family]) -> bool:
    """True for a timed, wide, elementwise value that is outside all loops, cheap, and not an output."""
    cheap = family.spec.kind is Kind.ELEMENTWISE and not family.spec.costly
    return cheap and family in wide and family.timed and family not in place and family not in outputs
