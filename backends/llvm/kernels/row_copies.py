"""Row copies: rows between the caller's arrays and scratch memory. Sizes and strides are in bytes."""

from __future__ import annotations

from dataclasses import dataclass

from rnnc.backends.llvm.asm.builder import COLD, Function, Module, Val, define, i64, null


def emit_row_copies(module: Module) -> None:
    """Adds `rnnc_first_row`, `rnnc_copy_rows`, `rnnc_start_state` and `rnnc_finish_state`."""
    for function in (_first_row(), _copy_rows(), _start_state(), _finish_state()):
        module.add(function)


def table(f: Function, table: Val, index: Val, otherwise: Val) -> Val:
    """table[index], or another number if there is no table."""
    found = f.alloca("i64", 1, 8)
    f.store(otherwise, found, 8)
    with f.when(f.value("i1", f"icmp ne {table}, null")):
        f.store(f.load("i64", f.element(table, index, "i64"), 8), found, 8)
    return f.load("i64", found, 8)


def copy(f: Function, target: Val, source: Val, size: Val) -> None:
    """Copies `size` bytes."""
    f.call("void", "llvm.memcpy.p0.p0.i64", target, source, size, Val("i1", "false"))


def _first_row() -> Function:
    """The first row of a step: from the table of a ragged batch, or step * batch."""
    f = define("i64 rnnc_first_row(ptr rows, i64 batch, i64 step)")
    rows, batch, step = f.parameters
    f.ret(table(f, rows, step, f.mul(step, batch)))
    return f


def _copy_rows() -> Function:
    """Copies the rows of all steps from the caller's strides to packed and sorted rows (gather), or back."""
    f = define(
        "void rnnc_copy_rows(i1 gather, ptr packed, i64 packed_row, ptr array, i64 array_step, i64 array_row, "
        "i64 size, i64 steps, i64 batch, ptr rows, ptr order)",
        COLD,
    )
    gather, packed, packed_row, array, array_step, array_row, size, steps, batch, rows, order = f.parameters
    with f.loop(0, steps) as step:
        first = f.call_defined("i64", "rnnc_first_row", rows, batch, step.index)
        after = f.call_defined("i64", "rnnc_first_row", rows, batch, f.add(step.index, 1))
        with f.loop(0, f.sub(after, first)) as row:
            inside = f.element(packed, f.mul(f.add(first, row.index), packed_row), "i8")
            place = f.mul(table(f, order, row.index, row.index), array_row)
            outside = f.element(array, f.add(f.mul(step.index, array_step), place), "i8")
            copy(f, f.select(gather, inside, outside), f.select(gather, outside, inside), size)
    f.ret()
    return f


def _start_state() -> Function:
    """Sets every row of a state, in both halves of a double buffer, to its initial value: the source's row or zeros."""
    f = define(
        "void rnnc_start_state(ptr state, i64 stride, i64 halves, ptr source, i64 size, i64 batch, ptr order, "
        "i64 source_stride)",
        COLD,
    )
    state, stride, halves, source, size, batch, order, source_stride = f.parameters
    given = f.value("i64", f"zext {f.value('i1', f'icmp ne {source}, null')} to i64")
    with f.loop(0, halves) as half, f.loop(0, batch) as row:
        target = f.element(state, f.mul(f.add(f.mul(half.index, batch), row.index), stride), "i8")
        with f.switch(given, (0, 1)) as cases:
            for case in cases:
                if case:
                    place = table(f, order, row.index, row.index)
                    copy(f, target, f.element(source, f.mul(place, source_stride), "i8"), size)
                else:
                    f.call("void", "llvm.memset.p0.i64", target, Val("i8", "0"), size, Val("i1", "false"))
    f.ret()
    return f


def _finish_state() -> Function:
    """Copies each row's final value to the caller's array, if there is one.

    In a double buffer it lies in the half that was written last: in the loop's last step or, with lengths, in the row's
    last step.
    """
    f = define(
        "void rnnc_finish_state(ptr target, ptr state, i64 stride, i64 halves, i64 size, i64 steps, i64 batch, "
        "ptr order, ptr lengths, i64 target_stride)",
        COLD,
    )
    target, state, stride, halves, size, steps, batch, order, lengths, target_stride = f.parameters
    wanted = f.select(f.is_null(target), i64(0), batch)
    with f.loop(0, wanted) as row:
        done = table(f, lengths, row.index, steps)
        half = f.binary("and", done, f.sub(halves, 1))
        source = f.element(state, f.mul(f.add(f.mul(half, batch), row.index), stride), "i8")
        place = table(f, order, row.index, row.index)
        copy(f, f.element(target, f.mul(place, target_stride), "i8"), source, size)
    f.ret()
    return f


# ---- calls of these functions


@dataclass(frozen=True)
class Rows:
    """Rows at run time: the address of the first one, and the stride between rows, in elements."""

    pointer: Val
    stride: Val


class RowCopies:
    """Calls of the functions above within one run. Sizes and strides are in elements."""

    def __init__(self, f: Function, item: int, steps: Val, batch: Val, rows: Val, order: Val) -> None:
        """item: bytes per element. rows, order: the tables of a ragged batch, or null (`kernels.context`)."""
        self._f, self._item = f, item
        self._steps, self._batch, self._rows, self._order = steps, batch, rows, order

    def gather(self, packed: Rows, array: Val, step: Val, row: Val, width: int) -> None:
        """Copies the rows of all steps of a caller's array to packed and sorted rows."""
        self._all_steps("true", packed, array, step, row, width)

    def scatter(self, packed: Rows, array: Val, step: Val, row: Val, width: int) -> None:
        """Copies packed and sorted rows of all steps to a caller's array."""
        self._all_steps("false", packed, array, step, row, width)

    def _all_steps(self, gather: str, packed: Rows, array: Val, step: Val, row: Val, width: int) -> None:
        places = [packed.pointer, self._bytes(packed.stride), array, self._bytes(step), self._bytes(row)]
        ends = [self._bytes(width), self._steps, self._batch, self._rows, self._order]
        self._f.call("void", "rnnc_copy_rows", Val("i1", gather), *places, *ends)

    def start(self, state: Rows, halves: int, source: Rows, width: int, *, sorted_rows: bool = False) -> None:
        """Sets the initial value of a state in all halves of its buffer. A null source means zeros."""
        order = null() if sorted_rows else self._order
        places = [state.pointer, self._bytes(state.stride), i64(halves), source.pointer, self._bytes(width)]
        self._f.call("void", "rnnc_start_state", *places, self._batch, order, self._bytes(source.stride))

    def finish(
        self, target: Rows, state: Rows, halves: int, width: int, lengths: Val, *, sorted_rows: bool = False
    ) -> None:
        """Copies a state's final value (of each row's last step, with lengths) to the target, unless that is null."""
        order = null() if sorted_rows else self._order
        places = [target.pointer, state.pointer, self._bytes(state.stride), i64(halves), self._bytes(width)]
        ends = [self._steps, self._batch, order, lengths, self._bytes(target.stride)]
        self._f.call("void", "rnnc_finish_state", *places, *ends)

    def _bytes(self, elements: Val | int) -> Val:
        return i64(elements * self._item) if isinstance(elements, int) else self._f.mul(elements, self._item)
