"""Results of a native call: new arrays, or those of the caller, and the containers that hold them.

An object that cannot be made leaves an exception set, MemoryError for one.
"""

from __future__ import annotations

from rnnc.backends.llvm.asm.builder import COLD, Function, Module, Val, define, i64, null
from rnnc.backends.llvm.asm.dtypes import ELEMENT_BYTES
from rnnc.backends.llvm.kernels.binding import ARRAY, BINDING, CONTAINERS, GROUP, MOST_AXES, TIMED, VIEW
from rnnc.backends.llvm.kernels.call_arguments import axis_of, in_container, is_kind
from rnnc.backends.llvm.kernels.python_objects import (
    FALSE,
    NDARRAY,
    NONE,
    TRUE,
    both,
    emit_new,
    exists,
    fields_of,
    negated,
)


def emit_results(module: Module, dtype: str) -> None:
    """Adds the functions below, and what they call."""
    functions = (_make(dtype), _place(dtype), _add(), _pack_group(), _pack(), _release())
    for function in (emit_new(), *functions):
        module.add(function)


def _make(dtype: str) -> Function:
    """Makes the arrays of all results that the caller has not given. Returns whether all are there."""
    f = define("i1 rnnc_make(ptr binding, ptr call, ptr views)")
    binding, call, views = f.parameters
    shape = f.alloca("i64", MOST_AXES, 8)
    first = first_result(f, binding)
    with f.loop(first, BINDING.load(f, binding, "count")) as each:
        array = ARRAY.element(f, BINDING.load(f, binding, "arrays"), each.index)
        view = VIEW.element(f, views, each.index)
        with f.when(f.is_null(VIEW.load(f, view, "object"))):
            with f.loop(0, ARRAY.load(f, array, "axes"), carried=[i64(ELEMENT_BYTES[dtype]), i64(0)]) as loop:
                axis, (bytes_, axes) = axis_of(f, binding, array, loop.index, call), loop.values
                f.store(axis.size, f.element(shape, axes, "i64"), 8)
                there = f.value("i64", f"zext {negated(f, axis.missing)} to i64")
                loop.next([f.mul(bytes_, axis.size), f.add(axes, there)])
            empty, dtype_ = (BINDING.load(f, binding, name) for name in ("empty", "dtype"))
            new = f.call_defined("ptr", "rnnc_new", empty, dtype_, loop.values[1], shape)
            f.leave(f.is_null(new), FALSE)
            _describe(f, new, loop.values[0], array, view)
    f.ret(TRUE)
    return f


def _describe(f: Function, new: Val, bytes_: Val, array: Val, view: Val) -> None:
    """Fills the view of a new array."""
    values = {"object": new, "start": NDARRAY.load(f, fields_of(f, new), "data"), "bytes": bytes_}
    for name, value in values.items():
        f.store(value, VIEW.place(f, view, name), 8)
    with f.when(is_kind(f, array, "vectors")):
        strides, axes = (NDARRAY.load(f, fields_of(f, new), name) for name in ("strides", "axes"))
        second = f.value("i64", f"zext {f.value('i1', f'icmp ugt {axes}, 2')} to i64")  # without an axis of rows: any
        outer, inner = (f.load("i64", f.element(strides, number, "i64"), 8) for number in (i64(0), second))
        steps_first = f.compare("ne", ARRAY.load(f, array, "steps_first"), 0)
        f.store(f.select(steps_first, outer, inner), VIEW.place(f, view, "step"), 8)
        f.store(f.select(steps_first, inner, outer), VIEW.place(f, view, "row"), 8)


def first_result(f: Function, binding: Val) -> Val:
    """The number of the first array of the results."""
    group = GROUP.element(f, BINDING.load(f, binding, "groups"), BINDING.load(f, binding, "arguments"))
    return GROUP.load(f, group, "first")


def _place(dtype: str) -> Function:
    """Sets the fields of a context that lead to the arrays of a call. Those of arrays that are not given stay."""
    f = define("void rnnc_place(ptr binding, ptr views, ptr context)")
    binding, views, context = f.parameters
    with f.loop(0, BINDING.load(f, binding, "count")) as each:
        array = ARRAY.element(f, BINDING.load(f, binding, "arrays"), each.index)
        view = VIEW.element(f, views, each.index)
        with f.when(exists(f, VIEW.load(f, view, "object"))):
            slabs, apart = ARRAY.load(f, array, "slabs"), f.alloca("i64", 1, 8)
            f.store(i64(0), apart, 8)
            with f.when(f.compare("ne", slabs, 1)):  # a division takes as long as the rest
                f.store(f.udiv(VIEW.load(f, view, "bytes"), slabs), apart, 8)
            with f.loop(0, ARRAY.load(f, array, "places")) as number:
                place = f.add(ARRAY.load(f, array, "first_place"), number.index)
                offset = f.load("i64", f.element(BINDING.load(f, binding, "offsets"), place, "i64"), 8)
                pointer = f.element(VIEW.load(f, view, "start"), f.mul(number.index, f.load("i64", apart, 8)), "i8")
                with f.when(f.value("i1", f"icmp sge {offset}, 0")):
                    place = f.element(context, offset, "i8")
                    f.store(pointer, place, 8)
                    with f.when(is_kind(f, array, "vectors")):
                        for field in ("step", "row"):
                            stride = VIEW.load(f, view, field)
                            in_elements = f.binary("sdiv", stride, i64(ELEMENT_BYTES[dtype]))
                            f.store(in_elements, TIMED.place(f, place, field), 8)
    f.ret()
    return f


