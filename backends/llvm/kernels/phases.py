"""The function of a phase, of the kind that the phase needs."""

from __future__ import annotations

from rnnc.backends.llvm.asm.builder import Function
from rnnc.backends.llvm.asm.target import Target
from rnnc.backends.llvm.kernels.grid_walk import GridWalk
from rnnc.backends.llvm.kernels.integer_phase import IntegerPhase
from rnnc.backends.llvm.kernels.narrow_phase import NarrowPhase
from rnnc.backends.llvm.kernels.phase import TilePhase
from rnnc.backends.llvm.kernels.unit_reductions import UnitReduction
from rnnc.backends.llvm.packing.tile import Tile
from rnnc.backends.planning.plan import Phase


def emit_phase(phase: Phase, name: str, tile: Tile, dtype: str, target: Target) -> Function:
    """The function of a phase."""
    if phase.axes:
        return GridWalk(phase, name, tile, dtype).emit()
    if phase.sums:
        return UnitReduction(phase, name, tile, dtype).emit()
    if phase.feeds and phase.product.activations:
        return IntegerPhase(phase, name, tile, dtype, target.dots).emit()
    narrow = phase.feeds and phase.product.weights
    return (NarrowPhase if narrow else TilePhase)(phase, name, tile, dtype).emit()
