"""Calls of compiled code: named arrays in, named arrays out, at once or in two halves with a tape between them."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnc.backends import fresh
from rnnc.backends.llvm.asm.records import Record, address
from rnnc.backends.llvm.calls.arena import Packing, Pointers
from rnnc.backends.llvm.calls.buffers import ALIGNMENT, aligned_view
from rnnc.backends.llvm.calls.shards import Shard, even, split_batch
from rnnc.backends.llvm.kernels.context import COUNTERS
from rnnc.backends.locks import new_lock
from rnnc.ir.errors import SizeError
from rnnc.ir.families import Family, operands_first

if TYPE_CHECKING:
    from rnnc.backends.base import QuickHalves
    from rnnc.backends.call_forms import PlainCall
    from rnnc.backends.llvm.code import LlvmCode
    from rnnc.ir.ops import Array

Arrays = Mapping[str, "Array"]
Words = ctypes.Array[ctypes.c_int64]
"""A context, whose fields take eight bytes each, by their positions: a call sets dozens of them."""


class LlvmBound:
    """See `rnnc.backends.base.Bound`. Weights are packed once if all parameters are bound, otherwise in each call."""

    def __init__(self, code: LlvmCode, parameters: Arrays) -> None:
        self.code = code
        self._values = _known(code, parameters)
        fixed = code.manifest.packed_parameters <= set(parameters)
        self._packing = Packing(code)
        self._weights = self._packing.pack(dict(self._values), fresh.block)[0] if fixed else None

    def packed_weights(self) -> Array:
        """The weights as the code reads them. All parameters must be bound."""
        assert self._weights is not None
        return self._weights

    def quick(self, call: PlainCall, outcomes: Array) -> Callable[..., Any] | None:
        """See `rnnc.backends.base.Bound.quick`."""
        if self._weights is None:
            return None
        from rnnc.backends.llvm.calls.quick import quick_call

        return quick_call(self.code, self._weights, call, outcomes)

    def real_time(self, call: PlainCall, fixed: Arrays, outcomes: Array) -> Callable[..., Any] | None:
        """See `rnnc.backends.base.Bound.real_time`."""
        if self._weights is None:
            return None
        from rnnc.backends.llvm.calls.quick import real_time_call

        return real_time_call(self.code, self._weights, call, fixed, outcomes)

    def quick_halves(self, first: PlainCall, second: PlainCall, outcomes: Array) -> QuickHalves | None:
        """See `rnnc.backends.base.Bound.quick_halves`."""
        if self._weights is not None or not self.code.late or self.code.counters is not None:
            return None
        from rnnc.backends.llvm.calls.quick_halves import quick_halves

        return quick_halves(self.code, self._packing, (first, second), outcomes)

    def start(self, inputs: Arrays, outputs: Arrays, steps: int, batch: int, lengths: Array | None) -> LlvmTape:
        """See `rnnc.backends.base.Bound.start`."""
        code = self.code
        assert lengths is None or code.ragged
        members = 1 if code.teams_up(steps, batch) else code.members(steps, batch)
        if lengths is not None:  # empty rows need no thread
            members = max(1, min(members, int(np.count_nonzero(lengths))))
        shards = split_batch(steps, batch, lengths, members)
        given = _known(code, inputs)
        if code.read_late:  # copied, because the caller may change them before the second half reads them
            given |= {family: given[family].copy() for family in code.read_late & given.keys()}
        tape = LlvmTape(code, self._values | given, shards, lengths is not None)
        sources = tape.place(self._weights, self._packing, code.reads_in_place(steps, batch))
        tape.run("rnnc_run", inputs, outputs, sources)
        return tape


class LlvmTape:
    """One call: its weights, and its scratch memory, in which the first half leaves values for the second.

    Later calls reuse the memory.
    """

    def __init__(self, code: LlvmCode, values: dict[Family, Array], shards: list[Shard], ragged: bool) -> None:
        self._blocks: list[Array] = []
        self._code, self._values, self._shards, self._ragged = code, values, shards, ragged
        self._lock = new_lock()

    @staticmethod
    def of_kept(code: LlvmCode, kept: Array) -> LlvmTape:
        """The tape of a quick first half. kept: its memory, which begins with its context and stays its owner's."""
        header: Words = (ctypes.c_int64 * len(code.interface.record.types)).from_buffer_copy(kept.data)
        steps, batch = header[0], header[1]
        ragged = header[code.interface.record.number("rows")] != 0
        tape = LlvmTape(code, {}, [Shard(0, batch, steps)], ragged)
        tape._headers = [header]
        return tape

    def __del__(self) -> None:
        self._code.pool.give(self._blocks)

    def place(self, weights: Array | None, packing: Packing, in_place: bool) -> Pointers | None:
        """Takes scratch memory, and packs the weights unless they are packed already.

        Returns the arrays that the first half reads in place, if it does.
        """
        sources = None
        if weights is None:
            weights, sources = packing.pack(self._values, self._take, in_place=in_place)
        self._weights = weights
        self._headers = [self._header(shard) for shard in self._shards]
        return sources if in_place else None

    def finish(self, inputs: Arrays, outputs: Arrays) -> None:
        """See `rnnc.backends.base.Tape.finish`. Calls take turns: the second half writes to the memory of the first."""
        with self._lock:
            self.run("rnnc_finish", inputs, outputs)

    def run(self, half: str, inputs: Arrays, outputs: Arrays, sources: Pointers | None = None) -> None:
        """Runs a half, by the name of its function. sources: the arrays that it reads in place, if it does."""
        code, interface = self._code, self._code.interface
        timed: list[tuple[int, Array]] = []
        copied: list[tuple[Array, Array]] = []
        for name, number in interface.timed_numbers.items():
            if name in inputs:
                timed.append((number, even(inputs[name])))
            elif name in outputs:
                timed.append((number, target := even(outputs[name])))
                if self._ragged:
                    target[...] = 0
                if target is not outputs[name]:
                    copied.append((outputs[name], target))
        rows = [
            (number, given)
            for name, number in interface.row_numbers.items()
            if (given := inputs.get(name, outputs.get(name))) is not None
        ]
        sums, lent = self._sum_arrays(outputs, half == "rnnc_finish")
        contexts = [type(header).from_buffer_copy(header) for header in self._headers]
        for shard, context, totals in zip(self._shards, contexts, sums, strict=True):
            _fill(context, shard, timed, rows, code.dtype.itemsize)
            if sources is not None:
                context[interface.record.number("sources")] = ctypes.addressof(sources)
            for family, array in totals.items():
                context[interface.sum_numbers[family]] = address(array)
        self._call(half, contexts)
        for array, target in copied:
            array[...] = target
        if code.untimed:
            self._deliver(sums, outputs)
        code.pool.give(lent)

    def _call(self, half: str, contexts: Sequence[Words]) -> None:
        code, addresses = self._code, list(map(ctypes.addressof, contexts))
        if len(addresses) == 1:
            error = self._call_alone(half, addresses[0])
        else:
            from rnnc.backends.llvm.calls.lockstep import run_all

            function = code.address(half)
            error = run_all([(function, address_) for address_ in addresses], code.runtime)
        if error:
            steps, batch = max(s.steps for s in self._shards), sum(s.batch for s in self._shards)
            raise SizeError(f"no memory for the scratch buffers of {steps} steps of {batch} rows; {fresh.HINT}")

    def _call_alone(self, half: str, context: int) -> int:
        """Runs a half on this thread, or in a team of threads."""
        code, shard = self._code, self._shards[0]
        if code.team is not None and code.teams_up(shard.steps, shard.batch):
            return code.team.run(context, code.team.record.address)
        return code.run_functions[half](context)

    # ---- memory

    def _header(self, shard: Shard) -> Words:
        """A context without the arrays of a call."""
        record: Record = self._code.interface.record
        context: Words = (ctypes.c_int64 * len(record.types))(shard.steps, shard.batch)
        tables = {"rows": shard.rows, "order": shard.order, "lengths": shard.lengths, "weights": self._weights}
        for field, array in tables.items():
            context[record.number(field)] = address(array)
        if self._code.counters is not None:
            context[record.number(COUNTERS)] = self._code.counters.address
        if self._code.scratch_size is not None:
            size = self._code.scratch_size(ctypes.addressof(context))
            context[record.number("scratch")] = address(self._take(size))
        return context

    def _take(self, size: int) -> Array:
        """Memory that belongs to this call until it ends."""
        block = self._code.pool.take(size)
        self._blocks.append(block)
        return block

    # ---- values without a batch axis

    def _sum_arrays(self, outputs: Arrays, late: bool) -> tuple[list[dict[Family, Array]], list[Array]]:
        """The array of each sum over rows, for each shard, and the blocks of the pool that hold some of them.

        The first shard writes to the outputs that are sums; `_deliver` adds those of the others.
        """
        code = self._code
        wanted = [total.target for total in code.sums if total.late == late]
        if not wanted:
            return [{} for _ in self._shards], []
        own = {f: outputs[n] for n, f in code.untimed.items() if n in outputs}
        first = {f: own[f] if f in own else fresh.empty(_sizes(f), code.dtype) for f in wanted}
        size = sum(_room(f, code.dtype) for f in wanted) + ALIGNMENT
        lent = [code.pool.take(size) for _ in self._shards[1:]]
        return [first, *(dict(zip(wanted, _carved(block, wanted, code.dtype), strict=True)) for block in lent)], lent

    def _deliver(self, sums: list[dict[Family, Array]], outputs: Arrays) -> None:
        """Computes the outputs without a batch axis: the sums over all shards, and the values made from them."""
        code = self._code
        wanted = {name: family for name, family in code.untimed.items() if name in outputs}
        known = dict(sums[0])
        for family, first in known.items():
            for other in sums[1:]:
                first += other[family]
        if not known.keys() >= set(wanted.values()):
            from rnnc.backends.reference.evaluation import evaluate

            known = self._values | known
            evaluate(operands_first(wanted.values(), known), known, code.dtype.name)
        for name, family in wanted.items():
            if known[family] is not outputs[name]:
                outputs[name][...] = known[family]


