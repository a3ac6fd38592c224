"""A training step as one call of machine code per thread.

    1  a share of each mask; a share of the rows that are looked up; which rows the batch names (the last thread)
    2  a share of packing the weights
    3  loss and gradients of this thread's sequences
    4  a share of the sums: of gradients over the threads, and of rows' gradients over steps; their squares
    5  a share of the update, with the factor that clips: of parameters, and of rows of tables

A table that is read as a matrix, too, has a dense gradient: between 3 and 4, those of its rows are added to it.

After each stage the threads wait for each other (`rnnc.backends.llvm.calls.lockstep`). Before the call, Python fills in
addresses and sizes. After it, Python reads the loss and the norm. Memory stays allocated from step to step.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from rnnc.backends import fresh
from rnnc.backends.llvm.asm.records import address
from rnnc.backends.llvm.calls.buffers import ALIGNMENT, aligned_view
from rnnc.backends.llvm.calls.shards import split_batch
from rnnc.backends.llvm.calls.threads import MOST_WORKERS
from rnnc.backends.llvm.kernels.derivable import elements, is_derivable, leaves
from rnnc.backends.llvm.kernels.derived import NAME, emit_derived
from rnnc.backends.llvm.runtime import Linked
from rnnc.backends.llvm.training.table import Table
from rnnc.backends.llvm.training.threaded_step import ThreadedStep
from rnnc.backends.reference.evaluation import evaluate
from rnnc.backends.training.protocol import Change, Gradients, Memory, Report, Work
from rnnc.backends.training.sparse import SparseRows
from rnnc.ir.families import Family, operands_first
from rnnc.ir.names import UPDATED, gradient
from rnnc.ir.ops import Array

if TYPE_CHECKING:
    from rnnc.backends.llvm.code import LlvmCode
    from rnnc.backends.llvm.training.masks import LlvmNoise
    from rnnc.backends.llvm.training.update import LlvmUpdate


class LlvmTrainer:
    """See `rnnc.backends.training.protocol.Trainer`. The code's outputs without a batch axis are sums over rows."""

    def __init__(self, code: LlvmCode, update: LlvmUpdate, noise: LlvmNoise, memory: Memory) -> None:
        self.code, self.optimizer, self.noise, self.memory = code, update, noise, memory
        self.members = min(code.threads, MOST_WORKERS)
        self.gradient = np.zeros(memory.dense, memory.dtype)
        block = fresh.block(code.manifest.arena_size * memory.dtype.itemsize + ALIGNMENT)
        self.weights = aligned_view(block, code.manifest.arena_size, memory.dtype)
        self.numbers = np.zeros(len(update.numbers), memory.dtype)
        self.clip = np.zeros(2)
        self.sources = _Sources(code, memory)
        self.tables = {name: Table(memory, name) for name in memory.sparse}
        self._steps: dict[int, ThreadedStep] = {}
        self._step: ThreadedStep | None = None

    def run(self, work: Work, *, first: bool, change: Change | None) -> Report:
        """See `Trainer.run`."""
        code = self.code
        count = min(code.step_members(work.steps, work.batch), self.members)
        self._step = step = self._on(count)
        self.sources.refresh(work.seeds)
        ragged = work.lengths is not None and code.ragged
        lengths = np.ascontiguousarray(work.lengths, np.int64) if ragged else None
        if change is not None:
            self._set(change)
        shards = split_batch(work.steps, work.batch, lengths, count)
        return step.run(work, shards, lengths, first=first, change=change is not None)

    def update(self, gradients: Gradients, change: Change) -> Report:
        """See `Trainer.update`. It runs on as many threads as the batch before it."""
        step = self._step or self._on(1)
        self._set(change)
        self.gradient[...] = gradients.dense
        for name, rows in gradients.rows.items():
            self.tables[name].replace(rows)
        norm = gradients.norm
        return Report(gradients.losses, norm, step.apply(gradients.losses, norm**2))

    def _on(self, count: int) -> ThreadedStep:
        """The step on so many threads."""
        if count not in self._steps:
            self._steps[count] = ThreadedStep(self, count)
        return self._steps[count]

    def _set(self, change: Change) -> None:
        """Sets the numbers that the threads read in an update."""
        self.numbers[:] = [change.scalars.get(name, 1.0) for name in self.optimizer.numbers]
        self.clip[:] = math.inf if change.clip is None else change.clip, change.most

    def fetch(self) -> None:
        """See `Trainer.fetch`."""

    def rows(self, table: str) -> SparseRows:
        """See `Trainer.rows`."""
        return self.tables[table].rows_of()

    def explain(self) -> str:
        """See `Trainer.explain`."""
        changing = ", ".join(self.sources.changing) or "nothing"
        return (
            "a step: one call of machine code on each thread: masks and rows of tables, packing, loss and "
            f"gradients, sums and norm, update; computed by NumPy before it: {changing}\n"
        )


class _Sources:
    """The arrays that packing reads: parameters, constants, and values computed from them.

    Values that depend on parameters are computed anew in each step: by generated code if possible (`derive`: the
    function and its argument), otherwise by NumPy (`changing`).
    """

    def __init__(self, code: LlvmCode, memory: Memory) -> None:
        self._dtype = code.dtype.name
        self._seeds = {gradient(name): np.ones(1, memory.dtype) for name in memory.losses}
        given = {**memory.constants, **memory.views(memory.flat[UPDATED]), **self._seeds}
        inputs = {name: family for name, family in code.parameters.items() if name in given}
        self._known = {family: np.ascontiguousarray(given[name], memory.dtype) for name, family in inputs.items()}
        fixed = {code.parameters[name] for name in memory.constants if name in code.parameters}
        moved = _moved(code.sources, fixed)
        moving = [f for f in code.sources if f.op != "input" and f in moved]
        derived = [family for family in moving if is_derivable(family)]
        self._changing = {n: f for n, f in enumerate(code.sources) if f in moving and f not in derived}
        self.changing = [family.name for family in self._changing.values()]
        results = {family: fresh.empty(elements(family), memory.dtype) for family in derived}
        self._held = [
            results[family] if family in results else self._made(family, dict(self._known)) for family in code.sources
        ]
        self.pointers = np.array([address(array) for array in self._held] or [0], np.int64)
        self._given = np.array(
            [address(array) for array in (*(self._known[f] for f in leaves(derived)), *results.values())], np.int64
        )
        self._linked = Linked(emit_derived(derived, self._dtype, code.target), code.runtime) if derived else None
        self.derive = [(self._linked.address(NAME), address(self._given))] if self._linked else []

    def refresh(self, seeds: Sequence[float]) -> None:
        """Before a step, sets the seeds of the losses, and the values that NumPy computes."""
        for array, seed in zip(self._seeds.values(), seeds, strict=True):
            array[0] = seed
        known = dict(self._known) if self._changing else {}
        for number, family in self._changing.items():
            self._held[number] = self._made(family, known)
            self.pointers[number] = address(self._held[number])

    def _made(self, family: Family, known: dict[Family, Array]) -> Array:
        evaluate(operands_first([family], known), known, self._dtype)
        known[family] = np.ascontiguousarray(known[family], self._dtype)
        return known[family]


def _moved(values: Iterable[Family], fixed: set[Family]) -> set[Family]:
    """The values, and those they are computed from, that depend on an input that is not fixed."""
    moved: set[Family] = set()
    for family in operands_first(values):
        if family.op == "input" and family not in fixed or any(operand in moved for operand in family.inputs):
            moved.add(family)
    return moved
