"""Changes of an argument: the same numbers laid out or wrapped in another way, and damage that must be refused.

A change takes the plain argument and a number that varies it. `fits` says what must come of it: True, the result of the
plain argument; False, an error of rnnc's own; None, either, but no crash, no foreign exception and no written input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np


def expected(fits: Sequence[bool | None]) -> bool | None:
    """What must come of several changes at once: two that do not agree may undo each other."""
    if None in fits:
        return None
    return all(fits)


class Change(NamedTuple):
    """See above."""

    fits: bool | None
    make: Callable[[Any, int], Any]


class Subclass(np.ndarray):
    """An array type of a user."""


class Arrayed:
    """An object with __array__ alone."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self.array


class Packed:
    """An object with DLPack alone."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()


class Raising:
    """An object whose conversion fails."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise self.error


def _strided(a: Any, n: int) -> Any:
    """Every second (or so) element of a larger array along one axis."""
    if not a.ndim:
        return a
    axis, step = n % a.ndim, 2 + n % 3
    sizes = [size * step if i == axis else size for i, size in enumerate(a.shape)]
    view = np.zeros(sizes, a.dtype)[tuple(slice(None, None, step if i == axis else 1) for i in range(a.ndim))]
    view[...] = a
    return view


def _reversed(a: Any, n: int) -> Any:
    places = tuple(slice(None, None, -1) if n >> i & 1 else slice(None) for i in range(a.ndim))
    return a[places].copy()[places]


def _swapped(a: Any, n: int) -> Any:
    """Memory in another order of axes."""
    order = np.random.default_rng(n).permutation(a.ndim)
    return a.transpose(order).copy().transpose(np.argsort(order))


def _inside(a: Any, n: int) -> Any:
    """In the middle of a larger array."""
    view = np.zeros([size + 2 + n % 3 for size in a.shape], a.dtype)[tuple(slice(1, 1 + size) for size in a.shape)]
    view[...] = a
    return view


def _misaligned(a: Any, n: int) -> Any:
    memory = np.zeros(a.nbytes + 16, np.uint8)
    start = (1 + n % 7) - memory.ctypes.data % 8 + 8
    view = memory[start % 16 : start % 16 + a.nbytes].view(a.dtype).reshape(a.shape)
    view[...] = a
    return view


def _readonly(a: Any, n: int) -> Any:
    copy = a.copy()
    copy.flags.writeable = False
    return copy


def _resized(axis: int, by: int) -> Callable[[Any, int], Any]:
    def make(a: Any, n: int) -> Any:
        if not a.ndim:
            return a[None]
        sizes = list(a.shape)
        sizes[axis % a.ndim] = max(0, sizes[axis % a.ndim] + by * (1 + n % 3))
        return np.resize(a, sizes) if a.size else np.zeros(sizes, a.dtype)

    return make


def _liar(a: Any, n: int) -> Any:
    """An object whose __array_interface__ is no such thing."""
    plain = dict(a.__array_interface__)
    lies: list[dict[str, Any]] = [
        {**plain, "shape": (-1,)}, {**plain, "typestr": "<f9"}, {"version": 3}, {**plain, "shape": "no"},
        {**plain, "strides": (1,)}, {**plain, "data": None, "shape": (3,)}, {**plain, "typestr": 7},
    ]  # fmt: skip
    return SimpleNamespace(__array_interface__=lies[n % len(lies)])


LAYOUTS: Mapping[str, Change] = {
    "strided": Change(True, _strided),
    "reversed": Change(True, _reversed),
    "swapped": Change(True, _swapped),
    "inside": Change(True, _inside),
    "misaligned": Change(True, _misaligned),
    "readonly": Change(True, _readonly),
    "fortran": Change(True, lambda a, n: np.asfortranarray(a)),
    "subclass": Change(True, lambda a, n: a.view(Subclass)),
    "arrayed": Change(True, lambda a, n: Arrayed(a)),
    "packed": Change(True, lambda a, n: Packed(a)),
}

NO_ARRAY: Mapping[str, Change] = {
    "list": Change(False, lambda a, n: a.tolist()),
    "text": Change(False, lambda a, n: "x"),
    "number": Change(False, lambda a, n: 1.0),
    "bytes": Change(False, lambda a, n: a.tobytes()),
    "object": Change(False, lambda a, n: object()),
    "type": Change(False, lambda a, n: np.ndarray),
    "masked": Change(False, lambda a, n: np.ma.masked_array(a)),
    "raising": Change(False, lambda a, n: Raising((ValueError, TypeError, RuntimeError)[n % 3]("no"))),
    "array of nothing": Change(False, lambda a, n: Arrayed(None)),
    "array of text": Change(False, lambda a, n: Arrayed(np.array("x"))),
    "liar": Change(False, _liar),
}

