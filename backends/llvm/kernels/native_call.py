"""The native call: a CPython function in LLVM, so that a plain call spends well under a microsecond in Python.

    rnnc_call(x, state) -> the results, or None if Python must check the arguments

In a plain call, x is a float array of the right dtype and sizes with a contiguous last axis, or, for a table, integers;
and the states are C-contiguous. For any other call, and for every error, the function returns None, and Python makes
the call. Buffers are taken through the buffer protocol and released on every path. The interpreter lock is released
while the network runs.

The code does not depend on a network. It reads a record, `binding.BINDING`, from the bytes object that is the
function's `self`. This object owns everything that the record points to, and the function's definition
(`rnnc.backends.llvm.calls.quick`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from rnnc.backends.llvm.asm.builder import Function, Module, Val, define, i64, null
from rnnc.backends.llvm.asm.dtypes import ELEMENT_BYTES, SCALARS
from rnnc.backends.llvm.kernels.binding import BINDING, CONTAINERS, SIZES, SLOT, STATE, TIMED
from rnnc.backends.llvm.kernels.python_objects import (
    BUFFER,
    CONTIGUOUS,
    FALSE,
    STRIDED,
    TRUE,
    both,
    emit_new,
    emit_view,
    exists,
    negated,
)

_NONE = Val("ptr", "@_Py_NoneStruct")


def emit_native_call(module: Module, dtype: str) -> None:
    """Adds `rnnc_call`, and what it calls."""
    module.globals.append("@_Py_NoneStruct = external global i8")
    for function in (emit_view(dtype), emit_new(), _look_up(dtype), _NativeCall(dtype).emit()):
        module.add(function)


def _look_up(dtype: str) -> Function:
    """Copies rows of a table to (T, B, width). Strides are in bytes. Returns whether the table has all the rows."""
    f = define(
        "i1 rnnc_look_up_all(ptr numbers, i64 steps, i64 batch, i64 step_stride, i64 row_stride, ptr table, "
        "i64 height, i64 width, ptr values)"
    )
    numbers, steps, batch, step_stride, row_stride, table, height, width, values = f.parameters
    answer, size = f.alloca("i1", 1, 1), f.mul(width, ELEMENT_BYTES[dtype])
    f.store(TRUE, answer, 1)
    with f.loop(0, steps) as step, f.loop(0, batch) as row:
        skipped = f.add(f.mul(step.index, step_stride), f.mul(row.index, row_stride))
        number = f.load("i64", f.element(numbers, skipped, "i8"), 8)
        there = f.compare("ult", number, height)
        with f.when(there):
            target = f.element(values, f.mul(f.add(f.mul(step.index, batch), row.index), size), "i8")
            f.call(
                "void", "llvm.memcpy.p0.p0.i64", target, f.element(table, f.mul(number, size), "i8"), size, FALSE
            )  # fmt: skip
        with f.when(negated(f, there)):
            f.store(FALSE, answer, 1)
    f.ret(f.load("i1", answer, 1))
    return f


class _NativeCall:
    """The function rnnc_call. A value that has been computed is an attribute from then on."""

    def __init__(self, dtype: str) -> None:
        self.scalar, self.item = SCALARS[dtype], ELEMENT_BYTES[dtype]
        self.f = define("ptr rnnc_call(ptr self, ptr arguments, i64 n)")

    def emit(self) -> Function:
        f = self.f
        self.binding = f.call("ptr", "PyBytes_AsString", f.parameters[0])
        self.states = self._bound("states")
        # Views: x, the output, then an initial and a final array per state.
        self.views = f.add(f.mul(self.states, 2), 2)
        self.buffers = f.value("ptr", f"alloca {BUFFER.llvm_type}, {self.views}, align 16")
        self.made = f.value("ptr", f"alloca ptr, {f.add(self.states, 1)}, align 16")
        self.context = f.value("ptr", f"alloca i8, {self._bound('context_bytes')}, align 16")
        self.result = f.alloca("ptr", 1, 8)
        f.store(null(), self.result, 8)
        with f.loop(0, self.views) as view:  # releasing a buffer without an object does nothing
            f.store(null(), BUFFER.place(f, self._buffer(view.index), "object"), 8)
        two = f.compare("eq", f.parameters[2], 2)
        with f.when(two):
            self._with_two_arguments()
        with f.loop(0, self.views) as view:
            f.call("void", "PyBuffer_Release", self._buffer(view.index))
        self._return()
        return f

    def _with_two_arguments(self) -> None:
        f, arguments = self.f, self.f.parameters[1]
        self.table = self._bound("table")
        self.integers = exists(f, self.table)
        self.state = f.load("ptr", f.element(arguments, 1, "ptr"), 8)
        self.no_state = f.compare("eq", self.state, _NONE)
        axes = f.select(self.integers, Val("i32", "2"), Val("i32", "3"))
        with f.when(self._view(f.load("ptr", arguments, 8), i64(0), STRIDED, axes, self.integers)):
            self._read_sizes()
            with f.when(self._sizes_fit()), f.when(self._states_fit()):
                self._make_arrays()

    # ---- fields of Python's objects

    def _bound(self, name: str) -> Val:
        return BINDING.load(self.f, self.binding, name)

    def _buffer(self, number: Val) -> Val:
        return BUFFER.element(self.f, self.buffers, number)

    def _view(self, object_: Val, number: Val, flags: int, axes: Val, integers: Val = FALSE) -> Val:
        place, type_ = self._buffer(number), self._bound("ndarray")
        return self.f.call_defined("i1", "rnnc_view", object_, place, Val("i32", str(flags)), type_, axes, integers)

    def _pointer(self, number: Val) -> Val:
        return BUFFER.load(self.f, self._buffer(number), "start")

    def _number(self, number: Val, field: str, axis: int) -> Val:
        """An element of a buffer's `shape` or `strides`."""
        table = BUFFER.load(self.f, self._buffer(number), field)
        return self.f.load("i64", self.f.element(table, axis, "i64"), 8)

    # ---- arguments

    def _read_sizes(self) -> None:
        f = self.f
        self.batch_first = f.compare("ne", self._bound("batch_first"), 0)
        outer, inner = (self._number(i64(0), "shape", axis) for axis in range(2))
        self.steps = f.select(self.batch_first, inner, outer)
        self.batch = f.select(self.batch_first, outer, inner)
        self.outer, self.inner = outer, inner
        first, second = (self._number(i64(0), "strides", axis) for axis in range(2))
        self.x_step = f.select(self.batch_first, second, first)
        self.x_row = f.select(self.batch_first, first, second)

    def _sizes_fit(self) -> Val:
        """True if the sizes and strides of x fit. x has a third axis unless it holds integers."""
        f = self.f
        fits = f.alloca("i1", 1, 1)
        element = f.select(self.integers, i64(8), i64(self.item))
        whole = [f.compare("eq", f.binary("and", s, f.sub(element, 1)), 0) for s in (self.x_step, self.x_row)]
        few = f.compare("ule", f.mul(self.steps, self.batch), self._bound("most_rows"))
        few = f.binary("or", f.compare("eq", self.batch, 1), few)
        f.store(both(f, [*whole, few, f.compare("ne", self.steps, 0), f.compare("ne", self.batch, 0)]), fits, 1)
        with f.when(negated(f, self.integers)):
            width = f.compare("eq", self._number(i64(0), "shape", 2), self._bound("input_size"))
            contiguous = f.compare("eq", self._number(i64(0), "strides", 2), self.item)
            f.store(both(f, [f.load("i1", fits, 1), width, contiguous]), fits, 1)
        return f.load("i1", fits, 1)

    def _states_fit(self) -> Val:
        """Takes the buffers of the states, if any. True if they fit."""
        f = self.f
        fits = f.alloca("i1", 1, 1)
        f.store(self.no_state, fits, 1)
        self.container = self._bound("container")
        with f.when(negated(f, self.no_state)):
            f.store(self._container_fits(), fits, 1)
            with f.loop(0, self.states) as each, f.when(f.load("i1", fits, 1)):
                f.store(self._state_fits(each.index), fits, 1)
        return f.load("i1", fits, 1)

    def _by_container(self, cases: dict[str, Callable[[], None]]) -> None:
        """Runs the code of the caller's container of states, if it is one of the cases."""
        for name, emit in cases.items():
            with self._if_container(name):
                emit()

    def _if_container(self, name: str) -> AbstractContextManager[None]:
        return self.f.when(self.f.compare("eq", self.container, CONTAINERS.index(name)))

    def _container_fits(self) -> Val:
        f = self.f
        fits = f.alloca("i1", 1, 1)
        f.store(FALSE, fits, 1)

        def is_tuple() -> None:
            size = f.call("i64", "PyTuple_Size", self.state)
            f.store(f.compare("eq", size, self.states), fits, 1)
            with f.when(f.value("i1", f"icmp slt {size}, 0")):
                f.call("void", "PyErr_Clear")  # not a tuple

        def is_dict() -> None:
            found = f.call("ptr", "PyObject_Type", self.state)
            f.call("void", "Py_DecRef", found)
            with f.when(f.compare("eq", found, self._bound("dict"))):
                f.store(f.compare("eq", f.call("i64", "PyDict_Size", self.state), self.states), fits, 1)

        self._by_container({"bare": lambda: f.store(TRUE, fits, 1), "tuple": is_tuple, "dict": is_dict})
        return f.load("i1", fits, 1)

    def _state_fits(self, number: Val) -> Val:
        f = self.f
        item, fits = f.alloca("ptr", 1, 8), f.alloca("i1", 1, 1)
        record = self._record(number)
        f.store(null(), item, 8)
        f.store(FALSE, fits, 1)
        self._by_container(
            {
                "bare": lambda: f.store(self.state, item, 8),
                "tuple": lambda: f.store(f.call("ptr", "PyTuple_GetItem", self.state, number), item, 8),
                "dict": lambda: f.store(
                    f.call("ptr", "PyDict_GetItem", self.state, STATE.load(f, record, "key")), item, 8
                ),
            }
        )
        view = f.add(number, 2)
        stacked = f.compare("ne", STATE.load(f, record, "stacked"), 0)
        found = f.load("ptr", item, 8)
        with f.when(exists(f, found)):
            axes = f.select(stacked, Val("i32", "3"), Val("i32", "2"))
            with f.when(self._view(found, view, CONTIGUOUS, axes)):
                f.store(self._state_sizes_fit(view, record, stacked), fits, 1)
        return f.load("i1", fits, 1)

    def _state_sizes_fit(self, view: Val, record: Val, stacked: Val) -> Val:
        f = self.f
        table = BUFFER.load(f, self._buffer(view), "shape")
        first = f.select(stacked, i64(1), i64(0))
        slabs = f.select(stacked, f.load("i64", table, 8), i64(1))
        batch, width = (f.load("i64", f.element(table, f.add(first, n), "i64"), 8) for n in range(2))
        wanted = (STATE.load(f, record, "slabs"), self.batch, STATE.load(f, record, "width"))
        return both(f, [f.compare("eq", a, b) for a, b in zip((slabs, batch, width), wanted, strict=True)])

    def _record(self, number: Val) -> Val:
        return STATE.element(self.f, self._bound("state_records"), number)

    # ---- results

    def _make_arrays(self) -> None:
        """Makes the arrays of the output and, if wanted, of the final states. Continues unless one fails."""
        f = self.f
        self.returns_state = f.compare("ne", self._bound("returns_state"), 0)
        self.finals = f.select(self.returns_state, self.states, i64(0))
        with f.loop(0, f.add(self.finals, 1)) as each:
            f.store(null(), f.element(self.made, each.index, "ptr"), 8)
        ok = f.alloca("i1", 1, 1)
        timed = f.compare("ne", self._bound("output_timed"), 0)
        axes = f.select(timed, i64(3), i64(2))
        self.timed, inner = timed, f.select(timed, self.inner, self.batch)
        f.store(self._new(i64(0), i64(1), axes, self.outer, inner, self._bound("output_size")), ok, 1)
        with f.loop(0, self.finals) as each, f.when(f.load("i1", ok, 1)):
            record = self._record(each.index)
            slabs, stacked, width = (STATE.load(f, record, field) for field in ("slabs", "stacked", "width"))
            view = f.add(f.add(self.states, 2), each.index)
            axes = f.add(f.select(f.compare("ne", stacked, 0), i64(1), i64(0)), 2)
            f.store(self._new(f.add(each.index, 1), view, axes, slabs, self.batch, width), ok, 1)
        with f.when(f.load("i1", ok, 1)):
            self._fill_context()
            self._run()
        with f.when(f.is_null(f.load("ptr", self.result, 8))), f.loop(0, f.add(self.finals, 1)) as each:
            self._drop(f.load("ptr", f.element(self.made, each.index, "ptr"), 8))

    def _new(self, number: Val, view: Val, axes: Val, a: Val, b: Val, c: Val) -> Val:
        """Makes a new array and takes its buffer. True if both succeed."""
        f = self.f
        taken = f.alloca("i1", 1, 1)
        f.store(FALSE, taken, 1)
        new = f.call_defined("ptr", "rnnc_new", self._bound("empty"), self._bound("dtype"), axes, a, b, c)
        f.store(new, f.element(self.made, number, "ptr"), 8)
        with f.when(exists(f, new)):
            axes = f.value("i32", f"trunc {axes} to i32")
            f.store(self._view(new, view, CONTIGUOUS, axes), taken, 1)
        return f.load("i1", taken, 1)

    def _drop(self, object_: Val) -> None:
        with self.f.when(exists(self.f, object_)):
            self.f.call("void", "Py_DecRef", object_)

    def _field_of_context(self, at: Val, value: Val) -> None:
        """Sets a field of the context, if it has it."""
        with self.f.when(self.f.value("i1", f"icmp sge {at}, 0")):
            self.f.store(value, self.f.element(self.context, at, "i8"), 8)

    def _fill_context(self) -> None:
        f = self.f
        template, size = self._bound("context"), self._bound("context_bytes")
        f.call("void", "llvm.memcpy.p0.p0.i64", self.context, template, size, FALSE)
        f.store(self.steps, SIZES.place(f, self.context, "steps"), 8)
        f.store(self.batch, SIZES.place(f, self.context, "batch"), 8)
        strides = (f.binary("sdiv", stride, i64(self.item)) for stride in (self.x_step, self.x_row))
        self._array("x_at", self._pointer(i64(0)), *strides)
        width, output = self._bound("output_size"), self._pointer(i64(1))
        with f.when(self.timed):
            long_, short = f.mul(self.batch, width), f.mul(self.steps, width)
            step, row = f.select(self.batch_first, width, long_), f.select(self.batch_first, short, width)
            self._array("output_at", output, step, row)
        with f.when(negated(f, self.timed)):
            self._field_of_context(self._bound("output_at"), output)
        with f.loop(0, self.states) as each:
            self._fill_slots(each.index)

    def _array(self, at: str, pointer: Val, step: Val, row: Val) -> None:
        """Sets the fields of an array with a value per step, if the context has them. Strides are in elements."""
        place = self._bound(at)
        with self.f.when(self.f.value("i1", f"icmp sge {place}, 0")):
            first = self.f.element(self.context, place, "i8")
            for field, value in zip(TIMED.types, (pointer, step, row), strict=True):
                self.f.store(value, TIMED.place(self.f, first, field), 8)

    def _fill_slots(self, number: Val) -> None:
        """Sets the initial and the final pointer of each slab of a state."""
        f = self.f
        record = self._record(number)
        slot = STATE.load(f, record, "first_slot")
        size = f.mul(f.mul(self.batch, STATE.load(f, record, "width")), self.item)
        with f.loop(0, STATE.load(f, record, "slabs")) as slab:
            place = SLOT.element(f, self._bound("slots"), f.add(slot, slab.index))
            skipped = f.mul(slab.index, size)
            initial = (negated(f, self.no_state), "initial_at", i64(2))
            final = (self.returns_state, "final_at", f.add(self.states, 2))
            for given, field, first in (initial, final):
                with f.when(given):
                    pointer = f.element(self._pointer(f.add(first, number)), skipped, "i8")
                    self._field_of_context(SLOT.load(f, place, field), pointer)

    # ---- the run

    def _run(self) -> None:
        """Looks up x in the table, if there is one, then runs the network, with the interpreter lock released."""
        f = self.f
        rows = f.mul(self.steps, self.batch)
        size = f.mul(f.mul(rows, self._bound("input_size")), self.item)
        memory, failed, plain = f.alloca("ptr", 1, 8), f.alloca("i1", 1, 1), f.alloca("i1", 1, 1)
        f.store(null(), memory, 8)
        f.store(FALSE, failed, 1)
        f.store(TRUE, plain, 1)
        with f.when(self.integers):
            taken = f.call("ptr", "malloc", size)
            f.store(taken, memory, 8)
            f.store(f.is_null(taken), failed, 1)
        thread = f.call("ptr", "PyEval_SaveThread")
        own = f.load("ptr", memory, 8)
        there = negated(f, f.load("i1", failed, 1))
        with f.when(f.binary("and", self.integers, there)):
            f.store(self._look_up(own), plain, 1)
        with f.when(f.binary("and", there, f.load("i1", plain, 1))):
            function = self._bound("run")
            status = f.value("i32", f"call i32 {function.name}({self.context})")
            f.store(f.value("i1", f"icmp ne {status}, 0"), failed, 1)
        f.call("void", "free", own)
        f.call("void", "PyEval_RestoreThread", thread)
        with f.when(f.load("i1", failed, 1)):
            f.call("ptr", "PyErr_NoMemory")
        with f.when(f.binary("and", f.load("i1", plain, 1), negated(f, f.load("i1", failed, 1)))):
            self._pack()

    def _look_up(self, values: Val) -> Val:
        f, width = self.f, self._bound("input_size")
        strides = (self.x_step, self.x_row, self.table, self._bound("height"), width, values)
        found = f.call_defined(
            "i1", "rnnc_look_up_all", self._pointer(i64(0)), self.steps, self.batch, *strides
        )  # fmt: skip
        self._array("x_at", values, f.mul(self.batch, width), width)
        return found

    def _pack(self) -> None:
        """Makes the result: the output, or (output, state). It stays null if there is no memory for it."""
        f = self.f
        output = f.load("ptr", self.made, 8)
        with f.when(negated(f, self.returns_state)):
            f.store(output, self.result, 8)
        with f.when(self.returns_state):
            state, pair = f.alloca("ptr", 1, 8), f.call("ptr", "PyTuple_New", i64(2))
            f.store(null(), state, 8)
            with f.when(exists(f, pair)):
                self._by_container(
                    {
                        "bare": lambda: f.store(self._final(i64(0)), state, 8),
                        "tuple": lambda: f.store(f.call("ptr", "PyTuple_New", self.states), state, 8),
                        "dict": lambda: f.store(self._new_dict(), state, 8),
                    }
                )
            found = f.load("ptr", state, 8)
            with f.when(exists(f, found)):
                self._fill_results(pair, output, found)
            with f.when(f.is_null(found)):
                self._drop(pair)

    def _new_dict(self) -> Val:
        """A dict of the final states by their keys, with references of its own; null if there is no memory for it."""
        f = self.f
        made, ok = f.alloca("ptr", 1, 8), f.alloca("i1", 1, 1)
        new = f.call("ptr", "PyDict_New")
        f.store(new, made, 8)
        f.store(exists(f, new), ok, 1)
        with f.loop(0, self.states) as each, f.when(f.load("i1", ok, 1)):
            key = STATE.load(f, self._record(each.index), "key")
            status = f.call("i32", "PyDict_SetItem", new, key, self._final(each.index))
            f.store(f.value("i1", f"icmp eq {status}, 0"), ok, 1)
        with f.when(negated(f, f.load("i1", ok, 1))):
            self._drop(new)
            f.store(null(), made, 8)
        return f.load("ptr", made, 8)

    def _fill_results(self, pair: Val, output: Val, state: Val) -> None:
        """Moves all references to the arrays into the result. Nothing can fail from here on."""
        f = self.f
        f.call("i32", "PyTuple_SetItem", pair, i64(0), output)
        f.call("i32", "PyTuple_SetItem", pair, i64(1), state)
        f.store(pair, self.result, 8)
        with self._if_container("tuple"), f.loop(0, self.states) as each:
            f.call("i32", "PyTuple_SetItem", state, each.index, self._final(each.index))
        with self._if_container("dict"), f.loop(0, self.states) as each:
            self._drop(self._final(each.index))

    def _final(self, number: Val) -> Val:
        return self.f.load("ptr", self.f.element(self.made, self.f.add(number, 1), "ptr"), 8)

    def _return(self) -> None:
        """Returns the result; null if an exception is set; otherwise None, so that Python checks the arguments."""
        f = self.f
        result = f.load("ptr", self.result, 8)
        failed = exists(f, f.call("ptr", "PyErr_Occurred"))
        decline = f.binary("and", f.is_null(result), negated(f, failed))
        with f.when(decline):
            f.call("void", "Py_IncRef", _NONE)
        f.ret(f.select(decline, _NONE, result))
