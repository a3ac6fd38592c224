"""The module of a plan: its phases, and the functions that run it."""

from __future__ import annotations

from dataclasses import dataclass

from rnnc.backends.llvm.asm.builder import Module
from rnnc.backends.llvm.asm.target import Target
from rnnc.backends.llvm.kernels.context import Interface
from rnnc.backends.llvm.kernels.derivable import is_derivable
from rnnc.backends.llvm.kernels.derived import add_derived
from rnnc.backends.llvm.kernels.dot_phase import emit_dot_phase
from rnnc.backends.llvm.kernels.packers import sources, sweeps_of
from rnnc.backends.llvm.kernels.phases import emit_phase
from rnnc.backends.llvm.kernels.plan_function import InPlace, PlanFunction
from rnnc.backends.llvm.kernels.stopwatch import BARRIERS, TimedSection
from rnnc.backends.llvm.packing.in_place import unit_rows
from rnnc.backends.llvm.packing.layout import Layout, PackedPhase
from rnnc.backends.llvm.packing.tile import choose_tile
from rnnc.backends.planning.plan import Plan
from rnnc.ir.families import Family


@dataclass(frozen=True)
class Emitted:
    """The module of a plan, with the interface of its context and the layout of its weights.

    names: of the functions of the phases. in_place: where in the layout weights start that nobody reads if those that
    can be are read in place. derived: the values, read by packing, that `rnnc_derive` computes. sections: what is
    timed, if it is.
    """

    module: Module
    interface: Interface
    layout: Layout
    phases: tuple[PackedPhase, ...]
    target: Target
    in_place: frozenset[int]
    derived: tuple[Family, ...]
    sections: tuple[TimedSection, ...] = ()
    names: tuple[str, ...] = ()


def emit_plan(plan: Plan, target: Target, *, counted: bool = False, lent: bool = False) -> Emitted:
    """The module of a plan: phase functions, and the functions that run them.

    `rnnc_run(context)` returns 0, or 1 if memory ran out. A plan with a second half also has `rnnc_finish(context)`,
    and `rnnc_scratch(context)`, which returns the number of bytes of scratch memory that both need.
    So has one whose scratch memory is `lent` by the caller; it allocates nothing.
    `rnnc_derive` is there if it is to compute values from parameters (`kernels.derived`). Lent code has packed weights.
    counted: the functions count how long their sections take (`kernels.stopwatch`).
    """
    dtype = plan.program.dtype
    module, interface = Module(), Interface.of(plan, counted=counted)
    sections: list[TimedSection] = []
    layout = Layout(dtype, biased=target.dots.biased)
    names: dict[int, str] = {}
    packed: dict[int, PackedPhase] = {}
    in_place: dict[int, InPlace] = {}
    for region, phase in plan.phases():
        tile = choose_tile(phase, target, dtype)
        packed[id(phase)] = layout.add(phase, tile)
        names[id(phase)] = module.add(emit_phase(phase, f"phase_{phase.name}", tile, dtype, target))
        # The caller may change the arrays between the two halves, so only the first one may read them.
        if plan.late and not region.late and (rows := unit_rows(phase)):
            function = module.add(emit_dot_phase(phase, f"dots_{phase.name}", tile, dtype))
            in_place[id(phase)] = InPlace(function, rows)
    read_by_packing = sources(sweeps_of(layout))
    computed = [family for family in read_by_packing if family.op != "input" and not lent]
    derived = tuple(filter(is_derivable, computed))
    if derived:
        add_derived(module, derived, dtype, target)
    given = {family: n for n, family in enumerate(read_by_packing)}
    halves = ("run", "scratch", "finish") if plan.late else ("run", "scratch") if lent else ("run",)
    for half in halves:
        module.add(
            PlanFunction(plan, interface, names, packed, in_place, given, target, half, sections, lent=lent).emit()
        )
    read = {start for key, phase in packed.items() if key not in in_place for start in phase.weights}
    spared = {start for key in in_place for start in packed[key].weights} - read
    if counted:
        sections.append(BARRIERS)
    phases, functions = tuple(packed.values()), tuple(names[key] for key in packed)
    return Emitted(module, interface, layout, phases, target, frozenset(spared), derived, tuple(sections), functions)
