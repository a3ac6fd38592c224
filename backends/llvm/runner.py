"""Calls: from NumPy arrays to the context of the generated function."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from rnnc.backends.llvm.driver import CONTEXT
from rnnc.backends.llvm.entry import pack_binding
from rnnc.ir.ops import Array

if TYPE_CHECKING:
    from rnnc.backends.llvm.executable import LlvmExecutable


UNLIMITED = 1 << 62


class LlvmRunner:
    """Machine code with packed weights. Each call has its own context and scratch memory."""

    def __init__(self, executable: LlvmExecutable, arena: Array) -> None:
        self._code = executable.code  # keeps the machine code alive
        self._arena = arena
        self._states = len(executable.stack.states)
        self._item = arena.itemsize
        self._most_rows = UNLIMITED
        self._definitions: list[_MethodDef] = []  # CPython keeps a pointer to them
        prototype = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)  # releases the interpreter lock
        self._function = prototype(self._code.address("rnnc_run"))

    def plain_call(self, batch_first: bool) -> Callable[[object, object], object]:
        """A native function (x, state) -> (output, state), or None if the arguments are not of the plain kind."""
        binding = pack_binding(
            self._arena.ctypes.data, id(np.empty), id(self._arena.dtype), batch_first, self._most_rows
        )
        function, definition = _native_function(self._code.address("rnnc_call"), binding)
        self._definitions.append(definition)
        return function

    def run(
        self,
        x: Array,
        states: tuple[Array, ...] | None,
        lengths: Array | None,
        output: Array,
        finals: tuple[Array, ...],
    ) -> None:
        """See `rnnc.backends.base.Runner.run`."""
        steps, batch = x.shape[:2]
        ragged = None if lengths is None else _sort(lengths, batch)
        if ragged is not None:
            output[...] = 0
            steps = len(ragged.rows) - 1
        if steps == 0 or batch == 0:
            self._copy_states(states, finals)
            return
        x = self._element_strides(x)
        states = None if states is None else tuple(np.ascontiguousarray(s) for s in states)
        target = self._element_strides(output)
        if target is not output:
            target = np.empty(output.shape, output.dtype)
        self._call(x, states, ragged, target, finals, steps, batch)
        if target is not output:
            output[...] = target

    def _copy_states(self, states: tuple[Array, ...] | None, finals: tuple[Array, ...]) -> None:
        for number, final in enumerate(finals):
            final[...] = 0 if states is None else states[number]

    def _element_strides(self, array: Array) -> Array:
        """The array itself if its last axis is contiguous and its strides are whole elements, else a copy."""
        ok = array.strides[2] == self._item or array.shape[2] == 1
        ok = ok and array.strides[0] % self._item == 0 and array.strides[1] % self._item == 0
        return array if ok and array.flags.aligned else np.ascontiguousarray(array)

    def _call(
        self,
        x: Array,
        states: tuple[Array, ...] | None,
        ragged: Ragged | None,
        output: Array,
        finals: tuple[Array, ...],
        steps: int,
        batch: int,
    ) -> None:
        fields = (ctypes.c_int64 * (len(CONTEXT) + 2 * self._states))()
        item = self._item
        values = {
            "x": x.ctypes.data,
            "x_step": x.strides[0] // item,
            "x_row": x.strides[1] // item,
            "steps": steps,
            "batch": batch,
            "output": output.ctypes.data,
            "output_step": output.strides[0] // item,
            "output_row": output.strides[1] // item,
            "weights": self._arena.ctypes.data,
            "slab": batch,
        }
        if ragged is not None:
            values |= {name: getattr(ragged, name).ctypes.data for name in ("rows", "order", "lengths")}
        for n, name in enumerate(CONTEXT):
            fields[n] = values.get(name, 0)
        for number in range(self._states):
            fields[len(CONTEXT) + 2 * number] = 0 if states is None else states[number].ctypes.data
            fields[len(CONTEXT) + 2 * number + 1] = finals[number].ctypes.data
        if self._function(ctypes.addressof(fields)):
            raise MemoryError(f"no memory for the scratch buffers of {steps} steps of {batch} rows")


class _MethodDef(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    ]


_METH_FASTCALL = 0x80


def _native_function(address: int, binding: bytes) -> tuple[Callable[[object, object], object], _MethodDef]:
    """A built-in function object whose code is at `address`, and its definition, which must outlive it."""
    definition = _MethodDef(b"rnnc_call", address, _METH_FASTCALL, None)
    make = ctypes.pythonapi.PyCFunction_NewEx
    make.restype = ctypes.py_object
    make.argtypes = [ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p]
    return make(ctypes.addressof(definition), binding, None), definition


class Ragged:
    """A ragged batch, sorted by falling length: what the generated code reads."""

    def __init__(self, rows: Array, order: Array, lengths: Array) -> None:
        self.rows = rows
        self.order = order
        self.lengths = lengths


def _sort(lengths: Array, batch: int) -> Ragged:
    """rows[t]: number of steps of all sequences before t; its last entry is at the longest length."""
    order = np.argsort(-lengths, kind="stable")
    ordered = np.ascontiguousarray(lengths[order])
    longest = int(ordered[0]) if batch else 0
    active = batch - np.searchsorted(ordered[::-1], np.arange(longest), side="right")
    rows = np.zeros(longest + 1, np.int64)
    np.cumsum(active, out=rows[1:])
    return Ragged(rows, order.astype(np.int64), ordered)
