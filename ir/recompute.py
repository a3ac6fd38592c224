"""Recomputing: a cheap value of one loop that another loop reads is computed there again, instead of being kept.

    loop t = 0 .. T-1:   %34[t] = sigmoid(...);  %39[t] = sub(1.0, %34)       both kept over time
    loop t = T-1 .. 0:   ... mul(%62, %39[t])
->
    loop t = 0 .. T-1:   %34[t] = sigmoid(...);  %39 = sub(1.0, %34)          one kept
    loop t = T-1 .. 0:   %93 = sub(1.0, %34[t]);  ... mul(%62, %93)

The policy: what a matmul, a reduction or an op that the table calls costly makes is kept (reading it back is cheaper
than computing it); other elementwise values of what is at hand anyway are computed again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from rnnc.ir.families import Family
from rnnc.ir.ops import Kind


def recompute(
    members: list[Family], place: dict[Family, int], stored: Iterable[Family], outputs: Iterable[Family]
) -> list[Family]:
    """Copies cheap stored values into the loops that read them; returns all values, copies last.

    place: the loop of each value that is in one; extended by the copies.
    """
    kept = set(stored)
    returned = set(outputs)
    result = list(members)
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
        readers = [r for r in result if family in r.inputs and place.get(r) != place[family]]
        if any(r not in place or r.spec.kind is not Kind.ELEMENTWISE for r in readers) or _is_carried(family, result):
            continue
        copies: dict[int, Family] = {}
        for reader in readers:
            number = place[reader]
            if number not in copies:
                copies[number] = replace(family, index=max(f.index for f in result) + 1, members={})
                place[copies[number]] = number
                result.append(copies[number])
            reader.inputs = tuple(copies[number] if i is family else i for i in reader.inputs)
        kept.discard(family)
    return result


def _at_hand(family: Family, kept: set[Family]) -> bool:
    """Whether a value can be read at any step without being kept for it."""
    return not family.timed or family.spec.kind is Kind.LEAF or family in kept


def _is_carried(family: Family, members: Iterable[Family]) -> bool:
    """Whether a loop other than its own carries the value on."""
    return any(f.source is family for f in members if f.op == "carry")
