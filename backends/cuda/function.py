"""Compiled computations on a GPU: named arrays in, named arrays out, in one part or in two with a tape between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from rnnc.backends.cuda.chip import Chip
from rnnc.backends.cuda.compiled import Compiled
from rnnc.backends.cuda.device import Array, Device
from rnnc.backends.cuda.kernel import TIMED
from rnnc.backends.cuda.run import Loaded, Run, Values
from rnnc.backends.cuda.schedule import Wish
from rnnc.backends.planning.keeping import kept_buffers
from rnnc.backends.planning.plan import Buffer, Plan
from rnnc.backends.planning.planner import plan
from rnnc.ir.computation import Computation
from rnnc.ir.names import VALID
from rnnc.ir.ops import BATCH
from rnnc.ir.program import is_parameter

Arrays = Mapping[str, Array]


class CudaFunction(Compiled):
    """A computation for a GPU; see `rnnc.backends.base.Function`. Nothing asks for the GPU before `start`."""

    def __init__(
        self,
        computation: Computation,
        chip: Chip,
        device: Callable[[], Device],
        operands: str | None = None,
        wish: Wish | None = None,
    ) -> None:
        self.computation = computation
        super().__init__(chip, device, operands, wish)

    def _plan(self, lengths: bool) -> Plan:
        return plan(self.computation.program(lengths=lengths), self.computation.late)

    def saved_bytes(self, steps: int, batch: int) -> int:
        """Bytes the first part keeps for the second."""
        widths = sum(buffer.width for buffer in kept_buffers(self.code.plan) if buffer.space in TIMED)
        return steps * batch * widths * np.dtype(self.code.dtype).itemsize

    def start(self, inputs: Arrays, outputs: Arrays, steps: int, batch: int, lengths: Array | None) -> CudaTape:
        """See `rnnc.backends.base.Function.start`; arrays are the device's, lengths too."""
        loaded = self.dense if lengths is None else self.ragged
        values = parameters(loaded, inputs)
        run = Run(loaded, values, loaded.pack(values), steps, batch)
        give(run, inputs, copy=bool(loaded.code.plan.late))
        if lengths is not None:
            give_lengths(run, lengths)
        collect(run, outputs, late=False)
        return CudaTape(run)


class CudaTape:
    """What the first part of a call has left on the device."""

    def __init__(self, run: Run) -> None:
        run.drop(kept_buffers(run.code.plan))
        self._run = run

    def finish(self, inputs: Arrays, outputs: Arrays) -> None:
        """See `rnnc.backends.base.Tape.finish`."""
        run = self._run.copy()
        give(run, inputs, copy=False)
        collect(run, outputs, late=True)


def parameters(loaded: Loaded, given: Arrays) -> Values:
    """The parameters among named arrays."""
    program = loaded.code.plan.program
    known = {f: given[f.name] for f in program.inputs if is_parameter(f) and f.name in given}
    xp = loaded.device.xp
    contiguous = {f: xp.ascontiguousarray(array) for f, array in known.items()}
    if loaded.code.plan.late:  # the caller may change them before the second part reads them
        contiguous = {f: array.copy() if array is known[f] else array for f, array in contiguous.items()}
    return Values(xp, program.dtype, contiguous)


def give(run: Run, inputs: Arrays, copy: bool) -> None:
    """Puts inputs where the code reads them: rows one after the other. copy: they may change while they are needed."""
    xp = run.device.xp
    for name, buffer in run.code.plan.inputs.items():
        if name in inputs:
            array = xp.array(inputs[name], order="C") if copy else xp.ascontiguousarray(inputs[name])
            run.buffers[buffer] = array.reshape(run.rows(buffer), buffer.width)
    rows = {f.name: f for f in run.code.plan.program.inputs if not f.timed and BATCH in f.shape}
    for name in rows:
        if name in inputs:
            run.named[name] = xp.array(inputs[name], order="C") if copy else xp.ascontiguousarray(inputs[name])
    for name, place in run.code.plan.row_inputs:
        if name in inputs:
            run.view(place, int(inputs[name].shape[-1]))[...] = inputs[name]


def give_lengths(run: Run, lengths: Array) -> None:
    """The mask of steps before each row's end, as numbers."""
    xp = run.device.xp
    valid = xp.arange(run.steps)[:, None] < lengths[None, :]
    run.buffers[run.code.plan.inputs[VALID]] = valid.astype(run.code.dtype).reshape(-1, 1)


def collect(run: Run, outputs: Arrays, late: bool) -> None:
    """Runs one part, into the caller's arrays where their rows lie one after the other, and else by a copy."""
    planned = run.code.plan
    copies: list[tuple[Array, Array]] = []
    for name, buffer in planned.outputs.items():
        if name in outputs:
            flat = _as_rows(outputs[name], buffer)
            if flat is not None:
                run.buffers[buffer] = flat
            else:
                copies.append((outputs[name], run.array(buffer).reshape(outputs[name].shape)))
    families = planned.program.outputs
    sums = {total.target for total in planned.sums if total.late == late}
    for name, array in outputs.items():
        family = families[name]
        if not family.timed and BATCH in family.shape:
            run.named[name] = array
        elif not family.timed and family in sums and family not in run.sums and array.flags.c_contiguous:
            run.sums[family] = array
    run.run(run.code.second if late else run.code.first)
    for target, source in copies:
        target[...] = source
    for name, place in planned.row_outputs:
        if name in outputs:
            outputs[name][...] = run.view(place, int(outputs[name].shape[-1]))
    _deliver_untimed(run, outputs)


def _as_rows(array: Array, buffer: Buffer) -> Array | None:
    """A view (rows, width) of a (T, B, N) array, if it is contiguous."""
    return array.reshape(-1, buffer.width) if array.flags.c_contiguous else None


def _deliver_untimed(run: Run, outputs: Arrays) -> None:
    """Outputs without a batch axis: sums over rows, and what is made of them."""
    values = run.values.with_sums(run.sums)
    for name, array in outputs.items():
        family = run.code.plan.program.outputs[name]
        if not family.timed and BATCH not in family.shape:
            value = values[family]
            if value is not array:
                array[...] = value.reshape(array.shape)
