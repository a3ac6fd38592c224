"""Which values of a program need a buffer over time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rnnc.ir.families import Family
from rnnc.ir.program import is_summed


def stored_values(
    members: Iterable[Family], place: Mapping[Family, int], outputs: Iterable[Family]
) -> frozenset[Family]:
    """The timed values that are returned, or read outside their own loop.

    place: the number of the loop in which a value is computed; values outside all loops are absent.
    """
    stored = {f for f in outputs if f.timed}
    for reader in members:
        for read in reader.reads():
            outside = place.get(read) != place.get(reader) or read not in place
            if read.timed and outside and reader.op != "exit" and not is_summed(read):
                stored.add(read)
    return frozenset(stored)