def _known(code: LlvmCode, arrays: Arrays) -> dict[Family, Array]:
    """The parameters among some arrays."""
    return {family: arrays[name] for name, family in code.parameters.items() if name in arrays}


def _fill(
    context: Words, shard: Shard, timed: Sequence[tuple[int, Array]], rows: Sequence[tuple[int, Array]], item: int
) -> None:
    """Sets the fields of the arrays of a call, from a shard's first row on. Each array comes with its position."""
    for number, array in timed:
        step, row = array.strides[0], array.strides[1]
        context[number] = address(array) + shard.first * row
        context[number + 1] = step // item
        context[number + 2] = row // item
    for number, array in rows:
        context[number] = address(array) + shard.first * int(array.shape[-1]) * item


def _room(family: Family, dtype: np.dtype[Any]) -> int:
    """The bytes of a value, up to a cache line."""
    return -(-math.prod(_sizes(family)) * dtype.itemsize // ALIGNMENT) * ALIGNMENT


def _carved(block: Array, families: Sequence[Family], dtype: np.dtype[Any]) -> Iterator[Array]:
    """An array for each value, one behind the other, each from a cache line on."""
    place = 0
    for family in families:
        sizes = _sizes(family)
        yield aligned_view(block[place:], math.prod(sizes), dtype).reshape(sizes)
        place += _room(family, dtype)


def _sizes(family: Family) -> tuple[int, ...]:
    return tuple(int(size) for size in family.shape)
