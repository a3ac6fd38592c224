"""Rows of tables, looked up by number: copied, or widened if the table is narrow (`rnnc.backends.tables`)."""

from __future__ import annotations

from rnnc.backends.llvm.asm.builder import Function, Val, define, i64, vector
from rnnc.backends.llvm.asm.dtypes import ELEMENT_BYTES
from rnnc.backends.llvm.kernels.binding import TABLE_FORMATS
from rnnc.backends.llvm.kernels.python_objects import FALSE, TRUE

LANES = 8
"""The elements that are widened at once. A row ends with one at a time."""


def emit_look_up(dtype: str) -> Function:
    """`i1 rnnc_look_up_all(...)`: rows of a table to (T, B, width). Returns whether the table has all the rows.

    Strides are in bytes. format: one of TABLE_FORMATS; narrow ones go with float32 alone. scales: those of int8 rows.
    """
    f = define(
        "i1 rnnc_look_up_all(ptr numbers, i64 steps, i64 batch, i64 step_stride, i64 row_stride, ptr table, "
        "ptr scales, i64 format, i64 height, i64 width, ptr values)"
    )
    numbers, steps, batch, step_stride, row_stride, table, scales, form, height, width, values = f.parameters
    size = f.mul(width, ELEMENT_BYTES[dtype])
    known = TABLE_FORMATS if dtype == "float32" else TABLE_FORMATS[:1]
    with f.loop(0, steps) as step, f.loop(0, batch) as row:
        skipped = f.add(f.mul(step.index, step_stride), f.mul(row.index, row_stride))
        number = f.load("i64", f.element(numbers, skipped, "i8"), 8)
        f.leave(f.compare("uge", number, height), FALSE)
        target = f.element(values, f.mul(f.add(f.mul(step.index, batch), row.index), size), "i8")
        with f.switch(form, range(len(known))) as cases:
            for case in cases:
                if known[case] == "plain":
                    source = f.element(table, f.mul(number, size), "i8")
                    f.call("void", "llvm.memcpy.p0.p0.i64", target, source, size, FALSE)
                else:
                    widen_row(f, table, scales if known[case] == "int8" else None, number, width, target)
    f.ret(TRUE)
    return f


def widen_row(f: Function, table: Val, scales: Val | None, number: Val, width: Val, target: Val) -> None:
    """Stores a row of a narrow table as float32. scales: those of bytes; rows without are bfloat16."""
    whole, item = f.binary("and", width, i64(-LANES)), "i16" if scales is None else "i8"
    scale = None if scales is None else f.load("float", f.element(scales, number, "float"), 4)
    source = f.element(table, f.mul(number, width), item)
    for lanes, start, stop in ((LANES, i64(0), whole), (1, whole, width)):
        floats, integers = vector(lanes, "float"), vector(lanes, "i32")
        with f.loop(start, stop, lanes) as k:
            loaded = f.load(vector(lanes, item), f.element(source, k.index, item), 1)
            if scale is None:
                bits = f.binary("shl", f.value(integers, f"zext {loaded} to {integers}"), f.integer(16, integers))
                value = f.value(floats, f"bitcast {bits} to {floats}")
            else:
                codes = f.value(floats, f"sitofp {loaded} to {floats}")
                value = f.binary("fmul", codes, f.splat(scale, lanes))
            f.store(value, f.element(target, k.index, "float"), 4)
