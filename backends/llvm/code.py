"""A computation as machine code, behind the protocol of `rnnc.backends.base`."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from rnnc.backends.llvm import stored
from rnnc.backends.llvm.asm.target import Target, host
from rnnc.backends.llvm.calls.bound import LlvmBound
from rnnc.backends.llvm.calls.buffers import Pool
from rnnc.backends.llvm.manifest import FEW_ROWS, Manifest
from rnnc.backends.llvm.runtime import Linked, Relinked, Runtime
from rnnc.backends.products import PLAIN, ProductFormat
from rnnc.ir import settings
from rnnc.ir.families import Family, operands_first

if TYPE_CHECKING:
    from rnnc.backends.llvm.asm.builder import Module
    from rnnc.backends.llvm.calls.helpers import Team
    from rnnc.backends.llvm.counters import Counters
    from rnnc.backends.llvm.kernels.plan_module import Emitted
    from rnnc.backends.planning.plan import Plan
    from rnnc.ir.computation import Computation
    from rnnc.ir.ops import Array
    from rnnc.ir.pipeline import Artefacts
    from rnnc.ir.program import Program

PARALLEL_FLOPS = 1.2e8
"""Floating-point operations of a half, below which sharing its rows among threads costs more than it saves: Python
reads the arguments then, and a helper wakes. 0: every call is shared."""
PARALLEL_SUM = 100
"""As many more per element of a sum over rows, which another thread makes one of, and this one adds."""
PARALLEL_STEP = 2e7
"""As PARALLEL_FLOPS, of a training step, which takes its threads into one call of machine code each."""
LEAST_SHARED = 4
"""The smallest batch whose rows are shared. One row takes nearly as long as two, since both read all weights."""
UNLIMITED = 1 << 62
KEPT_BLOCKS, BLOCKS_PER_THREAD = 6, 2
"""Of memory, kept between calls. A call takes one for weights; each of its threads one for values, one for sums."""


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
    """See `rnnc.backends.base.Code`. What an earlier process compiled is taken from the disk (`stored`)."""

    stages = ("plan", "llvm", "asm")

    def __init__(self, computation: Computation, threads: int, target: Target, product: ProductFormat) -> None:
        self.computation = computation
        self.target = target
        self.product = product
        self.threads = threads
        profile = settings.counted()
        self.counted = profile is not None
        self.manifest: Manifest
        self.linked: Linked | Relinked
        self.manifest, self.linked = self._stored() or self._compiled()
        self.interface = self.manifest.interface
        self.late = self.manifest.late
        self.parameters, self.untimed = self.manifest.parameters, self.manifest.untimed
        self.sums, self.sources = self.manifest.sums, self.manifest.sources
        self.dtype = np.dtype(self.manifest.dtype)
        self.runtime = Runtime(self.manifest.dtype, target)
        self.pool = Pool(KEPT_BLOCKS + BLOCKS_PER_THREAD * self.threads)
        self.counters = None if profile is None else self._counters()
        if profile is not None:
            profile.append(self.counters)
        self.ragged_is_proved = np.zeros(1, np.int64)  # read by native calls

    def _counters(self) -> Counters:
        """The counters of profiled code, which whoever profiles reads."""
        from rnnc.backends.llvm.counters import Counters

        return Counters(self.manifest.sections, self.runtime)

    # ---- machine code

    def _stored(self) -> tuple[Manifest, Relinked] | None:
        """What an earlier process stored."""
        found: stored.StoredProgram | None = stored.load(self._name)
        if found is None:
            return None
        return found.manifest, Relinked(found.image, found.units, Runtime(found.manifest.dtype, self.target))

    def _compiled(self) -> tuple[Manifest, Linked]:
        """Compiles, and stores the result."""
        from rnnc.backends.llvm.stages import manifest_of

        manifest, linked = manifest_of(self._artefacts), self._artefacts["asm"]
        if linked.image is not None:
            stored.save(self._name, stored.StoredProgram(manifest, linked.image, linked.units))
        return manifest, linked

    @cached_property
    def _name(self) -> str | None:
        """The name under which the code is stored."""
        return self._name_of("program", lengths=False)

    def _name_of(self, kind: str, *, lengths: bool) -> str | None:
        """The name of what is known of the graph, with lengths or without."""
        if not stored.is_used():
            return None
        late = " ".join(sorted(self.computation.late))
        options = f"{self.product}{' counted' * self.counted}"
        return stored.name_of(kind, self.target, self.computation.identity or self._graph_text(lengths), late, options)

    def _graph_text(self, lengths: bool) -> str:
        """The graph of a few steps, which determines the code."""
        from rnnc.ir.pipeline import PIPELINE, Artefacts

        made = Artefacts(PIPELINE, self.computation, lengths=True) if lengths else self._shared
        return made.text("lowered")

    def linked_beside(self, kind: str, emit: Callable[[], Module], *, calls: bool = False) -> Linked | Relinked:
        """Another module of this computation, linked. emit: makes it, if it is not stored. calls: it calls functions of
        the first one.
        """
        beside = self.linked.addresses if calls else {}
        name = stored.name_of(kind, self.target, self._name) if self._name else None
        found: stored.StoredModule | None = stored.load(name)
        if found is not None:
            return Relinked(found.image, found.units, self.runtime, beside)
        linked = Linked(emit(), self.runtime, beside)
        if linked.image is not None:
            stored.save(name, stored.StoredModule(linked.image, linked.units))
        return linked

    # ---- texts, and the stages behind them, which stored code comes without

    @cached_property
    def _shared(self) -> Artefacts:
        """The stages that all backends share."""
        from rnnc.ir.pipeline import PIPELINE, Artefacts

        return Artefacts(PIPELINE, self.computation)

    @cached_property
    def _artefacts(self) -> Artefacts:
        """All stages. Their modules take longer to import than stored code to load."""
        from rnnc.backends.llvm.stages import STAGES, Given

        return self._shared.extended(STAGES, Given(self.target, self.product, self.counted))

    @property
    def program(self) -> Program:
        """The rolled program."""
        made: Program = self._artefacts["rolled"]
        return made

    @property
    def plan(self) -> Plan:
        """The program laid out as phases."""
        made: Plan = self._artefacts["plan"]
        return made

    @property
    def emitted(self) -> Emitted:
        """The module of the plan, and the layout of its weights."""
        made: Emitted = self._artefacts["llvm"]
        return made

    def text(self, stage: str) -> str:
        """The text of a stage. "llvm" includes the runtime functions it calls; "asm" is the network's own code."""
        return self._artefacts.text(stage)

    def explain(self) -> str:
        """A text with the target, the values kept between the two halves, and the tile and loops of each phase."""
        from rnnc.backends.llvm.stages import explained

        return explained(self._artefacts, self.manifest)

    # ---- values between the two halves, and after the run

    def saved_bytes(self, steps: int, batch: int) -> int:
        """The number of bytes that the first half keeps for the second."""
        return steps * batch * self.manifest.saved_width * int(self.dtype.itemsize)

    @cached_property
    def only_sums(self) -> bool:
        """True if all outputs without a batch axis are sums over rows, so that NumPy computes nothing after them."""
        return set(self.untimed.values()) <= {total.target for total in self.sums}

    @cached_property
    def read_late(self) -> frozenset[Family]:
        """The parameters that NumPy reads after the second half, for gradients made from them and sums over rows."""
        sums = {total.target for total in self.sums}
        late = [family for name, family in self.untimed.items() if name in self.late]
        return frozenset(family for family in operands_first(late, sums) if family in self.parameters.values())

    def reads(self, name: str) -> bool:
        """True if there is an input of this name with a batch axis."""
        return name in self.interface.timed or name in self.interface.rows

    @cached_property
    def ragged(self) -> bool:
        """True: padding need not be computed. This is proved when lengths are first given; raises IRError otherwise."""
        name = self._name_of("rows end", lengths=True)
        if stored.load(name) is None:
            from rnnc.ir.ragged import check_rows_end

            check_rows_end(self.computation.program(lengths=True))
            stored.save(name, True)
        self.ragged_is_proved[0] = 1
        return True

    # ---- work

    @cached_property
    def serial_rows(self) -> int:
        """The largest number of rows, over all steps, that one thread runs alone."""
        if self.threads == 1:
            return UNLIMITED
        summed = sum(math.prod(map(int, total.target.shape)) for total in self.sums)
        flops = PARALLEL_FLOPS * (2 if self.late else 1) + PARALLEL_SUM * summed * bool(PARALLEL_FLOPS)
        return int(flops / self.manifest.flops_per_row)

    @property
    def most_unshared(self) -> int:
        """The largest batch whose rows one thread runs alone, whatever the number of steps."""
        return LEAST_SHARED - 1 if PARALLEL_FLOPS else 1

    def members(self, steps: int, batch: int) -> int:
        """The number of threads that run a batch, each some of its rows."""
        shared = batch > self.most_unshared and steps * batch > self.serial_rows
        return min(self.threads, batch) if shared else 1

    def step_members(self, steps: int, batch: int) -> int:
        """The number of threads that run the batch of a training step."""
        flops = steps * batch * self.manifest.flops_per_row
        return min(self.threads, batch) if flops > min(PARALLEL_STEP, PARALLEL_FLOPS) else 1

    def teams_up(self, steps: int, batch: int) -> bool:
        """True if several threads run a batch together, instead of rows of their own."""
        return self.team is not None and self.team.takes(steps, batch)

    # ---- packing

    def reads_in_place(self, steps: int, batch: int) -> bool:
        """True if the first half of a call reads weights where the caller has them."""
        return self.manifest.reads_in_place and steps * batch <= FEW_ROWS

    # ---- generated functions

    def address(self, name: str) -> int:
        """The address of a function of the network's module."""
        return self.linked.address(name)

    @cached_property
    def run_functions(self) -> Mapping[str, Callable[[int], int]]:
        """ "rnnc_run", and "rnnc_finish" if there are two halves: (address of a context) -> 0, or 1 without memory."""
        call = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p)  # releases the interpreter lock
        halves = ("rnnc_run", "rnnc_finish") if self.late else ("rnnc_run",)
        return {name: call(self.address(name)) for name in halves}

    @cached_property
    def scratch_size(self) -> Callable[[int], int] | None:
        """(Address of a context) -> bytes of scratch that both halves share. None if there is one half, which allocates
        its own.
        """
        measure = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)
        return measure(self.address("rnnc_scratch")) if self.late else None

    @cached_property
    def sweep(self) -> Callable[[int, int, int, int, int], None]:
        """The packer: arena, sources, sweeps, their number, moves."""
        pack = ctypes.CFUNCTYPE(None, *([ctypes.c_void_p] * 3), ctypes.c_int64, ctypes.c_void_p)
        return pack(self.runtime.address("rnnc_sweep"))

    @cached_property
    def team(self) -> Team | None:
        """How several threads run one stream; None if that does not pay, or is not possible here."""
        if self.threads == 1 or self.manifest.team is None:
            return None
        from rnnc.backends.llvm.calls.helpers import team_of

        return team_of(self)

    def bind(self, parameters: Mapping[str, Array]) -> LlvmBound:
        """See `rnnc.backends.base.Code.bind`."""
        return LlvmBound(self, parameters)
