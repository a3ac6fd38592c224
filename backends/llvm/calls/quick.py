"""Quick calls: the native call of bound code as a function object (`rnnc.backends.llvm.kernels.native_call`)."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnc.backends import fresh
from rnnc.backends.call_forms import BATCH, STEPS, CallArray, CallGroup, PlainCall
from rnnc.backends.llvm.asm.records import Record, Struct, address
from rnnc.backends.llvm.code import UNLIMITED
from rnnc.backends.llvm.kernels import binding
from rnnc.backends.llvm.kernels.binding import (
    ARRAY,
    BINDING,
    CONTAINERS,
    GROUP,
    KEPT,
    KINDS,
    TABLE,
    TABLE_FORMATS,
)
from rnnc.backends.llvm.kernels.context import COUNTERS, array_field
from rnnc.ir import settings

if TYPE_CHECKING:
    from rnnc.backends.llvm.code import LlvmCode
    from rnnc.backends.tables import NarrowTable
    from rnnc.ir.ops import Array


LENGTHS = CallArray((BATCH,))
"""The argument that every call may have."""
INTEGERS, OTHERS = np.dtype(np.int64), np.dtype(np.longlong)
"""The dtypes of integers that embeddings and `lengths` take: the two are of the same size, or the same one."""
NEVER = np.zeros(1, np.int64)
"""What says that a call has no lengths."""
BRIEF_FLOPS, BRIEF_ROWS = 400_000, 64
"""The most work of a run that keeps the interpreter lock, some 20 us. A step that does not give it up waits for no
other thread."""

WHOLE = ("rnnc_call", "rnnc_run")
"""The functions of a call of one part."""

Places = Callable[[str], list[int]]
"""An array's name -> the offsets of the pointers to it in a context, in bytes."""


