"""Delay lines in memory: a value's rows of all steps, with the steps of a state in front of them or behind them.

    step     -before ... -1 | 0 ... T-1 | T ... T+after-1        B rows each, end to end
             initial state    the value   zeros, or an initial state

So the row of d steps before lies d * B rows before, and a call copies steps of the state twice: those that are read, in
front; the last ones, into the final state. Sizes and strides are in bytes.
"""

from __future__ import annotations

from collections.abc import Iterator

from rnnc.backends.llvm.asm.builder import COLD, Function, Module, Val, define, i64, null
from rnnc.backends.llvm.kernels.row_copies import Rows, table
from rnnc.backends.planning.plan import Line


def emit_line_copies(module: Module) -> None:
    """Adds `rnnc_full_steps`, `rnnc_start_line` and `rnnc_finish_line`."""
    for function in (_full_steps(), _start_line(), _finish_line()):
        module.add(function)


def _full_steps() -> Function:
    """The number of steps that all rows run."""
    f = define("i64 rnnc_full_steps(ptr lengths, i64 batch, i64 steps)")
    lengths, batch, steps = f.parameters
    f.ret(table(f, lengths, f.sub(batch, 1), steps))
    return f


def _start_line() -> Function:
    """Copies `count` steps of an initial state, from number `first` on, to the steps before the first one.

    With `ahead`, to those after each row's last one. A null source means zeros.
    """
    f = define(
        "void rnnc_start_line(ptr line, i64 size, i64 state_steps, i64 first, i64 count, ptr source, i64 ahead, "
        "i64 steps, i64 batch, ptr order, ptr lengths)",
        COLD,
    )
    line, size, state_steps, first, count, source, ahead, steps, batch, order, lengths = f.parameters
    behind = f.compare("eq", ahead, 0)
    with f.loop(0, batch) as row:
        place = f.mul(table(f, order, row.index, row.index), f.mul(state_steps, size))
        origin = f.select(behind, f.sub(i64(0), state_steps), table(f, lengths, row.index, steps))
        start = f.element(source, f.add(place, f.mul(first, size)), "i8")
        to = _row(f, line, size, batch, f.add(origin, first), row.index)
        _fill(f, to, f.mul(batch, size), source, start, size, size, count)
    f.ret()
    return f


def _finish_line() -> Function:
    """Copies the last steps of each row to its final state, if there is one: of the initial state, if the row is short.

    With `ahead`, the first steps, because time runs backward. The final state may be the same array as the initial one.
    to_order: the table for rows of the target, or null.
    """
    f = define(
        "void rnnc_finish_line(ptr target, i64 stride, ptr to_order, ptr line, i64 size, i64 state_steps, ptr source, "
        "i64 ahead, i64 steps, i64 batch, ptr order, ptr lengths)",
        COLD,
    )
    target, stride, to_order, line, size, state_steps, source, ahead, steps, batch, order, lengths = f.parameters
    behind = f.compare("eq", ahead, 0)
    with f.loop(0, f.select(f.is_null(target), i64(0), batch)) as row:
        done = table(f, lengths, row.index, steps)
        new = f.minimum(done, state_steps)
        old = f.mul(f.sub(state_steps, new), size)
        to = f.element(target, f.mul(table(f, to_order, row.index, row.index), stride), "i8")
        place = f.mul(table(f, order, row.index, row.index), f.mul(state_steps, size))
        start = f.element(source, f.add(place, f.select(behind, f.mul(new, size), i64(0))), "i8")
        kept = f.element(to, f.select(behind, i64(0), f.mul(new, size)), "i8")
        _fill(f, kept, old, source, start, old, old, f.select(f.compare("eq", old, 0), i64(0), i64(1)))
        last = _row(f, line, size, batch, f.select(behind, f.sub(done, new), i64(0)), row.index)
        steps_at = f.element(to, f.select(behind, old, i64(0)), "i8")
        _fill(f, steps_at, size, line, last, f.mul(batch, size), size, new)
    f.ret()
    return f


