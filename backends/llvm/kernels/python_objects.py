"""Python's objects in generated code: the fields of NumPy's arrays, and new arrays.

Fields are read where NumPy has them: the buffer protocol takes 0.1 us per array, and allocates memory. That they are
there is checked when `rnnc.backends.llvm.asm.records` is imported.
"""

from __future__ import annotations

from collections.abc import Sequence

from rnnc.backends.llvm.asm.builder import Function, Val, define, i64, null
from rnnc.backends.llvm.asm.records import OBJECT_HEADER, OBJECT_TYPE, Record

NDARRAY = Record("ndarray", "ptr data, i32 axes, ptr shape, ptr strides, ptr _base, ptr dtype, i32 flags")
"""The first fields of NumPy's PyArrayObject_fields, which follow the object's header (`records.OBJECT_HEADER`). A field
that nobody reads begins with an underscore."""
C_CONTIGUOUS, WRITEABLE = 0x1, 0x400
"""Bits of the flags of an array."""

DTYPE = Record("dtype", "ptr scalar, i32 letters")
"""The first fields of NumPy's PyArray_Descr, after the header. scalar: the type of a single number. letters: kind,
letter, byte order, and a byte that depends on NumPy's version."""
LETTERS = 0xFFFFFF
"""The bits of `letters` that tell one dtype from another."""

TUPLE_SUBCLASS = 1 << 26
"""CPython's Py_TPFLAGS_TUPLE_SUBCLASS."""

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


def type_of(f: Function, object_: Val) -> Val:
    """The type of an object. The reference is borrowed."""
    return f.load("ptr", f.element(object_, OBJECT_TYPE, "i8"), 8)


def is_tuple(f: Function, object_: Val) -> Val:
    """Whether an object is a tuple, possibly of a subclass."""
    flags = f.call("i64", "PyType_GetFlags", type_of(f, object_))
    return f.compare("ne", f.binary("and", flags, i64(TUPLE_SUBCLASS)), 0)


def fields_of(f: Function, object_: Val) -> Val:
    """The place of the fields of an array, or of a dtype."""
    return f.element(object_, OBJECT_HEADER, "i8")


def emit_is_of() -> Function:
    """Whether the numbers of an array are of a dtype, in native byte order."""
    f = define("i1 rnnc_is_of(ptr array, ptr dtype)")
    array, dtype = f.parameters
    dtypes = [fields_of(f, each) for each in (NDARRAY.load(f, fields_of(f, array), "dtype"), dtype)]
    letters, scalars = ([DTYPE.load(f, each, name) for each in dtypes] for name in ("letters", "scalar"))
    apart = f.binary("and", f.binary("xor", *letters), Val("i32", str(LETTERS)))
    f.ret(f.binary("and", f.value("i1", f"icmp eq {apart}, 0"), f.compare("eq", *scalars)))
    return f


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
