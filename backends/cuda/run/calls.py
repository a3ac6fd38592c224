"""The named arrays of a call: its inputs are given to a run, and its outputs are collected from it."""

from __future__ import annotations

from collections.abc import Mapping

from rnnc.backends.cuda.run.device import Array
from rnnc.backends.cuda.run.execution import Loaded, Run, Values
from rnnc.backends.planning.plan import Buffer
from rnnc.ir.names import VALID
from rnnc.ir.program import is_parameter
from rnnc.ir.shape_rules import BATCH

Arrays = Mapping[str, Array]


def values_of(loaded: Loaded, given: Arrays) -> Values:
    """The values of the parameters among the given arrays."""
    program = loaded.code.plan.program
    known = {f: given[f.name] for f in program.inputs if is_parameter(f) and f.name in given}
    xp = loaded.device.xp
    contiguous = {f: xp.ascontiguousarray(array) for f, array in known.items()}
    if loaded.code.plan.late:  # copies, as the caller may change the arrays before the second half reads them
        contiguous = {f: array.copy() if array is known[f] else array for f, array in contiguous.items()}
    return Values(xp, program.dtype, contiguous)


def give(run: Run, inputs: Arrays, late: bool) -> None:
    """Gives the inputs of one half to a run, as contiguous rows.

    Inputs of a first half are copied, because the caller may change them before the second half reads them.
    """
    xp, copy = run.device.xp, bool(run.code.plan.late) and not late
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
        elif not late and name not in run.code.plan.late:
            run.view(place, int(rows[name].shape[-1]))[...] = 0


def give_lengths(run: Run, lengths: Array) -> None:
    """Gives a run the mask of steps before each row's end, as numbers 0 and 1, if it reads that."""
    if VALID not in run.code.plan.inputs:
        return
    xp = run.device.xp
    valid = xp.arange(run.steps)[:, None] < lengths[None, :]
    run.buffers[run.code.plan.inputs[VALID]] = valid.astype(run.code.dtype).reshape(-1, 1)


def collect(run: Run, outputs: Arrays, late: bool) -> None:
    """Runs one half. It writes into the caller's arrays if their rows are contiguous, and otherwise copies."""
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
    """A view (rows, width) of an array (T, B, N); None if it is not contiguous."""
    return array.reshape(-1, buffer.width) if array.flags.c_contiguous else None


def _deliver_untimed(run: Run, outputs: Arrays) -> None:
    """Delivers outputs without a batch axis: sums over rows, and values computed from them."""
    values = run.values.with_sums(run.sums)
    for name, array in outputs.items():
        family = run.code.plan.program.outputs[name]
        if not family.timed and BATCH not in family.shape:
            value = values[family]
            if value is not array:
                array[...] = value.reshape(array.shape)
