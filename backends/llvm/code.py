"""A computation as machine code, behind the protocol of `rnnc.backends.base`."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import NamedTuple

import numpy as np

from rnnc.backends.llvm.asm.target import Target, host
from rnnc.backends.llvm.calls.bound import LlvmBound
from rnnc.backends.llvm.calls.buffers import Pool
from rnnc.backends.llvm.kernels.derived import leaves
from rnnc.backends.llvm.kernels.packers import Sweep, sources, sweeps_of, tables
from rnnc.backends.llvm.kernels.plan_module import Emitted, emit_plan
from rnnc.backends.llvm.packing.layout import PackedPhase
from rnnc.backends.llvm.packing.narrow import narrow_weights
from rnnc.backends.llvm.packing.sharing import with_shared_weights
from rnnc.backends.llvm.runtime import Linked, Runtime, shown
from rnnc.backends.planning.keeping import kept_buffers
from rnnc.backends.planning.plan import Buffer, Plan, Space
from rnnc.backends.planning.planner import plan, with_products
from rnnc.backends.products import PLAIN, ProductFormat
from rnnc.ir import settings
from rnnc.ir.computation import Computation
from rnnc.ir.families import Family, operands_first
from rnnc.ir.ops import Array
from rnnc.ir.pipeline import PIPELINE, Artefacts, Stage, own_stages
from rnnc.ir.program import Program, is_parameter
from rnnc.ir.ragged import check_rows_end
from rnnc.ir.shape_rules import BATCH

PARALLEL_FLOPS = 2e7
"""Floating-point operations of a call, below which sharing it among threads costs more than it saves."""
UNLIMITED = 1 << 62
FEW_ROWS = 4
"""The rows of all steps for which packing a weight takes longer than reading it where it lies."""


class Given(NamedTuple):
    """What the stages need besides the computation."""

    target: Target
    product: ProductFormat


def _plan(made: Artefacts) -> Plan:
    planned = with_shared_weights(plan(made["rolled"], made.computation.late))
    return with_products(planned, made.given.product)


def _emit(made: Artefacts) -> Emitted:
    return emit_plan(made["plan"], made.given.target)


def _assemble(made: Artefacts) -> Linked:
    emitted: Emitted = made["llvm"]
    return Linked(emitted.module, Runtime(made["rolled"].dtype, made.given.target))


def _llvm_text(emitted: Emitted) -> str:
    return shown(emitted.module, Runtime(emitted.layout.dtype.name, emitted.target))


STAGES = (
    *PIPELINE,
    Stage("plan", _plan, lambda planned: str(planned.text())),
    Stage("llvm", _emit, _llvm_text),
    Stage("asm", _assemble, lambda linked: str(linked.assembly())),
)
"""The pipeline of this backend. The `given` of its artefacts is a Given."""


def compile(
    computation: Computation,
    *,
    threads: int | None = None,
    target: Target | None = None,
    product: ProductFormat = PLAIN,
) -> LlvmCode:
    """Compiles a computation for this machine, or for a target that it can run. product: that of all phases."""
    return LlvmCode(computation, threads or settings.threads(), target or host(), product)


class LlvmCode:
    """See `rnnc.backends.base.Code`."""

    stages = own_stages(STAGES)

    def __init__(self, computation: Computation, threads: int, target: Target, product: ProductFormat) -> None:
        self.computation = computation
        self.target = target
        self.product = product
        self.threads = threads
        self._artefacts = Artefacts(STAGES, computation, given=Given(target, product))
        self.linked: Linked = self._artefacts["asm"]
        self.program: Program = self._artefacts["rolled"]
        self.plan: Plan = self._artefacts["plan"]
        self.emitted: Emitted = self._artefacts["llvm"]
        self.interface, self.layout = self.emitted.interface, self.emitted.layout
        self.dtype = np.dtype(self.program.dtype)
        self.runtime = Runtime(self.program.dtype, target)
        self.pool = Pool()
        self.parameters = {f.name: f for f in self.program.inputs if is_parameter(f)}
        self.untimed = {n: f for n, f in self.program.outputs.items() if not f.timed and BATCH not in f.shape}

    # ---- texts

    def text(self, stage: str) -> str:
        """The text of a stage. "llvm" includes the runtime functions it calls; "asm" is the network's own code."""
        return self._artefacts.text(stage)

    def explain(self) -> str:
        """A text with the target, the values kept between the two halves, and the tile and loops of each phase."""
        dtype, size = self.program.dtype, self.layout.size * self.dtype.itemsize
        lines = [
            f"target {self.target.name}: vectors of {self.target.lanes(dtype)} {dtype}",
            f"work: {self.flops_per_row:,} floating-point operations of matmuls for one step of one sequence; "
            f"{size // 1024:,} KiB of packed weights",
            *([f"products: {self.product}"] if self.product != PLAIN else []),
            "threads: a large batch is split by rows; a batch of one runs on the calling thread",
        ]
        if self.plan.late:
            kept = ", ".join(f"{b.name} {b.width}" for b in self._kept)
            lines.append(f"saved for the second half: {self.saved_bytes(1, 1):,} bytes per row of a step ({kept})")
        if self.emitted.in_place:
            lines.append(f"weights: read in place by the first half of a call of up to {FEW_ROWS} rows of all steps")
        if computed := [f.name for f in self.sources if f.op != "input"]:
            lines.append(f"computed from parameters before packing: {', '.join(computed)}")
        if self.made_of_sums:
            lines.append(f"computed by NumPy from sums over rows, once per call: {', '.join(self.made_of_sums)}")
        return "\n".join([*lines, *map(_phase_line, self.emitted.phases)]) + "\n"

    # ---- values between the two halves, and after the run

    @cached_property
    def _kept(self) -> list[Buffer]:
        """The buffers, with a row per step and sequence, that the first half leaves for the second."""
        return [b for b in kept_buffers(self.plan) if b.space in (Space.TIMED, Space.LINE, Space.INPUT)]

    def saved_bytes(self, steps: int, batch: int) -> int:
        """The number of bytes that the first half keeps for the second."""
        width: int = sum(b.width for b in self._kept)
        return steps * batch * width * int(self.dtype.itemsize)

    @cached_property
    def only_sums(self) -> bool:
        """True if all outputs without a batch axis are sums over rows, so that NumPy computes nothing after them."""
        return set(self.untimed.values()) <= {total.target for total in self.plan.sums}

    @cached_property
    def made_of_sums(self) -> list[str]:
        """The outputs that NumPy computes from sums over rows."""
        sums = {total.target for total in self.plan.sums}
        made = set(sums)
        for family in operands_first(self.untimed.values(), sums):
            if any(operand in made for operand in family.inputs):
                made.add(family)
        return [name for name, family in self.untimed.items() if family in made - sums]

    @cached_property
    def read_late(self) -> frozenset[Family]:
        """The parameters that NumPy reads after the second half, for gradients made from them and sums over rows."""
        sums = {total.target for total in self.plan.sums}
        late = [family for name, family in self.untimed.items() if self.plan.is_late(name)]
        return frozenset(family for family in operands_first(late, sums) if family in self.parameters.values())

    def reads(self, name: str) -> bool:
        """True if there is an input of this name with a batch axis."""
        return name in self.interface.timed or name in self.interface.rows

    @cached_property
    def ragged(self) -> bool:
        """True: padding need not be computed. This is proved when lengths are first given; raises IRError otherwise."""
        check_rows_end(self.computation.program(lengths=True))
        return True

    # ---- work

    @cached_property
    def flops_per_row(self) -> int:
        """The number of multiplications and additions in matrix products, per step of one sequence."""
        feeds = [(phase, feed) for _, phase in self.plan.phases() for feed in phase.feeds]
        flops = sum(2 * feed.inner * len(feed.blocks) * phase.width for phase, feed in feeds)
        return max(1, flops + sum(2 * t.rows * t.units for total in self.plan.sums for t in total.terms))

    @cached_property
    def serial_rows(self) -> int:
        """The largest number of rows, over all steps, that one thread runs alone."""
        return UNLIMITED if self.threads == 1 else int(PARALLEL_FLOPS / self.flops_per_row)

    def members(self, steps: int, batch: int) -> int:
        """The number of threads that run a batch."""
        return min(self.threads, batch) if steps * batch > self.serial_rows else 1

    # ---- packing

    @cached_property
    def sweeps(self) -> list[Sweep]:
        """The sweeps that pack the arena."""
        return sweeps_of(self.layout)

    @cached_property
    def sources(self) -> list[Family]:
        """The values that packing reads: parameters, and values computed from parameters and numbers alone."""
        return sources(self.sweeps)

    @cached_property
    def packed_parameters(self) -> frozenset[str]:
        """The names of all parameters that packing depends on."""
        return frozenset(str(family.name) for family in leaves([*self.sources, *narrow_weights(self.layout)]))

    @cached_property
    def tables(self) -> tuple[Array, Array]:
        """The tables of sweeps and of moves that generated code reads."""
        return tables(self.sweeps, self.sources)

    @cached_property
    def tables_of_rest(self) -> tuple[Array, Array]:
        """As `tables`, without the weights that the first half can read in place."""
        return tables(sweeps_of(self.layout, self.emitted.in_place), self.sources)

    def reads_in_place(self, steps: int, batch: int) -> bool:
        """True if the first half of a call reads weights where the caller has them."""
        return bool(self.emitted.in_place) and steps * batch <= FEW_ROWS

    # ---- generated functions

    def address(self, name: str) -> int:
        """The address of a function of the network's module."""
        return self.linked.address(name)

    @cached_property
    def run_functions(self) -> Mapping[str, Callable[[int], int]]:
        """ "rnnc_run", and "rnnc_finish" if there are two halves: (address of a context) -> 0, or 1 without memory."""
        call = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p)  # releases the interpreter lock
        halves = ("rnnc_run", "rnnc_finish") if self.plan.late else ("rnnc_run",)
        return {name: call(self.address(name)) for name in halves}

    @cached_property
    def scratch_size(self) -> Callable[[int], int] | None:
        """(Address of a context) -> bytes of scratch that both halves share. None if there is one half, which allocates
        its own.
        """
        measure = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)
        return measure(self.address("rnnc_scratch")) if self.plan.late else None

    @cached_property
    def sweep(self) -> Callable[[int, int, int, int, int], None]:
        """The packer: arena, sources, sweeps, their number, moves."""
        pack = ctypes.CFUNCTYPE(None, *([ctypes.c_void_p] * 3), ctypes.c_int64, ctypes.c_void_p)
        return pack(self.runtime.address("rnnc_sweep"))

    def bind(self, parameters: Mapping[str, Array]) -> LlvmBound:
        """See `rnnc.backends.base.Code.bind`."""
        return LlvmBound(self, parameters)


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