def _row(f: Function, line: Val, size: Val, batch: Val, step: Val, row: Val) -> Val:
    """The address of a row of a step."""
    return f.element(line, f.mul(f.add(f.mul(step, batch), row), size), "i8")


def _fill(f: Function, to: Val, to_stride: Val, given: Val, start: Val, stride: Val, size: Val, count: Val) -> None:
    """Copies `count` pieces of `size` bytes, as one if they lie end to end; zeros, if `given` is null."""
    dense = f.binary("and", f.compare("eq", to_stride, size), f.compare("eq", stride, size))
    pieces, each = f.select(dense, i64(1), count), f.select(dense, f.mul(count, size), size)
    zeros = f.value("i64", f"zext {f.is_null(given)} to i64")
    with f.loop(0, pieces) as piece:
        target = f.element(to, f.mul(piece.index, to_stride), "i8")
        with f.switch(zeros, (0, 1)) as cases:
            for case in cases:
                if case:
                    f.call("void", "llvm.memset.p0.i64", target, Val("i8", "0"), each, Val("i1", "false"))
                else:
                    source = f.element(start, f.mul(piece.index, stride), "i8")
                    f.call("void", "llvm.memmove.p0.p0.i64", target, source, each, Val("i1", "false"))


# ---- calls of these functions


def ranges(f: Function, line: Line, steps: Val) -> Iterator[tuple[int, Val]]:
    """The steps of the initial state that a call of `steps` steps reads: (number of the first, how many).

    A read of d steps before reads the last d steps of the state, or only the first `steps` of those.
    """
    if line.direction < 0:
        yield 0, i64(line.steps)
        return
    shifts = [*line.shifts[::-1], 0]
    first = shifts[0]
    for shift, following in zip(shifts, shifts[1:], strict=False):
        if shift - following > 1 or following == 0:
            yield line.steps - first, f.add(f.minimum(steps, i64(shift - following)), first - shift)
            first = following


class LineCopies:
    """Calls of the functions above within one run."""

    def __init__(self, f: Function, item: int, steps: Val, batch: Val, order: Val, lengths: Val) -> None:
        """item: bytes per element. order, lengths: the tables of a ragged batch, or null (`kernels.context`)."""
        self._f, self._item = f, item
        self._steps, self._batch, self._order, self._lengths = steps, batch, order, lengths

    def full_steps(self) -> Val:
        """The number of steps that all rows run: the length of the last row, which is the shortest."""
        return self._f.call("i64", "rnnc_full_steps", self._lengths, self._batch, self._steps)

    def start(self, line: Line, memory: Rows, initial: Val) -> None:
        """Copies the steps of the initial state (null: zeros) that the call reads to where they are read."""
        for first, count in ranges(self._f, line, self._steps):
            sizes = [i64(line.width * self._item), i64(line.steps), i64(first), count]
            rest = [initial, i64(int(line.direction < 0)), self._steps, self._batch, self._order, self._lengths]
            self._f.call("void", "rnnc_start_line", memory.pointer, *sizes, *rest)

    def finish(self, line: Line, memory: Rows, initial: Val, target: Val) -> None:
        """Copies the last steps of each row to a caller's array, unless that is null."""
        self._finish(line, memory, initial, [target, i64(line.steps * line.width * self._item), self._order])

    def keep(self, line: Line, memory: Rows, initial: Val, target: Rows) -> None:
        """Copies the last steps of each row to sorted rows."""
        self._finish(line, memory, initial, [target.pointer, self._f.mul(target.stride, self._item), null()])

    def _finish(self, line: Line, memory: Rows, initial: Val, target: list[Val]) -> None:
        sizes = [i64(line.width * self._item), i64(line.steps), initial, i64(int(line.direction < 0))]
        rest = [self._steps, self._batch, self._order, self._lengths]
        self._f.call("void", "rnnc_finish_line", *target, memory.pointer, *sizes, *rest)
