"""What a reader is shown of compiled code: its stages, and what `explain` says of phases."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from rnnc.backends.llvm.jit import Compiled
from rnnc.backends.llvm.packing import PackedPhase
from rnnc.backends.planning.plan import Plan
from rnnc.ir.errors import BackendError


class Stages:
    """The backend's own stages, of whatever has a plan, its assembly and its machine code."""

    plan: Plan
    assembly_text: str
    code: Compiled
    stages: tuple[str, ...] = ("plan", "llvm", "asm")

    def text(self, stage: str) -> str:
        """The plan, the LLVM assembly, or the machine's own. Raises BackendError for another stage."""
        match stage:
            case "plan":
                return self.plan.text()
            case "llvm":
                return self.assembly_text
            case "asm":
                return self._native
        raise BackendError(f"stage: got {stage!r}, the llvm backend has {', '.join(map(repr, self.stages))}")

    @cached_property
    def _native(self) -> str:
        return self.code.assembly()


def phase_lines(packed: Sequence[PackedPhase]) -> list[str]:
    """One line a phase: its tile, its accumulators and its loops."""
    return [
        f"phase {p.phase.name}: {p.phase.width} units in {p.tile.panels(p.phase.width)} panels of {p.tile.units}, "
        f"up to {p.tile.rows} rows, {len(p.phase.accumulators)} accumulators, "
        f"k = {' + '.join(str(feed.inner) for feed in p.phase.feeds) or 'none'}"
        for p in packed
    ]
