"""Sums of rows: the kernel that computes gradients of biases from the values of a backward loop.

    result[n] (+)= sum over k of lhs[k, n]                         k: every row of every time step
"""

from __future__ import annotations

from rnnc.backends.llvm.asm.builder import Function, Val, i64, vector
from rnnc.backends.llvm.kernels.few_products import MatrixKernel
from rnnc.backends.llvm.kernels.phase import CACHE_LINE

SUMMED_ROWS = 8


class _RowSum(MatrixKernel):
    """Reads a few rows at a time from end to end. So memory is read in order, and the rows are summed as a tree before
    they are added to the result."""

    PARAMETERS = "i64 inner, i64 units, ptr lhs, i64 lhs_stride, ptr result, i64 accumulate"

    def emit(self) -> Function:
        f = self.f
        line = CACHE_LINE // self.bytes
        whole = f.binary("and", self.arg("units"), i64(-line))
        with f.when(f.compare("eq", self.arg("accumulate"), 0)), f.loop(0, self.arg("units")) as unit:
            f.store(f.constant(0.0, self.scalar), self.at(self.arg("result"), unit.index), self.bytes)
        groups = f.binary("and", self.arg("inner"), i64(-SUMMED_ROWS))
        for start, stop, rows in ((i64(0), groups, SUMMED_ROWS), (groups, self.arg("inner"), 1)):
            with f.loop(start, stop, rows) as k:
                lhs = self.at(self.arg("lhs"), f.mul(k.index, self.arg("lhs_stride")))
                self._add(lhs, rows, i64(0), whole, vector(line, self.scalar), line)
                self._add(lhs, rows, whole, self.arg("units"), self.scalar, 1)
        f.ret()
        return f

    def _add(self, lhs: Val, rows: int, start: Val, stop: Val, type_: str, step: int) -> None:
        """Adds some units of a few rows to the result."""
        f = self.f
        lines = [self.at(lhs, f.mul(self.arg("lhs_stride"), row)) for row in range(rows)]
        with f.loop(start, stop, step) as unit:
            place = self.at(self.arg("result"), unit.index)
            total = self._sum(type_, lines, unit.index)
            f.store(f.binary("fadd", f.load(type_, place, self.bytes), total), place, self.bytes)

    def _sum(self, type_: str, lines: list[Val], unit: Val) -> Val:
        """The sum of one vector per row, as a tree."""
        if len(lines) == 1:
            return self.f.load(type_, self.at(lines[0], unit), self.bytes)
        half = len(lines) // 2
        return self.f.binary("fadd", self._sum(type_, lines[:half], unit), self._sum(type_, lines[half:], unit))


def emit_row_sum(name: str, dtype: str) -> Function:
    """The function result[n] (+)= sum over k of lhs[k, n], which is the same for every target.

    Arguments: inner, units, lhs, lhs_stride, result, accumulate, as for `emit_outer`.
    """
    return _RowSum(name, dtype).emit()
