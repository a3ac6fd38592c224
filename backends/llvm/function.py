"""Compiled computations: named arrays in, named arrays out, in one part or in two with a tape between them.

Weights are packed by generated code in every call, since they change from call to call.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np

from rnnc.backends import fresh
from rnnc.backends.interpreter import evaluate
from rnnc.backends.llvm.crew import run_all
from rnnc.backends.llvm.driver import Interface, Slot, array_field, emit_driver, sum_field
from rnnc.backends.llvm.jit import compile_assembly
from rnnc.backends.llvm.memory import ALIGNMENT, Pool, aligned_view
from rnnc.backends.llvm.packers import emit_pack_kernels, emit_packer, pack_plan
from rnnc.backends.llvm.parts import Part, address, even, split_batch
from rnnc.backends.llvm.report import Stages, phase_lines
from rnnc.backends.llvm.runner import PARALLEL_FLOPS
from rnnc.backends.llvm.target import Target, host
from rnnc.backends.locks import new_lock
from rnnc.backends.planning.keeping import kept_buffers
from rnnc.backends.planning.plan import Buffer, Plan, Space
from rnnc.backends.planning.planner import plan
from rnnc.ir import settings
from rnnc.ir.computation import Computation
from rnnc.ir.errors import SizeError
from rnnc.ir.families import Family, operands_first
from rnnc.ir.ops import BATCH, Array
from rnnc.ir.program import is_parameter
from rnnc.ir.ragged import check_rows_end

Arrays = Mapping[str, Array]


def compile_function(
    computation: Computation, *, threads: int | None = None, target: Target | None = None
) -> LlvmFunction:
    """Compiles a computation for this machine, or for a target that it can run."""
    return LlvmFunction(computation, threads or settings.threads(), target or host())


class LlvmFunction(Stages):
    """Machine code of a computation; see `rnnc.backends.base.Function`."""

    def __init__(self, computation: Computation, threads: int, target: Target) -> None:
        self.computation = computation
        self.target = target
        self.threads = threads
        self.program = computation.program()
        self.plan = plan(self.program, computation.late)
        self.interface = _interface(self.plan)
        module, self.layout, self.packed = emit_driver(self.plan, self.interface, target)
        emit_pack_kernels(module, self.program.dtype, target)
        sweeps = [sweep for packed in self.layout.phases for sweep in pack_plan(packed)]
        self.sweeps = sweeps
        self.sources = emit_packer(module, sweeps)
        self.assembly_text = module.text()
        self.code = compile_assembly(self.assembly_text, target)
        self.pool = Pool()
        self.dtype = np.dtype(self.program.dtype)
        call = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p)  # releases the interpreter lock
        parts = ("run", "finish") if self.plan.late else ("run",)
        self.entry = {part: call(self.code.address(f"rnnc_{part}")) for part in parts}
        measure = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)
        self.scratch = measure(self.code.address("rnnc_scratch")) if self.plan.late else None
        pack = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)
        self.pack = pack(self.code.address("rnnc_pack"))
        self.parameters = {f.name: f for f in self.program.inputs if is_parameter(f)}
        self.place = {name: number for number, name in enumerate(self.interface.fields)}
        self.context = ctypes.c_int64 * len(self.interface.fields)
        self.untimed = {n: f for n, f in self.program.outputs.items() if not f.timed and BATCH not in f.shape}

    # ---- texts

    def explain(self) -> str:
        """The target, what is kept between both parts, and the tile and loops of each phase."""
        lines = [
            f"target {self.target.name}: vectors of {self.target.lanes(self.program.dtype)} {self.program.dtype}",
            f"weights: {self.layout.size * self.dtype.itemsize // 1024:,} KiB, packed in every call by generated code",
            "threads: a large batch is split by rows; a batch of one runs on the calling thread",
        ]
        if self.plan.late:
            kept = ", ".join(f"{b.name} {b.width}" for b in self._kept)
            lines.append(f"saved for the second part: {self.saved_bytes(1, 1):,} bytes a row of each step ({kept})")
        if derived := [f.name for f in self.sources if f.op != "input"]:
            lines.append(f"computed by NumPy before packing, once a call: {', '.join(derived)}")
        if self.derived:
            lines.append(f"computed by NumPy from sums over rows, once a call: {', '.join(self.derived)}")
        return "\n".join(lines + phase_lines(self.packed)) + "\n"

    @cached_property
    def _kept(self) -> list[Buffer]:
        """What the first part leaves for the second, of each row and step."""
        return [b for b in kept_buffers(self.plan) if b.space in (Space.TIMED, Space.INPUT)]

    def saved_bytes(self, steps: int, batch: int) -> int:
        """Bytes the first part keeps for the second."""
        return steps * batch * sum(b.width for b in self._kept) * self.dtype.itemsize

    @cached_property
    def only_sums(self) -> bool:
        """Whether all outputs without a batch axis are sums over rows, so that nothing is left to do after them."""
        return set(self.untimed.values()) <= {total.target for total in self.plan.sums}

    @cached_property
    def derived(self) -> list[str]:
        """Outputs that NumPy computes from sums over rows."""
        sums = {total.target for total in self.plan.sums}
        made = set(sums)
        for family in operands_first(self.untimed.values(), sums):
            if any(operand in made for operand in family.inputs):
                made.add(family)
        return [name for name, family in self.untimed.items() if family in made - sums]

    # ---- calls

    def reads(self, name: str) -> bool:
        """Whether there is an input of this name with a batch axis."""
        return array_field(name) in self.place

    @cached_property
    def ragged(self) -> bool:
        """That padding need not be computed, proved when lengths are first given. Raises IRError if it cannot be."""
        check_rows_end(self.computation.program(lengths=True))
        return True

    @cached_property
    def flops_per_row(self) -> int:
        """Multiplications and additions of matrix products, for one step of one sequence."""
        feeds = [(phase, feed) for _, phase in self.plan.phases() for feed in phase.feeds]
        flops = sum(2 * feed.inner * len(feed.blocks) * phase.width for phase, feed in feeds)
        return max(1, flops + sum(2 * t.rows * t.units for total in self.plan.sums for t in total.terms))

    def members(self, steps: int, batch: int) -> int:
        """How many threads run a batch."""
        return min(self.threads, batch) if steps * batch * self.flops_per_row > PARALLEL_FLOPS else 1

    def start(self, inputs: Arrays, outputs: Arrays, steps: int, batch: int, lengths: Array | None) -> LlvmTape:
        """See `rnnc.backends.base.Function.start`."""
        assert lengths is None or self.ragged
        parts = split_batch(steps, batch, lengths, self.members(steps, batch))
        tape = LlvmTape(self, inputs, parts, batch, lengths is not None)
        tape.run("run", inputs, outputs)
        return tape


class LlvmTape:
    """One call: packed weights, and what the first part leaves in scratch memory. Its memory is used again after it."""

    def __init__(self, function: LlvmFunction, inputs: Arrays, parts: Sequence[Part], batch: int, ragged: bool) -> None:
        self._function = function
        self._parts = parts
        self._batch = batch
        self._ragged = ragged
        self._lock = new_lock()
        self._values = {family: inputs[name] for name, family in function.parameters.items() if name in inputs}
        blocks: list[Array] = []
        weakref.finalize(self, function.pool.give, blocks)
        self._weights = self._pack(blocks)
        self._scratch = [self._take_scratch(part, blocks) for part in parts]

    def finish(self, inputs: Arrays, outputs: Arrays) -> None:
        """See `rnnc.backends.base.Tape.finish`. One at a time: the second part works in the memory of the first."""
        with self._lock:
            self.run("finish", inputs, outputs)

    def run(self, part: str, inputs: Arrays, outputs: Arrays) -> None:
        """Runs "run", the first part, or "finish", the second."""
        function, item = self._function, self._function.dtype.itemsize
        timed_in = {n: even(inputs[n]) for n in function.plan.inputs if n in inputs}
        timed_out = {n: outputs[n] for n in function.plan.outputs if n in outputs}
        targets = {name: even(array) for name, array in timed_out.items()}
        if self._ragged:
            for array in targets.values():
                array[...] = 0
        sums = [self._sum_arrays(outputs, part == "finish") for _ in self._parts]
        contexts = []
        for number, rows in enumerate(self._parts):
            context, place = self._context(rows, number), function.place
            for name, array in (*timed_in.items(), *targets.items()):
                first = place[array_field(name)]
                step, row = array.strides[0] // item, array.strides[1] // item
                context[first : first + 3] = [address(array) + rows.first * row * item, step, row]
            for name in function.interface.rows:
                given = inputs.get(name, outputs.get(name))
                if given is not None:
                    context[place[array_field(name)]] = address(given) + rows.first * int(given.shape[-1]) * item
            for family, array in sums[number].items():
                context[place[sum_field(family)]] = address(array)
            contexts.append(context)
        self._call(part, contexts)
        for name, target in targets.items():
            if target is not timed_out[name]:
                timed_out[name][...] = target
        self._deliver(sums, outputs)

    def _context(self, rows: Part, number: int) -> ctypes.Array[ctypes.c_int64]:
        """A context with its header filled in."""
        tables = (address(rows.rows), address(rows.order), address(rows.lengths))
        memory = (address(self._weights), address(self._scratch[number]))
        return self._function.context(rows.steps, rows.batch, *tables, *memory, self._batch)

    def _call(self, part: str, contexts: Sequence[ctypes.Array[ctypes.c_int64]]) -> None:
        function = self._function
        if len(contexts) == 1:
            error = function.entry[part](ctypes.addressof(contexts[0]))
        else:
            code = function.code.address(f"rnnc_{part}")
            error = run_all([(code, ctypes.addressof(context)) for context in contexts])
        if error:
            raise SizeError(f"no memory for the scratch buffers of a batch of {self._batch} rows; {fresh.HINT}")

    # ---- memory

    def _pack(self, blocks: list[Array]) -> Array:
        function = self._function
        blocks.append(function.pool.take(function.layout.size * function.dtype.itemsize + ALIGNMENT))
        weights = aligned_view(blocks[-1], function.layout.size, function.dtype)
        arrays = [np.ascontiguousarray(self._value(family), function.dtype) for family in function.sources]
        pointers = (ctypes.c_void_p * max(1, len(arrays)))(*map(address, arrays))
        function.pack(address(weights), ctypes.addressof(pointers))
        return weights

    def _take_scratch(self, rows: Part, blocks: list[Array]) -> Array | None:
        if self._function.scratch is None:
            return None
        self._scratch = [None] * len(self._parts)
        context = self._context(rows, 0)
        blocks.append(self._function.pool.take(int(self._function.scratch(ctypes.addressof(context)))))
        return blocks[-1]

    # ---- values without a batch axis

    def _value(self, family: Family, known: dict[Family, Array] | None = None) -> Array:
        """A parameter, a number, or what is made of them (and, given `known`, of sums over rows)."""
        values = self._values if known is None else known
        for made in operands_first([family], values):
            if made is family or made.spec.arity != 0:
                values[made] = evaluate(made, values, self._function.program.dtype)
        return values[family]

    def _sum_arrays(self, outputs: Arrays, late: bool) -> dict[Family, Array]:
        """Where each sum over rows goes: an output, if it is one, or an array of its own."""
        function = self._function
        alone = len(self._parts) == 1
        own = {f: outputs[n] for n, f in function.untimed.items() if n in outputs} if alone else {}
        wanted = [total.target for total in function.plan.sums if total.late == late]
        return {f: own[f] if f in own else fresh.empty(_sizes(f), function.dtype) for f in wanted}

    def _deliver(self, sums: list[dict[Family, Array]], outputs: Arrays) -> None:
        """Outputs without a batch axis: sums of all parts, and what is made of them."""
        known = dict(self._values)
        for family, first in sums[0].items():
            for other in sums[1:]:
                first += other[family]
            known[family] = first
        for name, family in self._function.untimed.items():
            if name in outputs:
                value = self._value(family, known)
                if value is not outputs[name]:
                    outputs[name][...] = value


def _sizes(family: Family) -> tuple[int, ...]:
    return tuple(int(size) for size in family.shape)


def _interface(planned: Plan) -> Interface:
    program = planned.program
    rows = [f.name for f in program.inputs if not f.timed and BATCH in f.shape]
    rows += [n for n, f in program.outputs.items() if not f.timed and BATCH in f.shape]
    sums = tuple(sum_field(total.target) for total in planned.sums)
    return Interface((*planned.inputs, *planned.outputs), {name: Slot(array_field(name)) for name in rows}, sums)
