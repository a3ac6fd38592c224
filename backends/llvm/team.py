"""Teams: the threads of a training step, what each of them is given, and its script (see `rnnc.backends.llvm.trainer`).

What a function is given lies in an array of 64-bit fields that stays where it is; a step fills it in anew. An interrupt
may end that at any point, so a step relies on nothing that one before it began; then the crew runs, which is not cut.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from rnnc.backends.fresh import HINT
from rnnc.backends.llvm.crew import Call, Plan, crew
from rnnc.backends.llvm.driver import array_field, row_field, step_field, sum_field
from rnnc.backends.llvm.gradient import COLLECT, GROUP, LOOK_UP, OUT_OF_RANGE, SEGMENT
from rnnc.backends.llvm.noise import arguments
from rnnc.backends.llvm.packers import shares
from rnnc.backends.llvm.parts import Part, address, even
from rnnc.backends.llvm.table import Space
from rnnc.backends.llvm.update import APPLY, LOSSES_APART, NOT_FINITE, SQUARES_APART
from rnnc.backends.trainer import LOOKED_UP, TABLE_GRADIENT, Draw, Memory, Report, Work
from rnnc.ir.errors import SizeError
from rnnc.ir.names import LOSS, gradient
from rnnc.ir.ops import Array

if TYPE_CHECKING:
    from rnnc.backends.llvm.function import LlvmFunction
    from rnnc.backends.llvm.trainer import LlvmTrainer


class Team:
    """`count` threads of a trainer."""

    def __init__(self, trainer: LlvmTrainer, count: int) -> None:
        self.trainer, self.count = trainer, count
        self.function, self.update, self.memory = trainer.function, trainer.update, trainer.memory
        dtype = self.memory.dtype
        self.item = dtype.itemsize
        self.parts = [np.zeros(self.memory.dense, dtype) for _ in range(count)]
        self.losses = np.zeros((count, LOSSES_APART), dtype)
        self.squares = np.zeros((count, SQUARES_APART))
        self.terms = np.zeros(count, np.int64)
        self.segments, self.places = _segments(self.function, self.memory)
        self.loss = sum_field(self.function.untimed[LOSS])
        self.arrays, self.tables = self._arrays()
        self.packs = self._packs()
        self._make_fields()
        self.masks: dict[tuple[str, int], Array] = {}
        self.space = Space()
        self.crew = crew(self.function.target)
        self.plans: dict[bool, Plan] = {}
        self.held: list[object] = []

    def run(self, work: Work, parts: Sequence[Part], lengths: Array | None, *, first: bool, change: bool) -> Report:
        """One step. Raises SizeError, and IndexError if the table has no row of a number."""
        work = self._without_what_is_not_read(work)
        self._fill_table(work, lengths, first)
        arrays = self._inputs(work) | self._outputs(work, lengths is not None)
        self.held[1:] = [arrays, parts, lengths]  # until the next step: machine code has their addresses
        self._fill_contexts(work, parts, arrays, first)
        for name, draw in work.masks.items():
            self._fill_mask(name, draw)
        if change not in self.plans:
            scripts = [self._script(work, member, change) for member in range(self.count)]
            self.plans[change] = Plan(scripts)
        error = self.crew.run(self.plans[change])
        if error == OUT_OF_RANGE:
            raise IndexError(f"x names a row that the table of {self.memory.places[str(self.memory.table)][1]} lacks")
        if error not in (0, NOT_FINITE):
            raise SizeError(f"no memory for the scratch buffers of {work.steps} steps of {work.batch} rows; {HINT}")
        loss, norm = sum(self.losses[:, 0].tolist()), math.sqrt(sum(self.squares[:, 0].tolist()))
        return Report(loss, norm, change and not error)

    def _without_what_is_not_read(self, work: Work) -> Work:
        """Such as the mask of a state that no matrix product reads."""
        read = self.function.reads
        if all(map(read, (*work.inputs, *work.masks))):
            return work
        inputs = {name: array for name, array in work.inputs.items() if read(name)}
        return replace(work, inputs=inputs, masks={name: draw for name, draw in work.masks.items() if read(name)})

    def _script(self, work: Work, member: int, change: bool) -> list[list[Call]]:
        update, function = self.update, self.function
        begin = [(self.trainer.noise.call, address(self.masks[name, member])) for name in work.masks]
        if work.numbers is not None:
            begin.append((update.address("rnnc_look_up"), self.look_ups.addresses[member]))
            if member == self.count - 1:
                begin.append((update.address("rnnc_group"), self.groups.addresses[0]))
        if member == 0:
            begin += self.trainer.sources.derive
        stages = [
            begin,
            [(function.code.address("rnnc_pack_share"), address(self.packs[member]))],
            [(function.code.address("rnnc_run"), self.contexts.addresses[member])],
            [(update.address("rnnc_collect"), self.collects.addresses[member])],
        ]
        if change:
            stages.append([(update.address("rnnc_apply"), self.applies.addresses[member])])
        return stages

    # ---- arrays of a step

    def _inputs(self, work: Work) -> dict[str, Array]:
        """All that is read row by row, or step by step."""
        inputs = dict(work.inputs)
        if work.numbers is not None and self.function.reads(LOOKED_UP):
            inputs[LOOKED_UP] = self.rows["values"]
        for name, draw in work.masks.items():
            values = self.space.take(name, draw.shape, self.memory.dtype)
            inputs[name] = self._spread(values, draw, work.steps)
        return {name: even(array) if array.ndim == 3 else np.ascontiguousarray(array) for name, array in inputs.items()}

    def _spread(self, values: Array, draw: Draw, steps: int) -> Array:
        if not draw.timed:
            return np.asarray(values[0])
        return np.broadcast_to(values, (steps, *draw.shape[1:])) if draw.fixed else values

    def _outputs(self, work: Work, ragged: bool) -> dict[str, Array]:
        outputs = dict(work.outputs)
        for array in outputs.values():
            if ragged and array.ndim == 3:
                array[...] = 0
        if self.memory.table in self.memory.trained:  # steps past the end of a row are neither written nor read
            outputs[TABLE_GRADIENT] = self.rows["from"]
        return outputs

    # ---- what functions are given

    def _packs(self) -> Array:
        trainer = self.trainer
        common = (address(trainer.weights), address(trainer.sources.pointers))
        return np.array([(*common, *bounds) for bounds in shares(self.function.sweeps, self.count)], np.int64)

    def _arrays(self) -> tuple[Array, Array]:
        """Addresses of what the update changes, in its order: the dense arrays; the tables, where there are some."""
        names, table = self.update.vectors, self.trainer.table
        dense = self.memory.flat | {"g": self.trainer.gradient}
        tables = {} if table is None else table.arrays
        found = [[address(arrays.get(name)) for name in names] for arrays in (dense, tables)]
        return np.array(found[0], np.int64), np.array(found[1], np.int64)

    def _make_fields(self) -> None:
        """What is the same in every step."""
        trainer, table, count = self.trainer, self.trainer.table, self.count
        common = {"members": count, "parts": count, "terms": address(self.terms), "many": len(self.segments)}
        common |= {
            "segments": address(self.segments),
            "gradient": address(trainer.gradient),
            "dense": self.memory.dense,
        }
        common |= {"clip": address(trainer.clip), "numbers": address(trainer.numbers), "arrays": address(self.arrays)}
        common |= {"updates": address(self.memory.updates)}
        if table is not None:
            common |= {"count": address(table.count), "width": table.width, "tables": address(self.tables)}
            common |= {"slots": address(table.slots), "padding": table.padding, "height": table.height}
            common |= {"table": address(table.arrays["p"]), "bytes": table.width * self.item}
        members = [{"member": n, "squares": address(self.squares[n])} for n in range(count)]
        first = {"squares": address(self.squares), "losses": address(self.losses)}
        self.collects = _Fields(COLLECT, [common | own for own in members])
        self.applies = _Fields(APPLY, [common | own | first for own in members])
        self.look_ups = _Fields(LOOK_UP, [common | own for own in members])
        self.groups = _Fields(GROUP, [common])
        self.targets = [0] * count
        weights = {"weights": address(trainer.weights)}
        losses = [{self.loss: address(loss)} for loss in self.losses]
        self.contexts = _Fields(self.function.interface.fields, [weights | loss for loss in losses])

    def _fill_table(self, work: Work, lengths: Array | None, first: bool) -> None:
        """Rows that are looked up, and where their gradients go."""
        keep, table = int(not first), self.trainer.table
        self.collects.set({"keep": keep})
        if table is None:
            return
        assert work.numbers is not None
        numbers = np.ascontiguousarray(work.numbers, np.int64)
        self.held[:1] = [numbers]
        table.make_room(work.steps, work.batch, first)
        sizes = (work.steps, work.batch, table.width)
        self.rows = {name: self.space.take(name, sizes, self.memory.dtype) for name in ("values", "from")}
        if self.memory.table not in self.memory.trained:
            self.rows["from"][...] = 0
        batch = {"numbers": address(numbers), "lengths": address(lengths), "steps": work.steps, "batch": work.batch}
        rows, places, values = address(table.rows), address(table.places), address(table.values)
        self.look_ups.set(batch | {"values": address(self.rows["values"])})
        self.groups.set(batch | {"rows": rows, "places": places, "keep": keep})
        steps = {"places": places, "steps": work.steps * work.batch, "from": address(self.rows["from"])}
        self.collects.set(steps | {"values": values})
        self.applies.set({"rows": rows})
        self.tables[self.update.vectors.index("g")] = values

    def _fill_contexts(self, work: Work, parts: Sequence[Part], arrays: Mapping[str, Array], first: bool) -> None:
        targets = [self.trainer.gradient if self.count == 1 and first else part for part in self.parts]
        self.terms[:] = [address(target) for target in targets]
        common: dict[str, int] = {"slab": work.batch}
        for name, array in arrays.items():
            if array.ndim == 3:
                common[step_field(name)] = array.strides[0] // self.item
                common[row_field(name)] = array.strides[1] // self.item
        starts = [(array_field(name), address(array), array.strides[-2]) for name, array in arrays.items()]
        for member, (part, target) in enumerate(zip(parts, self.terms.tolist(), strict=True)):
            values = {"steps": part.steps, "batch": part.batch, **common}
            values |= {field: start + part.first * row for field, start, row in starts}
            tables = ("rows", part.rows), ("order", part.order), ("lengths", part.lengths)
            values |= {name: address(table) for name, table in tables}
            self.contexts.set(values, member)
            if target != self.targets[member]:
                self.contexts.set({f: target + place * self.item for f, place in self.places.items()}, member)
                self.targets[member] = target  # after it is true: an interrupt may come between

    def _fill_mask(self, name: str, draw: Draw) -> None:
        """Each thread draws some of the steps, or of the rows if there is but one step."""
        steps, rows, units = draw.shape
        values = self.space.take(name, draw.shape, self.memory.dtype)
        choices = self.space.take(f"{name}'s values", (2,), self.memory.dtype)
        choices[:] = draw.low, draw.high
        for member, (first, stop) in enumerate(_shares(rows if steps == 1 else steps, self.count)):
            shape = (1, stop - first, units) if steps == 1 else (stop - first, rows, units)
            begin = {"row": draw.where.row + first} if steps == 1 else {"step": draw.where.step + first}
            skipped = first * units * (1 if steps == 1 else rows) * values.itemsize
            numbers = arguments(shape, draw.where._replace(**begin), draw.p)
            given = (address(values) + skipped, address(choices), *numbers)
            self.masks.setdefault((name, member), np.zeros(len(given), np.int64))[:] = given


class _Fields:
    """The fields that the functions of some threads are given, on cache lines of their own."""

    def __init__(self, names: Sequence[str], values: Sequence[Mapping[str, int]]) -> None:
        self._place = {name: number for number, name in enumerate(names)}
        numbers = np.zeros((len(values), -(-len(names) // 8) * 8), np.int64)
        self.addresses = [address(row) for row in numbers]
        # Far quicker than an array to set single numbers of; it keeps the array alive.
        self._members = [row.data for row in numbers]
        for number, given in enumerate(values):
            self.set({name: value for name, value in given.items() if name in self._place}, number)

    def set(self, values: Mapping[str, int], member: int | None = None) -> None:
        """Sets some fields, of all threads or of one."""
        for fields in self._members if member is None else (self._members[member],):
            for name, value in values.items():
                fields[self._place[name]] = value


def _shares(size: int, count: int) -> Iterator[tuple[int, int]]:
    for number in range(count):
        yield size * number // count, size * (number + 1) // count


def _segments(function: LlvmFunction, memory: Memory) -> tuple[Array, dict[str, int]]:
    """Where sums but the loss go. The rows of SEGMENT, and field of a sum -> first element in a part's gradient.

    One sum may be the gradient of several parameters, such as both biases of a sum.
    """
    places: dict[str, int] = {}
    segments = []
    for name in memory.places:
        if name in memory.trained and name != memory.table:
            target, shape = memory.places[name]
            source = places.setdefault(sum_field(function.untimed[gradient(name)]), target)
            segments.append((target, source, math.prod(shape)))
    return np.array(segments, np.int64).reshape(-1, len(SEGMENT)), places