DTYPES: Mapping[str, Change] = {
    dtype: Change(False, lambda a, n, dtype=dtype: _quietly(a, dtype))
    for dtype in ("float16", "complex64", "object", "bool", "longdouble", "U8", "datetime64[s]")
} | {
    "other float": Change(False, lambda a, n: a.astype({4: "float64", 8: "float32"}[a.itemsize])),
    "other order": Change(False, lambda a, n: a.astype(a.dtype.newbyteorder())),
    "integers": Change(False, lambda a, n: _quietly(a, ("int8", "int64", "uint32")[n % 3])),
    "record": Change(False, lambda a, n: a[..., None].view([("a", a.dtype)])[..., 0] if a.size else a.astype("U1")),
}

SHAPES: Mapping[str, Change] = {
    "last axis longer": Change(False, _resized(-1, 1)),
    "last axis shorter": Change(False, _resized(-1, -1)),
    "one axis": Change(False, lambda a, n: a.reshape(-1)),
    "no axis": Change(False, lambda a, n: np.array(1, a.dtype)),
    "two more axes": Change(False, lambda a, n: a[None, None]),
    "one more axis": Change(None, lambda a, n: a[..., None] if n % 2 else a[None]),
    "one axis fewer": Change(None, lambda a, n: a.sum(n % a.ndim)),
    "first axis longer": Change(None, _resized(0, 1)),
    "first axis shorter": Change(None, _resized(0, -1)),
    "second axis longer": Change(None, _resized(1, 1)),
    "second axis shorter": Change(None, _resized(1, -1)),
    "transposed": Change(None, lambda a, n: a.T),
    "broadcast": Change(None, lambda a, n: np.broadcast_to(a[:1], a.shape) if a.ndim and len(a) else a),
    "huge": Change(None, lambda a, n: np.broadcast_to(a[:1, :1], (1 << 20, 1 << (20 + n % 15), *a.shape[2:]))
                   if a.ndim == 3 and a.size else a),
    "empty": Change(None, lambda a, n: a[:0]),
}  # fmt: skip

VALUES: Mapping[str, Change] = {
    "nan": Change(None, lambda a, n: np.full_like(a, np.nan)),
    "infinite": Change(None, lambda a, n: np.full_like(a, np.inf)),
    "large": Change(None, lambda a, n: a * np.asarray(1e30, a.dtype)),
    "tiny": Change(None, lambda a, n: a * np.asarray(1e-38, a.dtype)),
}

FLOATS = LAYOUTS | NO_ARRAY | DTYPES | SHAPES | VALUES
NUMBERS: Mapping[str, Change] = {
    **LAYOUTS,
    **{name: NO_ARRAY[name] for name in NO_ARRAY if name not in ("list",)},
    "int8": Change(True, lambda a, n: a.astype(("int8", "uint8", "int16", "uint16", "int32", "uint64")[n % 6])),
    "beyond": Change(False, lambda a, n: _with(a, (7, 8, 1000, 2**31, 2**62)[n % 5], n)),
    "negative": Change(False, lambda a, n: _with(a, (-1, -7, -(2**31), -(2**63))[n % 4], n)),
    "unsigned": Change(False, lambda a, n: _with(a.astype("uint64"), 2**64 - 1 - n % 9, n)),
    "floats": Change(False, lambda a, n: a.astype(float)),
    "bools": Change(False, lambda a, n: a.astype(bool)),
    "one axis": SHAPES["one axis"],
    "two more axes": SHAPES["two more axes"],
    "first axis longer": SHAPES["first axis longer"],
    "second axis shorter": SHAPES["second axis shorter"],
    "empty": SHAPES["empty"],
}
"""Of numbers of rows of a table of seven rows."""

