"""Code of a phase whose weights are read in place, for a few rows: one dot product per unit.

    for each panel of units, for each row:
      for each feed, for each accumulator, for each vector of units:
        for k, a vector at a time: sums of a unit += lhs[row, k] * weights[unit, k]      one vector of sums per unit
        accumulator += the totals of the units, as a vector
      epilogue (the equations), stores

The arguments are those of a phase of tiles, but for the weights: per feed and block, the address of the first unit's
row, and the stride from one unit to the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rnnc.backends.llvm.asm.builder import Function, Val, i64
from rnnc.backends.llvm.kernels.epilogue import PhaseSignature, signature
from rnnc.backends.llvm.kernels.phase import TilePhase
from rnnc.backends.llvm.packing.tile import Tile
from rnnc.backends.planning.plan import Phase


@dataclass(frozen=True)
class DotSignature(PhaseSignature):
    """The order of the arguments. blocks: the number of blocks of each feed."""

    blocks: tuple[int, ...] = ()

    def weights(self, feed: int) -> list[str]:
        names = ((f"ptr %weights{feed}_{b}", f"i64 %weights_stride{feed}_{b}") for b in range(self.blocks[feed]))
        return [name for pair in names for name in pair]


def emit_dot_phase(phase: Phase, name: str, tile: Tile, dtype: str) -> Function:
    """The function of a phase."""
    return _DotPhase(phase, name, tile, dtype).emit()


class _DotPhase(TilePhase):
    def _signature(self, phase: Phase) -> PhaseSignature:
        known = signature(phase)
        return DotSignature(known.feeds, known.places, tuple(len(feed.blocks) for feed in phase.feeds))

    def emit(self) -> Function:
        f, every = self.f, list(range(len(self.phase.accumulators)))
        self.stack = self._stack_tile()
        with f.loop(self.arg("first"), self.arg("stop")) as panel, f.loop(0, self.arg("rows")) as row:
            self._keep([self._start(row.index, panel.index, every)])
            for number, feed in enumerate(self.phase.feeds):
                for block, (target, _) in enumerate(feed.blocks):
                    with f.part(f"feed{number}"):
                        self._add_dots(number, block, target, row.index, panel.index)
            with f.part("epilogue"):
                self._finish(*self._from_stack(row.index, i64(0)), panel.index)
        f.ret()
        return f

    def _add_dots(self, feed: int, block: int, target: int, row: Val, panel: Val) -> None:
        """Adds the products of a block to an accumulator in the stack tile, vector by vector."""
        f, lanes = self.f, self.tile.lanes
        start = f.mul(panel, self.tile.units)
        left = f.udiv(f.sub(i64(self.phase.width + lanes - 1), start), lanes)
        with f.loop(0, f.minimum(left, i64(self.tile.vectors))) as v:
            place = f.element(self.stack, f.add(v.index, target * self.tile.vectors), self.type)
            dots = self._dots(feed, block, row, f.add(start, f.mul(v.index, lanes)))
            total = self.math.add(f.load(self.type, place, self.bytes * lanes), dots)
            f.store(total, place, self.bytes * lanes)

    def _dots(self, feed: int, block: int, row: Val, first: Val) -> Val:
        """The products of a row and a vector of units from `first` on. Units past the last one repeat it, and are not
        stored.
        """
        f, lanes = self.f, self.tile.lanes
        inner = self.arg(f"inner{feed}")
        lhs = f.element(self.arg(f"lhs{feed}"), f.mul(row, self.arg(f"lhs_stride{feed}")), self.scalar)
        rows = [self._unit_row(feed, block, f.add(first, lane)) for lane in range(lanes)]
        sums = [Val(self.type, "zeroinitializer")] * lanes
        whole = f.binary("and", inner, i64(-lanes))
        for start, stop, masked in ((i64(0), whole, False), (whole, inner, True)):
            with f.loop(start, stop, lanes, carried=sums) as k:
                mask = f.lanes_below(f.sub(inner, k.index), lanes) if masked else None
                x = self._load(lhs, k.index, mask)
                k.next([f.fma(x, self._load(r, k.index, mask), s) for r, s in zip(rows, k.values, strict=True)])
            sums = k.values
        return self._totals(sums)

    def _unit_row(self, feed: int, block: int, unit: Val) -> Val:
        f = self.f
        unit = f.minimum(unit, i64(self.phase.width - 1))
        start = f.mul(unit, self.arg(f"weights_stride{feed}_{block}"))
        return f.element(self.arg(f"weights{feed}_{block}"), start, self.scalar)

    def _load(self, pointer: Val, k: Val, mask: Val | None) -> Val:
        place = self.f.element(pointer, k, self.scalar)
        if mask is None:
            return self.f.load(self.type, place, self.bytes)
        return self.f.load_masked(self.type, place, mask, self.bytes)

    def _totals(self, sums: Sequence[Val]) -> Val:
        """The total of each vector in a lane of its own. Neighbours are added until one vector is left."""
        f = self.f
        while len(sums) > 1:
            pairs = zip(sums[::2], sums[1::2], strict=True)
            sums = [f.binary("fadd", self._every_other(a, b, 0), self._every_other(a, b, 1)) for a, b in pairs]
        return sums[0]

    def _every_other(self, a: Val, b: Val, first: int) -> Val:
        lanes = self.tile.lanes
        order = ", ".join(f"i32 {lane}" for lane in range(first, 2 * lanes, 2))
        return self.f.value(self.type, f"shufflevector {a}, {b}, <{lanes} x i32> <{order}>")
