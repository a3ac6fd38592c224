"""Quick calls: the native call of bound code as a function object (`rnnc.backends.llvm.kernels.native_call`)."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnc.backends import fresh
from rnnc.backends.base import PlainCall
from rnnc.backends.llvm.asm.records import Struct
from rnnc.backends.llvm.kernels.binding import BINDING, CONTAINERS, SLOT, STATE
from rnnc.backends.llvm.kernels.context import array_field
from rnnc.ir import settings
from rnnc.ir.names import OUTPUT, X

if TYPE_CHECKING:
    from rnnc.backends.llvm.code import LlvmCode
    from rnnc.ir.ops import Array


def quick_call(code: LlvmCode, weights: Array, call: PlainCall) -> Callable[[object, object], Any] | None:
    """See `rnnc.backends.base.Bound.quick`. weights: the packed arena."""
    if not _fits(code, call):
        return None
    record = code.interface.record
    template = record.new(weights=weights)
    slots = [
        {"initial_at": _offset(code, first), "final_at": _offset(code, last)}
        for state in call.states
        for first, last in zip(state.initial, state.final, strict=True)
    ]
    states, first_slot = [], 0
    for state in call.states:
        sizes = {"width": state.width, "slabs": len(state.initial), "stacked": state.stacked, "first_slot": first_slot}
        states.append({"key": id(state.key), **sizes})
        first_slot += len(state.initial)
    state_records, slot_records = STATE.several(states), SLOT.several(slots)
    empty = fresh.empty if settings.poison() else np.empty
    binding = BINDING.new(
        run=code.address("rnnc_run"),
        context=template,
        context_bytes=ctypes.sizeof(template),
        empty=id(empty),
        dtype=id(code.dtype),
        ndarray=id(np.ndarray),
        dict=id(dict),
        most_rows=code.serial_rows,
        batch_first=call.batch_first,
        input_size=call.input_size,
        table=call.table,
        height=0 if call.table is None else len(call.table),
        x_at=_offset(code, X),
        output_size=call.output_size,
        output_timed=call.timed_output,
        output_at=_offset(code, OUTPUT),
        container=CONTAINERS.index(call.container),
        returns_state=call.returns_state,
        states=len(states),
        state_records=state_records[0] if state_records else 0,
        slots=slot_records[0] if slot_records else 0,
    )
    return _native_function(code.runtime.address("rnnc_call"), _Binding.of(binding, (code, empty, code.dtype, call)))


def _fits(code: LlvmCode, call: PlainCall) -> bool:
    """True if a call passes all inputs that the code reads, and the code computes all results that the call returns.

    Initial states that a call does not pass are zeros. Final states that it does not return are dropped.
    """
    interface = code.interface
    returned = {OUTPUT, *(last for state in call.states for last in state.final)}
    forward = not code.plan.late and not code.untimed and returned <= {*interface.timed, *interface.rows}
    return forward and {*interface.timed} <= {X, OUTPUT}


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


def _native_function(address: int, binding: _Binding) -> Callable[[object, object], Any]:
    """A built-in function object whose code is at `address`.

    CPython keeps a pointer to the definition, not a copy. While it destroys the function, it reads the definition until
    it releases `self`, so the binding may own the definition (python/cpython#22670).
    """
    binding.definition = definition = _MethodDef(b"rnnc_call", address, _METH_FASTCALL, None)
    prototype = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p)
    make = prototype(("PyCFunction_NewEx", ctypes.pythonapi))
    function: Callable[[object, object], Any] = make(ctypes.addressof(definition), binding, None)
    return function
