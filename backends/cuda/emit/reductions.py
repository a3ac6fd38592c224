"""Sums and maxima over the units of a row: by the lanes of one warp, or over the axes of a grid by a whole block."""

from __future__ import annotations

from rnnc.backends.cuda.emit.equations import Equations, Frame
from rnnc.backends.planning.grids import is_group
from rnnc.backends.planning.plan import Phase
from rnnc.ir.families import Family, operands_first


def emit_row_reduction(equations: Equations, frame: Frame) -> None:
    """Emits the reductions of a phase by one warp, for the row of `frame`, whose unit is ignored.

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


def emit_grid_reductions(equations: Equations, frame: Frame, threads: int) -> None:
    """Emits a phase that walks a grid by all threads of a block, for the row of `frame`.

    for each reduction: for each of its results j, a warp or a thread: total over s of value(u of j and s); store
    barrier
    for u = thread; u < width; u += threads: the equations; stores

    No other block computes this row, so a state that a reduction reads may be overwritten after the barrier.
    """
    phase, text = equations.phase, equations.text
    for family in phase.sums:
        _grid_reduction(equations, frame, family, threads)
    if all(family in phase.sums for family, _ in phase.stores):
        return
    text.line("__syncthreads();")
    with text.block(f"for (int u = threadIdx.x; u < {phase.width}; u += {threads})"):
        here = frame.at_unit("u")
        needed = set(operands_first(family for family, _ in phase.stores if family not in phase.sums))
        equations.stores(here, equations.values(here, {}, needed))


def _grid_reduction(equations: Equations, frame: Frame, family: Family, threads: int) -> None:
    """Emits one reduction. A warp computes a result if it reads consecutive units; otherwise one thread does."""
    text, scalars, width = equations.text, equations.scalars, equations.phase.width
    size, inner = (family.attr("size"), family.attr("inner")) if is_group(family) else (width, 1)
    lanes, results, total = 32 if inner == 1 else 1, width // size, text.name("total")
    assert family.spec.identity is not None and family.spec.emit is not None
    with text.block(f"for (int j = threadIdx.x / {lanes}; j < {results}; j += {threads // lanes})"):
        text.line(f"{equations.real} {total} = {scalars.constant(family.spec.identity)};")
        with text.block(f"for (int s = threadIdx.x % {lanes}; s < {size}; s += {lanes})"):
            text.line(f"const int u = j / {inner} * {size * inner} + s * {inner} + j % {inner};")
            value = scalars.let(equations.reduced(family, frame.at_unit("u")))
            text.line(f"{total} = {family.spec.emit(scalars, total, value)};")
        if lanes > 1:
            with text.block(f"for (int mask = {lanes // 2}; mask; mask >>= 1)"):
                other = scalars.let(f"__shfl_xor_sync(0xffffffffu, {total}, mask)")
                text.line(f"{total} = {family.spec.emit(scalars, total, other)};")
        with text.block(f"if (threadIdx.x % {lanes} == 0)"):
            for stored, place in equations.phase.stores:
                if stored is family:
                    text.line(f"*({equations.addresses.pointer(place, frame, 'j', written=True)}) = {total};")


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
