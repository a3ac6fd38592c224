"""What `explain` says of phases."""

from __future__ import annotations

from collections.abc import Sequence

from rnnc.backends.llvm.packing import PackedPhase


def phase_lines(packed: Sequence[PackedPhase]) -> list[str]:
    """One line a phase: its tile, its accumulators and its loops."""
    return [
        f"phase {p.phase.name}: {p.phase.width} units in {p.tile.panels(p.phase.width)} panels of {p.tile.units}, "
        f"up to {p.tile.rows} rows, {len(p.phase.accumulators)} accumulators, "
        f"k = {' + '.join(str(feed.inner) for feed in p.phase.feeds) or 'none'}"
        for p in packed
    ]
