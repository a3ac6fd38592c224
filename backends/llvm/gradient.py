"""Generated code around the gradients of a batch: rows of a table, sums over parts of the batch, their norm.

    rnnc_look_up   a member's share of the rows of a table that a batch reads
    rnnc_group     which rows of a table a batch names, and where in a list of them each step's gradient goes
    rnnc_collect   a member's share of: dense gradients = sum over parts; rows = sum over steps; sum of squares

All are called by members of a crew with the address of a context of 64-bit fields. The order of every sum is fixed by
the batch and the number of members.
"""

from __future__ import annotations

from collections.abc import Sequence

from rnnc.backends.llvm.emitter import Function, Val, i64, vector
from rnnc.backends.llvm.phase import ELEMENT_BYTES, SCALARS
from rnnc.backends.llvm.target import Target

LOOK_UP = ("member", "members", "numbers", "lengths", "steps", "batch", "height", "table", "values", "bytes")
"""Fields of `rnnc_look_up`: those of GROUP, and: values: (steps, batch, bytes), what is read; steps past a row's end
are left alone. table: (height, bytes). The result is OUT_OF_RANGE if the table has no such row."""

OUT_OF_RANGE = 2

GROUP = ("numbers", "lengths", "steps", "batch", "height", "padding", "slots", "rows", "count", "places", "keep")
"""Fields of `rnnc_group`. numbers: (steps, batch), rows of the table, which has `height` of them. lengths: (batch,), or
null. padding: a row that is left out, or -1. slots: (V,), 1 + the place in `rows` of a row that is there, else 0.
rows: the rows named so far; count: the address of how many. places: (steps * batch,), where each step's gradient goes:
2 * place in `rows`, plus 1 if it is the first to go there; -1 if it is left out. keep: 0 if the rows named so far are
to be forgotten."""

COLLECT = ("member", "members", "terms", "parts", "segments", "many", "keep", "gradient", "places", "steps", "from",
           "values", "count", "width", "squares")  # fmt: skip
"""Fields of `rnnc_collect`. terms: the addresses of the parts' dense gradients; parts: how many. segments: `many` runs
of SEGMENT. keep: 1 if sums are added to what is in `gradient`. places: of `rnnc_group`, or null; steps: how many.
from: (steps, width), the gradient of each step. values: (rows, width). count: the address of how many rows.
squares: where the sum of squares (a double) of this member's share goes."""

SEGMENT = ("target", "source", "size")
"""A parameter: its first element in `gradient` and in each part, and its elements."""

LINE = 16
"""Elements: what members write lies a line apart."""
BLOCK = 2048
"""Elements that are summed, then squared."""


def fields(f: Function, context: Val, names: Sequence[str], pointers: Sequence[str]) -> dict[str, Val]:
    """The fields of a context."""
    places = {name: f.element(context, number, "i64") for number, name in enumerate(names)}
    return {name: f.load("ptr" if name in pointers else "i64", place, 8) for name, place in places.items()}


def share(f: Function, size: Val, member: Val, members: Val, unit: int = LINE) -> tuple[Val, Val]:
    """The first element of a member's share, and that after it: whole units, but for the last one."""
    units = f.udiv(f.add(size, unit - 1), unit)
    bounds = [f.mul(f.udiv(f.mul(units, number), members), unit) for number in (member, f.add(member, 1))]
    return f.minimum(bounds[0], size), f.minimum(bounds[1], size)


def emit_look_up() -> Function:
    """i32 rnnc_look_up(ptr context)."""
    f = Function("rnnc_look_up", [Val("ptr", "%context")], result="i32")
    given = fields(f, f.parameters[0], LOOK_UP, ("numbers", "lengths", "table", "values"))
    result = f.alloca("i32", 1, 4)
    f.store(Val("i32", "0"), result, 4)
    first, stop = share(f, given["steps"], given["member"], given["members"], 1)
    with (
        f.loop(first, stop) as step,
        f.loop(0, given["batch"]) as row,
        f.when(_inside(f, step.index, row.index, given)),
    ):
        at = f.add(f.mul(step.index, given["batch"]), row.index)
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


def _inside(f: Function, step: Val, row: Val, given: dict[str, Val]) -> Val:
    """Whether a row still runs; all do if there are no lengths."""
    dense = f.is_null(given["lengths"])
    table = f.select(dense, given["numbers"], given["lengths"])  # any memory that can be read
    length = f.load("i64", f.element(table, f.select(dense, i64(0), row), "i64"), 8)
    return f.binary("or", dense, f.compare("ult", step, length))


