"""Memory of a native call besides its arrays: sorted lengths, rows of tables, and copies of arrays that are not plain.

All of it is one block. Each function takes its part from `CALL.memory`, and leads the context or a view to it. They run
without the interpreter lock, so they read each number of the caller once: another thread may change it.
"""

from __future__ import annotations

from rnnc.backends.llvm.asm.builder import COLD, Function, Module, Val, define, i64
from rnnc.backends.llvm.asm.dtypes import ELEMENT_BYTES, SCALARS
from rnnc.backends.llvm.kernels.binding import ARRAY, BINDING, CALL, COPIED_AXES, SIZES, TABLE, TIMED, VIEW
from rnnc.backends.llvm.kernels.call_arguments import INTEGER_BYTES, is_kind
from rnnc.backends.llvm.kernels.call_results import first_result
from rnnc.backends.llvm.kernels.context import HEAD
from rnnc.backends.llvm.kernels.python_objects import FALSE, TRUE, exists, negated
from rnnc.backends.llvm.kernels.table_rows import emit_look_up

ZERO = Val("i8", "0")


def emit_call_memory(module: Module, dtype: str) -> None:
    """Adds `i64 rnnc_memory_size(binding, call, views)`, `i1 rnnc_fill_memory(binding, call, views, context)`, which
    returns whether all lengths and numbers of rows are in range, and `rnnc_clear_padding` for after the run.
    """
    parts = (_sort_lengths(), emit_look_up(dtype), _look_up_tables(dtype), _copy(dtype), _copy_arrays(dtype))
    for function in (*parts, _memory_size(dtype), _fill_memory(), _clear_padding()):
        module.add(function)


def _lengths(f: Function, binding: Val, views: Val) -> Val:
    """The view of the lengths."""
    return VIEW.element(f, views, BINDING.load(f, binding, "count"))


def _is_given(f: Function, view: Val) -> Val:
    return exists(f, VIEW.load(f, view, "object"))


def _memory_size(dtype: str) -> Function:
    """The bytes that a call needs."""
    f = define("i64 rnnc_memory_size(ptr binding, ptr call, ptr views)", COLD)
    binding, call, views = f.parameters
    steps, batch = SIZES.loads(f, call).values()
    numbers = f.add(f.mul(f.add(steps, 1), 2), f.mul(batch, 3))
    lengths = f.select(_is_given(f, _lengths(f, binding, views)), f.mul(numbers, INTEGER_BYTES), i64(0))
    looked_up = f.mul(f.mul(f.mul(steps, batch), BINDING.load(f, binding, "looked_up")), ELEMENT_BYTES[dtype])
    f.ret(f.add(f.add(lengths, looked_up), CALL.load(f, call, "copied")))
    return f


def _fill_memory() -> Function:
    f = define("i1 rnnc_fill_memory(ptr binding, ptr call, ptr views, ptr context)", COLD)
    binding, call, views, context = f.parameters
    lengths = _lengths(f, binding, views)
    with f.when(_is_given(f, lengths)):
        f.leave(negated(f, f.call_defined("i1", "rnnc_sort_lengths", call, lengths, context)), FALSE)
    with f.when(f.compare("ne", BINDING.load(f, binding, "tables"), 0)):
        found = f.call_defined("i1", "rnnc_look_up_tables", binding, call, views, context)
        f.leave(negated(f, found), FALSE)
    with f.when(f.compare("ne", CALL.load(f, call, "copied"), 0)):
        f.call_defined("void", "rnnc_copy_arrays", binding, call, views)
    f.ret(TRUE)
    return f


def _take(f: Function, call: Val, size: Val) -> Val:
    """A part of the memory, of some bytes."""
    taken = CALL.load(f, call, "memory")
    f.store(f.element(taken, size, "i8"), CALL.place(f, call, "memory"), 8)
    return taken


# ---- lengths


def _sort_lengths() -> Function:
    """Leads a context to the tables of a ragged batch (`context.HEADER`). Returns whether all lengths are in 0..T."""
    f = define("i1 rnnc_sort_lengths(ptr call, ptr view, ptr context)")
    call, view, context = f.parameters
    steps, batch = SIZES.loads(f, call).values()
    most = f.add(steps, 1)
    rows, places, order, lengths, own = (
        _take(f, call, f.mul(count, INTEGER_BYTES)) for count in (most, most, batch, batch, batch)
    )
    start, stride = VIEW.load(f, view, "start"), VIEW.load(f, view, "row")
    f.call("void", "llvm.memset.p0.i64", places, ZERO, f.mul(most, INTEGER_BYTES), FALSE)
    with f.loop(0, batch, carried=[i64(0)]) as row:
        length = f.load("i64", f.element(start, f.mul(row.index, stride), "i8"), 8)
        f.leave(f.compare("ugt", length, steps), FALSE)
        f.store(length, f.element(own, row.index, "i64"), 8)
        count = f.element(places, length, "i64")
        f.store(f.add(f.load("i64", count, 8), 1), count, 8)
        row.next([f.maximum(row.values[0], length)])
    with f.loop(0, most, carried=[i64(0), batch]) as step:  # the rows of all steps before, and of the step before
        before, running = step.values
        place = f.element(places, step.index, "i64")
        running = f.sub(running, f.load("i64", place, 8))
        f.store(running, place, 8)  # longer rows come before those that end here
        f.store(before, f.element(rows, step.index, "i64"), 8)
        step.next([f.add(before, running), running])
    with f.loop(0, batch) as row:
        length = f.load("i64", f.element(own, row.index, "i64"), 8)
        place = f.element(places, length, "i64")
        number = f.load("i64", place, 8)
        f.store(f.add(number, 1), place, 8)
        f.store(row.index, f.element(order, number, "i64"), 8)
        f.store(length, f.element(lengths, number, "i64"), 8)
    longest = f.load("i64", lengths, 8)
    for name, value in {"steps": longest, "rows": rows, "order": order, "lengths": lengths}.items():
        f.store(value, HEAD.place(f, context, name), 8)
    f.ret(TRUE)
    return f


