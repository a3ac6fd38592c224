"""The entry: a CPython function in LLVM, so that a plain call costs well under a microsecond of Python.

    rnnc_call(x, state) -> (output, state), or None if the arguments need a closer look

Plain means: x is a float array of the right dtype and sizes with a contiguous last axis, and the states are
C-contiguous. Everything else (and every error) is left to Python, which is told so by None. Buffers are taken through
the buffer protocol and released on every path; the interpreter lock is released while the network runs.

The function's `self` is a bytes object, the binding: what a bound model adds to the machine code. It owns everything
that the function needs, its own definition included (`rnnc.backends.llvm.runner`).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from rnnc.backends.llvm.driver import array_field, row_field, step_field
from rnnc.backends.llvm.emitter import COLD, Function, Module, Val, i64, null
from rnnc.backends.llvm.phase import ELEMENT_BYTES
from rnnc.ir.names import OUTPUT, X

BINDING = ("weights", "empty", "dtype", "ndarray", "batch_first", "most_rows")
"""Fields of a binding, 64 bits each: the arena, numpy.empty, the dtype object, the array type, whether axis 0 is the
batch, and the number of rows (steps * batch) beyond which a batch is left to Python, which may use more threads."""

PY_BUFFER_BYTES = 80
_OBJECT, _ITEM_SIZE, _DIMENSIONS, _FORMAT, _SHAPE, _STRIDES = 8, 24, 36, 40, 48, 56  # offsets in Py_buffer
STRIDED, CONTIGUOUS = 0x1C, 0x3C  # PyBUF_STRIDES | PyBUF_FORMAT, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT

_TRUE, _FALSE = Val("i1", "true"), Val("i1", "false")


@dataclass(frozen=True)
class CallShape:
    """What is fixed for a compiled stack.

    fields: those of a context. layers: first axis of a state. widths: last axis of each state.
    """

    fields: tuple[str, ...]

    dtype: str
    input_size: int
    output_size: int
    layers: int
    widths: tuple[int, ...]


def pack_binding(**fields: int) -> bytes:
    """The bytes of a binding, from the fields of BINDING; the caller keeps the objects alive."""
    return struct.pack(f"{len(BINDING)}q", *(int(fields[name]) for name in BINDING))


def emit_entry(module: Module, shape: CallShape) -> None:
    """Adds `rnnc_call`, which calls `rnnc_run`, to a module."""
    module.globals.append("@_Py_NoneStruct = external global i8")
    module.add(_view_function(shape.dtype))
    module.add(_new_function())
    module.add(_Entry(shape).emit())


def _field(f: Function, base: Val, offset: int, type_: str = "i64") -> Val:
    return f.load(type_, f.element(base, offset, "i8"), 4 if type_ == "i32" else 8)


def _both(f: Function, conditions: Sequence[Val]) -> Val:
    result = conditions[0]
    for condition in conditions[1:]:
        result = f.binary("and", result, condition)
    return result


def _exists(f: Function, object_: Val) -> Val:
    """Whether a call made an object: null says that it set an exception instead."""
    return f.value("i1", f"icmp ne {object_}, null")


def _view_function(dtype: str) -> Function:
    """Takes the buffer of a three-dimensional array of the dtype; a buffer that was taken is held either way."""
    parameters = [Val("ptr", "%object"), Val("ptr", "%buffer"), Val("i32", "%flags"), Val("ptr", "%type")]
    f = Function("rnnc_view", parameters, result="i1", attributes=COLD)
    object_, buffer, flags, type_ = f.parameters
    answer = f.alloca("i1", 1, 1)
    f.store(_FALSE, answer, 1)
    found = f.call("ptr", "PyObject_Type", object_)
    f.call("void", "Py_DecRef", found)
    taken = f.alloca("i1", 1, 1)
    f.store(_FALSE, taken, 1)
    with f.when(f.compare("eq", found, type_)):  # no subclass: a masked array would lose its mask
        status = f.call("i32", "PyObject_GetBuffer", object_, buffer, flags)
        f.store(f.value("i1", f"icmp eq {status}, 0"), taken, 1)
    with f.when(f.load("i1", taken, 1)):
        dimensions = f.value("i1", f"icmp eq {_field(f, buffer, _DIMENSIONS, 'i32')}, 3")
        # The two bytes of a native format: its letter and the end of the string.
        letters = f.load("i16", _field(f, buffer, _FORMAT, "ptr"), 1)
        wanted = ord({"float32": "f", "float64": "d"}[dtype])
        format_ = f.value("i1", f"icmp eq {letters}, {wanted}")
        size = f.compare("eq", _field(f, buffer, _ITEM_SIZE), ELEMENT_BYTES[dtype])
        address = f.value("i64", f"ptrtoint {_field(f, buffer, 0, 'ptr')} to i64")
        aligned = f.compare("eq", f.binary("and", address, i64(ELEMENT_BYTES[dtype] - 1)), 0)
        f.store(_both(f, [dimensions, format_, size, aligned]), answer, 1)
    with f.when(f.binary("xor", f.load("i1", taken, 1), _TRUE)):
        f.call("void", "PyErr_Clear")
    f.ret(f.load("i1", answer, 1))
    return f


def _new_function() -> Function:
    """numpy.empty((a, b, c), dtype), or null with an exception set."""
    names = ("empty", "dtype", "a", "b", "c")
    f = Function(
        "rnnc_new", [Val("ptr" if n in names[:2] else "i64", f"%{n}") for n in names], result="ptr", attributes=COLD
    )
    empty, dtype, *sizes = f.parameters
    result = f.alloca("ptr", 1, 8)
    f.store(null(), result, 8)
    shape = f.call("ptr", "PyTuple_New", i64(3))
    with f.when(_exists(f, shape)):
        numbers = [f.call("ptr", "PyLong_FromSsize_t", size) for size in sizes]
        for position, number in enumerate(numbers):  # the tuple takes the reference; it may hold null
            f.call("i32", "PyTuple_SetItem", shape, i64(position), number)
        with f.when(_both(f, [_exists(f, number) for number in numbers])):
            arguments = f.alloca("ptr", 2, 8)
            f.store(shape, arguments, 8)
            f.store(dtype, f.element(arguments, 1, "ptr"), 8)
            f.store(f.call("ptr", "PyObject_Vectorcall", empty, arguments, i64(2), null()), result, 8)
        f.call("void", "Py_DecRef", shape)
    f.ret(f.load("ptr", result, 8))
    return f


class _Entry:
    """rnnc_call itself."""

    def __init__(self, shape: CallShape) -> None:
        self.shape = shape
        self.item = ELEMENT_BYTES[shape.dtype]
        self.count = len(shape.widths)
        self.f = Function("rnnc_call", [Val("ptr", "%self"), Val("ptr", "%arguments"), Val("i64", "%n")], "ptr", COLD)
        self.buffers = self.f.alloca("i8", (2 + 2 * self.count) * PY_BUFFER_BYTES, 16)
        self.result = self.f.alloca("ptr", 1, 8)
        self.context = self.f.alloca("i64", len(shape.fields), 16)

    def emit(self) -> Function:
        f = self.f
        for number in range(2 + 2 * self.count):  # a buffer without an object may be released
            f.store(null(), f.element(self._buffer(number), _OBJECT, "i8"), 8)
        f.store(null(), self.result, 8)
        self.binding = f.call("ptr", "PyBytes_AsString", Val("ptr", "%self"))
        x = f.load("ptr", Val("ptr", "%arguments"), 8)
        view = self._view(x, 0, STRIDED)
        with f.when(_both(f, [f.compare("eq", Val("i64", "%n"), 2), view])):
            self._read_sizes()
            with f.when(self._sizes_fit()):
                self._with_states()
        for number in range(2 + 2 * self.count):
            f.call("void", "PyBuffer_Release", self._buffer(number))
        self._return()
        return f

    def _buffer(self, number: int) -> Val:
        return self.f.element(self.buffers, number * PY_BUFFER_BYTES, "i8")

    def _view(self, object_: Val, number: int, flags: int) -> Val:
        ndarray = self._bound("ndarray", "ptr")
        return self.f.call_defined("i1", "rnnc_view", object_, self._buffer(number), Val("i32", str(flags)), ndarray)

    def _pointer(self, number: int) -> Val:
        return _field(self.f, self._buffer(number), 0, "ptr")

    def _sizes(self, number: int, offset: int) -> list[Val]:
        """The shape or strides of a three-dimensional buffer."""
        table = _field(self.f, self._buffer(number), offset, "ptr")
        return [self.f.load("i64", self.f.element(table, axis, "i64"), 8) for axis in range(3)]

    def _bound(self, name: str, type_: str = "i64") -> Val:
        return _field(self.f, self.binding, 8 * BINDING.index(name), type_)

    def _read_sizes(self) -> None:
        f = self.f
        self.batch_first = f.compare("ne", self._bound("batch_first"), 0)
        shape, strides = self._sizes(0, _SHAPE), self._sizes(0, _STRIDES)
        self.steps = f.select(self.batch_first, shape[1], shape[0])
        self.batch = f.select(self.batch_first, shape[0], shape[1])
        self.width = shape[2]
        self.x_strides = strides

    def _sizes_fit(self) -> Val:
        f = self.f
        whole = [f.compare("eq", f.binary("and", stride, i64(self.item - 1)), 0) for stride in self.x_strides[:2]]
        few = f.compare("ule", f.mul(self.steps, self.batch), self._bound("most_rows"))
        return _both(
            f,
            [
                *whole,
                f.compare("eq", self.x_strides[2], self.item),
                f.compare("eq", self.width, self.shape.input_size),
                f.compare("ne", self.steps, 0),
                f.compare("ne", self.batch, 0),
                f.binary("or", f.compare("eq", self.batch, 1), few),
            ],
        )

    def _with_states(self) -> None:
        """Takes the states, if any, and goes on if they fit."""
        f = self.f
        state = f.load("ptr", f.element(Val("ptr", "%arguments"), 1, "ptr"), 8)
        none = f.compare("eq", state, Val("ptr", "@_Py_NoneStruct"))
        fits = f.alloca("i1", 1, 1)
        f.store(none, fits, 1)
        with f.when(f.binary("xor", none, _TRUE)):
            self._take_states(state, fits)
        with f.when(f.load("i1", fits, 1)):
            self._compute(none)

    def _take_states(self, state: Val, fits: Val) -> None:
        f = self.f
        if self.count == 1:
            f.store(self._state_fits(state, 0), fits, 1)
            return
        size = f.call("i64", "PyTuple_Size", state)
        right = f.compare("eq", size, self.count)
        with f.when(f.binary("xor", right, _TRUE)):
            f.call("void", "PyErr_Clear")  # not a tuple
        with f.when(right):
            checks = [
                self._state_fits(f.call("ptr", "PyTuple_GetItem", state, i64(number)), number)
                for number in range(self.count)
            ]
            f.store(_both(f, checks), fits, 1)

    def _state_fits(self, state: Val, number: int) -> Val:
        f = self.f
        fits = f.alloca("i1", 1, 1)
        f.store(_FALSE, fits, 1)
        buffer = 1 + number
        with f.when(self._view(state, buffer, CONTIGUOUS)):
            wanted = (i64(self.shape.layers), self.batch, i64(self.shape.widths[number]))
            sizes = self._sizes(buffer, _SHAPE)
            f.store(_both(f, [f.compare("eq", a, b) for a, b in zip(sizes, wanted, strict=True)]), fits, 1)
        return f.load("i1", fits, 1)

    def _compute(self, no_state: Val) -> None:
        """Makes the results, runs, and leaves the result tuple, or null; an exception is set if memory ran out."""
        f = self.f
        outer = f.select(self.batch_first, self.batch, self.steps)
        inner = f.select(self.batch_first, self.steps, self.batch)
        shapes = [(outer, inner, i64(self.shape.output_size))]
        shapes += [(i64(self.shape.layers), self.batch, i64(width)) for width in self.shape.widths]
        self._with_arrays(shapes, [], no_state)

    def _with_arrays(self, shapes: Sequence[tuple[Val, Val, Val]], made: list[Val], no_state: Val) -> None:
        """Makes arrays one after another, stops where one fails, and runs; drops them if there is no result."""
        f = self.f
        if not shapes:
            self._run(no_state, *made)
            return
        empty, dtype = self._bound("empty", "ptr"), self._bound("dtype", "ptr")
        new = f.call_defined("ptr", "rnnc_new", empty, dtype, *shapes[0])
        with f.when(_exists(f, new)):
            self._with_arrays(shapes[1:], [*made, new], no_state)
            self._drop_without_result(new)

    def _drop_without_result(self, object_: Val) -> None:
        """Releases an object unless the result has taken it."""
        with self.f.when(self.f.is_null(self.f.load("ptr", self.result, 8))):
            self.f.call("void", "Py_DecRef", object_)

    def _run(self, no_state: Val, output: Val, *finals: Val) -> None:
        f = self.f
        views = [self._view(new, 1 + self.count + n, CONTIGUOUS) for n, new in enumerate((output, *finals))]
        with f.when(_both(f, views)):
            self._fill_context(no_state)
            thread = f.call("ptr", "PyEval_SaveThread")
            status = f.call_defined("i32", "rnnc_run", self.context)
            f.call("void", "PyEval_RestoreThread", thread)
            right = f.value("i1", f"icmp eq {status}, 0")
            with f.when(right):
                self._pack(output, finals)
            with f.when(f.binary("xor", right, _TRUE)):
                f.call("ptr", "PyErr_NoMemory")

    def _fill_context(self, no_state: Val) -> None:
        f = self.f
        first, second = (f.binary("sdiv", stride, i64(self.item)) for stride in self.x_strides[:2])
        width = i64(self.shape.output_size)
        long_, short = f.mul(self.batch, width), f.mul(self.steps, width)
        fields = {
            array_field(X): self._pointer(0),
            step_field(X): f.select(self.batch_first, second, first),
            row_field(X): f.select(self.batch_first, first, second),
            "steps": self.steps,
            "batch": self.batch,
            array_field(OUTPUT): self._pointer(1 + self.count),
            step_field(OUTPUT): f.select(self.batch_first, width, long_),
            row_field(OUTPUT): f.select(self.batch_first, short, width),
            "weights": self._bound("weights", "ptr"),
            "slab": self.batch,
        }
        for number in range(self.count):
            fields[f"initial{number}"] = f.select(no_state, null(), self._pointer(1 + number))
            fields[f"final{number}"] = self._pointer(2 + self.count + number)
        for position, name in enumerate(self.shape.fields):
            f.store(fields.get(name, i64(0)), f.element(self.context, position, "i64"), 8)

    def _pack(self, output: Val, finals: Sequence[Val]) -> None:
        """(output, final), or (output, (final, ...)); the tuples take the references."""
        f = self.f
        if self.count == 1:
            self._pair(output, finals[0])
            return
        state = f.call("ptr", "PyTuple_New", i64(self.count))
        with f.when(_exists(f, state)):
            self._pair(output, state)
            with f.when(_exists(f, f.load("ptr", self.result, 8))):
                for position, final in enumerate(finals):
                    f.call("i32", "PyTuple_SetItem", state, i64(position), final)
            self._drop_without_result(state)

    def _pair(self, output: Val, state: Val) -> None:
        """The result; it stays null if there is no memory for it."""
        f = self.f
        pair = f.call("ptr", "PyTuple_New", i64(2))
        with f.when(_exists(f, pair)):
            f.call("i32", "PyTuple_SetItem", pair, i64(0), output)
            f.call("i32", "PyTuple_SetItem", pair, i64(1), state)
            f.store(pair, self.result, 8)

    def _return(self) -> None:
        """The result; null if an exception is set; else None: look closer."""
        f = self.f
        result = f.load("ptr", self.result, 8)
        failed = _exists(f, f.call("ptr", "PyErr_Occurred"))
        none = Val("ptr", "@_Py_NoneStruct")
        decline = f.binary("and", f.is_null(result), f.binary("xor", failed, _TRUE))
        with f.when(decline):
            f.call("void", "Py_IncRef", none)
        f.ret(f.select(decline, none, result))
