"""Generated code around the gradients of a batch: rows of a table, sums over shards of the batch, their norm.

    rnnc_look_up        a member's share of the rows of a table that a batch reads
    rnnc_group          which rows of a table a batch names, and where in a list of them each place's gradient goes
    rnnc_scatter        a member's share of: the dense gradient of a table += those of rows that were read
    rnnc_collect        a member's share of: dense gradients = sum over shards; sum of squares
    rnnc_collect_rows   a member's share of: rows = sum over places; sum of squares

The members of a lockstep run call them, each with a record of its own. The batch and the number of members fix the
order of every sum.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rnnc.backends.llvm.asm.builder import Function, Module, Val, define, i64, vector
from rnnc.backends.llvm.asm.dtypes import ELEMENT_BYTES, SCALARS
from rnnc.backends.llvm.asm.records import Record
from rnnc.backends.llvm.asm.target import Target

LOOK_UP = Record(
    "look_up",
    "i64 member, i64 members, ptr numbers, ptr lengths, i64 steps, i64 batch, i64 positions, i64 height, ptr table, "
    "ptr values, i64 bytes",
)
"""numbers, lengths, steps, batch, positions, height: see GROUP. table: (height, bytes). values: (steps, batch,
positions, bytes), the rows that are read; places past a row's end are not written. The result is OUT_OF_RANGE if a
number is no row of the table."""

OUT_OF_RANGE = 2

GROUP = Record(
    "group",
    "ptr numbers, ptr lengths, i64 steps, i64 batch, i64 positions, i64 height, i64 padding, ptr slots, ptr rows, "
    "ptr count, ptr places, i64 keep",
)
"""numbers: (steps, batch, positions), the rows of the table that are named. height: the number of rows of the table.
lengths: (batch,), how many of its steps * positions places a row has, or null. padding: a row that is left out, or -1.
rows: the rows named so far. count: the address of their number. slots: (height,), 1 + the place of a row in `rows`, or
0 if it is not there. places: as `numbers`, where each gradient goes: 2 * place in `rows`, plus 1 if it is the first one
there; -1 if it is left out. keep: 0 to forget the rows named so far."""

SCATTER = Record(
    "scatter",
    "i64 member, i64 members, ptr numbers, ptr lengths, i64 steps, i64 batch, i64 positions, i64 height, i64 padding, "
    "ptr terms, i64 target, ptr from, i64 width",
)
"""numbers, lengths, steps, batch, positions, height, padding: see GROUP. terms: see COLLECT; the gradients are added to
the first of them, in which that of the table begins at the element `target`. from: (steps, batch, positions, width)."""

COLLECT = Record(
    "collect",
    "i64 member, i64 members, ptr terms, i64 shards, ptr segments, i64 many, i64 keep, ptr gradient, ptr squares",
)
"""terms: the addresses of the `shards` dense gradients, one per shard. segments: `many` records of SEGMENT. keep: 1 to
add the sums to `gradient`, 0 to overwrite it. squares: the address for the sum of squares (a double) of this member's
share."""

COLLECT_ROWS = Record(
    "collect_rows",
    "i64 member, i64 members, ptr places, i64 many, ptr from, ptr values, ptr count, i64 width, i64 last, ptr squares",
)
"""places: those of `rnnc_group`, `many` of them. from: (many, width), the gradient of each place. values: (rows,
width), the gradients of rows. count: the address of the number of rows. last: 1 if `values` is complete then, and its
squares are added to the sum at `squares`."""

SEGMENT = Record("segment", "i64 target, i64 source, i64 size")
"""A parameter: its first element in `gradient` (target) and in a shard's gradient (source), and its size in elements.
"""

CACHE_LINE = 16
"""Elements per cache line (64 bytes of float32): members write to different lines."""
BLOCK = 2048
"""Elements per block, which is summed and then squared while it is in the cache."""


def share(f: Function, size: Val, member: Val, members: Val, unit: int = CACHE_LINE) -> tuple[Val, Val]:
    """The first element of a member's share, and the one after its last. Shares are whole units, except at the end."""
    units = f.udiv(f.add(size, unit - 1), unit)
    bounds = [f.mul(f.udiv(f.mul(units, number), members), unit) for number in (member, f.add(member, 1))]
    return f.minimum(bounds[0], size), f.minimum(bounds[1], size)


def _look_up() -> Function:
    """Copies the rows of a member's share of the steps (LOOK_UP)."""
    f = define("i32 rnnc_look_up(ptr given)")
    given = LOOK_UP.loads(f, f.parameters[0])
    result = f.alloca("i32", 1, 4)
    f.store(Val("i32", "0"), result, 4)
    first, stop = share(f, given["steps"], given["member"], given["members"], 1)
    with _places(f, first, stop, given) as (at, inside), f.when(inside):
        number = f.load("i64", f.element(given["numbers"], at, "i64"), 8)
        there = f.compare("ult", number, given["height"])
        with f.when(f.binary("xor", there, Val("i1", "true"))):
            f.store(Val("i32", str(OUT_OF_RANGE)), result, 4)
        with f.when(there):
            source = f.element(given["table"], f.mul(number, given["bytes"]), "i8")
            target = f.element(given["values"], f.mul(at, given["bytes"]), "i8")
            f.call("void", "llvm.memcpy.p0.p0.i64", target, source, given["bytes"], Val("i1", "false"))
    f.ret(f.load("i32", result, 4))
    return f


