"""Code of a phase that reduces over units, such as the sum of a row. The result is one number per row."""

from __future__ import annotations

from collections.abc import Sequence

from rnnc.backends.llvm.asm.builder import Function, Val, i64, lane_mask
from rnnc.backends.llvm.kernels.epilogue import Epilogue, Spot
from rnnc.ir.families import Family


class UnitReduction(Epilogue):
    """Reductions over units: a loop over rows, in it a loop over panels, with one vector accumulator per reduction."""

    def emit(self) -> Function:
        f = self.f
        tail = self.tile.tail(self.phase.width)
        panels = self.arg("panels")
        whole = f.sub(panels, 1) if tail else panels
        with f.loop(0, self.arg("rows")) as rows:
            start = [self._identity(family) for family in self.phase.sums]
            with f.loop(0, whole, carried=start) as loop:
                loop.next(self._combine(rows.index, loop.index, loop.values, 0))
            totals = list(loop.values)
            if tail:
                totals = self._combine(rows.index, whole, totals, tail)
            for family, total in zip(self.phase.sums, totals, strict=True):
                self._store(family, rows.index, total)
        f.ret()
        return f

    def _identity(self, family: Family) -> Val:
        """The identity of a reduction: 0 for a sum, -inf for a maximum."""
        assert family.spec.identity is not None
        return self.math.constant(family.spec.identity)

    def _combine(self, row: Val, panel: Val, totals: Sequence[Val], tail: int) -> list[Val]:
        result = list(totals)
        for v in range(self.tile.vectors):
            lanes = self.lanes_of(v, tail)
            if lanes == 0:
                continue
            (known,) = self.values([Spot(row, panel, v, lanes)], [{}])
            for n, family in enumerate(self.phase.sums):
                assert family.spec.emit is not None
                value = self._valid(family, known[family.inputs[0]], lanes)
                result[n] = family.spec.emit(self.math, result[n], value)
        return result

    def _valid(self, family: Family, value: Val, lanes: int) -> Val:
        """The value with lanes past the last unit replaced by the identity."""
        if lanes == self.tile.lanes:
            return value
        return self.f.select(lane_mask(self.tile.lanes, lanes), value, self._identity(family))

    def _store(self, family: Family, row: Val, total: Val) -> None:
        """Combines the lanes and stores the result."""
        f = self.f
        first = f.value(self.scalar, f"extractelement {self.all_lanes(family, total)}, i64 0")
        for stored, place in self.phase.stores:
            if stored is family:
                f.store(first, self.place_pointer(place, row, i64(0), 1), self.bytes)
