"""Sums (and maxima) over the units of a row, by the lanes of one warp."""

from __future__ import annotations

from rnnc.backends.cuda.emit.equations import Equations, Frame
from rnnc.backends.planning.plan import Phase


def emit_row_reduction(equations: Equations, frame: Frame) -> None:
    """Emits the reductions of a phase for the row of `frame`, whose unit is ignored, by a whole warp.

    for u = lane; u < width; u += 32: total = total + value(u)
    total = total + the other lanes' totals
    lane 0: store total
    """
    phase, text, scalars = equations.phase, equations.text, equations.scalars
    totals = [text.name("total") for _ in phase.sums]
    for family, total in zip(phase.sums, totals, strict=True):
        assert family.spec.identity is not None
        text.line(f"{equations.real} {total} = {scalars.constant(family.spec.identity)};")
    with text.block(f"for (int u = threadIdx.x & 31; u < {phase.width}; u += 32)"):
        values = equations.summed(frame.at_unit("u"))
        _combine(equations, totals, values)
    with text.block("for (int mask = 16; mask; mask >>= 1)"):
        _combine(equations, totals, [f"__shfl_xor_sync(0xffffffffu, {total}, mask)" for total in totals])
    with text.block("if ((threadIdx.x & 31) == 0)"):
        _store(phase, equations, frame, totals)


def _combine(equations: Equations, totals: list[str], values: list[str]) -> None:
    for family, total, value in zip(equations.phase.sums, totals, values, strict=True):
        assert family.spec.emit is not None
        other = equations.scalars.let(value)
        equations.text.line(f"{total} = {family.spec.emit(equations.scalars, total, other)};")


def _store(phase: Phase, equations: Equations, frame: Frame, totals: list[str]) -> None:
    for family, total in zip(phase.sums, totals, strict=True):
        for stored, place in phase.stores:
            if stored is family:
                equations.text.line(f"*({equations.addresses.pointer(place, frame, None, written=True)}) = {total};")
