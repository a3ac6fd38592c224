"""The native call: a CPython function in LLVM, so that a plain call spends well under a microsecond in Python.

    rnnc_call(argument, ...) -> the results, or None if Python must check the arguments

In a plain call, each argument is an array, or a tuple or dict of arrays, just as the call's description says
(`rnnc.backends.base.PlainCall`). For any other call, and for every mistake, the function returns None, and Python makes
the call. Buffers are taken through the buffer protocol and released on every path. The interpreter lock is released
while the network runs.

    arguments fit (call_arguments) -> new arrays (call_results) -> a context of the run -> the run -> the results

The code does not depend on a network. It reads a record, `binding.BINDING`, from the bytes object that is the
function's `self`. This object owns everything that the record points to, and the function's definition
(`rnnc.backends.llvm.calls.quick`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rnnc.backends.llvm.asm.builder import COLD, Function, Module, Val, define, i64, null
from rnnc.backends.llvm.asm.dtypes import ELEMENT_BYTES
from rnnc.backends.llvm.kernels.binding import ARRAY, BINDING, SIZES, TABLE, TIMED
from rnnc.backends.llvm.kernels.call_arguments import emit_arguments, strides_of
from rnnc.backends.llvm.kernels.call_results import emit_results
from rnnc.backends.llvm.kernels.python_objects import BUFFER, FALSE, NONE, TRUE, exists, negated

NOTHING = null()


def emit_native_call(module: Module, dtype: str) -> None:
    """Adds `rnnc_call`, and what it calls."""
    module.globals.append("@_Py_NoneStruct = external global i8")
    emit_arguments(module, dtype)
    emit_results(module, dtype)
    for function in (_look_up(dtype), _look_up_tables(dtype), _call(dtype)):
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


def _look_up_tables(dtype: str) -> Function:
    """Looks up the rows of all tables, one after the other in `memory`. Returns whether all the rows are there."""
    f = define("i1 rnnc_look_up_tables(ptr binding, ptr buffers, ptr context, ptr memory)", COLD)
    binding, buffers, context, memory = f.parameters
    plain, place = f.alloca("i1", 1, 1), f.alloca("ptr", 1, 8)
    f.store(TRUE, plain, 1)
    f.store(memory, place, 8)
    sizes = SIZES.loads(f, context)
    with f.loop(0, BINDING.load(f, binding, "tables")) as each, f.when(f.load("i1", plain, 1)):
        table = TABLE.loads(f, TABLE.element(f, BINDING.load(f, binding, "table_records"), each.index))
        array = ARRAY.element(f, BINDING.load(f, binding, "arrays"), table["array"])
        buffer, values = BUFFER.element(f, buffers, table["array"]), f.load("ptr", place, 8)
        numbers, per_step = BUFFER.load(f, buffer, "start"), f.mul(sizes["batch"], table["width"])
        arguments = (*sizes.values(), *strides_of(f, array, buffer), table["rows"], table["height"], table["width"])
        f.store(f.call_defined("i1", "rnnc_look_up_all", numbers, *arguments, values), plain, 1)
        with f.when(f.value("i1", f"icmp sge {table['offset']}, 0")):
            field = f.element(context, table["offset"], "i8")
            for name, value in zip(TIMED.types, (values, per_step, table["width"]), strict=True):
                f.store(value, TIMED.place(f, field, name), 8)
        size = f.mul(f.mul(sizes["steps"], per_step), ELEMENT_BYTES[dtype])
        f.store(f.element(values, size, "i8"), place, 8)
    f.ret(f.load("i1", plain, 1))
    return f


def _call(dtype: str) -> Function:
    f = define("ptr rnnc_call(ptr self, ptr arguments, i64 n)", COLD)
    self_, arguments, count = f.parameters
    call = NativeCall(f, f.call("ptr", "PyBytes_AsString", self_))
    context = f.value("ptr", f"alloca i8, {call.bound('context_bytes')}, align 16")
    with f.when(f.compare("eq", count, call.bound("arguments"))), call.fitting(arguments), call.made():
        call.begin(context)
        call.place(context)
        _run(call, context, ELEMENT_BYTES[dtype])
    return call.end()


class NativeCall:
    """The frame of a native function: what it takes, makes, returns and gives up again."""

    def __init__(self, f: Function, binding: Val) -> None:
        self.f, self.binding = f, binding
        count = self.bound("count")
        self.buffers = f.value("ptr", f"alloca {BUFFER.llvm_type}, {count}, align 16")
        self._made = f.value("ptr", f"alloca ptr, {count}, align 16")
        self.sizes = f.alloca("i64", 2, 8)
        self.result = f.alloca("ptr", 1, 8)
        f.store(null(), self.result, 8)
        for axis in range(2):
            f.store(i64(-1), f.element(self.sizes, axis, "i64"), 8)
        with f.loop(0, count) as each:  # releasing a buffer without an object does nothing
            buffer = BUFFER.element(f, self.buffers, each.index)
            f.store(null(), BUFFER.place(f, buffer, "start"), 8)
            f.store(null(), BUFFER.place(f, buffer, "object"), 8)
            f.store(null(), f.element(self._made, each.index, "ptr"), 8)

    def bound(self, name: str) -> Val:
        """A field of the binding."""
        return BINDING.load(self.f, self.binding, name)

    @contextmanager
    def fitting(self, arguments: Val) -> Iterator[None]:
        """Code that runs if the arguments fit."""
        taken = (self.binding, arguments, self.sizes, self.buffers)
        with self.f.when(self.f.call_defined("i1", "rnnc_arguments_fit", *taken)):
            yield

    @contextmanager
    def made(self) -> Iterator[None]:
        """Code that runs if the arrays of the results could be made."""
        taken = (self.binding, self.sizes, self.buffers, self._made)
        with self.f.when(self.f.call_defined("i1", "rnnc_make", *taken)):
            yield

    def begin(self, context: Val) -> None:
        """Starts a context: the fields that are the same in every call, and the sizes."""
        f, size = self.f, self.bound("context_bytes")
        f.call("void", "llvm.memcpy.p0.p0.i64", context, self.bound("context"), size, FALSE)
        for name, value in SIZES.loads(f, self.sizes).items():
            f.store(value, SIZES.place(f, context, name), 8)

    def place(self, context: Val) -> None:
        """Sets the pointers of a context to the arrays of this call."""
        self.f.call_defined("void", "rnnc_place", self.binding, self.buffers, context)

    def run(self, context: Val) -> Val:
        """Runs the generated function. The i1 is 1 if it ran out of memory."""
        status = self.f.value("i32", f"call i32 {self.bound('run').name}({context})")
        return self.f.value("i1", f"icmp ne {status}, 0")

    def pack(self, kept: Val = NOTHING) -> None:
        """Makes the result of the arrays. It stays null without memory. kept: an object that comes behind them."""
        self.f.store(self.f.call_defined("ptr", "rnnc_pack", self.binding, self._made, kept), self.result, 8)

    def end(self) -> Function:
        """Returns the result; null if an exception is set; otherwise None, so that Python checks the arguments."""
        f = self.f
        f.call_defined("void", "rnnc_release", self.binding, self.buffers, self._made)
        result = f.load("ptr", self.result, 8)
        failed = exists(f, f.call("ptr", "PyErr_Occurred"))
        decline = f.binary("and", f.is_null(result), negated(f, failed))
        with f.when(decline):
            f.call("void", "Py_IncRef", NONE)
        f.ret(f.select(decline, NONE, result))
        return f


def _run(call: NativeCall, context: Val, item: int) -> None:
    """Looks up rows of tables, then runs the network, with the interpreter lock released."""
    f = call.f
    rows = f.mul(*SIZES.loads(f, context).values())
    memory, failed, plain = f.alloca("ptr", 1, 8), f.alloca("i1", 1, 1), f.alloca("i1", 1, 1)
    f.store(null(), memory, 8)
    f.store(FALSE, failed, 1)
    f.store(TRUE, plain, 1)
    with_tables = f.compare("ne", call.bound("tables"), 0)
    with f.when(with_tables):
        taken = f.call("ptr", "malloc", f.mul(f.mul(rows, call.bound("looked_up")), item))
        f.store(taken, memory, 8)
        f.store(f.is_null(taken), failed, 1)
    thread = f.call("ptr", "PyEval_SaveThread")
    own = f.load("ptr", memory, 8)
    there = negated(f, f.load("i1", failed, 1))
    with f.when(f.binary("and", with_tables, there)):
        f.store(f.call_defined("i1", "rnnc_look_up_tables", call.binding, call.buffers, context, own), plain, 1)
    with f.when(f.binary("and", there, f.load("i1", plain, 1))):
        f.store(call.run(context), failed, 1)
    f.call("void", "free", own)
    f.call("void", "PyEval_RestoreThread", thread)
    with f.when(f.load("i1", failed, 1)):
        f.call("ptr", "PyErr_NoMemory")
    with f.when(f.binary("and", f.load("i1", plain, 1), negated(f, f.load("i1", failed, 1)))):
        call.pack()
