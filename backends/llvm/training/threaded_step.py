"""A training step on some threads: the records that their functions read, and their scripts (see `trainer`).

A record keeps its address, and each step fills it in anew. An interrupt may stop the filling at any point, so a step
relies on nothing that an earlier one has filled in partly. The run of the threads itself cannot be interrupted.
"""

from __future__ import annotations

import ctypes
import math
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnc.backends.fresh import HINT
from rnnc.backends.llvm.asm.records import Struct, address, fill_all
from rnnc.backends.llvm.calls.lockstep import Call, Scripts, run_together
from rnnc.backends.llvm.calls.shards import Shard, even
from rnnc.backends.llvm.kernels.binding import KEPT
from rnnc.backends.llvm.kernels.context import array_field, row_field, step_field, sum_field
from rnnc.backends.llvm.kernels.gradients import COLLECT, OUT_OF_RANGE, SEGMENT
from rnnc.backends.llvm.kernels.noise import NOISE, filled
from rnnc.backends.llvm.kernels.packers import SHARE, shares
from rnnc.backends.llvm.kernels.updates import APPLY, LOSSES_APART, NOT_FINITE, SQUARES_APART
from rnnc.backends.llvm.training.reads import TableReads
from rnnc.backends.llvm.training.table import ReusedArrays
from rnnc.backends.training.protocol import Draw, Memory, Report, Work
from rnnc.ir.errors import SizeError
from rnnc.ir.names import SLOPE, gradient
from rnnc.ir.ops import Array

if TYPE_CHECKING:
    from rnnc.backends.llvm.code import LlvmCode
    from rnnc.backends.llvm.training.trainer import LlvmTrainer