def _clear_padding() -> Function:
    """Zeros the steps of the results past each row's length."""
    f = define("void rnnc_clear_padding(ptr binding, ptr call, ptr views, ptr context)")
    binding, call, views, context = f.parameters
    steps, batch = SIZES.loads(f, call).values()
    order, lengths = HEAD.load(f, context, "order"), HEAD.load(f, context, "lengths")
    with f.loop(first_result(f, binding), BINDING.load(f, binding, "count")) as each:
        array = ARRAY.element(f, BINDING.load(f, binding, "arrays"), each.index)
        view = VIEW.loads(f, VIEW.element(f, views, each.index))
        width = f.udiv(view["bytes"], f.mul(steps, batch))
        dense = f.compare("eq", view["step"], width)  # the steps of a row lie one behind the other
        with f.when(is_kind(f, array, "vectors")), f.loop(0, batch) as number:
            row = f.load("i64", f.element(order, number.index, "i64"), 8)
            length = f.load("i64", f.element(lengths, number.index, "i64"), 8)
            start, left = f.element(view["start"], f.mul(row, view["row"]), "i8"), f.sub(steps, length)
            size, times = f.select(dense, f.mul(width, left), width), f.select(dense, i64(1), left)
            with f.loop(length, f.add(length, times)) as step:
                target = f.element(start, f.mul(step.index, view["step"]), "i8")
                f.call("void", "llvm.memset.p0.i64", target, ZERO, size, FALSE)
    f.ret()
    return f


# ---- tables


def _look_up_tables(dtype: str) -> Function:
    """Looks up the rows of all tables. Returns whether all the rows are there."""
    f = define("i1 rnnc_look_up_tables(ptr binding, ptr call, ptr views, ptr context)", COLD)
    binding, call, views, context = f.parameters
    sizes = SIZES.loads(f, call)
    with f.loop(0, BINDING.load(f, binding, "tables")) as each:
        table = TABLE.loads(f, TABLE.element(f, BINDING.load(f, binding, "table_records"), each.index))
        view, per_step = VIEW.loads(f, VIEW.element(f, views, table["array"])), f.mul(sizes["batch"], table["width"])
        values = _take(f, call, f.mul(f.mul(sizes["steps"], per_step), ELEMENT_BYTES[dtype]))
        rows = (table[name] for name in ("rows", "scales", "format", "height", "width"))
        arguments = (*sizes.values(), view["step"], view["row"], *rows)
        found = f.call_defined("i1", "rnnc_look_up_all", view["start"], *arguments, values)
        f.leave(negated(f, found), FALSE)
        with f.when(f.value("i1", f"icmp sge {table['offset']}, 0")):
            field = f.element(context, table["offset"], "i8")
            for name, value in zip(TIMED.types, (values, per_step, table["width"]), strict=True):
                f.store(value, TIMED.place(f, field, name), 8)
    f.ret(TRUE)
    return f


# ---- copies


def _copy(dtype: str) -> Function:
    """Copies an array of any strides, and of any alignment, to memory without gaps."""
    f = define("void rnnc_copy(ptr view, ptr target)")
    view, target = f.parameters
    item, scalar = ELEMENT_BYTES[dtype], SCALARS[dtype]
    start = VIEW.load(f, view, "start")
    sizes, strides = ([VIEW.load(f, view, name) for name in names] for names in zip(*COPIED_AXES, strict=True))
    with f.loop(0, sizes[0]) as outer, f.loop(0, sizes[1]) as middle:
        skipped = f.add(f.mul(outer.index, strides[0]), f.mul(middle.index, strides[1]))
        source = f.element(start, skipped, "i8")
        before = f.mul(f.add(f.mul(outer.index, sizes[1]), middle.index), sizes[2])
        to = f.element(target, f.mul(before, item), "i8")
        with f.loop(0, sizes[2]) as inner:
            value = f.load(scalar, f.element(source, f.mul(inner.index, strides[2]), "i8"), 1)
            f.store(value, f.element(to, inner.index, scalar), item)
    f.ret()
    return f


def _copy_arrays(dtype: str) -> Function:
    """Copies the arrays that are not plain, and leads their views to the copies."""
    f = define("void rnnc_copy_arrays(ptr binding, ptr call, ptr views)", COLD)
    binding, call, views = f.parameters
    sizes = SIZES.loads(f, call)
    with f.loop(0, first_result(f, binding)) as each:
        view = VIEW.element(f, views, each.index)
        object_, size = VIEW.load(f, view, "object"), VIEW.load(f, view, "bytes")
        copied = f.compare("ne", VIEW.load(f, view, "copied"), 0)
        with f.when(f.binary("and", exists(f, object_), copied)):
            values = _take(f, call, size)
            f.call_defined("void", "rnnc_copy", view, values)
            f.store(values, VIEW.place(f, view, "start"), 8)
            array = ARRAY.element(f, BINDING.load(f, binding, "arrays"), each.index)
            steps_first = f.compare("ne", ARRAY.load(f, array, "steps_first"), 0)
            vector = f.udiv(size, f.mul(*sizes.values()))
            many_rows, many_steps = (f.mul(vector, sizes[name]) for name in ("batch", "steps"))
            f.store(f.select(steps_first, many_rows, vector), VIEW.place(f, view, "step"), 8)
            f.store(f.select(steps_first, vector, many_steps), VIEW.place(f, view, "row"), 8)
    f.ret()
    return f
