"""How values read each other in generated code: which are computed, and which reads need the operand in a buffer.

The other values, views and products that a sum absorbs, are folded into their readers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from rnnc.backends.planning.grids import Grid, expanded
from rnnc.backends.planning.plan import Buffer, Place, Weight
from rnnc.ir.deep import Calls, run
from rnnc.ir.delay_lines import DelayLine
from rnnc.ir.errors import BackendError
from rnnc.ir.families import Family
from rnnc.ir.ops import Kind
from rnnc.ir.program import Loop, Program, is_parameter
from rnnc.ir.shape_rules import BATCH


@dataclass(frozen=True)
class Product:
    """A matmul for accumulators: columns of lhs @ rhs, as the weight says."""

    lhs: Family
    weight: Weight


@dataclass(frozen=True)
class Read:
    """A read of one value by another. barrier: the operand must be complete in a buffer first."""

    operand: Family
    barrier: bool


@dataclass(frozen=True)
class Delayed:
    """The columns, from `column` on, of the source of a delay line, `shift` steps before."""

    line: DelayLine
    shift: int
    column: int

    def place(self, buffers: Mapping[Family, Buffer]) -> Place:
        """Where it is. buffers: the state of a delay line -> the buffer of its source."""
        return Place(buffers[self.line.carry], self.column, shift=self.shift)


class Reading:
    """The role of each value of a program in generated code: computed, or folded into another value."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.lines = {loop.line.carry: loop.line for loop in program.loops() if loop.line is not None}
        self.loops = [loop for loop in program.loops() if loop.line is None]
        self.bound = set(program.bind) | {f for f in program.inputs if is_parameter(f)}
        self.all = list(_everything(program))
        self.loop_of = {f: n for n, loop in enumerate(self.loops) for f in loop.body}
        self.readers: dict[Family, list[Family]] = defaultdict(list)
        for reader in self.all:
            line = self.lines.get(reader)
            for operand in reader.reads() if line is None else (line.source,):
                self.readers[operand].append(reader)
        self.exits: dict[str, set[Family]] = defaultdict(set)
        for family in self.all:
            if family.op == "exit":
                self.exits[family.attr("state")].add(family)
        self._outputs = set(program.outputs.values())
        self._has_product: dict[Family, bool] = {}

    @cached_property
    def read_by(self) -> Mapping[Family, Sequence[tuple[Family, bool]]]:
        """For each value, the computed values that read it; with each, True if the read crosses a barrier."""
        found: dict[Family, list[tuple[Family, bool]]] = defaultdict(list)
        for reader in filter(self.computed, self.all):
            for read in self.reads(reader):
                found[read.operand].append((reader, read.barrier))
        return found

    def time_free(self, family: Family) -> bool:
        """True for a parameter, a number, and a value computed from those alone."""
        return family in self.bound or family.op in ("const", "zeros")

    def sums_rows(self, family: Family) -> bool:
        """True for a sum over the rows of a batch, False for the same op over the rows of a parameter."""
        return family.spec.kind is Kind.OUTER and BATCH in family.inputs[0].shape

    def summed(self, family: Family) -> bool:
        """True for a sum over rows or over time, which kernels of its own compute outside of phases."""
        return family.op == "tsum" or self.sums_rows(family)

    def product(self, family: Family) -> Product | None:
        """The matmul that a value is, or is a slice of if all readers of that matmul are slices; else None."""
        if family.op == "matmul" and not self._only_sliced(family):
            return self._columns(family, 0, int(family.shape[-1]))
        if family.op == "slice" and family.attr("axis") == -1:
            matmul, start = family.inputs[0], family.attr("start")
            if matmul.op == "matmul" and self._only_sliced(matmul):
                return self._columns(matmul, start, family.attr("stop"))
        return None

    def _only_sliced(self, matmul: Family) -> bool:
        readers = self.readers[matmul]
        if matmul in self._outputs:
            return False
        return bool(readers) and all(r.op == "slice" and r.attr("axis") == -1 for r in readers)

    def _columns(self, matmul: Family, start: int, stop: int) -> Product:
        lhs, rhs = matmul.inputs
        if not self.time_free(rhs):
            raise BackendError(f"{matmul!r}: compiled code multiplies by parameters only, not by {rhs!r}")
        return Product(lhs, Weight(rhs, bool(matmul.attr("transpose_b")), start, stop))

    def absorbed(self, family: Family) -> bool:
        """True for a product that is accumulated into the sum that reads it.

        That sum must be its only reader, and in the same loop, or both outside all loops.
        """
        readers = self.readers[family]
        if self.product(family) is None or len(readers) != 1 or family in self._outputs:
            return False
        same = readers[0].shape == family.shape  # a narrower product is broadcast, so it must be complete first
        return same and readers[0].op == "add" and self.loop_of.get(family) == self.loop_of.get(readers[0])

    def computed(self, family: Family) -> bool:
        """True for a value that a phase must compute. The others are addressing, or known before."""
        if self.time_free(family) or BATCH not in family.shape or family.op in ("carry", "exit", "input"):
            return False
        if self.summed(family):
            raise BackendError(f"{family!r}: compiled code sums over time what has no batch axis only")
        if family.op == "matmul" and self._only_sliced(family):
            return False
        if self.product(family):
            return not self.absorbed(family)
        return family.op != "slice" and not self.addressed(family)

    def addressed(self, family: Family) -> bool:
        """True for an `expand` that is addressing: its readers read its operand, with a step for each axis."""
        while self._only_read_as_grid(family):
            family = family.inputs[0]
            if family.op != "expand" or self.time_free(family):
                return True
        return False

    def _only_read_as_grid(self, family: Family) -> bool:
        if family.op != "expand" or self.time_free(family) or family in self._outputs or self._grid(family) is None:
            return False
        kinds = (Kind.ELEMENTWISE, Kind.REDUCE)
        return all(r.spec.kind in kinds or self._only_read_as_grid(r) for r in self.readers[family])

    def _grid(self, family: Family) -> Grid | None:
        """The grid with which an `expand`, or an `expand` of an `expand`, reads its operand; None if there is none."""
        operand = family.inputs[0]
        inside: Grid | None = ((int(operand.shape[-1]), 1),)
        if operand.op == "expand" and not self.time_free(operand):
            inside = self._grid(operand)
        return None if inside is None else expanded(inside, family.attr("size"), family.attr("inner"))

    def grid(self, family: Family) -> Grid:
        """The grid with which a value reads the columns of its `base`: () for one after the other."""
        return (self._grid(family) or ()) if self.addressed(family) else ()

    def base(self, family: Family) -> tuple[Family, int]:
        """The value of which a slice or an addressed `expand` is a view, and the first column of the view.

        A slice of a delay line is a view of the line's source, at another step.
        """
        if (delayed := self.delayed(family)) is not None:
            base, column = self.base(delayed.line.source)
            return base, column + delayed.column
        column = 0
        while self.addressed(family):
            family = family.inputs[0]
        while family.op == "slice" and not self.product(family) and not self.time_free(family):
            if family.attr("axis") != -1:
                raise BackendError(f"{family!r}: compiled code slices the last axis only")
            column += family.attr("start")
            family = family.inputs[0]
        return family, column

    def delayed(self, family: Family) -> Delayed | None:
        """The columns of a delay line's source that a view of the line is; None for any other value."""
        start, width = 0, int(family.shape[-1]) if family.shape else 0
        while family.op == "slice" and family.timed and not self.product(family):
            start += family.attr("start")
            family = family.inputs[0]
        line = self.lines.get(family)
        found = line.shift(start, start + width) if line is not None else None
        return Delayed(line, *found) if line is not None and found is not None else None

    def reads(self, family: Family) -> list[Read]:
        """The reads of a computed value. Views and absorbed products are replaced by what they read."""
        product = self.product(family)
        if product:
            return [Read(self.base(product.lhs)[0], True)]
        found = []
        for operand in family.inputs:
            if self.absorbed(operand):
                found += self.reads(operand)
            elif not self.time_free(operand):
                found.append(self._read(family, operand))
        return found

    def _read(self, reader: Family, operand: Family) -> Read:
        base, _ = self.base(operand)
        whole = base is operand
        narrow = base.shape[-1] != reader.shape[-1] and not self.inline_scalar(base)
        if reader.spec.kind is Kind.REDUCE:
            barrier = self.has_product(base)
        else:
            barrier = narrow or reader.op in ("concat", "expand")
        return Read(base, barrier or not whole or base.op == "concat" or base.spec.kind is Kind.REDUCE)

    def inline_scalar(self, family: Family) -> bool:
        """True for a value of one number per row that is cheap enough to be recomputed by every reader."""
        return family.shape[-1] == 1 and family.spec.kind is Kind.ELEMENTWISE and not self.has_product(family)

    def has_product(self, family: Family) -> bool:
        """True if computing a value in registers involves a matmul."""
        run(self._find_product(family))
        return self._has_product[family]

    def _find_product(self, family: Family) -> Calls:
        if family in self._has_product:  # without this, a graph of n shared values would be walked 2**n times
            return
        found = False
        if self.computed(family):
            found = bool(self.product(family)) or any(self.absorbed(i) for i in family.inputs)
            if not found and family.spec.kind is Kind.ELEMENTWISE:
                for operand in family.inputs:
                    if self.loop_of.get(operand) == self.loop_of.get(family):  # otherwise it is read from a buffer
                        yield self._find_product(operand)
                        found = found or self._has_product[operand]
        self._has_product[family] = found


def _everything(program: Program) -> Iterable[Family]:
    """All values, without those of delay lines, of which generated code has no loop; a line's state is the only one."""
    for statement in program.statements:
        if isinstance(statement, Loop):
            yield from statement.body if statement.line is None else statement.carries
        else:
            yield statement