LENGTHS: Mapping[str, Change] = {
    "list": Change(True, lambda a, n: [int(v) for v in np.atleast_1d(a)] if np.ndim(a) else int(a)),
    "narrow": Change(True, lambda a, n: np.asarray(a).astype(("int8", "uint8", "int16", "int32", "uint64")[n % 5])),
    "strided": Change(True, lambda a, n: _strided(np.asarray(a), n)),
    "reversed": Change(True, lambda a, n: _reversed(np.asarray(a), 1)),
    "arrayed": Change(True, lambda a, n: Arrayed(np.asarray(a))),
    "other order": Change(None, lambda a, n: np.asarray(a).astype(">i8")),
    "beyond": Change(False, lambda a, n: _with(np.atleast_1d(a), (100, 2**31, 2**62, 2**63 - 1)[n % 4], n)),
    "negative": Change(False, lambda a, n: _with(np.atleast_1d(a), (-1, -100, -(2**63))[n % 3], n)),
    "too large": Change(False, lambda a, n: [2**70] * max(1, np.size(a))),
    "unsigned": Change(False, lambda a, n: _with(np.atleast_1d(a).astype("uint64"), 2**64 - 1, n)),
    "floats": Change(False, lambda a, n: np.atleast_1d(a).astype(float) + 0.5 if np.size(a) else 0.5),
    "bools": Change(None, lambda a, n: np.asarray(a).astype(bool)),
    "objects": Change(None, lambda a, n: np.asarray(a).astype(object)),
    "texts": Change(None, lambda a, n: ["1"] * np.size(a)),
    "nothing in it": Change(None, lambda a, n: [None] * np.size(a)),
    "nested": Change(False, lambda a, n: [[1, 2], [3]]),
    "one more": Change(False, lambda a, n: np.append(np.atleast_1d(a), 0)),
    "one fewer": Change(None, lambda a, n: np.atleast_1d(a)[:-1]),
    "two axes": Change(False, lambda a, n: np.atleast_1d(a)[:, None]),
    "text": Change(False, lambda a, n: "long"),
    "object": Change(False, lambda a, n: object()),
    "mapping": Change(False, lambda a, n: {0: 1}),
    "set": Change(False, lambda a, n: {1, 2}),
    "liar": Change(False, lambda a, n: _liar(np.atleast_1d(a), n)),
    "raising": NO_ARRAY["raising"],
}

PARAMS: Mapping[str, Change] = {
    "another order": Change(True, lambda p, n: dict(reversed(p.items()))),
    "proxy": Change(True, lambda p, n: MappingProxyType(p)),
    "one missing": Change(False, lambda p, n: _but(p, n)),
    "one more": Change(False, lambda p, n: {**p, ("more", 7, None)[n % 3]: next(iter(p.values()))}),
    "renamed": Change(False, lambda p, n: {f"net.{name}": array for name, array in p.items()}),
    "list": Change(False, lambda p, n: list(p.values())),
    "nothing": Change(False, lambda p, n: None),
    "names": Change(False, lambda p, n: {name: name for name in p}),
    "empty": Change(False, lambda p, n: {}),
} | {
    f"one {name}": Change(change.fits, lambda p, n, make=change.make: _one(p, n, make))
    for name, change in FLOATS.items()
    if name not in ("huge", "broadcast", "one axis") and not (change.fits is None and name not in VALUES)
}

T_PARAMS: Mapping[str, Change] = {**PARAMS, "nothing": Change(None, lambda p, n: None)}
"""Of a direction, None stands for zeros."""


def _quietly(a: Any, dtype: str) -> Any:
    with np.errstate(all="ignore"):
        return np.nan_to_num(a).astype("int64").astype(dtype) if dtype.startswith("date") else a.astype(dtype)


def _with(a: Any, value: int, n: int) -> Any:
    """With one element set."""
    copy = a.copy()
    if not copy.size:
        return "no element to change"
    copy.reshape(-1)[n % copy.size] = value
    return copy


def _but(p: Mapping[str, Any], n: int) -> dict[str, Any]:
    gone = list(p)[n % len(p)]
    return {name: array for name, array in p.items() if name != gone}


def _one(p: Mapping[str, Any], n: int, make: Callable[[Any, int], Any]) -> dict[str, Any]:
    changed = list(p)[n % len(p)]
    return {**p, changed: make(p[changed], n)}


def states(change: Change) -> Change:
    """A change of one of the states, bare or in a tuple."""
    return Change(change.fits, lambda s, n: _of_state(s, n, change.make))


def _of_state(s: Any, n: int, make: Callable[[Any, int], Any]) -> Any:
    if not isinstance(s, tuple):
        return make(s, n)
    place = n % len(s)
    return tuple(make(a, n) if i == place else a for i, a in enumerate(s))


STATES: Mapping[str, Change] = {name: states(change) for name, change in FLOATS.items() if name != "huge"} | {
    "list of states": Change(True, lambda s, n: list(s) if isinstance(s, tuple) else [s]),
    "one state more": Change(False, lambda s, n: (*s, s[0]) if isinstance(s, tuple) else (s, s)),
    "no states": Change(False, lambda s, n: ()),
    "mapping": Change(False, lambda s, n: {"h": s}),
    "first axis longer": Change(False, lambda s, n: _of_state(s, n, _resized(0, 1))),
    "second axis longer": Change(False, lambda s, n: _of_state(s, n, _resized(1, 1))),
}

NAMED_STATES: Mapping[str, Change] = {
    f"one {name}": Change(change.fits, lambda p, n, make=change.make: _one(p, n, make))
    for name, change in FLOATS.items()
    if name != "huge"
} | {
    "one first axis longer": Change(False, lambda p, n: _one(p, n, _resized(0, 1))),
    "one missing": PARAMS["one missing"],
    "one more": PARAMS["one more"],
    "list": PARAMS["list"],
    "proxy": PARAMS["proxy"],
}
"""Of the state of a network."""
