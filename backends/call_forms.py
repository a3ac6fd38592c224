"""The forms of plain calls: which arrays a call takes and returns, in the user's layout and containers.

A backend may take such calls as they are (`rnnc.backends.base.Bound.quick`). Models of stored code need this plain data
and none of the protocols in `base`, so it is a module that imports nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from rnnc.backends.arrays import Array
    from rnnc.backends.tables import NarrowTable

STEPS, BATCH = "T", "B"
"""The sizes of a plain call's arrays that differ from call to call: the number of steps, and of sequences."""


class CallArray(NamedTuple):
    """An array of a plain call, in the user's layout.

    shape: its sizes, some of them STEPS and BATCH. An array with STEPS has three axes, of which the first two may be
        in either order; or it has two, and holds integers (`tables`).
    names: the arrays of the computation that lie in it. Several are slabs, one after the other along the first axis.
    key: its name in a dict.
    tables: for integers, the tables whose rows they number, by the name of these rows in the computation.
    """

    shape: tuple[int | str, ...]
    names: tuple[str, ...] = ()
    key: str = ""
    tables: tuple[tuple[str, Array | NarrowTable], ...] = ()


class CallGroup(NamedTuple):
    """An argument, or a result, of a plain call.

    container: how it holds its arrays: "bare" (it is its only array), "tuple", "dict", or "none" (it is None).
    optional: the argument may be None. Its arrays are then zeros.
    """

    container: str
    arrays: tuple[CallArray, ...] = ()
    optional: bool = False


class PlainCall(NamedTuple):
    """A call in the user's layout, (argument, ...) -> (result, ...). A single result is returned without a tuple.

    sizes: T and B, if all calls have the same. unbatched: the arrays may lack the axis BATCH, which all of them have.
    lengths: the calls of a ragged batch differ from others in nothing but their lengths.
    """

    arguments: tuple[CallGroup, ...]
    results: tuple[CallGroup, ...]
    sizes: tuple[int, int] | None = None
    unbatched: bool = False
    lengths: bool = False


OUTCOMES = {
    "native": "made by machine code",
    "arguments": "an argument is missing, or in another container than a tuple or dict of arrays",
    "type": "an argument is no NumPy array",
    "dtype": "an array of another dtype or byte order",
    "shape": "an array of another shape, or without elements",
    "layout": "an array to write into is read-only or not laid out plainly, or an array of integers is not",
    "overlap": "an array to write into may overlap another one",
    "values": "a length, or the number of a row of a table, that does not exist",
    "lengths": "the first lengths: it is proved that padding need not be computed; or lengths without a batch",
    "threads": "a batch that is worth several threads",
}
"""What became of a call that was tried as a quick one: it was made, or it was declined for a reason."""
