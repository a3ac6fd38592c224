"""Calls: from NumPy arrays to the context of the generated function."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnc.backends.llvm.driver import CONTEXT
from rnnc.backends.llvm.entry import pack_binding
from rnnc.backends.llvm.parallel import run_all
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
        self._states = len(executable.stack.states)
        self._widths = tuple(executable.stack.flat[0].states.values())
        self._item = arena.itemsize
        self._threads = executable.threads
        self._parallel_rows = int(PARALLEL_FLOPS / executable.flops_per_row)
        self._definitions: list[_MethodDef] = []  # CPython keeps a pointer to them
        prototype = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)  # releases the interpreter lock
        self._function = prototype(self._code.address("rnnc_run"))

    def plain_call(self, batch_first: bool) -> Callable[[object, object], Any]:
        """See `rnnc.backends.base.Runner.plain_call`."""
        most_rows = UNLIMITED if self._threads == 1 else self._parallel_rows
        binding = pack_binding(
            weights=self._arena.ctypes.data,
            empty=id(np.empty),
            dtype=id(self._arena.dtype),
            ndarray=id(np.ndarray),
            batch_first=batch_first,
            most_rows=most_rows,
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
        target = self._even(output)
        if target is not output and lengths is not None:
            target[...] = 0
        call = _Call(self._even(x), states, target, finals, steps, batch)
        parts = min(self._threads, batch) if steps * batch > self._parallel_rows else 1
        split = _dense_parts(call, parts) if lengths is None else _ragged_parts(call, lengths, parts)
        if len(split) == 1:
            self._call(split[0])
        else:
            run_all([partial(self._call, part) for part in split])
        if target is not output:
            output[...] = target

    def _even(self, array: Array) -> Array:
        """The array itself if its last axis is contiguous and its strides are whole elements, else a C-ordered copy."""
        even = array.strides[2] == self._item or array.shape[2] == 1
        even = even and array.strides[0] % self._item == 0 and array.strides[1] % self._item == 0
        return array if even and array.flags.aligned else np.array(array, order="C")

    def _call(self, part: _Part) -> None:
        call, item = part.call, self._item
        fields = (ctypes.c_int64 * (len(CONTEXT) + 2 * self._states))()
        x_step, x_row = (stride // item for stride in call.x.strides[:2])
        output_step, output_row = (stride // item for stride in call.output.strides[:2])
        values = {
            "x": call.x.ctypes.data + part.first * x_row * item,
            "x_step": x_step,
            "x_row": x_row,
            "steps": part.steps,
            "batch": part.batch,
            "output": call.output.ctypes.data + part.first * output_row * item,
            "output_step": output_step,
            "output_row": output_row,
            "weights": self._arena.ctypes.data,
            "slab": call.batch,
            "rows": _address(part.rows),
            "order": _address(part.order),
            "lengths": _address(part.lengths),
        }
        fields[: len(CONTEXT)] = [values[name] for name in CONTEXT]
        for number, width in enumerate(self._widths):
            skip = part.first * width * item
            place = len(CONTEXT) + 2 * number
            fields[place] = 0 if call.states is None else call.states[number].ctypes.data + skip
            fields[place + 1] = call.finals[number].ctypes.data + skip
        if self._function(ctypes.addressof(fields)):
            raise MemoryError(f"no memory for the scratch buffers of {part.steps} steps of {part.batch} rows")


@dataclass(frozen=True)
class _Call:
    """The arrays of a whole call."""

    x: Array
    states: tuple[Array, ...] | None
    output: Array
    finals: tuple[Array, ...]
    steps: int
    batch: int


@dataclass(frozen=True)
class _Part:
    """The rows one thread runs: `batch` rows from row `first` on, or, of a ragged batch, those that `order` lists.

    rows: the first row of each step in packed buffers, and their number at the end.
    """

    call: _Call
    first: int
    batch: int
    steps: int
    rows: Array | None = None
    order: Array | None = None
    lengths: Array | None = None


def _dense_parts(call: _Call, parts: int) -> list[_Part]:
    bounds = [call.batch * n // parts for n in range(parts + 1)]
    return [_Part(call, a, b - a, call.steps) for a, b in zip(bounds, bounds[1:], strict=False)]


def _ragged_parts(call: _Call, lengths: Array, parts: int) -> list[_Part]:
    """Sequences sorted by falling length and dealt out in turn, so that each part has about the same work."""
    order = np.argsort(-lengths, kind="stable").astype(np.int64)
    dealt = [np.ascontiguousarray(order[n::parts]) for n in range(parts)]
    return [_ragged(call, rows, lengths[rows]) for rows in dealt if lengths[rows[0]] > 0]


def _ragged(call: _Call, order: Array, lengths: Array) -> _Part:
    steps = int(lengths[0])
    running = len(order) - np.searchsorted(lengths[::-1], np.arange(steps), side="right")
    rows = np.zeros(steps + 1, np.int64)
    np.cumsum(running, out=rows[1:])
    return _Part(call, 0, len(order), steps, rows, order, np.ascontiguousarray(lengths))


def _address(array: Array | None) -> int:
    return 0 if array is None else int(array.ctypes.data)


class _MethodDef(ctypes.Structure):
    """CPython's PyMethodDef."""

    _fields_ = [
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    ]


_METH_FASTCALL = 0x80


def _native_function(address: int, binding: bytes) -> tuple[Callable[[object, object], Any], _MethodDef]:
    """A built-in function object whose code is at `address`, and its definition, which must outlive it."""
    definition = _MethodDef(b"rnnc_call", address, _METH_FASTCALL, None)
    make = ctypes.pythonapi.PyCFunction_NewEx
    make.restype = ctypes.py_object
    make.argtypes = [ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p]
    return make(ctypes.addressof(definition), binding, None), definition
