"""A training step on some threads: the records that their functions read, and their scripts (see `trainer`).

A record keeps its address, and each step fills it in anew. An interrupt may stop the filling at any point, so a step
relies on nothing that an earlier one has filled in partly. The run of the threads itself cannot be interrupted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnc.backends.fresh import HINT
from rnnc.backends.llvm.asm.records import Struct, address
from rnnc.backends.llvm.calls.lockstep import Call, Scripts, run_together
from rnnc.backends.llvm.calls.shards import Shard, even
from rnnc.backends.llvm.kernels.context import array_field, row_field, step_field, sum_field
from rnnc.backends.llvm.kernels.gradients import COLLECT, GROUP, LOOK_UP, OUT_OF_RANGE, SEGMENT
from rnnc.backends.llvm.kernels.noise import NOISE, filled
from rnnc.backends.llvm.kernels.packers import SHARE, shares
from rnnc.backends.llvm.kernels.updates import APPLY, LOSSES_APART, NOT_FINITE, SQUARES_APART
from rnnc.backends.llvm.training.table import ReusedArrays
from rnnc.backends.training.protocol import LOOKED_UP, TABLE_GRADIENT, Draw, Memory, Report, Work
from rnnc.ir.errors import SizeError
from rnnc.ir.names import LOSS, SLOPE, UPDATED, gradient
from rnnc.ir.ops import Array

if TYPE_CHECKING:
    from rnnc.backends.llvm.code import LlvmCode
    from rnnc.backends.llvm.training.trainer import LlvmTrainer


class ThreadedStep:
    """A trainer's step on `count` threads."""

    def __init__(self, trainer: LlvmTrainer, count: int) -> None:
        self.trainer, self.count = trainer, count
        self.code, self.update, self.memory = trainer.code, trainer.update, trainer.memory
        dtype = self.memory.dtype
        self.item = dtype.itemsize
        self.gradients = [np.zeros(self.memory.dense, dtype) for _ in range(count)]
        self.losses = np.zeros((count, LOSSES_APART), dtype)
        self.squares = np.zeros((count, SQUARES_APART))
        self.terms = np.zeros(count, np.int64)
        self.segments, self.places = _segments(self.code, self.memory)
        self.loss = sum_field(self.code.untimed[LOSS])
        self.arrays, self.tables = self._arrays()
        self.packs = self._packs()
        self._make_fields()
        self.masks: dict[str, list[Struct]] = {}
        self.space = ReusedArrays()
        self.scripts: dict[bool, Scripts] = {}
        self.held: list[object] = []

    def run(self, work: Work, shards: Sequence[Shard], lengths: Array | None, *, first: bool, change: bool) -> Report:
        """Runs one step. Raises SizeError if memory runs out, and IndexError if x names a row that the table lacks."""
        work = self._without_what_is_not_read(work)
        self._fill_table(work, lengths, first)
        arrays = self._inputs(work) | self._outputs(work, lengths is not None)
        self.held[1:] = [arrays, shards, lengths]  # kept until the next step: machine code has their addresses
        self._fill_contexts(work, shards, arrays, first)
        for name, draw in work.masks.items():
            self._fill_mask(name, draw)
        if change not in self.scripts:
            self.scripts[change] = Scripts([self._script(work, member, change) for member in range(self.count)])
        error = run_together(self.scripts[change], self.code.runtime)
        if error == OUT_OF_RANGE:
            raise IndexError(f"x names a row that the table of {self.memory.places[str(self.memory.table)][1]} lacks")
        if error not in (0, NOT_FINITE):
            raise SizeError(f"no memory for the scratch buffers of {work.steps} steps of {work.batch} rows; {HINT}")
        loss, norm = sum(self.losses[:, 0].tolist()), math.sqrt(sum(self.squares[:, 0].tolist()))
        return Report(loss, norm, change and not error)

    def _without_what_is_not_read(self, work: Work) -> Work:
        """The work without masks that the code does not read, such as that of a state that no matrix product reads."""
        read = self.code.reads
        if all(map(read, (*work.inputs, *work.masks))):
            return work
        inputs = {name: array for name, array in work.inputs.items() if read(name)}
        return replace(work, inputs=inputs, masks={name: draw for name, draw in work.masks.items() if read(name)})

    def _script(self, work: Work, member: int, change: bool) -> list[list[Call]]:
        update, code = self.update, self.code
        begin = [(self.trainer.noise.address, self.masks[name][member].address) for name in work.masks]
        if work.numbers is not None:
            begin.append((self._runtime("rnnc_look_up"), self.look_ups[member].address))
            if member == self.count - 1:
                begin.append((self._runtime("rnnc_group"), self.groups[0].address))
        if member == 0:
            begin += self.trainer.sources.derive
        stages = [
            begin,
            [(self._runtime("rnnc_sweep_share"), self.packs[member].address)],
            [(code.address("rnnc_run"), self.contexts[member].address)],
            [(self._runtime("rnnc_collect"), self.collects[member].address)],
        ]
        if change:
            stages.append([(update.apply_address, self.applies[member].address)])
        return stages

    def _runtime(self, name: str) -> int:
        return self.code.runtime.address(name)

    # ---- arrays of a step

    def _inputs(self, work: Work) -> dict[str, Array]:
        """The arrays that are read with a row per sequence, or per step and sequence."""
        inputs = dict(work.inputs)
        if work.numbers is not None and self.code.reads(LOOKED_UP):
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

    # ---- the records of the functions

    def _packs(self) -> list[Struct]:
        trainer, (sweeps, moves) = self.trainer, self.code.tables
        common = {"arena": trainer.weights, "sources": trainer.sources.pointers, "moves": moves}
        runs = shares(self.code.sweeps, self.count)
        return SHARE.several([common | {"sweeps": sweeps[a:b], "count": b - a} for a, b in runs])

    def _arrays(self) -> tuple[Array, Array]:
        """The addresses of the arrays that the update changes, in its order: dense parts, and tables if any."""
        names, table = self.update.vectors, self.trainer.table
        dense = self.memory.flat | {SLOPE: self.trainer.gradient}
        tables = {} if table is None else table.arrays
        found = [[address(arrays.get(name)) for name in names] for arrays in (dense, tables)]
        return np.array(found[0], np.int64), np.array(found[1], np.int64)

    def _make_fields(self) -> None:
        """Makes the records, with the fields that are the same in every step."""
        trainer, table, count = self.trainer, self.trainer.table, self.count
        common: dict[str, Any] = {"members": count, "shards": count, "terms": self.terms, "many": len(self.segments)}
        common |= {"segments": self.segments, "gradient": trainer.gradient, "dense": self.memory.dense}
        common |= {"clip": trainer.clip, "numbers": trainer.numbers, "arrays": self.arrays}
        common |= {"updates": self.memory.updates}
        if table is not None:
            common |= {"count": table.count, "width": table.width, "tables": self.tables}
            common |= {"slots": table.slots, "padding": table.padding, "height": table.height}
            common |= {"table": table.arrays[UPDATED], "bytes": table.width * self.item}
        members = [{"member": n, "squares": self.squares[n]} for n in range(count)]
        first = {"squares": self.squares, "losses": self.losses}
        self.collects = COLLECT.several([common | own for own in members], apart=True)
        self.applies = APPLY.several([common | own | first for own in members], apart=True)
        self.look_ups = LOOK_UP.several([_without(common, "numbers") | own for own in members], apart=True)
        self.groups = GROUP.several([_without(common, "numbers")])
        self.targets = [0] * count
        losses = [{"weights": trainer.weights, self.loss: loss} for loss in self.losses]
        self.contexts = self.code.interface.record.several(losses, apart=True)

    def _fill_table(self, work: Work, lengths: Array | None, first: bool) -> None:
        """Fills the records for the rows of the table and for their gradients."""
        keep, table = int(not first), self.trainer.table
        _fill_all(self.collects, {"keep": keep})
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
        _fill_all(self.look_ups, batch | {"values": address(self.rows["values"])})
        _fill_all(self.groups, batch | {"rows": rows, "places": places, "keep": keep})
        steps = {"places": places, "steps": work.steps * work.batch, "from": address(self.rows["from"])}
        _fill_all(self.collects, steps | {"values": values})
        _fill_all(self.applies, {"rows": rows})
        self.tables[self.update.vectors.index(SLOPE)] = values

    def _fill_contexts(self, work: Work, shards: Sequence[Shard], arrays: Mapping[str, Array], first: bool) -> None:
        gradients = [self.trainer.gradient if self.count == 1 and first else own for own in self.gradients]
        self.terms[:] = [address(array) for array in gradients]
        common: dict[str, int] = {}
        for name, array in arrays.items():
            if array.ndim == 3:
                common[step_field(name)] = array.strides[0] // self.item
                common[row_field(name)] = array.strides[1] // self.item
        starts = [(array_field(name), address(array), array.strides[-2]) for name, array in arrays.items()]
        for member, (shard, target) in enumerate(zip(shards, self.terms.tolist(), strict=True)):
            values = {"steps": shard.steps, "batch": shard.batch, **common}
            values |= {field: start + shard.first * row for field, start, row in starts}
            tables = ("rows", shard.rows), ("order", shard.order), ("lengths", shard.lengths)
            values |= {name: address(table) for name, table in tables}
            context = self.contexts[member]
            _fill_all([context], values)
            if target != self.targets[member]:
                _fill_all([context], {f: target + place * self.item for f, place in self.places.items()})
                self.targets[member] = target  # only now, because an interrupt may come before

    def _fill_mask(self, name: str, draw: Draw) -> None:
        """Fills the records of a mask. Each thread draws a share of the steps, or of the rows if there is one step."""
        steps, rows, units = draw.shape
        values = self.space.take(name, draw.shape, self.memory.dtype)
        if name not in self.masks:
            self.masks[name] = NOISE.several([{}] * self.count, apart=True)
        bounds = _shares(rows if steps == 1 else steps, self.count)
        for record, (first, stop) in zip(self.masks[name], bounds, strict=True):
            shape = (1, stop - first, units) if steps == 1 else (stop - first, rows, units)
            begin = {"row": draw.where.row + first} if steps == 1 else {"step": draw.where.step + first}
            skipped = first * units * (1 if steps == 1 else rows) * values.itemsize
            where = draw.where._replace(**begin)
            record.out = address(values) + skipped
            _fill_all([record], filled(shape, where, draw.p, draw.low, draw.high))


def _without(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The values without one of them."""
    return {key: value for key, value in values.items() if key != name}


def _fill_all(records: Sequence[Struct], values: Mapping[str, float]) -> None:
    """Sets fields of all records to numbers and addresses. The caller keeps alive the memory at the addresses."""
    for record in records:
        for name, value in values.items():
            setattr(record, name, value)


def _shares(size: int, count: int) -> Iterator[tuple[int, int]]:
    for number in range(count):
        yield size * number // count, size * (number + 1) // count


def _segments(code: LlvmCode, memory: Memory) -> tuple[Array, dict[str, int]]:
    """The places of all sums except the loss: rows of SEGMENT, and field of a sum -> first element per shard.

    One sum may be the gradient of several parameters, such as two biases that are added.
    """
    places: dict[str, int] = {}
    segments = []
    for name in memory.places:
        if name in memory.trained and name != memory.table:
            target, shape = memory.places[name]
            source = places.setdefault(sum_field(code.untimed[gradient(name)]), target)
            segments.append((target, source, math.prod(shape)))
    return SEGMENT.table(segments), places