def emit_group() -> Function:
    """i32 rnnc_group(ptr context): in the order of steps, then of sequences."""
    f = Function("rnnc_group", [Val("ptr", "%context")], result="i32")
    given = fields(f, f.parameters[0], GROUP, ("numbers", "lengths", "slots", "rows", "count", "places"))
    _forget(f, given)
    with f.loop(0, given["steps"]) as step, f.loop(0, given["batch"]) as row:
        at = f.add(f.mul(step.index, given["batch"]), row.index)
        place = f.element(given["places"], at, "i64")
        f.store(i64(-1), place, 8)
        number = f.load("i64", f.element(given["numbers"], at, "i64"), 8)
        there = f.binary("and", f.compare("ult", number, given["height"]), f.compare("ne", number, given["padding"]))
        with f.when(f.binary("and", _inside(f, step.index, row.index, given), there)):
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
    """Twice the place of a row in the list, to which it may be new; plus one if it is."""
    slot = f.element(given["slots"], number, "i64")
    found = f.load("i64", slot, 8)
    new = f.compare("eq", found, 0)
    count = f.load("i64", given["count"], 8)
    with f.when(new):
        f.store(number, f.element(given["rows"], count, "i64"), 8)
        f.store(f.add(count, 1), slot, 8)
        f.store(f.add(count, 1), given["count"], 8)
    return f.select(new, f.add(f.mul(count, 2), 1), f.mul(f.sub(found, 1), 2))


def emit_collect(dtype: str, target: Target) -> list[Function]:
    """i32 rnnc_collect(ptr context), and what it calls."""
    kernels = _Kernels(dtype, target)
    return [kernels.put(), kernels.square(), _collect(dtype)]


class _Kernels:
    """Loops over contiguous elements: whole vectors, then single ones."""

    def __init__(self, dtype: str, target: Target) -> None:
        self.scalar, self.size, self.lanes = SCALARS[dtype], ELEMENT_BYTES[dtype], target.lanes(dtype)

    def put(self) -> Function:
        """target[:count] = source[:count], or += if `add` is 1."""
        names = ("ptr %target", "ptr %source", "i64 %count", "i64 %add")
        f = Function("rnnc_put", [Val(*name.split()) for name in names])
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
        names = ("ptr %array", "i64 %count", "double %total")
        f = Function("rnnc_square", [Val(*name.split()) for name in names], result="double")
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
    f, scalar = Function("rnnc_collect", [Val("ptr", "%context")], result="i32"), SCALARS[dtype]
    pointers = ("terms", "segments", "gradient", "places", "from", "values", "count", "squares")
    given = fields(f, f.parameters[0], COLLECT, pointers)
    f.store(f.constant(0.0, "double"), given["squares"], 8)
    with f.loop(0, given["many"]) as number:
        entry = f.element(given["segments"], f.mul(number.index, len(SEGMENT)), "i64")
        _collect_segment(f, scalar, given, fields(f, entry, SEGMENT, ()))
    with f.when(f.value("i1", f"icmp ne {given['places']}, null")):
        _collect_rows(f, scalar, given)
    f.ret(Val("i32", "0"))
    return f


def _collect_segment(f: Function, scalar: str, given: dict[str, Val], segment: dict[str, Val]) -> None:
    """Block by block: what a block's sum and its squares read again is still in the cache."""
    start, stop = share(f, segment["size"], given["member"], given["members"])
    with f.loop(start, stop, BLOCK) as block:
        count = f.minimum(f.sub(stop, block.index), i64(BLOCK))
        own = f.element(given["gradient"], f.add(segment["target"], block.index), scalar)
        with f.loop(0, given["parts"]) as part:
            term = f.load("ptr", f.element(given["terms"], part.index, "ptr"), 8)
            term = f.element(term, f.add(segment["source"], block.index), scalar)
            add = f.select(f.compare("eq", part.index, 0), given["keep"], i64(1))
            with f.when(f.compare("ne", own, term)):
                f.call_defined("void", "rnnc_put", own, term, count, add)
        _add_squares(f, own, count, given["squares"])


def _collect_rows(f: Function, scalar: str, given: dict[str, Val]) -> None:
    """A share of the columns of all rows: members need not know of each other's steps."""
    start, stop = share(f, given["width"], given["member"], given["members"])
    count = f.sub(stop, start)
    with f.loop(0, given["steps"]) as step:
        place = f.load("i64", f.element(given["places"], step.index, "i64"), 8)
        with f.when(f.value("i1", f"icmp sge {place}, 0")):
            row = f.add(f.mul(f.udiv(place, 2), given["width"]), start)
            term = f.add(f.mul(step.index, given["width"]), start)
            pointers = (f.element(given["values"], row, scalar), f.element(given["from"], term, scalar))
            f.call_defined("void", "rnnc_put", *pointers, count, f.sub(i64(1), f.binary("and", place, i64(1))))
    with f.loop(0, f.load("i64", given["count"], 8)) as number:
        row = f.add(f.mul(number.index, given["width"]), start)
        _add_squares(f, f.element(given["values"], row, scalar), count, given["squares"])


def _add_squares(f: Function, array: Val, count: Val, squares: Val) -> None:
    total = f.call_defined("double", "rnnc_square", array, count, f.load("double", squares, 8))
    f.store(total, squares, 8)