class ThreadedStep:
    """A trainer's step on `count` threads."""

    def __init__(self, trainer: LlvmTrainer, count: int) -> None:
        self.trainer, self.count = trainer, count
        self.code, self.update, self.memory = trainer.code, trainer.optimizer, trainer.memory
        dtype = self.memory.dtype
        self.item = dtype.itemsize
        self.gradients = [np.zeros(self.memory.dense, dtype) for _ in range(count)]
        self.apart = -(-len(self.memory.losses) // LOSSES_APART) * LOSSES_APART
        self.losses = np.zeros((count, self.apart), dtype)
        self.squares = np.zeros((count, SQUARES_APART))
        self.terms = np.zeros(count, np.int64)
        self.segments, self.places = _segments(self.code, self.memory)
        self.arrays = self._arrays()
        self.packs = self._packs()
        self.sums = self._sums()
        self._make_fields()
        self.masks: dict[str, list[Struct]] = {}
        self.space = ReusedArrays()
        self.reads = TableReads(self)
        self.scripts: dict[bool, Scripts] = {}
        self.held: list[object] = []

    def run(self, work: Work, shards: Sequence[Shard], lengths: Array | None, *, first: bool, change: bool) -> Report:
        """Runs one step. Raises SizeError if memory runs out, and IndexError if a number is no row of its table."""
        work = self._without_what_is_not_read(work)
        fill_all(self.collects, {"keep": int(not first)})
        self.reads.fill(work.numbers, first)
        arrays = self._inputs(work) | self._outputs(work, lengths is not None)
        self.held = [arrays, shards, lengths]  # kept until the next step: machine code has their addresses
        self._fill_contexts(work, shards, arrays, first)
        for name, draw in work.masks.items():
            self._fill_mask(name, draw)
        if change not in self.scripts:
            self.scripts[change] = Scripts([self._script(work, member, change) for member in range(self.count)])
        error = run_together(self.scripts[change], self.code.runtime)
        if error == OUT_OF_RANGE:
            tables = {f"{r.table} {self.memory.places[r.table][1]}" for r in self.memory.look_ups}
            raise IndexError(f"the batch names a row that a table lacks: {', '.join(sorted(tables))}")
        if error not in (0, NOT_FINITE):
            raise SizeError(f"no memory for the scratch buffers of {work.steps} steps of {work.batch} rows; {HINT}")
        losses = tuple(sum(column) for column in self.losses.T[: len(self.memory.losses)].tolist())
        return Report(losses, math.sqrt(sum(self.squares[:, 0].tolist())), change and not error)

    def apply(self, losses: Sequence[float], squares: float) -> bool:
        """Makes the update of the gradients in place, and returns whether it was made.

        losses, squares: of all members together, which decide whether the update is made, and how it is clipped.
        """
        self.losses[...], self.squares[...] = 0, 0
        self.losses[0, : len(losses)], self.squares[0, 0] = losses, squares
        self.reads.fill_applies()
        scripts = Scripts([[self._apply(member)] for member in range(self.count)])
        return not run_together(scripts, self.code.runtime)

    def _without_what_is_not_read(self, work: Work) -> Work:
        """The work without masks that the code does not read, such as that of a state that no matrix product reads."""
        read = self.code.reads
        if all(map(read, (*work.inputs, *work.masks))):
            return work
        inputs = {name: array for name, array in work.inputs.items() if read(name)}
        return replace(work, inputs=inputs, masks={name: draw for name, draw in work.masks.items() if read(name)})

    def _script(self, work: Work, member: int, change: bool) -> list[list[Call]]:
        code = self.code
        begin = [(self.trainer.noise.address, self.masks[name][member].address) for name in work.masks]
        begin += self.reads.begin(member)
        if member == 0:
            begin += self.trainer.sources.derive
        stages = [
            begin,
            [(self.runtime("rnnc_sweep_share"), self.packs[member].address)],
            [(code.address("rnnc_run"), self.contexts[member].address)],
        ]
        if scattered := self.reads.scatter(member):
            stages.append(scattered)
        stages.append([(self.runtime("rnnc_collect"), self.collects[member].address), *self.reads.collect(member)])
        if change:
            stages.append(self._apply(member))
        return stages

    def _apply(self, member: int) -> list[Call]:
        return [(self.update.apply_address, self.applies[member].address), *self.reads.apply(member)]

    def runtime(self, name: str) -> int:
        """The address of a function of the runtime."""
        return self.code.runtime.address(name)

    # ---- arrays of a step

    def _inputs(self, work: Work) -> dict[str, Array]:
        """The arrays that are read with a row per sequence, or per step and sequence."""
        looked_up = {name: array for name, array in self.reads.values.items() if self.code.reads(name)}
        inputs = {**work.inputs, **looked_up}
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
        return outputs | {gradient(name): array for name, array in self.reads.slopes.items()}

    # ---- the records of the functions

    def _packs(self) -> list[Struct]:
        trainer, (sweeps, moves) = self.trainer, self.code.manifest.tables
        common = {"arena": trainer.weights, "sources": trainer.sources.pointers, "moves": moves}
        runs = shares(self.code.manifest.tables, self.count)
        return SHARE.several([common | {"sweeps": sweeps[a:b], "count": b - a} for a, b in runs])

    def _arrays(self) -> Array:
        """The addresses of the arrays that the update changes, in its order."""
        arrays = self.memory.flat | {SLOPE: self.trainer.gradient}
        return np.array([address(arrays[name]) for name in self.update.vectors], np.int64)

    def _sums(self) -> dict[str, Any]:
        """What updates read of all members."""
        losses = {"losses": self.losses, "many": len(self.memory.losses), "apart": self.apart}
        numbers = {"clip": self.trainer.clip, "numbers": self.trainer.numbers}
        return {"members": self.count, "squares": self.squares} | losses | numbers

    def _make_fields(self) -> None:
        """Makes the records, with the fields that are the same in every step."""
        trainer, count = self.trainer, self.count
        collect: dict[str, Any] = {"members": count, "shards": count, "terms": self.terms, "gradient": trainer.gradient}
        collect |= {"segments": self.segments, "many": len(self.segments)}
        collects = [collect | {"member": n, "squares": self.squares[n]} for n in range(count)]
        apply = self.sums | {"dense": self.memory.dense, "arrays": self.arrays, "updates": self.memory.updates}
        self.collects = COLLECT.several(collects, apart=True)
        self.applies = APPLY.several([apply | {"member": n} for n in range(count)], apart=True)
        self.targets = [0] * count
        fields = [sum_field(self.code.untimed[name]) for name in self.memory.losses]
        own = [{field: address(losses[n:]) for n, field in enumerate(fields)} for losses in self.losses]
        self.kept = KEPT.several([{}] * count, apart=True)
        self.contexts = self.code.interface.record.several(
            [{"weights": trainer.weights, "kept": kept} | places for kept, places in zip(self.kept, own, strict=True)],
            apart=True,
        )
        weakref.finalize(self, _free_all, self.runtime("rnnc_free_kept"), self.kept).atexit = False

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
            fill_all([context], values)
            if target != self.targets[member]:
                fill_all([context], {f: target + place * self.item for f, place in self.places.items()})
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
            fill_all([record], filled(shape, where, draw.p, draw.low, draw.high))


def _shares(size: int, count: int) -> Iterator[tuple[int, int]]:
    for number in range(count):
        yield size * number // count, size * (number + 1) // count


def _free_all(free: int, kept: Sequence[Struct]) -> None:
    """Frees the scratch memory of all members. free: the address of `rnnc_free_kept`."""
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(free)
    for record in kept:
        function(record.address)


def _segments(code: LlvmCode, memory: Memory) -> tuple[Array, dict[str, int]]:
    """The places of all sums except the losses: rows of SEGMENT, and field of a sum -> first element per shard.

    One sum may be the gradient of several parameters, such as two biases that are added.
    """
    places: dict[str, int] = {}
    segments = []
    for name in memory.with_gradients:
        target, shape = memory.places[name]
        source = places.setdefault(sum_field(code.untimed[gradient(name)]), target)
        segments.append((target, source, math.prod(shape)))
    return SEGMENT.table(segments), places
