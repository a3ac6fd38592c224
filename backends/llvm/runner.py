"""Calls: from NumPy arrays to the context of the generated function."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnc.backends import fresh
from rnnc.backends.llvm.crew import run_all
from rnnc.backends.llvm.driver import array_field, row_field, step_field
from rnnc.backends.llvm.entry import pack_binding
from rnnc.backends.llvm.parts import Part, address, even, split_batch
from rnnc.ir import settings
from rnnc.ir.errors import SizeError
from rnnc.ir.names import OUTPUT, X
from rnnc.ir.ops import Array

if TYPE_CHECKING:
    from rnnc.backends.llvm.executable import LlvmExecutable

UNLIMITED = 1 << 62

PARALLEL_FLOPS = 2e7
"""Work of a call below which handing parts of it to other threads costs more than it saves."""


class LlvmRunner:
    """Machine code with packed weights. Each call has its own context and scratch memory."""

    def __init__(self, executable: LlvmExecutable, arena: Array) -> None:
        self._executable = executable
        self._code = executable.code  # keeps the machine code alive
        self._arena = arena
        self._fields = executable.interface.fields
        self._widths = tuple(executable.stack.flat[0].states.values())
        self._item = arena.itemsize
        self._threads = executable.threads
        self._parallel_rows = int(PARALLEL_FLOPS / executable.flops_per_row)
        prototype = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)  # releases the interpreter lock
        self._function = prototype(self._code.address("rnnc_run"))

    def plain_call(self, batch_first: bool) -> Callable[[object, object], Any]:
        """See `rnnc.backends.base.Runner.plain_call`."""
        most_rows = UNLIMITED if self._threads == 1 else self._parallel_rows
        empty = fresh.empty if settings.poison() else np.empty
        binding = _Binding(
            pack_binding(
                weights=self._arena.ctypes.data,
                empty=id(empty),
                dtype=id(self._arena.dtype),
                ndarray=id(np.ndarray),
                batch_first=batch_first,
                most_rows=most_rows,
            )
        )
        binding.owned = (self._code, self._arena, self._arena.dtype, empty, np.ndarray)
        return _native_function(self._code.address("rnnc_call"), binding)

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
        if batch == 0:
            return
        if lengths is not None:
            assert self._executable.ragged
            output[...] = 0
            for number, final in enumerate(finals):  # what a row of length 0 keeps
                final[...] = 0 if states is None else states[number]
            if not lengths.any():
                return
        states = None if states is None else tuple(np.ascontiguousarray(s) for s in states)
        target = even(output)
        if target is not output and lengths is not None:
            target[...] = 0
        call = _Call(even(x), states, target, finals, batch)
        count = min(self._threads, batch) if steps * batch > self._parallel_rows else 1
        parts = [part for part in split_batch(steps, batch, lengths, count) if part.steps]
        contexts = [self._context(call, part) for part in parts]
        if len(contexts) == 1:
            error = self._function(ctypes.addressof(contexts[0]))
        else:
            function = self._code.address("rnnc_run")
            error = run_all([(function, ctypes.addressof(context)) for context in contexts])
        if error:
            raise SizeError(f"no memory for the scratch buffers of {steps} steps of {batch} rows; {fresh.HINT}")
        if target is not output:
            output[...] = target

    def _context(self, call: _Call, part: Part) -> ctypes.Array[ctypes.c_int64]:
        item = self._item
        fields = (ctypes.c_int64 * len(self._fields))()
        x_step, x_row = (stride // item for stride in call.x.strides[:2])
        output_step, output_row = (stride // item for stride in call.output.strides[:2])
        values = {
            array_field(X): call.x.ctypes.data + part.first * x_row * item,
            step_field(X): x_step,
            row_field(X): x_row,
            "steps": part.steps,
            "batch": part.batch,
            array_field(OUTPUT): call.output.ctypes.data + part.first * output_row * item,
            step_field(OUTPUT): output_step,
            row_field(OUTPUT): output_row,
            "weights": self._arena.ctypes.data,
            "slab": call.batch,
            "rows": address(part.rows),
            "order": address(part.order),
            "lengths": address(part.lengths),
            "scratch": 0,
        }
        for number, width in enumerate(self._widths):
            skip = part.first * width * item
            values[f"initial{number}"] = 0 if call.states is None else call.states[number].ctypes.data + skip
            values[f"final{number}"] = call.finals[number].ctypes.data + skip
        fields[:] = [values[name] for name in self._fields]
        return fields


@dataclass(frozen=True)
class _Call:
    """The arrays of a whole call. batch: rows of all its parts."""

    x: Array
    states: tuple[Array, ...] | None
    output: Array
    finals: tuple[Array, ...]
    batch: int


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
    """The `self` of the built-in function: the fields of a binding, and the owner of what they point to.

    The function may outlive the model that it was made for: a profiler keeps it, or another thread is still in it.
    """

    owned: tuple[object, ...]
    definition: _MethodDef


def _native_function(address: int, binding: _Binding) -> Callable[[object, object], Any]:
    """A built-in function object whose code is at `address`.

    CPython keeps a pointer to the definition, not a copy. It reads it while it destroys the function, up to the moment
    that it releases `self`: so the binding may own it (python/cpython#22670).
    """
    binding.definition = definition = _MethodDef(b"rnnc_call", address, _METH_FASTCALL, None)
    prototype = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p)
    make = prototype(("PyCFunction_NewEx", ctypes.pythonapi))
    function: Callable[[object, object], Any] = make(ctypes.addressof(definition), binding, None)
    return function
