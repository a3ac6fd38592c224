"""The stages of this backend, from a rolled program to machine code, and what a reader may see of them."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from rnnc.backends.llvm.asm.target import Target
from rnnc.backends.llvm.kernels.derivable import leaves
from rnnc.backends.llvm.kernels.packers import sources, tables
from rnnc.backends.llvm.kernels.plan_module import Emitted, emit_plan
from rnnc.backends.llvm.kernels.sweep_order import ordered_sweeps
from rnnc.backends.llvm.listing import annotated, notes_of
from rnnc.backends.llvm.manifest import FEW_ROWS, Manifest, SumOfRows
from rnnc.backends.llvm.packing.layout import PackedPhase
from rnnc.backends.llvm.packing.narrow import narrow_feeds, narrow_weights
from rnnc.backends.llvm.packing.sharing import with_shared_weights
from rnnc.backends.llvm.runtime import Linked, Runtime, shown
from rnnc.backends.llvm.teams import team_work
from rnnc.backends.planning.keeping import kept_buffers
from rnnc.backends.planning.plan import Buffer, Plan, Space
from rnnc.backends.planning.planner import plan, with_products
from rnnc.backends.products import PLAIN, ProductFormat
from rnnc.ir.families import operands_first
from rnnc.ir.pipeline import PIPELINE, Artefacts, Stage
from rnnc.ir.program import Program, is_parameter
from rnnc.ir.shape_rules import BATCH


class Given(NamedTuple):
    """What the stages need besides the computation. product: the format of products with weights. counted: code counts
    the time of its sections.
    """

    target: Target
    product: ProductFormat
    counted: bool = False


def _plan(made: Artefacts) -> Plan:
    planned = with_shared_weights(plan(made["rolled"], made.computation.late))
    return with_products(planned, made.given.product)


def _emit(made: Artefacts) -> Emitted:
    return emit_plan(made["plan"], made.given.target, counted=made.given.counted)


def _assemble(made: Artefacts) -> Linked:
    emitted: Emitted = made["llvm"]
    linked = Linked(emitted.module, Runtime(made["rolled"].dtype, made.given.target))
    linked.notes = partial(notes_of, made["plan"], emitted)
    return linked


def _llvm_text(emitted: Emitted) -> str:
    return shown(emitted.module, Runtime(emitted.layout.dtype.name, emitted.target))


STAGES = (
    *PIPELINE,
    Stage("plan", _plan, lambda planned: str(planned.text())),
    Stage("llvm", _emit, _llvm_text),
    Stage("asm", _assemble, lambda linked: annotated(linked.assembly(labels=True), linked.notes())),
)
"""The pipeline of this backend. The `given` of its artefacts is a Given."""


def manifest_of(made: Artefacts) -> Manifest:
    """The manifest of a computation's machine code."""
    program, planned, emitted = _artefacts(made)
    every, rest = ordered_sweeps(planned, emitted), ordered_sweeps(planned, emitted, emitted.in_place)
    read, narrow = sources(every.sweeps), narrow_feeds(emitted.layout)
    return Manifest(
        dtype=program.dtype,
        interface=emitted.interface,
        arena_size=emitted.layout.size,
        late=planned.late,
        parameters={f.name: f for f in program.inputs if is_parameter(f)},
        untimed={n: f for n, f in program.outputs.items() if not f.timed and BATCH not in f.shape},
        sums=tuple(SumOfRows(total.target, total.late) for total in planned.sums),
        sources=read,
        derived=list(emitted.derived),
        packed_parameters=frozenset(str(family.name) for family in leaves([*read, *narrow_weights(narrow)])),
        narrow=narrow,
        tables=tables(every.sweeps, read),
        tables_of_rest=tables(rest.sweeps, read),
        of_one_step=every.of_one_step,
        rest_of_one_step=rest.of_one_step,
        reads_in_place=bool(emitted.in_place),
        flops_per_row=_flops_per_row(planned),
        saved_width=sum(buffer.width for buffer in _kept(planned)),
        sections=emitted.sections,
        team=team_work(planned, emitted),
    )


