"""Sums of outer products: the kernel that computes gradients of weights from the values of a backward loop.

    result[m, n] (+)= sum over k of lhs[k, m] * rhs[k, n]          k: every row of every time step

It is a matrix product whose left operand is transposed. Both operands are read in the order of memory:

    for each block of units, for each block of k, for each block of rows:
      lhs is packed into columns of a tile's rows
      for each panel of a tile's units:
        for each column:
          for k: tile += broadcast(lhs[k, :]) * rhs[k, :]      in registers; the first column packs rhs by the way
          result (+)= tile

lhs is packed for two reasons. Rows whose stride is a power of two share a few sets of the caches, so that without
packing they would be fetched anew for every tile (10 to 25 % slower, measured on AVX2). And packing makes all columns
equally wide: the last one is computed like the others, and only the rows of its tile that exist are added to the
result.

For a few k (a call of one step, say) packing would take longer than the sums, so nothing is packed (few_products.py).

Rounding: a chain sums at most K_BLOCK products. The sums of the blocks are then added one by one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

from rnnc.backends.llvm.asm.builder import Function, Module, Val, i64, vector
from rnnc.backends.llvm.asm.dtypes import ELEMENT_BYTES
from rnnc.backends.llvm.asm.target import Target
from rnnc.backends.llvm.kernels.few_products import FEW, FewProducts
from rnnc.backends.llvm.kernels.phase import CACHE_LINE
from rnnc.backends.llvm.kernels.summed_rows import emit_row_sum

K_BLOCK = 256
"""The largest size of a block of k: a panel of rhs stays in the first-level cache, and rounding errors stay small."""
ROW_BLOCK = 192
"""The largest number of rows per block: packed lhs stays in the second-level cache."""
UNIT_BLOCK = 1024
"""The largest number of units per block. It bounds the workspace, and is so large that repacking lhs costs nothing."""
PACK_STEPS = 4
MOST_ROWS = 8
MOST_VECTORS = 4


@dataclass(frozen=True)
class OuterTile:
    """A tile of the result in registers: rows x (vectors x lanes) numbers."""

    rows: int
    vectors: int
    lanes: int

    @property
    def units(self) -> int:
        """The number of units per panel."""
        return self.vectors * self.lanes

    @property
    def slot(self) -> int:
        """The stride of packed rows of lhs, in elements: one vector, so that one load and one store copy a row."""
        return 1 << (self.rows - 1).bit_length()

    @property
    def few(self) -> int:
        """The rows of a smaller tile, for the last column. With fewer rows, the sums' latency would be the bound."""
        return -(-self.rows * 2 // 3)


def outer_tile(dtype: str, target: Target) -> OuterTile:
    """The tile with the fewest loads per multiply-add, among those that fit the registers.

    Beside the sums, a k needs its vectors of rhs and a broadcast. Panels fill cache lines or divide them.
    """
    lanes = target.lanes(dtype)
    tiles = []
    for vectors, rows in product(range(1, MOST_VECTORS + 1), range(1, MOST_ROWS + 1)):
        width = vectors * target.vector_bytes
        if rows * vectors + vectors + 1 <= target.registers and (width % CACHE_LINE == 0 or CACHE_LINE % width == 0):
            tiles.append(OuterTile(rows, vectors, lanes))
    return min(tiles, key=lambda tile: (tile.rows + tile.vectors) / (tile.rows * tile.vectors))


def outer_workspace(inner: int, rows: int, units: int, dtype: str, target: Target) -> int:
    """The number of elements of workspace that a call with these sizes, or smaller ones, needs."""
    tile = outer_tile(dtype, target)
    k = min(inner, K_BLOCK)
    panels = -(-min(units, UNIT_BLOCK) // tile.units)
    columns = -(-min(rows, ROW_BLOCK) // tile.rows)
    return panels * k * tile.units + columns * (k * tile.slot + CACHE_LINE // ELEMENT_BYTES[dtype])


class _Span(NamedTuple):
    """A run of indices."""

    start: Val
    size: Val


@contextmanager
def _spans(f: Function, total: Val, most: int) -> Iterator[_Span]:
    """Splits range(total) into spans of `most` and a smaller last one."""
    with f.loop(0, total, most) as loop:
        yield _Span(loop.index, f.minimum(f.sub(total, loop.index), i64(most)))


class _Outer(FewProducts):
    def __init__(self, name: str, dtype: str, target: Target) -> None:
        super().__init__(name, dtype, target.lanes(dtype))
        self.tile = outer_tile(dtype, target)
        self.align = self.tile.lanes * self.bytes
        self.stack = self.f.alloca(self.type, self.tile.rows * self.tile.vectors, CACHE_LINE)

    def emit(self) -> Function:
        f, inner = self.f, self.arg("inner")
        few = f.binary("and", f.compare("ne", inner, 0), f.compare("ule", inner, FEW))
        with self.either(few) as variants:
            for is_few in variants:
                if is_few:
                    self.write_few()
                else:
                    self._packed()
        f.ret()
        return f

    def _packed(self) -> None:
        f = self.f
        # If there is no k, one block still runs, and writes zeros.
        total = f.maximum(self.arg("inner"), i64(1))
        blocks = f.udiv(f.add(total, K_BLOCK - 1), K_BLOCK)
        most = f.udiv(f.add(total, f.sub(blocks, 1)), blocks)
        with _spans(f, self.arg("units"), UNIT_BLOCK) as units, f.loop(0, total, most) as k:
            size = f.minimum(f.sub(self.arg("inner"), k.index), most)
            self._block(units, _Span(k.index, size))

    def _block(self, units: _Span, k: _Span) -> None:
        """One block of units and k, over all rows."""
        f, tile = self.f, self.tile
        add = f.binary("or", f.compare("ne", k.start, 0), f.compare("ne", self.arg("accumulate"), 0))
        rhs = self.at(self.arg("rhs"), f.add(f.mul(k.start, self.arg("rhs_stride")), units.start))
        panels = f.udiv(f.add(units.size, tile.units - 1), tile.units)
        packed = self.at(self.arg("workspace"), f.mul(f.mul(panels, tile.units), k.size))
        # One more cache line, so that columns do not share sets of a cache.
        column_size = f.add(f.mul(k.size, tile.slot), CACHE_LINE // self.bytes)
        with _spans(f, self.arg("rows"), ROW_BLOCK) as rows:
            lhs = self.at(self.arg("lhs"), f.add(f.mul(k.start, self.arg("lhs_stride")), rows.start))
            self._pack_lhs(lhs, packed, column_size, rows, k.size)
            with _spans(f, units.size, tile.units) as panel:
                panel_rhs = self.at(self.arg("workspace"), f.mul(panel.start, k.size))
                source = self.at(rhs, panel.start)
                first = f.compare("eq", rows.start, 0)
                whole = f.binary("and", f.compare("eq", panel.size, tile.units), f.compare("ugt", rows.size, tile.few))
                by_column = f.binary("and", first, whole)
                with f.when(f.binary("and", first, f.compare("eq", by_column, 0))):
                    self._pack_panel(source, panel_rhs, panel.size, k.size)
                place = f.add(f.mul(rows.start, self.arg("result_stride")), f.add(units.start, panel.start))
                start = [packed, self.at(self.arg("result"), place)]
                with f.loop(0, rows.size, tile.rows, carried=start) as column:
                    column_lhs, result = column.values
                    count = f.minimum(f.sub(rows.size, column.index), i64(tile.rows))
                    packs = f.binary("and", by_column, f.compare("eq", column.index, 0))
                    with self.either(packs) as ways:
                        for packing in ways:
                            if packing:
                                self._multiply(tile.rows, column_lhs, panel_rhs, k.size, result, source)
                                continue
                            with self.either(f.compare("ugt", count, tile.few)) as variants:
                                for many in variants:
                                    size = tile.rows if many else tile.few
                                    self._multiply(size, column_lhs, panel_rhs, k.size, result)
                    self._finish(result, add, count, panel.size)
                    below = self.at(result, f.mul(self.arg("result_stride"), tile.rows))
                    column.next([self.at(column_lhs, column_size), below])

    def _pack_panel(self, rhs: Val, packed: Val, units: Val, inner: Val) -> None:
        """Packs a panel of rhs as [k][unit], with zeros past the last unit."""
        f, tile = self.f, self.tile
        for masks in self._cases(units):
            with f.loop(0, inner) as k:
                row = self.at(rhs, f.mul(k.index, self.arg("rhs_stride")))
                to = self.at(packed, f.mul(k.index, tile.units))
                for v, mask in enumerate(masks):
                    value = self.load(self.type, self.at(row, v * tile.lanes), mask)
                    f.store(value, self.at(to, v * tile.lanes), self.align)

    def _cases(self, units: Val) -> Iterator[list[Val | None]]:
        """The code for a full panel, whose vectors have no masks, and the code for one that is not full."""
        f, tile = self.f, self.tile
        with self.either(f.compare("eq", units, tile.units)) as variants:
            for full in variants:
                starts = range(0, tile.units, tile.lanes)
                yield [None if full else self.mask(start, tile.lanes, units) for start in starts]

    def _pack_lhs(self, lhs: Val, packed: Val, column_size: Val, rows: _Span, inner: Val) -> None:
        """Packs lhs as [column][k][slot]. The first `rows` elements of a slot count; the others are arbitrary."""
        f = self.f
        whole = f.binary("and", inner, i64(-PACK_STEPS))
        for start, stop, steps in ((i64(0), whole, PACK_STEPS), (whole, inner, 1)):
            with f.loop(start, stop, steps) as k:
                row = self.at(lhs, f.mul(k.index, self.arg("lhs_stride")))
                self._pack_steps(row, self.at(packed, f.mul(k.index, self.tile.slot)), column_size, rows, steps)

    def _pack_steps(self, lhs: Val, packed: Val, column_size: Val, rows: _Span, steps: int) -> None:
        """Packs a few k of every column. A slot is read whole if the row is long enough."""
        f, tile = self.f, self.tile
        left = f.sub(self.arg("rows"), rows.start)
        reach = tile.slot - tile.rows
        stop = f.minimum(f.sub(f.maximum(left, i64(reach)), reach), rows.size)
        whole = f.mul(f.udiv(stop, tile.rows), tile.rows)
        with f.loop(0, whole, tile.rows, carried=[packed]) as column:
            self._pack_slots(lhs, column.index, column.values[0], steps, None)
            column.next([self.at(column.values[0], column_size)])
        with f.loop(whole, rows.size, tile.rows, carried=list(column.values)) as rest:
            mask = self.mask(0, tile.slot, f.sub(left, rest.index))
            self._pack_slots(lhs, rest.index, rest.values[0], steps, mask)
            rest.next([self.at(rest.values[0], column_size)])

    def _pack_slots(self, lhs: Val, start: Val, packed: Val, steps: int, mask: Val | None) -> None:
        f, tile = self.f, self.tile
        type_ = vector(tile.slot, self.scalar)
        for n in range(steps):
            line = f.mul(self.arg("lhs_stride"), n)
            value = self.load(type_, self.at(lhs, f.add(line, start)), mask)
            f.store(value, self.at(packed, n * tile.slot), self.bytes)

    def _multiply(self, rows: int, lhs: Val, rhs: Val, inner: Val, result: Val, source: Val | None = None) -> None:
        """Computes a tile's sums into the stack tile, [row][vector].

        source: where rhs lies unpacked, for the first column, which packs it by the way.
        """
        f, tile = self.f, self.tile
        for row in range(rows):  # needed after the loop: gains 10 % if the result is not in the caches
            f.prefetch(result, f.mul(self.arg("result_stride"), row), self.scalar)
        zeros = [Val(self.type, "zeroinitializer")] * (rows * tile.vectors)
        with f.loop(0, inner, carried=[lhs, *zeros]) as k:
            line, *sums = k.values
            units = self._packed_units(rhs, k.index) if source is None else self._pack_units(source, rhs, k.index)
            k.next([self.at(line, tile.slot), *self._products(line, units, sums)])
        for n, value in enumerate(k.values[1:]):
            f.store(value, f.element(self.stack, n, self.type), self.align)

    def _packed_units(self, packed: Val, k: Val) -> list[Val]:
        """The vectors of rhs at one k."""
        f, tile = self.f, self.tile
        line = f.mul(k, tile.units)
        return [
            f.load(self.type, self.at(packed, f.add(line, v * tile.lanes)), self.align) for v in range(tile.vectors)
        ]

    def _pack_units(self, source: Val, packed: Val, k: Val) -> list[Val]:
        """The same, from where rhs lies unpacked. Packs them."""
        f, tile = self.f, self.tile
        row, to = self.at(source, f.mul(k, self.arg("rhs_stride"))), self.at(packed, f.mul(k, tile.units))
        units = [self.load(self.type, self.at(row, v * tile.lanes), None) for v in range(tile.vectors)]
        for v, value in enumerate(units):
            f.store(value, self.at(to, v * tile.lanes), self.align)
        return units

    def _products(self, lhs: Val, units: list[Val], sums: list[Val]) -> list[Val]:
        """The sums of a tile after one more k."""
        f, tile = self.f, self.tile
        result = []
        for n, value in enumerate(sums):
            row, v = divmod(n, tile.vectors)
            if v == 0:
                x = f.splat(f.load(self.scalar, self.at(lhs, row), self.bytes), tile.lanes)
            result.append(f.fma(x, units[v], value))
        return result

    def _finish(self, result: Val, add: Val, rows: Val, units: Val) -> None:
        """Adds the stack tile to the result, or overwrites it."""
        f, tile = self.f, self.tile
        for masks in self._cases(units):
            with f.loop(0, rows) as row:
                line = self.at(result, f.mul(row.index, self.arg("result_stride")))
                sums = f.mul(row.index, tile.vectors)
                for v, mask in enumerate(masks):
                    place = self.at(line, v * tile.lanes)
                    old = f.select(add, self.load(self.type, place, mask), Val(self.type, "zeroinitializer"))
                    value = f.load(self.type, f.element(self.stack, f.add(sums, v), self.type), self.align)
                    self.store(f.binary("fadd", old, value), place, mask)


def emit_outer(name: str, dtype: str, target: Target) -> Function:
    """The function result[m, n] (+)= sum over k of lhs[k, m] * rhs[k, n].

    Arguments (i64 or pointers; strides in elements of the dtype):

        inner            k, 0 or more; for 0 the sums are zeros
        rows             m, 0 or more
        units            n, 0 or more
        lhs, lhs_stride  (inner, rows), and from one row to the next; columns are contiguous
        rhs, rhs_stride  (inner, units), likewise
        result, result_stride   (rows, units), likewise
        accumulate       0: the result is overwritten, whatever it held; anything else: it is added to
        workspace        `outer_workspace` elements at a multiple of 64 bytes

    Nothing outside the matrices is read or written. The result must not overlap the operands.
    """
    return _Outer(name, dtype, target).emit()


def emit_row_sums(module: Module, dtype: str, target: Target) -> None:
    """Adds `rnnc_outer` and `rnnc_row_sum`."""
    module.add(emit_outer("rnnc_outer", dtype, target))
    module.add(emit_row_sum("rnnc_row_sum", dtype))
