"""Arguments of a native call: arrays taken from their containers through the buffer protocol, and checked.

An argument that is not as the records of `binding` say is no error here: the functions return 0, and Python then checks
all arguments and says what is wrong. No exception stays set.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rnnc.backends.llvm.asm.builder import COLD, Function, Module, Val, define, i64, null
from rnnc.backends.llvm.asm.dtypes import ELEMENT_BYTES
from rnnc.backends.llvm.kernels.binding import ARRAY, BINDING, CONTAINERS, GROUP, KINDS, SIZES
from rnnc.backends.llvm.kernels.python_objects import (
    BUFFER,
    CONTIGUOUS,
    FALSE,
    NONE,
    STRIDED,
    TRUE,
    both,
    emit_view,
    exists,
    negated,
)


def emit_arguments(module: Module, dtype: str) -> None:
    """Adds `i1 rnnc_arguments_fit(binding, arguments, sizes, buffers)`, and what it calls.

    arguments: as many objects as the binding has arguments. sizes: T and B, or -1 for what the arguments tell. buffers:
    one per array, held afterwards in any case; null as the start of those that are not given.
    """
    for function in (emit_view(dtype), _array_fits(dtype), _item(), _group_fits(), _arguments_fit()):
        module.add(function)


def size_of(f: Function, binding: Val, array: Val, axis: Val, sizes: Val) -> tuple[Val, Val]:
    """The size of an axis, and its place in `sizes` unless it is fixed."""
    number = f.add(ARRAY.load(f, array, "first_size"), axis)
    size = f.load("i64", f.element(BINDING.load(f, binding, "sizes"), number, "i64"), 8)
    fixed = f.value("i1", f"icmp sge {size}, 0")
    place = f.element(sizes, f.select(fixed, i64(0), f.sub(i64(-1), size)), "i64")
    return f.select(fixed, size, f.load("i64", place, 8)), place


def is_kind(f: Function, array: Val, kind: str) -> Val:
    """Whether an array is of one of KINDS."""
    return f.compare("eq", ARRAY.load(f, array, "kind"), KINDS.index(kind))


def strides_of(f: Function, array: Val, buffer: Val) -> tuple[Val, Val]:
    """The strides between the steps and between the rows of an array, in bytes."""
    table = BUFFER.load(f, buffer, "strides")
    outer, inner = (f.load("i64", f.element(table, axis, "i64"), 8) for axis in range(2))
    steps_first = f.compare("ne", ARRAY.load(f, array, "steps_first"), 0)
    return f.select(steps_first, outer, inner), f.select(steps_first, inner, outer)


def _array_fits(dtype: str) -> Function:
    """Takes the buffer of an array. Returns whether it fits. The first array with steps or rows tells their number."""
    f = define("i1 rnnc_array_fits(ptr binding, ptr object, ptr array, ptr sizes, ptr buffer)")
    binding, object_, array, sizes, buffer = f.parameters
    fits = f.alloca("i1", 1, 1)
    f.store(FALSE, fits, 1)
    numbers, slabs = is_kind(f, array, "numbers"), is_kind(f, array, "slabs")
    flags = f.select(slabs, Val("i32", str(CONTIGUOUS)), Val("i32", str(STRIDED)))
    axes = ARRAY.load(f, array, "axes")
    number = f.value("i32", f"trunc {axes} to i32")
    type_ = BINDING.load(f, binding, "ndarray")
    with f.when(f.call_defined("i1", "rnnc_view", object_, buffer, flags, type_, number, numbers)):
        shape, strides = BUFFER.load(f, buffer, "shape"), BUFFER.load(f, buffer, "strides")
        with f.loop(0, axes, carried=[TRUE]) as axis:
            came = f.load("i64", f.element(shape, axis.index, "i64"), 8)
            wanted, place = size_of(f, binding, array, axis.index, sizes)
            told_now = f.value("i1", f"icmp slt {wanted}, 0")
            with f.when(told_now):
                f.store(came, place, 8)
            axis.next([both(f, [*axis.values, f.binary("or", told_now, f.compare("eq", came, wanted))])])
        f.store(axis.values[0], fits, 1)
        with f.when(negated(f, slabs)):
            item = f.select(numbers, i64(8), i64(ELEMENT_BYTES[dtype]))
            outer, inner = (f.load("i64", f.element(strides, n, "i64"), 8) for n in range(2))
            whole = [f.compare("eq", f.binary("and", stride, f.sub(item, 1)), 0) for stride in (outer, inner)]
            f.store(both(f, [*axis.values, *whole]), fits, 1)
            with f.when(f.binary("and", f.load("i1", fits, 1), negated(f, numbers))):
                f.store(f.compare("eq", f.load("i64", f.element(strides, 2, "i64"), 8), item), fits, 1)
    f.ret(f.load("i1", fits, 1))
    return f


@contextmanager
def in_container(f: Function, group: Val, name: str) -> Iterator[None]:
    """Code that runs if a group has this one of CONTAINERS."""
    with f.when(f.compare("eq", GROUP.load(f, group, "container"), CONTAINERS.index(name))):
        yield


def _item() -> Function:
    """The array of a group with a number, from its container; null if there is none. The reference is borrowed."""
    f = define("ptr rnnc_item(ptr object, ptr group, i64 number, ptr key)")
    object_, group, number, key = f.parameters
    found = f.alloca("ptr", 1, 8)
    f.store(null(), found, 8)
    with in_container(f, group, "bare"):
        f.store(object_, found, 8)
    with in_container(f, group, "tuple"):
        f.store(f.call("ptr", "PyTuple_GetItem", object_, number), found, 8)
    with in_container(f, group, "dict"):
        f.store(f.call("ptr", "PyDict_GetItem", object_, key), found, 8)
    f.ret(f.load("ptr", found, 8))
    return f


def _holds_as_many(f: Function, binding: Val, object_: Val, group: Val) -> Val:
    """Whether an object is the container of a group, with as many arrays."""
    fits, count = f.alloca("i1", 1, 1), GROUP.load(f, group, "count")
    f.store(f.compare("eq", GROUP.load(f, group, "container"), CONTAINERS.index("bare")), fits, 1)
    with in_container(f, group, "tuple"):
        size = f.call("i64", "PyTuple_Size", object_)
        f.store(f.compare("eq", size, count), fits, 1)
        with f.when(f.value("i1", f"icmp slt {size}, 0")):
            f.call("void", "PyErr_Clear")  # not a tuple
    with in_container(f, group, "dict"):
        found = f.call("ptr", "PyObject_Type", object_)
        f.call("void", "Py_DecRef", found)
        with f.when(f.compare("eq", found, BINDING.load(f, binding, "dict"))):  # a subclass may have ways of its own
            f.store(f.compare("eq", f.call("i64", "PyDict_Size", object_), count), fits, 1)
    return f.load("i1", fits, 1)


def _group_fits() -> Function:
    f = define("i1 rnnc_group_fits(ptr binding, ptr object, ptr group, ptr sizes, ptr buffers)", COLD)
    binding, object_, group, sizes, buffers = f.parameters
    fits = f.alloca("i1", 1, 1)
    missing = f.compare("eq", object_, NONE)
    f.store(both(f, [missing, f.compare("ne", GROUP.load(f, group, "optional"), 0)]), fits, 1)
    with f.when(negated(f, missing)):
        f.store(_holds_as_many(f, binding, object_, group), fits, 1)
        with f.loop(0, GROUP.load(f, group, "count")) as each, f.when(f.load("i1", fits, 1)):
            number = f.add(GROUP.load(f, group, "first"), each.index)
            array = ARRAY.element(f, BINDING.load(f, binding, "arrays"), number)
            key = ARRAY.load(f, array, "key")
            found = f.call_defined("ptr", "rnnc_item", object_, group, each.index, key)
            f.store(FALSE, fits, 1)
            with f.when(exists(f, found)):
                taken = (found, array, sizes, BUFFER.element(f, buffers, number))
                f.store(f.call_defined("i1", "rnnc_array_fits", binding, *taken), fits, 1)
    f.ret(f.load("i1", fits, 1))
    return f


def _arguments_fit() -> Function:
    f = define("i1 rnnc_arguments_fit(ptr binding, ptr arguments, ptr sizes, ptr buffers)", COLD)
    binding, arguments, sizes, buffers = f.parameters
    fits = f.alloca("i1", 1, 1)
    f.store(TRUE, fits, 1)
    with f.loop(0, BINDING.load(f, binding, "arguments")) as each, f.when(f.load("i1", fits, 1)):
        object_ = f.load("ptr", f.element(arguments, each.index, "ptr"), 8)
        group = GROUP.element(f, BINDING.load(f, binding, "groups"), each.index)
        f.store(f.call_defined("i1", "rnnc_group_fits", binding, object_, group, sizes, buffers), fits, 1)
    with f.when(f.load("i1", fits, 1)):
        f.store(_rows_fit(f, binding, SIZES.loads(f, sizes)), fits, 1)
    f.ret(f.load("i1", fits, 1))
    return f


def _rows_fit(f: Function, binding: Val, sizes: Mapping[str, Val]) -> Val:
    """Whether there are steps and rows, and no more than one thread runs alone."""
    steps, batch = sizes["steps"], sizes["batch"]
    few = f.compare("ule", f.mul(steps, batch), BINDING.load(f, binding, "most_rows"))
    few = f.binary("or", f.compare("eq", batch, 1), few)
    return both(f, [few, f.compare("ne", steps, 0), f.compare("ne", batch, 0)])