def _artefacts(made: Artefacts) -> tuple[Program, Plan, Emitted]:
    return made["rolled"], made["plan"], made["llvm"]


def _flops_per_row(planned: Plan) -> int:
    feeds = [(phase, feed) for _, phase in planned.phases() for feed in phase.feeds]
    flops = sum(2 * feed.inner * len(feed.blocks) * phase.width for phase, feed in feeds)
    return max(1, flops + sum(2 * t.rows * t.units for total in planned.sums for t in total.terms))


def _kept(planned: Plan) -> list[Buffer]:
    """The buffers, with a row per step and sequence, that the first half leaves for the second."""
    return [b for b in kept_buffers(planned) if b.space in (Space.TIMED, Space.LINE, Space.INPUT)]


# ---- for a reader


def explained(made: Artefacts, manifest: Manifest) -> str:
    """A text with the target, the values kept between the two halves, and the tile and loops of each phase."""
    program, planned, emitted = _artefacts(made)
    target, product, _ = made.given
    item = emitted.layout.dtype.itemsize
    lines = [
        f"target {target.name}: vectors of {target.lanes(program.dtype)} {program.dtype}",
        f"work: {manifest.flops_per_row:,} floating-point operations of matmuls for one step of one sequence; "
        f"{manifest.arena_size * item // 1024:,} KiB of packed weights",
        *([f"products: {product}"] if product != PLAIN else []),
        "threads: a batch that is large, or larger than the next line says, is split by rows",
        *_team_lines(manifest),
    ]
    if planned.late:
        kept = ", ".join(f"{b.name} {b.width}" for b in _kept(planned))
        lines.append(f"saved for the second half: {manifest.saved_width * item:,} bytes per row of a step ({kept})")
    if manifest.reads_in_place:
        lines.append(f"weights: read in place by the first half of a call of up to {FEW_ROWS} rows of all steps")
    if computed := [f.name for f in manifest.sources if f.op != "input"]:
        lines.append(f"computed from parameters before packing: {', '.join(computed)}")
    if of_sums := _made_of_sums(manifest):
        lines.append(f"computed by NumPy from sums over rows, once per call: {', '.join(of_sums)}")
    return "\n".join([*lines, *map(_phase_line, emitted.phases)]) + "\n"


def _team_lines(manifest: Manifest) -> list[str]:
    """What several threads do with a batch that is not split by rows."""
    if manifest.team is None:
        return ["threads: one stream runs on the calling thread"]
    work, regions = manifest.team, [region for group in manifest.team.groups for region in group]
    barriers, most = sum(region.barriers for region in regions), work.most_batch(2)
    beside = sum(len(group) for group in work.groups if len(group) > 1)
    if not most:
        return [f"threads: one stream runs on the calling thread; its steps are too short for {barriers} barriers"]
    what = f"{beside} loops side by side" if beside else f"barriers per step: {barriers}"
    return [
        f"threads: two share a batch of up to {most} rows by units, from {work.least_rows(2)} rows of all steps on "
        f"({what}); whether that is faster is measured as calls go on"
    ]


def _made_of_sums(manifest: Manifest) -> list[str]:
    """The outputs that NumPy computes from sums over rows."""
    sums = {total.target for total in manifest.sums}
    made = set(sums)
    for family in operands_first(manifest.untimed.values(), sums):
        if any(operand in made for operand in family.inputs):
            made.add(family)
    return [name for name, family in manifest.untimed.items() if family in made - sums]


def _phase_line(p: PackedPhase) -> str:
    """A line about a phase: its tile, accumulators and loops, or its grid."""
    if p.phase.axes:
        axes = " x ".join(map(str, p.phase.axes))
        sums = f"{len(p.phase.sums)} reductions"
        return f"phase {p.phase.name}: {p.phase.width} units as {axes}, in vectors of {p.tile.lanes}, {sums}"
    return (
        f"phase {p.phase.name}: {p.phase.width} units in {p.tile.panels(p.phase.width)} panels of {p.tile.units}, "
        f"up to {p.tile.rows} rows, {len(p.phase.accumulators)} accumulators, "
        f"k = {' + '.join(str(feed.inner) for feed in p.phase.feeds) or 'none'}"
    )
