"""Quick calls: the native call of bound code as a function object (`rnnc.backends.llvm.kernels.native_call`)."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnc.backends import fresh
from rnnc.backends.base import BATCH, STEPS, CallArray, CallGroup, PlainCall
from rnnc.backends.llvm.asm.records import Record, Struct, address
from rnnc.backends.llvm.kernels import binding
from rnnc.backends.llvm.kernels.binding import ARRAY, BINDING, CONTAINERS, GROUP, KINDS, TABLE
from rnnc.backends.llvm.kernels.context import array_field
from rnnc.ir import settings

if TYPE_CHECKING:
    from rnnc.backends.llvm.code import LlvmCode
    from rnnc.ir.ops import Array


def quick_call(code: LlvmCode, weights: Array, call: PlainCall) -> Callable[..., Any] | None:
    """See `rnnc.backends.base.Bound.quick`. weights: the packed arena."""
    if not _fits(code, call):
        return None
    record = code.interface.record
    template = record.new(weights=weights)
    empty = fresh.empty if settings.poison() else np.empty
    bound = BINDING.new(
        run=code.address("rnnc_run"),
        context=template,
        context_bytes=ctypes.sizeof(template),
        empty=id(empty),
        dtype=id(code.dtype),
        ndarray=id(np.ndarray),
        dict=id(dict),
        most_rows=code.serial_rows,
        **_records(call, lambda name: _offset(code, name)),
    )
    return _native_function(code.runtime.address("rnnc_call"), _Binding.of(bound, (code, empty, code.dtype, call)))


def _records(call: PlainCall, offset: Callable[[str], int]) -> dict[str, Any]:
    """The fields of a binding that describe a call. offset: the place of an array in a context."""
    groups = (*call.arguments, *call.results)
    arrays = [array for group in groups for array in group.arrays]
    tables = [
        {"array": number, "rows": address(rows), "height": len(rows), "width": rows.shape[1], "offset": offset(name)}
        for number, array in enumerate(arrays)
        for name, rows in array.tables
    ]
    return {
        "arguments": len(call.arguments),
        "results": len(call.results),
        "groups": _table(GROUP, list(map(_group_record, groups, _firsts(len(group.arrays) for group in groups)))),
        "count": len(arrays),
        "arrays": _array_records(arrays),
        "sizes": np.array([_SIZES.get(size, size) for array in arrays for size in array.shape], np.int64),
        "offsets": np.array([offset(name) for array in arrays for name in array.names], np.int64),
        "tables": len(tables),
        "table_records": _table(TABLE, tables),
        "looked_up": sum(int(table["width"]) for table in tables),
    }


def _group_record(group: CallGroup, first: int) -> dict[str, int]:
    container = CONTAINERS.index(group.container)
    return {"container": container, "optional": group.optional, "first": first, "count": len(group.arrays)}


def _array_records(arrays: Sequence[CallArray]) -> Struct | int:
    sizes = _firsts(len(array.shape) for array in arrays)
    places = _firsts(len(array.names) for array in arrays)
    return _table(ARRAY, list(map(_array_record, arrays, sizes, places)))


def _array_record(array: CallArray, first_size: int, first_place: int) -> dict[str, int]:
    kind = "numbers" if array.tables else "vectors" if STEPS in array.shape else "slabs"
    return {
        "key": id(array.key),
        "kind": KINDS.index(kind),
        "axes": len(array.shape),
        "first_size": first_size,
        "steps_first": array.shape[0] == STEPS,
        "slabs": max(1, len(array.names)),
        "places": len(array.names),
        "first_place": first_place,
    }


def _firsts(counts: Iterable[int]) -> Iterator[int]:
    """The number of the first of each of several runs, one after the other."""
    return accumulate(counts, initial=0)


_SIZES: dict[int | str, int] = {STEPS: binding.STEPS, BATCH: binding.BATCH}


def _table(record: Record, values: Sequence[Mapping[str, Any]]) -> Struct | int:
    """The first of records that lie one after the other, and that it keeps alive; 0 for none."""
    made = record.several(values)
    return made[0] if made else 0


def _fits(code: LlvmCode, call: PlainCall) -> bool:
    """True if a call passes all inputs that the code reads, and the code computes all results that the call returns.

    Initial states that a call does not pass are zeros. Final states that it does not return are dropped.
    """
    interface = code.interface
    given = {name for group in call.arguments for array in group.arrays for name in array.names}
    given |= {name for group in call.arguments for array in group.arrays for name, _ in array.tables}
    returned = {name for group in call.results for array in group.arrays for name in array.names}
    forward = not code.plan.late and not code.untimed and returned <= {*interface.timed, *interface.rows}
    return forward and {*interface.timed} <= given | returned


def _offset(code: LlvmCode, name: str) -> int:
    """The offset, in bytes, of an array's pointer in a context; -1 if the array is neither read nor written."""
    interface = code.interface
    return interface.record.offset(array_field(name)) if name in (*interface.timed, *interface.rows) else -1


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