def quick_call(code: LlvmCode, weights: Array, call: PlainCall, outcomes: Array) -> Callable[..., Any] | None:
    """See `rnnc.backends.base.Bound.quick`. weights: the packed arena."""
    if not _fits(code, call):
        return None
    record = code.interface.record
    template = record.new(weights=weights, **_counted(code))
    brief = min(BRIEF_ROWS, BRIEF_FLOPS // code.manifest.flops_per_row)
    alone = code.most_unshared
    limits: dict[str, Any] = {"most_rows": code.serial_rows, "most_alone": alone, "brief_rows": brief}
    if (team := code.team) is not None:
        limits |= {"team": team.record, "most_alone": max(alone, team.most_batch)}
    return bound_function(code, WHOLE, call, outcomes, template, lambda name: place_in(record, name), limits)


def real_time_call(
    code: LlvmCode, weights: Array, call: PlainCall, fixed: Mapping[str, Array], outcomes: Array
) -> Callable[..., Any] | None:
    """See `rnnc.backends.base.Bound.real_time`. weights: the packed arena.

    Runs use one block of scratch memory in turn, because the function holds the interpreter lock until a run ends.
    """
    if not _fits(code, call):
        return None
    record, scratch = code.interface.record, _Scratch(code)
    given = {array_field(name): array for name, array in fixed.items() if array_field(name) in record.types}
    template = record.new(weights=weights, kept=scratch.record, **given, **_counted(code))
    limits = {"most_rows": UNLIMITED, "most_alone": UNLIMITED, "brief_rows": UNLIMITED}
    return bound_function(
        code, WHOLE, call, outcomes, template, lambda name: place_in(record, name), limits, owned=(scratch,)
    )


def _counted(code: LlvmCode) -> dict[str, int]:
    """The field of counters of profiled code."""
    return {} if code.counters is None else {COUNTERS: code.counters.address}


class _Scratch:
    """Scratch memory that a function keeps from call to call (`kernels.kept_memory`)."""

    def __init__(self, code: LlvmCode) -> None:
        self.record = KEPT.new()
        free = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(code.runtime.address("rnnc_free_kept"))
        weakref.finalize(self, _free, free, self.record).atexit = False


def _free(free: Callable[[int], None], record: Struct) -> None:
    free(record.address)


def bound_function(
    code: LlvmCode,
    functions: tuple[str, str],
    call: PlainCall,
    outcomes: Array,
    context: Struct,
    places: Places,
    limits: Mapping[str, Any],
    half: Struct | int = 0,
    owned: tuple[object, ...] = (),
) -> Callable[..., Any]:
    """A built-in function. functions: its code in the runtime, and the function of the module that it runs.

    outcomes: see `rnnc.backends.base.Bound.quick`. context: the fields that are the same in every call. limits:
    most_rows, brief_rows and team of the binding. half: a record of `native_halves`. owned: what the binding leads to.
    """
    empty = fresh.empty if settings.poison() else np.empty
    record = BINDING.new(
        run=code.address(functions[1]),
        context=context,
        context_bytes=ctypes.sizeof(context),
        empty=id(empty),
        dtype=id(code.dtype),
        integers=id(INTEGERS),
        others=id(OTHERS),
        ndarray=id(np.ndarray),
        dict=id(dict),
        steps=call.sizes[0] if call.sizes else -1,
        batch=call.sizes[1] if call.sizes else -1,
        unbatched=call.unbatched,
        ragged=code.ragged_is_proved if call.lengths else NEVER,
        outcomes=outcomes,
        half=half,
        **limits,
        **_records(call, places),
    )
    kept = (code, empty, code.dtype, call, *owned)
    return _native_function(code.runtime.address(functions[0]), _Binding.of(record, kept))


def _records(call: PlainCall, places: Places) -> dict[str, Any]:
    """The fields of a binding that describe a call."""
    groups = (*call.arguments, *call.results)
    arrays = [array for group in groups for array in group.arrays]
    described = [*arrays, LENGTHS]
    offsets = [_offsets(array, places) for array in arrays]
    tables = [
        {"array": number, "height": len(rows), "width": rows.shape[1], "offset": offset, **_stored(rows)}
        for number, array in enumerate(arrays)
        for name, rows in array.tables
        for offset in places(name) or [-1]
    ]
    return {
        "arguments": len(call.arguments),
        "results": len(call.results),
        "groups": table(GROUP, list(map(_group_record, groups, _firsts(len(group.arrays) for group in groups)))),
        "count": len(arrays),
        "arrays": _array_records(described, [*offsets, []]),
        "sizes": np.array([_SIZES.get(size, size) for array in described for size in array.shape], np.int64),
        "offsets": np.array([offset for each in offsets for offset in each], np.int64),
        "tables": len(tables),
        "table_records": table(TABLE, tables),
        "looked_up": sum(int(each["width"]) for each in tables),
    }


def _stored(table: Array | NarrowTable) -> dict[str, int]:
    """The fields of a table that tell how its rows are stored."""
    if isinstance(table, np.ndarray):
        return {"rows": address(table), "scales": 0, "format": TABLE_FORMATS.index("plain")}
    scales, form = address(table.scales), TABLE_FORMATS.index(table.format)
    return {"rows": address(table.codes), "scales": scales, "format": form}


def _offsets(array: CallArray, places: Places) -> list[int]:
    """The places of a single slab, or one place per slab: -1 for a slab that is neither read nor written."""
    if len(array.names) == 1:
        return places(array.names[0])
    return [offset for name in array.names for offset in (places(name) or [-1])]


def place_in(record: Record, name: str) -> list[int]:
    """The offset of the pointer to an array; none if it is neither read nor written."""
    field = array_field(name)
    return [record.offset(field)] if field in record.types else []


def _group_record(group: CallGroup, first: int) -> dict[str, int]:
    container = CONTAINERS.index(group.container)
    return {"container": container, "optional": group.optional, "first": first, "count": len(group.arrays)}


def _array_records(arrays: Sequence[CallArray], offsets: Sequence[Sequence[int]]) -> Struct | int:
    sizes, places = _firsts(len(array.shape) for array in arrays), _firsts(map(len, offsets))
    return table(ARRAY, list(map(_array_record, arrays, sizes, places, map(len, offsets))))


def _array_record(array: CallArray, first_size: int, first_place: int, places: int) -> dict[str, int]:
    kind = "numbers" if array.tables else "vectors" if STEPS in array.shape else "slabs"
    kind = "lengths" if array is LENGTHS else kind
    return {
        "key": id(array.key),
        "kind": KINDS.index(kind),
        "axes": len(array.shape),
        "first_size": first_size,
        "has_rows": BATCH in array.shape,
        "steps_first": array.shape[:1] == (STEPS,),
        "slabs": max(1, len(array.names)),
        "places": places,
        "first_place": first_place,
    }


def _firsts(counts: Iterable[int]) -> Iterator[int]:
    """The number of the first of each of several runs, one after the other."""
    return accumulate(counts, initial=0)


_SIZES: dict[int | str, int] = {STEPS: binding.STEPS, BATCH: binding.BATCH}


def table(record: Record, values: Sequence[Mapping[str, Any]]) -> Struct | int:
    """The first of records that lie one after the other, and that it keeps alive; 0 for none."""
    made = record.several(values)
    return made[0] if made else 0


def _fits(code: LlvmCode, call: PlainCall) -> bool:
    """True if a call passes all inputs that the code reads, and the code computes all results that the call returns.

    Initial states that a call does not pass are zeros. Final states that it does not return are dropped.
    """
    interface = code.interface
    given, returned = names_in(call.arguments), names_in(call.results)
    forward = not code.late and not code.untimed and returned <= {*interface.timed, *interface.rows}
    return forward and {*interface.timed} <= given | returned


def names_in(groups: Sequence[CallGroup]) -> set[str]:
    """The names of all arrays of a computation that lie in those of a call, and of the rows of its tables."""
    arrays = [array for group in groups for array in group.arrays]
    return {name for array in arrays for name in (*array.names, *(rows for rows, _ in array.tables))}


class _MethodDef(ctypes.Structure):
    """CPython's PyMethodDef."""

    _fields_ = [
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    ]


_METH_FASTCALL = 0x80


class _Binding(bytes):
    """The `self` of the built-in function: the bytes of a binding. It owns the memory that they point to.

    The function may outlive its model: a profiler may keep it, or another thread may still run it.
    """

    owned: tuple[object, ...]
    definition: _MethodDef

    @staticmethod
    def of(record: Struct, owned: tuple[object, ...]) -> _Binding:
        """The bytes of a record. owned: the objects to keep alive, to which its pointers lead."""
        made = _Binding(record)
        made.owned = (record, *owned)
        return made


def _native_function(address: int, bound: _Binding) -> Callable[..., Any]:
    """A built-in function object whose code is at `address`.

    CPython keeps a pointer to the definition, not a copy. While it destroys the function, it reads the definition until
    it releases `self`, so the binding may own the definition (python/cpython#22670).
    """
    bound.definition = definition = _MethodDef(b"rnnc_call", address, _METH_FASTCALL, None)
    prototype = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p)
    make = prototype(("PyCFunction_NewEx", ctypes.pythonapi))
    function: Callable[..., Any] = make(ctypes.addressof(definition), bound, None)
    return function