@contextmanager
def _places(f: Function, first: Val, stop: Val, given: dict[str, Val]) -> Iterator[tuple[Val, Val]]:
    """A loop over the places of some steps: the number of each, and the i1 that is 1 if its row has it."""
    with f.loop(first, stop) as step, f.loop(0, given["batch"]) as row:
        start = f.mul(f.add(f.mul(step.index, given["batch"]), row.index), given["positions"])
        before = f.mul(step.index, given["positions"])
        with f.loop(0, given["positions"]) as position:
            inside = _inside(f, f.add(before, position.index), row.index, given)
            yield f.add(start, position.index), inside


def _inside(f: Function, place: Val, row: Val, given: dict[str, Val]) -> Val:
    """The i1 that is 1 if a place is before the end of its row. Without lengths, it always is."""
    dense = f.is_null(given["lengths"])
    table = f.select(dense, given["numbers"], given["lengths"])  # any memory that can be read
    length = f.load("i64", f.element(table, f.select(dense, i64(0), row), "i64"), 8)
    return f.binary("or", dense, f.compare("ult", place, length))


def _counts(f: Function, number: Val, given: dict[str, Val]) -> Val:
    """The i1 that is 1 if a number is that of a row whose gradient counts."""
    there = f.compare("ult", number, given["height"])
    return f.binary("and", there, f.compare("ne", number, given["padding"]))


def _group() -> Function:
    """Lists the rows that are named, in the order of steps, then of sequences (GROUP)."""
    f = define("i32 rnnc_group(ptr given)")
    given = GROUP.loads(f, f.parameters[0])
    _forget(f, given)
    with _places(f, i64(0), given["steps"], given) as (at, inside):
        place = f.element(given["places"], at, "i64")
        f.store(i64(-1), place, 8)
        number = f.load("i64", f.element(given["numbers"], at, "i64"), 8)
        with f.when(f.binary("and", inside, _counts(f, number, given))):
            f.store(_place_of(f, number, given), place, 8)
    f.ret(Val("i32", "0"))
    return f


def _forget(f: Function, given: dict[str, Val]) -> None:
    with f.when(f.compare("eq", given["keep"], 0)):
        with f.loop(0, f.load("i64", given["count"], 8)) as old:
            row = f.load("i64", f.element(given["rows"], old.index, "i64"), 8)
            f.store(i64(0), f.element(given["slots"], row, "i64"), 8)
        f.store(i64(0), given["count"], 8)


def _place_of(f: Function, number: Val, given: dict[str, Val]) -> Val:
    """2 * the place of a row in the list, plus 1 if the row is new. A new row is appended."""
    slot = f.element(given["slots"], number, "i64")
    found = f.load("i64", slot, 8)
    new = f.compare("eq", found, 0)
    count = f.load("i64", given["count"], 8)
    with f.when(new):
        f.store(number, f.element(given["rows"], count, "i64"), 8)
        f.store(f.add(count, 1), slot, 8)
        f.store(f.add(count, 1), given["count"], 8)
    return f.select(new, f.add(f.mul(count, 2), 1), f.mul(f.sub(found, 1), 2))


def emit_gradient_sums(module: Module, dtype: str, target: Target) -> None:
    """Adds the functions above, and what they call."""
    kernels = _Kernels(dtype, target)
    sums = (_scatter(dtype), _collect(dtype), _collect_rows(dtype))
    for function in (_look_up(), _group(), kernels.put(), kernels.square(), *sums):
        module.add(function)


class _Kernels:
    """Loops over contiguous elements: whole vectors, then single elements."""

    def __init__(self, dtype: str, target: Target) -> None:
        self.scalar, self.size, self.lanes = SCALARS[dtype], ELEMENT_BYTES[dtype], target.lanes(dtype)

    def put(self) -> Function:
        """target[:count] = source[:count], or += if `add` is 1."""
        f = define("void rnnc_put(ptr target, ptr source, i64 count, i64 add)")
        target, source, count, add = f.parameters
        with f.switch(add, (0, 1)) as cases:
            for case in cases:
                for lanes, low, high in self._spans(f, count):
                    with f.loop(low, high, lanes) as loop:
                        value, own = self._load(f, source, loop.index, lanes), self._at(f, target, loop.index)
                        if case:
                            value = f.binary("fadd", self._load(f, target, loop.index, lanes), value)
                        f.store(value, own, self.size)
        f.ret()
        return f

    def square(self) -> Function:
        """total + the sum of squares of array[:count], in double precision."""
        f = define("double rnnc_square(ptr array, i64 count, double total)")
        array, count, total = f.parameters
        for lanes, low, high in self._spans(f, count):
            type_ = vector(lanes, "double")
            with f.loop(low, high, lanes, carried=(Val(type_, "zeroinitializer"),)) as loop:
                value = self._load(f, array, loop.index, lanes)
                wide = value if self.scalar == "double" else f.value(type_, f"fpext {value} to {type_}")
                loop.next([f.fma(wide, wide, loop.values[0])])
            for lane in range(lanes):
                part = f.value("double", f"extractelement {loop.values[0]}, i64 {lane}")
                total = f.binary("fadd", total, part)
        f.ret(total)
        return f

    def _spans(self, f: Function, count: Val) -> list[tuple[int, Val, Val]]:
        whole = f.binary("and", count, i64(-self.lanes))
        return [(self.lanes, i64(0), whole), (1, whole, count)]

    def _at(self, f: Function, pointer: Val, index: Val) -> Val:
        return f.element(pointer, index, self.scalar)

    def _load(self, f: Function, pointer: Val, index: Val, lanes: int) -> Val:
        return f.load(vector(lanes, self.scalar), self._at(f, pointer, index), self.size)


