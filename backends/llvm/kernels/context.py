"""The context of a run: the record from which a generated function reads all that it needs of its call.

Fields for names of a graph have a mark that no other field has, so that a graph may use any name.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from rnnc.backends.llvm.asm.records import Record
from rnnc.ir.families import Family
from rnnc.ir.shape_rules import BATCH

if TYPE_CHECKING:
    from rnnc.backends.planning.plan import Plan

HEADER = (
    ("i64", "steps"),
    ("i64", "batch"),
    ("ptr", "rows"),
    ("ptr", "order"),
    ("ptr", "lengths"),
    ("ptr", "weights"),
    ("ptr", "scratch"),
    ("ptr", "sources"),
    ("ptr", "kept"),
)
"""The first fields. rows, order and lengths are null for a dense batch. rows: the first row of each step (steps + 1
numbers). order: the caller's row of each sorted row. lengths: the sorted lengths. scratch: memory that the caller keeps
between the two halves of a computation, or null. sources: the addresses of the arrays that packing reads, if the first
half is to read weights in place, or null. kept: a record of `rnnc.backends.llvm.kernels.kept_memory`, or null, if a
computation of one part is to take scratch memory of its own."""

COUNTERS = "counters"
"""The field of counters, in the context of profiled code."""

HEAD = Record("head", HEADER)
"""The first fields of every context, as a record of their own."""


class Interface:
    """The fields of a context beyond the header.

    timed: arrays with a value per step. Each has a pointer, and the strides between steps and between rows, in elements
        (`array_field`, `step_field`, `row_field`).
    rows: arrays with a value per sequence. Each has a pointer (`array_field`), which is null for an input of zeros and
        for an output that is not wanted.
    sums: results of sums over rows (`sum_field`).
    counted: there is a field of counters (`kernels.stopwatch`), which may be null.
    """

    def __init__(
        self,
        timed: tuple[str, ...],
        rows: tuple[str, ...],
        sums: tuple[Family, ...] = (),
        counted: bool = False,
    ) -> None:
        self.timed, self.rows, self.sums, self.counted = timed, rows, sums, counted

    @staticmethod
    def of(plan: Plan, *, counted: bool = False) -> Interface:
        """The interface of a plan: the arrays that it reads and writes."""
        program = plan.program
        rows = [f.name for f in program.inputs if not f.timed and BATCH in f.shape]
        rows += [n for n, f in program.outputs.items() if not f.timed and BATCH in f.shape]
        sums = tuple(total.target for total in plan.sums)
        return Interface((*plan.inputs, *plan.outputs), tuple(rows), sums, counted)

    @cached_property
    def record(self) -> Record:
        """The record of the context."""
        fields = [*HEADER]
        for name in self.timed:
            fields += [("ptr", array_field(name)), ("i64", step_field(name)), ("i64", row_field(name))]
        fields += [("ptr", array_field(name)) for name in self.rows]
        fields += [("ptr", sum_field(target)) for target in self.sums]
        return Record("context", [*fields, *([("ptr", COUNTERS)] if self.counted else [])])

    @cached_property
    def timed_numbers(self) -> Mapping[str, int]:
        """Each name of `timed` -> the position of its first field."""
        return {name: self.record.number(array_field(name)) for name in self.timed}

    @cached_property
    def row_numbers(self) -> Mapping[str, int]:
        """Each name of `rows` -> the position of its field."""
        return {name: self.record.number(array_field(name)) for name in self.rows}

    @cached_property
    def sum_numbers(self) -> Mapping[Family, int]:
        """Each of `sums` -> the position of its field."""
        return {target: self.record.number(sum_field(target)) for target in self.sums}


def array_field(name: str) -> str:
    """The field that points to an array."""
    return f"@{name}"


def step_field(name: str) -> str:
    """The field with an array's stride between steps, in elements."""
    return f"step@{name}"


def row_field(name: str) -> str:
    """The field with an array's stride between rows, in elements."""
    return f"row@{name}"


def sum_field(target: Family) -> str:
    """The field that points to the result of a sum."""
    return f"sum{target.index}"
