"""Calls of compiled code: named arrays in, named arrays out, at once or in two halves with a tape between them."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnc.backends import fresh
from rnnc.backends.base import PlainCall
from rnnc.backends.llvm.asm.records import Record, Struct, address
from rnnc.backends.llvm.calls.buffers import ALIGNMENT, aligned_view
from rnnc.backends.llvm.calls.lockstep import run_all
from rnnc.backends.llvm.calls.shards import Shard, even, split_batch
from rnnc.backends.llvm.kernels.context import array_field, row_field, step_field, sum_field
from rnnc.backends.locks import new_lock
from rnnc.backends.reference.interpreter import evaluate
from rnnc.ir.errors import SizeError
from rnnc.ir.families import Family, operands_first
from rnnc.ir.ops import Array

if TYPE_CHECKING:
    from rnnc.backends.llvm.code import LlvmCode

Arrays = Mapping[str, Array]


class LlvmBound:
    """See `rnnc.backends.base.Bound`. Weights are packed once if all parameters are bound, otherwise in each call."""

    def __init__(self, code: LlvmCode, parameters: Arrays) -> None:
        self.code = code
        self._values = _known(code, parameters)
        fixed = code.packed_parameters <= set(parameters)
        self._weights = _pack(code, dict(self._values), fresh.block) if fixed else None

    def quick(self, call: PlainCall) -> Callable[[object, object], Any] | None:
        """See `rnnc.backends.base.Bound.quick`."""
        if self._weights is None:
            return None
        from rnnc.backends.llvm.calls.quick import quick_call

        return quick_call(self.code, self._weights, call)

    def start(self, inputs: Arrays, outputs: Arrays, steps: int, batch: int, lengths: Array | None) -> LlvmTape:
        """See `rnnc.backends.base.Bound.start`."""
        code = self.code
        assert lengths is None or code.ragged
        members = code.members(steps, batch)
        if lengths is not None:  # empty rows need no thread
            members = max(1, min(members, int(np.count_nonzero(lengths))))
        shards = split_batch(steps, batch, lengths, members)
        given = _known(code, inputs)
        # Copied, because the caller may change them before the second half reads them.
        given |= {family: given[family].copy() for family in code.read_late & given.keys()}
        tape = LlvmTape(code, self._values | given, shards, lengths is not None)
        tape.place(self._weights)
        tape.run("rnnc_run", inputs, outputs)
        return tape


class LlvmTape:
    """One call: its weights, and its scratch memory, in which the first half leaves values for the second.

    Later calls reuse the memory.
    """

    def __init__(self, code: LlvmCode, values: dict[Family, Array], shards: list[Shard], ragged: bool) -> None:
        self._code, self._values, self._shards, self._ragged = code, values, shards, ragged
        self._lock = new_lock()
        self._blocks: list[Array] = []
        weakref.finalize(self, code.pool.give, self._blocks)

    def place(self, weights: Array | None) -> None:
        """Takes scratch memory, and packs the weights unless they are packed already."""
        if weights is None:
            weights = _pack(self._code, self._values, self._take)
        self._headers = [self._header(shard, weights) for shard in self._shards]

    def finish(self, inputs: Arrays, outputs: Arrays) -> None:
        """See `rnnc.backends.base.Tape.finish`. Calls take turns: the second half writes to the memory of the first."""
        with self._lock:
            self.run("rnnc_finish", inputs, outputs)

    def run(self, half: str, inputs: Arrays, outputs: Arrays) -> None:
        """Runs a half, by the name of its function."""
        code, interface = self._code, self._code.interface
        read = {name: inputs[name] for name in interface.timed if name in inputs}
        written = {name: outputs[name] for name in interface.timed if name in outputs}
        targets = {name: even(array) for name, array in written.items()}
        if self._ragged:
            for array in targets.values():
                array[...] = 0
        timed = {name: even(array) for name, array in read.items()} | targets
        rows = {name: given for name in interface.rows if (given := inputs.get(name, outputs.get(name))) is not None}
        sums = [self._sum_arrays(outputs, half == "rnnc_finish") for _ in self._shards]
        contexts = [type(header).from_buffer_copy(header) for header in self._headers]
        for shard, context, totals in zip(self._shards, contexts, sums, strict=True):
            _fill(context, shard, timed, rows, code.dtype.itemsize)
            for family, array in totals.items():
                setattr(context, sum_field(family), address(array))
        self._call(half, contexts)
        for name, target in targets.items():
            if target is not written[name]:
                written[name][...] = target
        if code.untimed:
            self._deliver(sums, outputs)

    def _call(self, half: str, contexts: Sequence[Struct]) -> None:
        code = self._code
        if len(contexts) == 1:
            error = code.run_functions[half](contexts[0].address)
        else:
            function = code.address(half)
            error = run_all([(function, context.address) for context in contexts], code.runtime)
        if error:
            steps, batch = max(s.steps for s in self._shards), sum(s.batch for s in self._shards)
            raise SizeError(f"no memory for the scratch buffers of {steps} steps of {batch} rows; {fresh.HINT}")

    # ---- memory

    def _header(self, shard: Shard, weights: Array) -> Struct:
        """A context without the arrays of a call."""
        record: Record = self._code.interface.record
        tables = {"rows": shard.rows, "order": shard.order, "lengths": shard.lengths}
        context = record.new(steps=shard.steps, batch=shard.batch, weights=weights, **tables)
        if self._code.scratch_size is not None:
            context.fill({"scratch": self._take(self._code.scratch_size(context.address))})
        return context

    def _take(self, size: int) -> Array:
        """Memory that belongs to this call until it ends."""
        block = self._code.pool.take(size)
        self._blocks.append(block)
        return block

    # ---- values without a batch axis

    def _sum_arrays(self, outputs: Arrays, late: bool) -> dict[Family, Array]:
        """The array of each sum over rows: an output if the sum is one, otherwise a new array."""
        code = self._code
        alone = len(self._shards) == 1
        own = {f: outputs[n] for n, f in code.untimed.items() if n in outputs} if alone else {}
        wanted = [total.target for total in code.plan.sums if total.late == late]
        return {f: own[f] if f in own else fresh.empty(_sizes(f), code.dtype) for f in wanted}

    def _deliver(self, sums: list[dict[Family, Array]], outputs: Arrays) -> None:
        """Computes the outputs without a batch axis: the sums over all shards, and the values made from them."""
        known = dict(self._values)
        for family, first in sums[0].items():
            for other in sums[1:]:
                first += other[family]
            known[family] = first
        wanted = {name: family for name, family in self._code.untimed.items() if name in outputs}
        evaluate(operands_first(wanted.values(), known), known, self._code.program.dtype)
        for name, family in wanted.items():
            if known[family] is not outputs[name]:
                outputs[name][...] = known[family]


def _known(code: LlvmCode, arrays: Arrays) -> dict[Family, Array]:
    """The parameters among some arrays."""
    return {family: arrays[name] for name, family in code.parameters.items() if name in arrays}


def _pack(code: LlvmCode, known: dict[Family, Array], take: Callable[[int], Array]) -> Array:
    """The packed arena, in memory from `take`."""
    weights = aligned_view(take(code.layout.size * code.dtype.itemsize + ALIGNMENT), code.layout.size, code.dtype)
    evaluate(code.computed, known, code.program.dtype)
    arrays = [np.ascontiguousarray(known[family], code.dtype) for family in code.sources]
    pointers = (ctypes.c_void_p * max(1, len(arrays)))(*map(address, arrays))
    sweeps, moves = code.tables
    code.sweep(address(weights), ctypes.addressof(pointers), address(sweeps), len(sweeps), address(moves))
    return weights


def _fill(context: Struct, shard: Shard, timed: Arrays, rows: Arrays, item: int) -> None:
    """Sets the fields of the arrays of a call, from a shard's first row on."""
    for name, array in timed.items():
        step, row = array.strides[0], array.strides[1]
        setattr(context, array_field(name), address(array) + shard.first * row)
        setattr(context, step_field(name), step // item)
        setattr(context, row_field(name), row // item)
    for name, array in rows.items():
        setattr(context, array_field(name), address(array) + shard.first * int(array.shape[-1]) * item)


def _sizes(family: Family) -> tuple[int, ...]:
    return tuple(int(size) for size in family.shape)
