"""Entries: the functions of the C interface, in LLVM, around the function of a plan.

    fill a context on the stack: sizes, arrays and their strides -> rnnc_run(context) -> copy last states

The memory that a call works in is laid out as

    last states | first states (of several streams) | rows of tables | scratch memory of the plan

each part from a multiple of 64 bytes. States lie one after the other, each with the rows of all sequences.
"""

from __future__ import annotations

from collections.abc import Sequence

from rnnc.backends.call_forms import BATCH, STEPS, CallArray
from rnnc.backends.llvm.asm.builder import Function, Module, Val, define, i64, null
from rnnc.backends.llvm.asm.dtypes import SCALARS
from rnnc.backends.llvm.kernels.binding import CALL, VIEW
from rnnc.backends.llvm.kernels.context import HEADER, Interface, array_field, row_field, step_field
from rnnc.backends.llvm.kernels.table_rows import widen_row
from rnnc.backends.llvm.portable.blob import Blob
from rnnc.backends.llvm.portable.interface import STATE_HEADER, PortableNetwork, Result
from rnnc.backends.tables import NarrowTable

_LINE = 64


def result(value: Result) -> Val:
    """What an entry returns."""
    return Val("i32", str(int(value)))


class Entries:
    """The entries of one network."""

    def __init__(
        self, network: PortableNetwork, context: Interface, blob: Blob, pointer_bits: int, machine: str = ""
    ) -> None:
        """context: of the plan. blob: its weights and tables. machine: the name that the library tells."""
        self.machine = machine
        self.network, self.api = network, network.interface
        self.context, self.blob = context, blob
        self.size = f"i{pointer_bits}"
        self.item, self.scalar = self.api.item, SCALARS[self.api.dtype]
        (self.inputs, self.initial), (self.outputs, self.final) = (
            [group.arrays for group in groups] for groups in (network.call.arguments, network.call.results)
        )
        self.widths = [port.width for port in self.api.states]
        self.tables = [(n, rows, table.shape[1]) for n, array in enumerate(self.inputs) for rows, table in array.tables]

    def emit(self) -> Module:
        """The module with all entries."""
        module = Module(globals=self._globals())
        entries = self._of_streams() if self.api.streams else self._of_whole()
        for function in (self._about(), *entries):
            module.add(function)
        return module

    def _globals(self) -> list[str]:
        text = self.api.about(self.machine).encode() + b"\0"
        shown = "".join(chr(b) if 32 <= b < 127 and b not in b'"\\' else f"\\{b:02X}" for b in text)
        found = [f'@rnnc_about = internal constant [{len(text)} x i8] c"{shown}"']
        return found if self.api.in_file else [*found, self.blob.definition()]

    def _define(self, result_: str, name: str, parameters: str) -> Function:
        return define(f"{result_} {self.api.symbol(name)}({parameters.replace('size_t', self.size)})")

    def _wide(self, f: Function, value: Val) -> Val:
        """A size_t as 64 bits."""
        return value if value.type == "i64" else f.value("i64", f"zext {value} to i64")

    def _narrow(self, f: Function, value: Val) -> Val:
        """A number of bytes as a size_t: the largest one if it does not fit."""
        if self.size == "i64":
            return value
        return f.value(self.size, f"trunc {f.minimum(value, i64((1 << 32) - 1))} to {self.size}")

    def _about(self) -> Function:
        f = Function(self.api.symbol("about"), [], "ptr")
        f.ret(Val("ptr", "@rnnc_about"))
        return f

    # ---- streams

    def _of_streams(self) -> list[Function]:
        return [
            self._state_size(),
            self._reset(),
            self._stream_step(),
            self._stream_size("scratch_size", "frames"),
            self._stream_run(),
            self._stream_size("rows_scratch_size", "rows"),
            self._stream_rows(),
        ]

    @property
    def _work_at(self) -> int:
        """Where the room for a step begins in a state; in front of it is the address of a file of weights."""
        return -(-(self.api.saved_bytes + 8) // _LINE) * _LINE

    def _state_size(self) -> Function:
        f = Function(self.api.symbol("state_size"), [], self.size)
        f.ret(self._narrow(f, f.add(self._work_size(f, i64(1), i64(1)), self._work_at)))
        return f

    def _stream_size(self, name: str, many: str) -> Function:
        f = self._define(self.size, name, f"size_t {many}")
        count = self._wide(f, f.parameters[0])
        sizes = (count, i64(1)) if many == "frames" else (i64(1), count)
        f.ret(self._narrow(f, self._work_size(f, *sizes)))
        return f

    def _reset(self) -> Function:
        parameters = "ptr state, ptr weights" if self.api.in_file else "ptr state"
        f = self._define("i32", "reset", parameters)
        state = f.parameters[0]
        if self.api.in_file:
            self._check_weights(f, f.parameters[1])
        size = self.api.saved_bytes
        f.call("void", "llvm.memset.p0.i64", state, Val("i8", "0"), i64(size), Val("i1", "false"))
        f.store(self._digest(), state, 8)
        if self.api.in_file:
            f.store(f.parameters[1], self._weights_place(f, state), 8)
        f.ret(result(Result.OK))
        return f

    def _weights_place(self, f: Function, state: Val) -> Val:
        return f.element(state, self._work_at - 8, "i8")

    def _digest(self) -> Val:
        number = int(self.api.digest, 16)
        return i64(number - (1 << 64) if number >> 63 else number)

    def _check_state(self, f: Function, state: Val) -> None:
        found = f.load("i64", state, 8)
        f.leave(f.compare("ne", found, self._digest()), result(Result.FOREIGN_STATE))

    def _check_weights(self, f: Function, weights: Val) -> None:
        for n, word in enumerate(self.blob.header()):
            found = f.load("i64", f.element(weights, n, "i64"), 8)
            f.leave(f.compare("ne", found, i64(word)), result(Result.FOREIGN_WEIGHTS))

    def _weights_of(self, f: Function, state: Val) -> Val:
        """The blob: its constants, or the file that the state leads to."""
        if not self.api.in_file:
            return self.blob.address()
        return f.element(f.load("ptr", self._weights_place(f, state), 8), STATE_HEADER, "i8")

    def _arrays(self, ports: Sequence[object], prefix: str) -> str:
        return "".join(f", ptr {prefix}{n}" for n in range(len(ports)))

    def _stream_step(self) -> Function:
        arrays = self._arrays(self.inputs, "x") + self._arrays(self.outputs, "y")
        f = self._define("i32", "step", f"ptr state{arrays}")
        state, *given = f.parameters
        self._stream(f, state, i64(1), given, f.element(state, self._work_at, "i8"))
        return f

    def _stream_run(self) -> Function:
        arrays = self._arrays(self.inputs, "x") + self._arrays(self.outputs, "y")
        f = self._define("i32", "run", f"ptr state, size_t frames{arrays}, ptr scratch")
        state, frames, *given, scratch = f.parameters
        self._stream(f, state, self._wide(f, frames), given, scratch)
        return f

    def _stream(self, f: Function, state: Val, frames: Val, given: Sequence[Val], scratch: Val) -> None:
        """The next frames of one stream."""
        self._check_state(f, state)
        f.leave(f.compare("eq", frames, 0), result(Result.OK))
        numbers = f.element(state, STATE_HEADER, "i8")
        work = _Work(self, f, scratch, frames, i64(1))
        self._check_numbers(f, given, frames)
        self._run(f, work, self._weights_of(f, state), given, numbers, work.final)
        size = sum(self.widths) * self.item
        if size:
            _copy(f, numbers, work.final, i64(size))
        f.ret(result(Result.OK))

    def _stream_rows(self) -> Function:
        arrays = self._arrays(self.inputs, "x") + self._arrays(self.outputs, "y")
        f = self._define("i32", "step_rows", f"ptr states, size_t rows{arrays}, ptr scratch")
        states, count, *given, scratch = f.parameters
        rows = self._wide(f, count)
        f.leave(f.compare("eq", rows, 0), result(Result.OK))
        with f.loop(0, rows) as row:
            self._check_state(f, self._state(f, states, row.index))
        self._check_numbers(f, given, rows)
        work = _Work(self, f, scratch, i64(1), rows)
        self._move_states(f, states, rows, work.initial, inward=True)
        weights = self._weights_of(f, f.load("ptr", states, 8))
        self._run(f, work, weights, given, work.initial, work.final)
        self._move_states(f, states, rows, work.final, inward=False)
        f.ret(result(Result.OK))
        return f

    def _state(self, f: Function, states: Val, row: Val) -> Val:
        return f.load("ptr", f.element(states, row, "ptr"), 8)

    def _move_states(self, f: Function, states: Val, rows: Val, memory: Val, *, inward: bool) -> None:
        """Copies the numbers of all states to rows of one array per state, or back."""
        with f.loop(0, rows) as row:
            state = f.element(self._state(f, states, row.index), STATE_HEADER, "i8")
            first = 0
            for width in self.widths:
                size = width * self.item
                start = f.add(f.mul(rows, first * self.item), f.mul(row.index, size))
                pair = (f.element(memory, start, "i8"), f.element(state, first * self.item, "i8"))
                _copy(f, *(pair if inward else pair[::-1]), i64(size))
                first += width

    # ---- whole networks

    def _of_whole(self) -> list[Function]:
        return [self._whole_size(), self._whole_run()]

    def _whole_size(self) -> Function:
        f = self._define(self.size, "scratch_size", "size_t steps, size_t batch")
        steps, batch = (self._wide(f, each) for each in f.parameters)
        f.ret(self._narrow(f, f.add(self._work_size(f, steps, batch), self._ragged_size(f, steps, batch))))
        return f

    def _ragged_size(self, f: Function, steps: Val, batch: Val) -> Val:
        """Bytes of the tables of a ragged batch, and of sorted copies of its arrays."""
        numbers = f.add(f.mul(f.add(steps, 1), 2), f.mul(batch, 3))
        line = _LINE // self.item
        rows = sum(-(-(width + line - 1) // line) * line for width in self._timed_widths().values()) * self.item
        return f.add(f.add(f.mul(numbers, 8), f.mul(f.mul(steps, batch), rows)), _LINE)

    def _timed_widths(self) -> dict[str, int]:
        widths = {name: int(a.shape[-1]) for a in (*self.inputs, *self.outputs) if not a.tables for name in a.names}
        return widths | {rows: width for _, rows, width in self.tables}

    def _whole_run(self) -> Function:
        groups = ((self.inputs, "x"), (self.initial, "h"), (self.outputs, "y"), (self.final, "n"))
        arrays = "".join(self._arrays(ports, prefix) for ports, prefix in groups)
        weights = "ptr weights, " if self.api.in_file else ""
        f = self._define("i32", "run", f"{weights}size_t steps, size_t batch, ptr lengths{arrays}, ptr scratch")
        given = list(f.parameters)
        blob = self.blob.address()
        if self.api.in_file:
            self._check_weights(f, given[0])
            blob = f.element(given.pop(0), STATE_HEADER, "i8")
        steps, batch, lengths, *arrays_, scratch = given
        steps, batch = self._wide(f, steps), self._wide(f, batch)
        f.leave(f.compare("eq", f.mul(steps, batch), 0), result(Result.OK))
        taken = [list[Val](), list[Val](), list[Val](), list[Val]()]
        for group, (ports, _) in zip(taken, groups, strict=True):
            group += [arrays_.pop(0) for _ in ports]
        self._check_numbers(f, taken[0], f.mul(steps, batch))
        work = _Work(self, f, f.element(scratch, self._tables_size(f, steps, batch), "i8"), steps, batch)
        arrays_of = self._timed_arrays(f, work, blob, [*taken[0], *taken[2]])
        for ports, places in ((self.initial, taken[1]), (self.final, taken[3])):
            for port, place in zip(ports, places, strict=True):
                width = int(port.shape[-1])
                slabs = {name: self._slab(f, place, f.mul(batch, n * width)) for n, name in enumerate(port.names)}
                arrays_of |= slabs
        context = work.context(blob, arrays_of)
        with f.when(f.value("i1", f"icmp ne {lengths}, null")):
            self._make_ragged(f, context, lengths, scratch, taken[2], work)
        f.call_defined("i32", "rnnc_run", context)
        f.ret(result(Result.OK))
        return f

    def _tables_size(self, f: Function, steps: Val, batch: Val) -> Val:
        return f.mul(f.add(f.mul(f.add(steps, 1), 2), f.mul(batch, 3)), 8)

    def _make_ragged(
        self, f: Function, context: Val, lengths: Val, scratch: Val, outputs: Sequence[Val], work: _Work
    ) -> None:
        """Leads a context to the tables of a ragged batch, and clears the outputs, whose padding is not computed."""
        call, view = f.alloca(CALL.llvm_type, 1, 16), f.alloca(VIEW.llvm_type, 1, 16)
        for name, value in (("steps", work.steps), ("batch", work.batch), ("memory", scratch)):
            f.store(value, CALL.place(f, call, name), 8)
        for name, value in (("start", lengths), ("row", i64(8))):
            f.store(value, VIEW.place(f, view, name), 8)
        sorted_ = f.call_defined("i1", "rnnc_sort_lengths", call, view, context)
        f.leave(f.value("i1", f"xor {sorted_}, true"), result(Result.LENGTH_OUT_OF_RANGE))
        for array, place in zip(self.outputs, outputs, strict=True):
            steps = work.steps if STEPS in array.shape else i64(1)
            size = f.mul(f.mul(steps, work.batch), int(array.shape[-1]) * self.item)
            f.call("void", "llvm.memset.p0.i64", place, Val("i8", "0"), size, Val("i1", "false"))

    # ---- a run

    def _check_numbers(self, f: Function, given: Sequence[Val], count: Val) -> None:
        """Leaves if an integer is no row of its table."""
        for n, array in enumerate(self.inputs):
            if not array.tables:
                continue
            with f.loop(0, count) as each:
                number = f.load("i64", f.element(given[n], each.index, "i64"), 8)
                outside = f.compare("uge", number, min(len(table) for _, table in array.tables))
                f.leave(outside, result(Result.NUMBER_OUT_OF_RANGE))

    def _work_size(self, f: Function, steps: Val, batch: Val) -> Val:
        work = _Work(self, f, null(), steps, batch)
        context = work.context(null(), None)
        return f.add(f.add(work.size, f.call_defined("i64", "rnnc_scratch", context)), _LINE)

    def _run(self, f: Function, work: _Work, weights: Val, given: Sequence[Val], initial: Val, final: Val) -> None:
        """Calls the plan. given: inputs and outputs. initial, final: where the numbers of all states are."""
        arrays = self._timed_arrays(f, work, weights, given)
        for ports, memory in ((self.initial, initial), (self.final, final)):
            first = 0
            for port in ports:
                (name,) = port.names
                arrays[name] = f.element(memory, f.mul(work.batch, first * self.item), "i8")
                first += int(port.shape[-1])
        f.call_defined("i32", "rnnc_run", work.context(weights, arrays))

    def _slab(self, f: Function, array: Val, offset: Val) -> Val:
        """A slab of an array that may be NULL."""
        return f.select(f.is_null(array), null(), f.element(array, offset, self.scalar))

    def _timed_arrays(self, f: Function, work: _Work, weights: Val, given: Sequence[Val]) -> dict[str, Val]:
        found = {}
        for array, place in zip((*self.inputs, *self.outputs), given, strict=True):
            for name in array.names:
                found[name] = place
        for n, rows, width in self.tables:
            table, *scales = self.blob.table(f, weights, rows)
            narrow = isinstance(self.blob.tables[rows], NarrowTable)
            found[rows] = work.rows[rows]
            count = f.mul(work.steps, work.batch)
            with f.loop(0, count) as each:
                number = f.load("i64", f.element(given[n], each.index, "i64"), 8)
                target = f.element(work.rows[rows], f.mul(each.index, width), self.scalar)
                if narrow:
                    widen_row(f, table, scales[0] if scales else None, number, i64(width), target)
                else:
                    _copy(f, target, f.element(table, f.mul(number, width), self.scalar), i64(width * self.item))
        return found


class _Work:
    """The memory that a call works in."""

    def __init__(self, entries: Entries, f: Function, start: Val, steps: Val, batch: Val) -> None:
        self.entries, self.f = entries, f
        self.steps, self.batch = steps, batch
        item, total = entries.item, sum(entries.widths) if entries.api.streams else 0
        aligned = start
        if start.name != "null":
            address = f.value("i64", f"ptrtoint {start} to i64")
            aligned = f.element(start, f.binary("and", f.sub(i64(0), address), i64(_LINE - 1)), "i8")
        self.size = i64(0)
        self.base = aligned
        self.final = self._take(f.mul(batch, total * item))
        self.initial = self._take(f.mul(batch, total * item))
        self.rows = {rows: self._take(f.mul(f.mul(steps, batch), width * item)) for _, rows, width in entries.tables}
        self.scratch = f.element(self.base, self.size, "i8") if start.name != "null" else start

    def _take(self, size: Val) -> Val:
        """A part of the memory; its place is null if only its size is wanted."""
        f, place = self.f, self.base
        if place.name != "null":
            place = f.element(place, self.size, "i8")
        self.size = f.add(self.size, f.binary("and", f.add(size, _LINE - 1), i64(-_LINE)))
        return place

    def context(self, weights: Val, arrays: dict[str, Val] | None) -> Val:
        """A context on the stack. arrays: name -> address; None: all null."""
        f, record, entries = self.f, self.entries.context.record, self.entries
        context = f.alloca(record.llvm_type, 1, 16)
        header = {"steps": self.steps, "batch": self.batch, "weights": weights, "scratch": self.scratch}
        values = {name: header.get(name, null()) for _, name in HEADER}
        rates = self._strides()
        for name in entries.context.timed:
            values[array_field(name)] = null() if arrays is None else arrays[name]
            values[step_field(name)], values[row_field(name)] = rates[name]
        for name in entries.context.rows:
            values[array_field(name)] = null() if arrays is None else arrays[name]
        for name, value in values.items():
            f.store(value, record.place(f, context, name), 8)
        return context

    def _strides(self) -> dict[str, tuple[Val, Val]]:
        """Per timed array, the strides between steps and between rows, in elements."""
        entries, f = self.entries, self.f
        widths = entries._timed_widths()
        first = {name: self._batch_first(a) for a in (*entries.inputs, *entries.outputs) for name in a.names}
        first |= {rows: self._batch_first(entries.inputs[n]) for n, rows, _ in entries.tables}
        found = {}
        for name, width in widths.items():
            if first[name]:
                found[name] = (i64(width), f.mul(self.steps, width))
            else:
                found[name] = (f.mul(self.batch, width), i64(width))
        return found

    @staticmethod
    def _batch_first(array: CallArray) -> bool:
        return array.shape[0] == BATCH


def _copy(f: Function, target: Val, source: Val, size: Val) -> None:
    f.call("void", "llvm.memcpy.p0.p0.i64", target, source, size, Val("i1", "false"))
