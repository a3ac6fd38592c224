"""Reads of tables in a training step on some threads: the records of their functions, filled in anew by each step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnc.backends.llvm.asm.records import Struct, address, fill_all
from rnnc.backends.llvm.calls.lockstep import Call
from rnnc.backends.llvm.kernels.gradients import COLLECT_ROWS, GROUP, LOOK_UP, SCATTER
from rnnc.backends.llvm.kernels.updates import APPLY_ROWS
from rnnc.backends.training.protocol import LookUp, Numbers
from rnnc.ir.names import SLOPE, UPDATED
from rnnc.ir.ops import Array

if TYPE_CHECKING:
    from rnnc.backends.llvm.training.table import Table
    from rnnc.backends.llvm.training.threaded_step import ThreadedStep


class TableRead:
    """A read of rows of a table, on the threads of a step.

    table: where the gradients of its rows are collected, if the table is sparse. last: it is the last read of a step
    that collects them there.
    """

    def __init__(self, step: ThreadedStep, look_up: LookUp, table: Table | None, number: int, last: bool) -> None:
        self.step, self.look_up, self.table, self.number = step, look_up, table, number
        memory, count = step.memory, step.count
        whole = memory.view(memory.flat[UPDATED], look_up.table)
        self.height, self.width = whole.shape
        self.tied = look_up in memory.tied
        self.has_gradient = look_up.rows in memory.gradients
        common: dict[str, Any] = {"members": count, "height": self.height, "table": whole, "width": self.width}
        common |= {"bytes": self.width * memory.dtype.itemsize, "last": int(last)}
        common |= {"padding": -1 if look_up.padding is None else look_up.padding}
        common |= {"terms": step.terms, "target": memory.places[look_up.table][0]}
        if table is not None:
            common |= {"count": table.count, "slots": table.slots}
        members = [common | {"member": n, "squares": step.squares[n]} for n in range(count)]
        self.look_ups, self.scatters, self.collects = (
            record.several(members, apart=True) for record in (LOOK_UP, SCATTER, COLLECT_ROWS)
        )
        self.group = GROUP.new(**{name: value for name, value in common.items() if name in GROUP.types})
        self.held: list[object] = []

    def fill(self, given: Numbers, start: int, first: bool) -> None:
        """Fills in a batch.

        start: how many places of the step's earlier reads are collected in the same table. first: the step begins anew.
        """
        numbers = np.ascontiguousarray(given.numbers, np.int64)
        lengths = None if given.lengths is None else np.ascontiguousarray(given.lengths, np.int64)
        self.held = [numbers, lengths]
        steps, batch, positions = numbers.shape
        take, dtype, rows = self.step.space.take, self.step.memory.dtype, self.look_up.rows
        sizes = (steps, batch, positions * self.width)
        self.values, self.slopes = take(f"{rows} values", sizes, dtype), take(f"{rows} from", sizes, dtype)
        if not self.has_gradient:
            self.slopes[...] = 0
        batch_fields = {"numbers": address(numbers), "lengths": address(lengths), "steps": steps, "batch": batch}
        batch_fields["positions"] = positions
        fill_all(self.look_ups, batch_fields | {"values": address(self.values)})
        if self.tied:
            fill_all(self.scatters, batch_fields | {"from": address(self.slopes)})
        if self.table is not None:
            places = self.table.places[start : start + numbers.size]
            named = {"rows": address(self.table.rows), "places": address(places)}
            fill_all([self.group], batch_fields | named | {"keep": int(not first or self.number > 0)})
            collected = {"places": address(places), "many": numbers.size, "from": address(self.slopes)}
            fill_all(self.collects, collected | {"values": address(self.table.values)})


class TableReads:
    """All reads of tables of a step."""

    def __init__(self, step: ThreadedStep) -> None:
        self.step, self.memory = step, step.memory
        self.tables = step.trainer.tables
        self.each: list[TableRead] = []
        looked_up = [look_up.table for look_up in self.memory.look_ups]
        for n, look_up in enumerate(self.memory.look_ups):
            earlier, last = looked_up[:n].count(look_up.table), look_up.table not in looked_up[n + 1 :]
            self.each.append(TableRead(step, look_up, self.tables.get(look_up.table), earlier, last))
        self.arrays = {name: self._arrays(table) for name, table in self.tables.items()}
        self.applies = {name: self._applies(name, table) for name, table in self.tables.items()}

    def _arrays(self, table: Table) -> Array:
        """The addresses of the tables that the update changes, in its order; that of the gradients changes."""
        return np.array([address(table.arrays.get(name)) for name in self.step.update.vectors], np.int64)

    def _applies(self, name: str, table: Table) -> list[Struct]:
        own = {"arrays": self.arrays[name], "count": table.count, "width": table.width}
        common = self.step.sums | own
        return APPLY_ROWS.several([common | {"member": n} for n in range(self.step.count)], apart=True)

    def fill(self, given: Mapping[str, Numbers], first: bool) -> None:
        """Fills in the numbers of a batch, by the name of the rows."""
        for name, table in self.tables.items():
            table.make_room(sum(given[r.rows].numbers.size for r in self.memory.look_ups if r.table == name), first)
        self.fill_applies()
        used = dict.fromkeys(self.tables, 0)
        for read in self.each:
            name, numbers = read.look_up.table, given[read.look_up.rows]
            read.fill(numbers, used.get(name, 0), first)
            if name in used:
                used[name] += numbers.numbers.size

    def fill_applies(self) -> None:
        """Fills in where the gradients of rows are, which moves when their number grows."""
        for name, table in self.tables.items():
            self.arrays[name][self.step.update.vectors.index(SLOPE)] = address(table.values)
            fill_all(self.applies[name], {"rows": address(table.rows)})

    # ---- what the threads call

    def begin(self, member: int) -> list[Call]:
        """Before the packing: a share of the rows, and on the last thread what rows are named."""
        calls = [(self.step.runtime("rnnc_look_up"), read.look_ups[member].address) for read in self.each]
        if member == self.step.count - 1:
            sparse = [read for read in self.each if read.table is not None]
            calls += [(self.step.runtime("rnnc_group"), read.group.address) for read in sparse]
        return calls

    def scatter(self, member: int) -> list[Call]:
        """Before the sums."""
        tied = [read for read in self.each if read.tied]
        return [(self.step.runtime("rnnc_scatter"), read.scatters[member].address) for read in tied]

    def collect(self, member: int) -> list[Call]:
        """Behind the dense sums."""
        sparse = [read for read in self.each if read.table is not None]
        return [(self.step.runtime("rnnc_collect_rows"), read.collects[member].address) for read in sparse]

    def apply(self, member: int) -> list[Call]:
        """Behind the dense update."""
        address = self.step.update.apply_rows_address
        return [(address, records[member].address) for records in self.applies.values()]

    # ---- arrays

    @property
    def values(self) -> dict[str, Array]:
        """The rows that are read, by name."""
        return {read.look_up.rows: read.values for read in self.each}

    @property
    def slopes(self) -> dict[str, Array]:
        """Their gradients, by the same names; places past the end of a row are neither written nor read."""
        return {read.look_up.rows: read.slopes for read in self.each if read.has_gradient}
