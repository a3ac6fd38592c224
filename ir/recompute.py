"""Recomputing: a cheap value of one loop that another loop reads is computed again in the other loop, not kept.

    loop t = 0 .. T-1:   %34[t] = sigmoid(...);  %39[t] = sub(1.0, %34)       both kept over time
    loop t = T-1 .. 0:   ... mul(%62, %39[t])
->
    loop t = 0 .. T-1:   %34[t] = sigmoid(...);  %39 = sub(1.0, %34)          one kept
    loop t = T-1 .. 0:   %93 = sub(1.0, %34[t]);  ... mul(%62, %93)

The result of a matmul, of a reduction or of an op that the table calls costly is kept, because reading it back is
cheaper than computing it. Any other elementwise value is computed again if its operands are available anyway.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from rnnc.ir.families import Family
from rnnc.ir.ops import Kind
from rnnc.ir.ordering import readers


def recompute(
    members: list[Family], place: dict[Family, int], stored: Iterable[Family], outputs: Iterable[Family]
) -> list[Family]:
    """Copies cheap stored values into the loops that read them. Returns all values, with the copies last.

    place: the loop of each value that is in one. The copies are added to it.
    """
    kept = set(stored)
    returned = set(outputs)
    result = list(members)
    users = readers({family: family.inputs for family in members})
    carried = {f.source for f in members if f.op == "carry"}
    number_of_next = max((f.index for f in members), default=0) + 1
    for family in members:
        cheap = (
            family.spec.kind is Kind.ELEMENTWISE
            and not family.spec.costly
            and family in kept
            and family in place
            and family not in returned
        )
        if not cheap or not all(_at_hand(i, kept) for i in family.inputs):
            continue
        elsewhere = [r for r in dict.fromkeys(users[family]) if place.get(r) != place[family]]
        if any(r not in place or r.spec.kind is not Kind.ELEMENTWISE for r in elsewhere) or family in carried:
            continue
        copies: dict[int, Family] = {}
        for reader in elsewhere:
            number = place[reader]
            if number not in copies:
                copies[number] = replace(family, index=number_of_next, members={})
                number_of_next += 1
                place[copies[number]] = number
                result.append(copies[number])
                for operand in family.inputs:
                    users[operand].append(copies[number])
            reader.inputs = tuple(copies[number] if i is family else i for i in reader.inputs)
        kept.discard(family)
    return result


def _at_hand(family: Family, kept: set[Family]) -> bool:
    """True if a value can be read in another loop anyway: a leaf, a time-free value, or one that is kept."""
    return not family.timed or family.spec.kind is Kind.LEAF or family in kept