def _collect(dtype: str) -> Function:
    f, scalar = define("i32 rnnc_collect(ptr given)"), SCALARS[dtype]
    given = COLLECT.loads(f, f.parameters[0])
    f.store(f.constant(0.0, "double"), given["squares"], 8)
    with f.loop(0, given["many"]) as number:
        segment = SEGMENT.loads(f, SEGMENT.element(f, given["segments"], number.index))
        _collect_segment(f, scalar, given, segment)
    f.ret(Val("i32", "0"))
    return f


def _scatter(dtype: str) -> Function:
    """Adds a share of the columns of all rows, so that no two members write to the same elements (SCATTER)."""
    f, scalar = define("i32 rnnc_scatter(ptr given)"), SCALARS[dtype]
    given = SCATTER.loads(f, f.parameters[0])
    start, stop = share(f, given["width"], given["member"], given["members"])
    table = f.element(f.load("ptr", given["terms"], 8), f.add(given["target"], start), scalar)
    with _places(f, i64(0), given["steps"], given) as (at, inside):
        number = f.load("i64", f.element(given["numbers"], at, "i64"), 8)
        with f.when(f.binary("and", inside, _counts(f, number, given))):
            row = f.element(table, f.mul(number, given["width"]), scalar)
            term = f.element(given["from"], f.add(f.mul(at, given["width"]), start), scalar)
            f.call_defined("void", "rnnc_put", row, term, f.sub(stop, start), i64(1))
    f.ret(Val("i32", "0"))
    return f


def _collect_segment(f: Function, scalar: str, given: dict[str, Val], segment: dict[str, Val]) -> None:
    """Sums one parameter block by block, so that the block is still in the cache when it is squared."""
    start, stop = share(f, segment["size"], given["member"], given["members"])
    with f.loop(start, stop, BLOCK) as block:
        count = f.minimum(f.sub(stop, block.index), i64(BLOCK))
        own = f.element(given["gradient"], f.add(segment["target"], block.index), scalar)
        with f.loop(0, given["shards"]) as shard:
            term = f.load("ptr", f.element(given["terms"], shard.index, "ptr"), 8)
            term = f.element(term, f.add(segment["source"], block.index), scalar)
            add = f.select(f.compare("eq", shard.index, 0), given["keep"], i64(1))
            with f.when(f.compare("ne", own, term)):
                f.call_defined("void", "rnnc_put", own, term, count, add)
        _add_squares(f, own, count, given["squares"])


def _collect_rows(dtype: str) -> Function:
    """Sums a share of the columns of all rows, so that no two members write to the same elements (COLLECT_ROWS)."""
    f, scalar = define("i32 rnnc_collect_rows(ptr given)"), SCALARS[dtype]
    given = COLLECT_ROWS.loads(f, f.parameters[0])
    start, stop = share(f, given["width"], given["member"], given["members"])
    count = f.sub(stop, start)
    with f.loop(0, given["many"]) as step:
        place = f.load("i64", f.element(given["places"], step.index, "i64"), 8)
        with f.when(f.value("i1", f"icmp sge {place}, 0")):
            row = f.add(f.mul(f.udiv(place, 2), given["width"]), start)
            term = f.add(f.mul(step.index, given["width"]), start)
            pointers = (f.element(given["values"], row, scalar), f.element(given["from"], term, scalar))
            f.call_defined("void", "rnnc_put", *pointers, count, f.sub(i64(1), f.binary("and", place, i64(1))))
    complete = f.compare("eq", given["last"], 1)
    with f.when(complete), f.loop(0, f.load("i64", given["count"], 8)) as number:
        row = f.add(f.mul(number.index, given["width"]), start)
        _add_squares(f, f.element(given["values"], row, scalar), count, given["squares"])
    f.ret(Val("i32", "0"))
    return f


def _add_squares(f: Function, array: Val, count: Val, squares: Val) -> None:
    total = f.call_defined("double", "rnnc_square", array, count, f.load("double", squares, 8))
    f.store(total, squares, 8)
