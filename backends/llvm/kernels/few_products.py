"""Sums of a few outer products: a kernel for which packing would take longer than the sums.

    result[m, n] (+)= sum over k of lhs[k, m] * rhs[k, n]          up to FEW values of k

The result is written once, from registers: row by row for FEWEST values of k, and otherwise by tiles of a few rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from itertools import product

from rnnc.backends.llvm.asm.builder import Val, define, i64, like, mangle, vector
from rnnc.backends.llvm.asm.dtypes import ELEMENT_BYTES, SCALARS

FEW = 8
"""The largest number of k for which nothing is packed: for 2,048 x 512 sums of 8 products, 320 us instead of 420."""
FEWEST = 3
"""The largest number of k for which writing the result takes longest, so that it is written row by row, in the order of
memory: for 768 x 256 sums of one product, 19 us; four rows at a time, 23."""
ROW_VECTORS = 4
"""Vectors per iteration where a row is written by itself."""
UNPACKED_ROWS, UNPACKED_VECTORS = 4, 2
"""The tile where nothing is packed, in registers."""


class MatrixKernel:
    """The common base of the kernels of sums over rows: arguments, addresses, masks."""

    PARAMETERS: str

    def __init__(self, name: str, dtype: str) -> None:
        self.f = define(f"void {name}({self.PARAMETERS})")
        self.named = {p.name: p for p in self.f.parameters}
        self.scalar = SCALARS[dtype]
        self.bytes = ELEMENT_BYTES[dtype]

    def arg(self, name: str) -> Val:
        return self.named["%" + name]

    def at(self, pointer: Val, index: Val | int) -> Val:
        return self.f.element(pointer, index, self.scalar)

    def mask(self, first: int, lanes: int, count: Val) -> Val:
        """The mask of the numbers first, first + 1, ... that are less than a count."""
        f = self.f
        numbers = ", ".join(f"i32 {first + lane}" for lane in range(lanes))
        limit = f.splat(f.value("i32", f"trunc {count} to i32"), lanes)
        return f.value(like(limit.type, "i1"), f"icmp ult {limit.type} <{numbers}>, {limit.name}")

    def load(self, type_: str, pointer: Val, mask: Val | None) -> Val:
        """Reads a vector, or the lanes of it that a mask selects."""
        if mask is None:
            return self.f.load(type_, pointer, self.bytes)
        return self.f.load_masked(type_, pointer, mask, self.bytes)

    def store(self, value: Val, pointer: Val, mask: Val | None) -> None:
        """Writes a vector, or the lanes of it that a mask selects."""
        if mask is None:
            self.f.store(value, pointer, self.bytes)
            return
        function = f"llvm.masked.store.{mangle(value.type)}.p0"
        self.f.call("void", function, value, pointer, Val("i32", str(self.bytes)), mask)

    def either(self, condition: Val) -> AbstractContextManager[Iterator[int]]:
        """The code if a condition holds (1), and the code if it does not (0)."""
        return self.f.switch(self.f.value("i64", f"zext {condition} to i64"), (1, 0))


class FewProducts(MatrixKernel):
    """The part of `rnnc_outer` for a few values of k."""

    PARAMETERS = (
        "i64 inner, i64 rows, i64 units, ptr lhs, i64 lhs_stride, ptr rhs, i64 rhs_stride, "
        "ptr result, i64 result_stride, i64 accumulate, ptr workspace"
    )

    def __init__(self, name: str, dtype: str, lanes: int) -> None:
        super().__init__(name, dtype)
        self.lanes = lanes
        self.type = vector(lanes, self.scalar)

    def write_few(self) -> None:
        """The whole result for up to FEW values of k."""
        f, inner = self.f, self.arg("inner")
        with f.switch(f.minimum(inner, i64(FEWEST + 1)), range(1, FEWEST + 2)) as counts:
            for count in counts:
                with self.either(f.compare("ne", self.arg("accumulate"), 0)) as variants:
                    for add in variants:
                        if count <= FEWEST:
                            self._few_products(count, bool(add))
                        else:
                            self._unpacked_tiles(bool(add))

    def _few_products(self, count: int, add: bool) -> None:
        """The result of `count` values of k, row by row: a row is a sum of `count` rows of rhs times numbers of lhs."""
        f, lanes = self.f, self.lanes
        with f.loop(0, self.arg("rows")) as row:
            places = [f.add(f.mul(self.arg("lhs_stride"), k), row.index) for k in range(count)]
            factors = [self._factor(self.at(self.arg("lhs"), place)) for place in places]
            for unit, vectors, mask in self._across(ROW_VECTORS):
                for v in range(vectors):
                    place, total = f.add(unit, v * lanes), Val(self.type, "zeroinitializer")
                    for k, factor in enumerate(factors):
                        line = self.at(self.arg("rhs"), f.add(f.mul(self.arg("rhs_stride"), k), place))
                        total = f.fma(factor, self.load(self.type, line, mask), total)
                    self._write(total, row.index, place, mask, add)

    def _unpacked_tiles(self, add: bool) -> None:
        """The result by tiles of UNPACKED_ROWS rows. The rows that are left are done one by one."""
        f, rows = self.f, self.arg("rows")
        whole = f.binary("and", rows, i64(-UNPACKED_ROWS))
        for start, stop, height in ((i64(0), whole, UNPACKED_ROWS), (whole, rows, 1)):
            with f.loop(start, stop, height) as row:
                for unit, vectors, mask in self._across(UNPACKED_VECTORS):
                    self._unpacked_tile(row.index, height, unit, vectors, mask, add)

    def _unpacked_tile(self, row: Val, height: int, unit: Val, vectors: int, mask: Val | None, add: bool) -> None:
        f, lanes = self.f, self.lanes
        zeros = [Val(self.type, "zeroinitializer")] * (height * vectors)
        start = [self.at(self.arg("lhs"), row), self.at(self.arg("rhs"), unit), *zeros]
        with f.loop(0, self.arg("inner"), carried=start) as k:
            lhs, rhs, *sums = k.values
            line = [self.load(self.type, self.at(rhs, v * lanes), mask) for v in range(vectors)]
            factors = [self._factor(self.at(lhs, n)) for n in range(height)]
            below = [self.at(lhs, self.arg("lhs_stride")), self.at(rhs, self.arg("rhs_stride"))]
            terms = zip(product(factors, line), sums, strict=True)
            k.next([*below, *(f.fma(factor, value, total) for (factor, value), total in terms)])
        for (n, v), total in zip(product(range(height), range(vectors)), k.values[2:], strict=True):
            self._write(total, f.add(row, n), f.add(unit, v * lanes), mask, add)

    def _across(self, most: int) -> Iterator[tuple[Val, int, Val | None]]:
        """The code over all units of a row: yields the first of them, vectors, and a mask for the last vector.

        `most` vectors at a time, then one by one.
        """
        f, units, lanes = self.f, self.arg("units"), self.lanes
        whole, several = (f.binary("and", units, i64(-size)) for size in (lanes, most * lanes))
        spans = ((i64(0), several, most, False), (several, whole, 1, False), (whole, units, 1, True))
        for start, stop, vectors, masked in spans:
            with f.loop(start, stop, vectors * lanes) as unit:
                yield unit.index, vectors, self.mask(0, lanes, f.sub(units, unit.index)) if masked else None

    def _factor(self, pointer: Val) -> Val:
        return self.f.splat(self.f.load(self.scalar, pointer, self.bytes), self.lanes)

    def _write(self, total: Val, row: Val, unit: Val, mask: Val | None, add: bool) -> None:
        """Writes a vector of sums to the result, or adds it."""
        f = self.f
        place = self.at(self.arg("result"), f.add(f.mul(self.arg("result_stride"), row), unit))
        self.store(f.binary("fadd", self.load(self.type, place, mask), total) if add else total, place, mask)
