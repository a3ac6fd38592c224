"""Arguments of a native call: arrays taken from their containers, and checked.

An argument that is not as the records of `binding` say is no error here: the functions return 0, and Python then checks
all arguments and says what is wrong. No exception stays set. `CALL` keeps the reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from rnnc.backends.call_forms import OUTCOMES
from rnnc.backends.llvm.asm.builder import COLD, Function, Module, Val, define, i64, null
from rnnc.backends.llvm.asm.dtypes import ELEMENT_BYTES
from rnnc.backends.llvm.kernels.binding import (
    ARRAY,
    BATCH,
    BINDING,
    CALL,
    CONTAINERS,
    COPIED_AXES,
    GROUP,
    KINDS,
    SIZES,
    VIEW,
)
from rnnc.backends.llvm.kernels.python_objects import (
    C_CONTIGUOUS,
    FALSE,
    NDARRAY,
    NONE,
    TRUE,
    WRITEABLE,
    both,
    emit_is_of,
    exists,
    fields_of,
    is_tuple,
    negated,
    type_of,
)

INTEGER_BYTES = 8
MOST_ROWS = 1 << 40
"""A bound of steps * batch, so that no size in bytes overflows: the strides of x may be zero."""


def emit_arguments(module: Module, dtype: str) -> None:
    """Adds `i1 rnnc_arguments_fit(binding, arguments, count, call, views)`, and what it calls.

    arguments: `count` objects: those of the binding, then possibly `lengths`, and possibly `out`, which may be None.
    call: T and B may be known already. views: one per array, null before; whatever fits is there afterwards, and has a
    reference.
    """
    arrays = (emit_is_of(), _shape_fits(), _is_plain(dtype), _note_layout(), _can_be_written(), _array_fits(dtype))
    groups = (_item(), _group_fits(), _out_fits(), _disjoint(), _apart(dtype), _arguments_fit())
    for function in (*arrays, *groups):
        module.add(function)


def number_of(outcome: str) -> Val:
    """The number of one of OUTCOMES."""
    return i64(list(OUTCOMES).index(outcome))


def refuse(f: Function, call: Val, condition: Val, outcome: str) -> None:
    """Returns 0, and keeps the reason, if a condition holds."""
    f.store(number_of(outcome), CALL.place(f, call, "outcome"), 8)
    f.leave(condition, FALSE)


def is_kind(f: Function, array: Val, *kinds: str) -> Val:
    """Whether an array is of one of these KINDS."""
    kind = ARRAY.load(f, array, "kind")
    found = FALSE
    for each in kinds:
        found = f.binary("or", found, f.compare("eq", kind, KINDS.index(each)))
    return found


def item_bytes(f: Function, array: Val, dtype: str) -> Val:
    """The bytes of an element of an array."""
    integers = is_kind(f, array, "numbers", "lengths")
    return f.select(integers, i64(INTEGER_BYTES), i64(ELEMENT_BYTES[dtype]))


class Axis(NamedTuple):
    """An axis of an array. size: -1 if it is not known yet. place: where T or B is kept; anywhere if it is fixed.
    missing: whether the array of this call lacks it.
    """

    size: Val
    place: Val
    missing: Val


def axis_of(f: Function, binding: Val, array: Val, number: Val, call: Val) -> Axis:
    """An axis of an array, by its number."""
    place = f.add(ARRAY.load(f, array, "first_size"), number)
    size = f.load("i64", f.element(BINDING.load(f, binding, "sizes"), place, "i64"), 8)
    fixed = f.value("i1", f"icmp sge {size}, 0")
    kept = f.element(call, f.select(fixed, i64(0), f.sub(i64(-1), size)), "i64")
    rows = f.value("i1", f"icmp eq {size}, {BATCH}")
    missing = f.binary("and", rows, f.compare("ne", CALL.load(f, call, "unbatched"), 0))
    return Axis(f.select(fixed, size, f.load("i64", kept, 8)), kept, missing)


def _shape_fits() -> Function:
    """Whether the sizes of an array fit. The first array with steps or rows tells their number, or lacks rows."""
    f = define("i1 rnnc_shape_fits(ptr binding, ptr object, ptr array, ptr call)")
    binding, object_, array, call = f.parameters
    expected, unbatched = ARRAY.load(f, array, "axes"), CALL.load(f, call, "unbatched")
    came = _axes(f, object_)
    has_rows = f.compare("ne", ARRAY.load(f, array, "has_rows"), 0)
    with f.when(f.binary("and", has_rows, f.value("i1", f"icmp slt {unbatched}, 0"))):
        fewer = f.value("i64", f"zext {f.compare('eq', f.add(came, 1), expected)} to i64")
        f.store(fewer, CALL.place(f, call, "unbatched"), 8)
        with f.when(f.compare("ne", fewer, 0)):
            f.store(i64(1), CALL.place(f, call, "batch"), 8)
    lacks = f.select(has_rows, CALL.load(f, call, "unbatched"), i64(0))
    refuse(f, call, f.compare("ne", f.add(came, lacks), expected), "shape")
    shape = NDARRAY.load(f, fields_of(f, object_), "shape")
    with f.loop(0, expected, carried=[TRUE, i64(0)]) as loop:
        axis = axis_of(f, binding, array, loop.index, call)
        size = f.select(axis.missing, i64(1), f.load("i64", f.element(shape, loop.values[1], "i64"), 8))
        told_now = f.value("i1", f"icmp slt {axis.size}, 0")
        with f.when(told_now):
            f.store(size, axis.place, 8)
        fits = f.binary("or", told_now, f.compare("eq", size, axis.size))
        there = f.value("i64", f"zext {negated(f, axis.missing)} to i64")
        loop.next([f.binary("and", loop.values[0], fits), f.add(loop.values[1], there)])
    f.ret(loop.values[0])
    return f


def _array_fits(dtype: str) -> Function:
    """Takes an array. Returns whether it fits. written: whether the call writes to it."""
    f = define("i1 rnnc_array_fits(ptr binding, ptr object, ptr array, ptr call, ptr view, i1 written)")
    binding, object_, array, call, view, written = f.parameters
    # Not of a subclass: a masked array would lose its mask.
    refuse(f, call, f.compare("ne", type_of(f, object_), BINDING.load(f, binding, "ndarray")), "type")
    integers = is_kind(f, array, "numbers", "lengths")
    wanted = (BINDING.load(f, binding, name) for name in ("dtype", "integers", "others"))
    floats, *either = (f.call_defined("i1", "rnnc_is_of", object_, each) for each in wanted)
    refuse(f, call, negated(f, f.select(integers, f.binary("or", *either), floats)), "dtype")
    fits = f.call_defined("i1", "rnnc_shape_fits", binding, object_, array, call)
    refuse(f, call, negated(f, fits), "shape")
    shape, axes = NDARRAY.load(f, fields_of(f, object_), "shape"), _axes(f, object_)
    with f.loop(0, axes, carried=[item_bytes(f, array, dtype)]) as axis:
        size = f.load("i64", f.element(shape, axis.index, "i64"), 8)
        axis.next([f.mul(axis.values[0], size)])
    bytes_ = axis.values[0]
    plain = f.call_defined("i1", "rnnc_is_plain", array, object_, view)
    few = f.compare("ule", axes, len(COPIED_AXES))
    can_be_copied = both(f, [few, negated(f, integers), negated(f, written)])
    refuse(f, call, negated(f, f.binary("or", plain, can_be_copied)), "layout")
    in_place = f.call_defined("i1", "rnnc_can_be_written", object_)
    refuse(f, call, f.binary("and", written, negated(f, in_place)), "layout")
    with f.when(negated(f, plain)):
        f.call_defined("void", "rnnc_note_layout", object_, view)
    copied = f.value("i64", f"zext {negated(f, plain)} to i64")
    f.store(f.add(CALL.load(f, call, "copied"), f.mul(copied, bytes_)), CALL.place(f, call, "copied"), 8)
    f.call("void", "Py_IncRef", object_)
    for name, value in (("object", object_), ("bytes", bytes_), ("copied", copied)):
        f.store(value, VIEW.place(f, view, name), 8)
    f.ret(TRUE)
    return f


def _axes(f: Function, object_: Val) -> Val:
    return f.value("i64", f"zext {NDARRAY.load(f, fields_of(f, object_), 'axes')} to i64")


def _has_flag(f: Function, object_: Val, flag: int) -> Val:
    flags = NDARRAY.load(f, fields_of(f, object_), "flags")
    return f.value("i1", f"icmp ne {f.binary('and', flags, Val('i32', str(flag)))}, 0")


def _is_plain(dtype: str) -> Function:
    """Whether a run accesses an array where it is. Stores where that is, and the strides of its steps and rows."""
    f = define("i1 rnnc_is_plain(ptr array, ptr object, ptr view)")
    array, object_, view = f.parameters
    fields = NDARRAY.loads(f, fields_of(f, object_))
    f.store(fields["data"], VIEW.place(f, view, "start"), 8)
    whole = f.sub(item := item_bytes(f, array, dtype), 1)
    start = f.value("i64", f"ptrtoint {fields['data']} to i64")
    f.leave(f.compare("ne", f.binary("and", start, whole), 0), FALSE)
    f.leave(is_kind(f, array, "slabs"), _has_flag(f, object_, C_CONTIGUOUS))
    axes = _axes(f, object_)
    lacks = f.binary("or", f.compare("ult", axes, ARRAY.load(f, array, "axes")), f.compare("ult", axes, 2))
    outer, inner, last = (
        f.load("i64", f.element(fields["strides"], number, "i64"), 8)
        for number in (i64(0), f.select(lacks, i64(0), i64(1)), f.sub(axes, 1))
    )
    steps_first = f.compare("ne", ARRAY.load(f, array, "steps_first"), 0)
    f.store(f.select(steps_first, outer, inner), VIEW.place(f, view, "step"), 8)
    f.store(f.select(steps_first, inner, outer), VIEW.place(f, view, "row"), 8)
    f.leave(f.compare("ne", f.binary("and", f.binary("or", outer, inner), whole), 0), FALSE)
    f.ret(f.binary("or", f.compare("eq", last, item), is_kind(f, array, "numbers", "lengths")))
    return f


def _note_layout() -> Function:
    """Keeps the sizes and strides of an array that is to be copied."""
    f = define("void rnnc_note_layout(ptr object, ptr view)")
    object_, view = f.parameters
    fields, axes = NDARRAY.loads(f, fields_of(f, object_)), _axes(f, object_)
    for number, names in enumerate(COPIED_AXES):
        axis = f.sub(f.add(axes, number), len(COPIED_AXES))
        there = f.value("i1", f"icmp sge {axis}, 0")
        place = f.select(there, axis, i64(0))
        size, stride = (f.load("i64", f.element(fields[name], place, "i64"), 8) for name in ("shape", "strides"))
        for name, value in zip(names, (f.select(there, size, i64(1)), stride), strict=True):
            f.store(value, VIEW.place(f, view, name), 8)
    f.ret()
    return f


def _can_be_written() -> Function:
    """Whether an array may be written to, and it is plain that no two elements lie in one place."""
    f = define("i1 rnnc_can_be_written(ptr object)")
    (object_,) = f.parameters
    f.leave(negated(f, _has_flag(f, object_, WRITEABLE)), FALSE)
    f.leave(_has_flag(f, object_, C_CONTIGUOUS), TRUE)
    f.leave(f.compare("ne", _axes(f, object_), 3), FALSE)
    tables = (NDARRAY.load(f, fields_of(f, object_), name) for name in ("shape", "strides"))
    sizes, strides = ([f.load("i64", f.element(t, axis, "i64"), 8) for axis in range(3)] for t in tables)
    vector, nested = f.mul(sizes[2], strides[2]), list[Val]()
    for large, small in ((0, 1), (1, 0)):
        apart = f.value("i1", f"icmp sge {strides[large]}, {f.mul(sizes[small], strides[small]).name}")
        nested.append(f.binary("and", apart, f.value("i1", f"icmp sge {strides[small]}, {vector.name}")))
    f.ret(f.binary("or", *nested))
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


def _tuple_size(f: Function, object_: Val) -> Val:
    """The number of items of a tuple; -1 if it is none."""
    size = f.alloca("i64", 1, 8)
    f.store(i64(-1), size, 8)
    with f.when(is_tuple(f, object_)):  # PyTuple_Size would make an exception of what is none
        f.store(f.call("i64", "PyTuple_Size", object_), size, 8)
    return f.load("i64", size, 8)


def _holds_as_many(f: Function, binding: Val, object_: Val, group: Val) -> Val:
    """Whether an object is the container of a group, with as many arrays."""
    fits, count = f.alloca("i1", 1, 1), GROUP.load(f, group, "count")
    f.store(f.compare("eq", GROUP.load(f, group, "container"), CONTAINERS.index("bare")), fits, 1)
    with in_container(f, group, "tuple"):
        f.store(f.compare("eq", _tuple_size(f, object_), count), fits, 1)
    with in_container(f, group, "dict"):  # a subclass may have ways of its own
        with f.when(f.compare("eq", type_of(f, object_), BINDING.load(f, binding, "dict"))):
            f.store(f.compare("eq", f.call("i64", "PyDict_Size", object_), count), fits, 1)
    return f.load("i1", fits, 1)


def _group_fits() -> Function:
    """Takes the arrays of a group. written: whether the call writes to them."""
    f = define("i1 rnnc_group_fits(ptr binding, ptr object, ptr group, ptr call, ptr views, i1 written)", COLD)
    binding, object_, group, call, views, written = f.parameters
    missing = f.compare("eq", object_, NONE)
    f.leave(f.binary("and", missing, f.compare("ne", GROUP.load(f, group, "optional"), 0)), TRUE)
    refuse(f, call, f.binary("or", missing, negated(f, _holds_as_many(f, binding, object_, group))), "arguments")
    with f.loop(0, GROUP.load(f, group, "count")) as each:
        number = f.add(GROUP.load(f, group, "first"), each.index)
        array = ARRAY.element(f, BINDING.load(f, binding, "arrays"), number)
        found = f.call_defined("ptr", "rnnc_item", object_, group, each.index, ARRAY.load(f, array, "key"))
        refuse(f, call, f.is_null(found), "arguments")
        taken = (found, array, call, VIEW.element(f, views, number), written)
        f.leave(negated(f, f.call_defined("i1", "rnnc_array_fits", binding, *taken)), FALSE)
    f.ret(TRUE)
    return f


def _result_group(f: Function, binding: Val, number: Val) -> Val:
    """The group of a result, by its number."""
    index = f.add(BINDING.load(f, binding, "arguments"), number)
    return GROUP.element(f, BINDING.load(f, binding, "groups"), index)


def _out_fits() -> Function:
    """Takes the arrays to write results into: those of the first result, or a tuple with those of each."""
    f = define("i1 rnnc_out_fits(ptr binding, ptr out, ptr call, ptr views)", COLD)
    binding, out, call, views = f.parameters
    count, size = BINDING.load(f, binding, "results"), _tuple_size(f, out)
    several = f.value("i1", f"icmp sge {size}, 0")
    refuse(f, call, f.binary("and", several, f.compare("ne", size, count)), "arguments")
    with f.loop(0, f.select(several, count, i64(1))) as each:
        found = f.alloca("ptr", 1, 8)
        f.store(out, found, 8)
        with f.when(several):
            f.store(f.call("ptr", "PyTuple_GetItem", out, each.index), found, 8)
        taken = (f.load("ptr", found, 8), _result_group(f, binding, each.index), call, views, TRUE)
        f.leave(negated(f, f.call_defined("i1", "rnnc_group_fits", binding, *taken)), FALSE)
    f.ret(TRUE)
    return f


def _disjoint() -> Function:
    """Whether the memory from the first to the last element of one array meets that of another. item: their bytes."""
    f = define("i1 rnnc_disjoint(ptr one, i64 item, ptr other, i64 other_item)")
    one, item, other, other_item = f.parameters
    (first, behind), (other_first, other_behind) = _extent(f, one, item), _extent(f, other, other_item)
    f.ret(f.binary("or", f.compare("ule", behind, other_first), f.compare("ule", other_behind, first)))
    return f


def _extent(f: Function, object_: Val, item: Val) -> tuple[Val, Val]:
    """The address of the lowest byte of an array, and that behind the highest one."""
    fields = NDARRAY.loads(f, fields_of(f, object_))
    start = f.value("i64", f"ptrtoint {fields['data']} to i64")
    with f.loop(0, _axes(f, object_), carried=[start, f.add(start, item)]) as axis:
        size, stride = (f.load("i64", f.element(fields[n], axis.index, "i64"), 8) for n in ("shape", "strides"))
        far, low = f.mul(f.sub(size, 1), stride), f.value("i1", f"icmp slt {stride}, 0")
        first, behind = axis.values
        axis.next([f.add(first, f.select(low, far, i64(0))), f.add(behind, f.select(low, i64(0), far))])
    return axis.values[0], axis.values[1]


def _apart(dtype: str) -> Function:
    """Whether each array that is written to lies apart from all others, as a step would read what another one wrote."""
    f = define("i1 rnnc_apart(ptr binding, ptr views)", COLD)
    binding, views = f.parameters
    arrays, first = BINDING.load(f, binding, "arrays"), GROUP.load(f, _result_group(f, binding, i64(0)), "first")
    with f.loop(first, BINDING.load(f, binding, "count")) as each, f.loop(0, each.index) as before:
        pair = list[Val]()
        for number in (each.index, before.index):
            pair += [
                VIEW.load(f, VIEW.element(f, views, number), "object"),
                item_bytes(f, ARRAY.element(f, arrays, number), dtype),
            ]
        with f.when(f.binary("and", exists(f, pair[0]), exists(f, pair[2]))):
            f.leave(negated(f, f.call_defined("i1", "rnnc_disjoint", *pair)), FALSE)
    f.ret(TRUE)
    return f


def _arguments_fit() -> Function:
    f = define("i1 rnnc_arguments_fit(ptr binding, ptr arguments, i64 count, ptr call, ptr views)", COLD)
    binding, arguments, count, call, views = f.parameters
    expected, groups = BINDING.load(f, binding, "arguments"), BINDING.load(f, binding, "groups")
    more = f.sub(count, expected)
    refuse(f, call, f.value("i1", f"icmp ugt {more}, 2"), "arguments")
    with f.loop(0, expected) as each:
        object_ = f.load("ptr", f.element(arguments, each.index, "ptr"), 8)
        taken = (object_, GROUP.element(f, groups, each.index), call, views, FALSE)
        f.leave(negated(f, f.call_defined("i1", "rnnc_group_fits", binding, *taken)), FALSE)
    _check_rows(f, binding, call)
    with _given(f, arguments, expected, count) as lengths:
        may_be = f.load("i64", BINDING.load(f, binding, "ragged"), 8)
        lacks = f.compare("ne", CALL.load(f, call, "unbatched"), 0)
        refuse(f, call, f.binary("or", lacks, f.compare("eq", may_be, 0)), "lengths")
        number = BINDING.load(f, binding, "count")
        array = ARRAY.element(f, BINDING.load(f, binding, "arrays"), number)
        taken = (lengths, array, call, VIEW.element(f, views, number), FALSE)
        f.leave(negated(f, f.call_defined("i1", "rnnc_array_fits", binding, *taken)), FALSE)
    with _given(f, arguments, f.add(expected, 1), count) as out:
        f.leave(negated(f, f.call_defined("i1", "rnnc_out_fits", binding, out, call, views)), FALSE)
        apart = f.call_defined("i1", "rnnc_apart", binding, views)
        refuse(f, call, negated(f, apart), "overlap")
    f.ret(TRUE)
    return f


@contextmanager
def _given(f: Function, arguments: Val, number: Val, count: Val) -> Iterator[Val]:
    """Code that runs if there is an argument with a number, and it is not None. Yields it."""
    with f.when(f.compare("ult", number, count)):
        object_ = f.load("ptr", f.element(arguments, number, "ptr"), 8)
        with f.when(f.compare("ne", object_, NONE)):
            yield object_


def _check_rows(f: Function, binding: Val, call: Val) -> None:
    """Refuses a call without steps or rows, or with more than fit memory, and one that several threads may share."""
    steps, batch = SIZES.loads(f, call).values()
    rows = f.mul(steps, batch)  # of an array that NumPy has, so that it does not overflow
    refuse(f, call, f.compare("uge", f.sub(rows, 1), MOST_ROWS), "shape")
    many = f.compare("ugt", rows, BINDING.load(f, binding, "most_rows"))
    refuse(f, call, f.binary("and", many, f.compare("ugt", batch, BINDING.load(f, binding, "most_alone"))), "threads")