def _add() -> Function:
    """Adds an array to a container. Returns whether it could."""
    f = define("i1 rnnc_add(ptr container, ptr group, i64 number, ptr key, ptr object)", COLD)
    container, group, number, key, object_ = f.parameters
    status = f.alloca("i32", 1, 4)
    f.store(Val("i32", "0"), status, 4)
    with in_container(f, group, "tuple"):
        f.call("void", "Py_IncRef", object_)
        f.store(f.call("i32", "PyTuple_SetItem", container, number, object_), status, 4)
    with in_container(f, group, "dict"):
        f.store(f.call("i32", "PyDict_SetItem", container, key, object_), status, 4)
    f.ret(f.value("i1", f"icmp eq {f.load('i32', status, 4)}, 0"))
    return f


def _pack_group() -> Function:
    """A result: its container, its only array, or None, with a reference of its own; null without memory."""
    f = define("ptr rnnc_pack_group(ptr binding, ptr group, ptr views)", COLD)
    binding, group, views = f.parameters
    result = f.alloca("ptr", 1, 8)
    f.store(null(), result, 8)
    first, count = GROUP.load(f, group, "first"), GROUP.load(f, group, "count")
    with in_container(f, group, "none"):
        f.call("void", "Py_IncRef", NONE)
        f.store(NONE, result, 8)
    with in_container(f, group, "bare"):
        only = VIEW.load(f, VIEW.element(f, views, first), "object")
        f.call("void", "Py_IncRef", only)
        f.store(only, result, 8)
    with in_container(f, group, "tuple"):
        f.store(f.call("ptr", "PyTuple_New", count), result, 8)
    with in_container(f, group, "dict"):
        f.store(f.call("ptr", "PyDict_New"), result, 8)
    container = f.load("ptr", result, 8)
    bare = f.compare("eq", GROUP.load(f, group, "container"), CONTAINERS.index("bare"))
    with f.loop(0, f.select(bare, i64(0), count)) as each, f.when(exists(f, f.load("ptr", result, 8))):
        number = f.add(first, each.index)
        key = ARRAY.load(f, ARRAY.element(f, BINDING.load(f, binding, "arrays"), number), "key")
        object_ = VIEW.load(f, VIEW.element(f, views, number), "object")
        added = f.call_defined("i1", "rnnc_add", container, group, each.index, key, object_)
        with f.when(negated(f, added)):
            f.call("void", "Py_DecRef", container)
            f.store(null(), result, 8)
    f.ret(f.load("ptr", result, 8))
    return f


def _pack() -> Function:
    """What the call returns: its only result, or a tuple of them; null, with an exception set, without memory.

    kept: an object that comes behind the results in a tuple, or null.
    """
    f = define("ptr rnnc_pack(ptr binding, ptr views, ptr kept)", COLD)
    binding, views, kept = f.parameters
    result = f.alloca("ptr", 1, 8)
    count, groups = BINDING.load(f, binding, "results"), BINDING.load(f, binding, "groups")
    first = BINDING.load(f, binding, "arguments")
    more = f.value("i64", f"zext {exists(f, kept)} to i64")
    size = f.add(count, more)
    alone = f.compare("eq", size, 1)
    with f.when(alone):
        f.store(f.call_defined("ptr", "rnnc_pack_group", binding, GROUP.element(f, groups, first), views), result, 8)
    with f.when(negated(f, alone)):
        f.store(f.call("ptr", "PyTuple_New", size), result, 8)
        with f.loop(0, count) as each, f.when(exists(f, f.load("ptr", result, 8))):
            group = GROUP.element(f, groups, f.add(first, each.index))
            packed, whole = f.call_defined("ptr", "rnnc_pack_group", binding, group, views), f.load("ptr", result, 8)
            with f.when(exists(f, packed)):
                f.call("i32", "PyTuple_SetItem", whole, each.index, packed)  # it takes the reference
            with f.when(f.is_null(packed)):
                f.call("void", "Py_DecRef", whole)
                f.store(null(), result, 8)
    found = f.load("ptr", result, 8)
    with f.when(both(f, [exists(f, kept), exists(f, found)])):
        f.call("void", "Py_IncRef", kept)
        f.call("i32", "PyTuple_SetItem", found, count, kept)
    f.ret(found)
    return f


def _release() -> Function:
    """Gives up the arrays of a call. The containers of results have references of their own."""
    f = define("void rnnc_release(ptr binding, ptr views)")
    binding, views = f.parameters
    with f.loop(0, f.add(BINDING.load(f, binding, "count"), 1)) as each:
        object_ = VIEW.load(f, VIEW.element(f, views, each.index), "object")
        with f.when(exists(f, object_)):
            f.call("void", "Py_DecRef", object_)
    f.ret()
    return f
