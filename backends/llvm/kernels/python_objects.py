"""Python's objects in generated code: the buffer of an array, and new arrays."""

from __future__ import annotations

from collections.abc import Sequence

from rnnc.backends.llvm.asm.builder import Function, Val, define, i64, null
from rnnc.backends.llvm.asm.dtypes import ELEMENT_BYTES
from rnnc.backends.llvm.asm.records import Record

BUFFER = Record(
    "buffer",
    "ptr start, ptr object, i64 bytes, i64 item_size, i32 read_only, i32 axes, ptr format, ptr shape, ptr strides, "
    "ptr suboffsets, ptr internal",
)
"""CPython's Py_buffer."""
NDARRAY = Record("ndarray", "ptr data, i32 axes, ptr shape, ptr strides")
"""The first fields of NumPy's PyArrayObject_fields, which follow the object's header (`records.OBJECT_HEADER`)."""
STRIDED, CONTIGUOUS = 0x1C, 0x3C
"""PyBUF_STRIDES | PyBUF_FORMAT, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT."""

NONE = Val("ptr", "@_Py_NoneStruct")
TRUE, FALSE = Val("i1", "true"), Val("i1", "false")


def both(f: Function, conditions: Sequence[Val]) -> Val:
    result = conditions[0]
    for condition in conditions[1:]:
        result = f.binary("and", result, condition)
    return result


def exists(f: Function, object_: Val) -> Val:
    """The i1 that is 1 if a call returned an object. Null means that it has set an exception."""
    return f.value("i1", f"icmp ne {object_}, null")


def negated(f: Function, condition: Val) -> Val:
    return f.binary("xor", condition, TRUE)


def emit_view(dtype: str) -> Function:
    """Takes the buffer of an array of the dtype, or of 64-bit integers. A buffer that does not fit is held as well."""
    f = define("i1 rnnc_view(ptr object, ptr buffer, i32 flags, ptr type, i32 axes, i1 integers)")
    object_, buffer, flags, type_, axes, integers = f.parameters
    answer = f.alloca("i1", 1, 1)
    f.store(FALSE, answer, 1)
    found = f.call("ptr", "PyObject_Type", object_)
    f.call("void", "Py_DecRef", found)
    taken = f.alloca("i1", 1, 1)
    f.store(FALSE, taken, 1)
    with f.when(f.compare("eq", found, type_)):  # not of a subclass: a masked array would lose its mask
        status = f.call("i32", "PyObject_GetBuffer", object_, buffer, flags)
        f.store(f.value("i1", f"icmp eq {status}, 0"), taken, 1)
    with f.when(f.load("i1", taken, 1)):
        dimensions = f.value("i1", f"icmp eq {BUFFER.load(f, buffer, 'axes')}, {axes.name}")
        # A native format has two bytes: its letter, and the end of the string.
        letters = f.load("i16", BUFFER.load(f, buffer, "format"), 1)
        is_float, *is_integer = (f.value("i1", f"icmp eq {letters}, {ord(c)}") for c in _LETTERS[dtype] + "lq")
        format_ = f.select(integers, f.binary("or", *is_integer), is_float)
        wanted = f.select(integers, i64(8), i64(ELEMENT_BYTES[dtype]))
        size = f.compare("eq", BUFFER.load(f, buffer, "item_size"), wanted)
        address = f.value("i64", f"ptrtoint {BUFFER.load(f, buffer, 'start')} to i64")
        aligned = f.compare("eq", f.binary("and", address, f.sub(wanted, 1)), 0)
        f.store(both(f, [dimensions, format_, size, aligned]), answer, 1)
    with f.when(negated(f, f.load("i1", taken, 1))):
        f.call("void", "PyErr_Clear")
    f.ret(f.load("i1", answer, 1))
    return f


_LETTERS = {"float32": "f", "float64": "d"}


def emit_new() -> Function:
    """numpy.empty(sizes, dtype), of several axes. Returns null, with an exception set, if it fails."""
    f = define("ptr rnnc_new(ptr empty, ptr dtype, i64 axes, ptr sizes)")
    empty, dtype, axes, sizes = f.parameters
    result, complete = f.alloca("ptr", 1, 8), f.alloca("i1", 1, 1)
    f.store(null(), result, 8)
    f.store(TRUE, complete, 1)
    shape = f.call("ptr", "PyTuple_New", axes)
    with f.when(exists(f, shape)):
        with f.loop(0, axes) as axis:
            number = f.call("ptr", "PyLong_FromSsize_t", f.load("i64", f.element(sizes, axis.index, "i64"), 8))
            f.call("i32", "PyTuple_SetItem", shape, axis.index, number)  # it takes the reference; an item may be null
            f.store(f.binary("and", f.load("i1", complete, 1), exists(f, number)), complete, 1)
        with f.when(f.load("i1", complete, 1)):
            arguments = f.alloca("ptr", 2, 8)
            f.store(shape, arguments, 8)
            f.store(dtype, f.element(arguments, 1, "ptr"), 8)
            f.store(f.call("ptr", "PyObject_Vectorcall", empty, arguments, i64(2), null()), result, 8)
        f.call("void", "Py_DecRef", shape)
    f.ret(f.load("ptr", result, 8))
    return f
