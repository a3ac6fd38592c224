"""Sums of outer products and of rows: right for every size, and not a byte read or written outside the operands."""

from __future__ import annotations

import ctypes
import mmap
from functools import cache
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rnnc.backends.llvm.asm.builder import Module
from rnnc.backends.llvm.asm.jit import MachineCode, compile_assembly
from rnnc.backends.llvm.asm.target import ISAS, Target, host, legalized
from rnnc.backends.llvm.kernels import row_sums as outer
from rnnc.ir.errors import BackendError

TARGETS = [(isa, layout) for isa in ISAS for layout in (False, True)]
DTYPES = ("float32", "float64")
SIZES = (1, 2, 3, 5, 6, 7, 16, 17, 50, 100, 128)
INNERS = (1, 2, 3, 4, 8, 9, 64, 600, 1500)
GUARD = 64
PAGE = mmap.PAGESIZE
_libc = ctypes.CDLL(None, use_errno=True)


@cache
def target_of(isa: str, layout: bool) -> Target | None:
    try:
        return legalized(isa) if layout else host(isa)
    except BackendError:
        return None


@cache
def kernels(isa: str, layout: bool, dtype: str) -> MachineCode:
    target = target_of(isa, layout)
    if target is None:
        pytest.skip(f"this machine lacks {isa}")
    module = Module()
    module.add(outer.emit_outer("outer", dtype, target))
    module.add(outer.emit_row_sum("row_sum", dtype))
    return compile_assembly(module.text(), target)


@pytest.fixture(params=TARGETS, ids=lambda p: p[0] + " layout" * p[1])
def isa(request: pytest.FixtureRequest) -> tuple[str, bool]:
    chosen: tuple[str, bool] = request.param
    return chosen


class AtPageEnd:
    """A matrix that ends where memory begins that may not be touched.

    Before it and between its rows lie NaNs: using one of them would show in any result.
    """

    def __init__(self, values: np.ndarray, stride: int) -> None:
        rows, columns = values.shape
        needed = ((rows - 1) * stride + columns) * values.itemsize if rows else 0
        pages = -(-max(needed, 1) // PAGE)
        self._map = mmap.mmap(-1, (pages + 1) * PAGE)
        self._base = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        self._map.write(b"\xff" * (pages * PAGE))  # NaNs of either dtype
        self.protect(0)
        start = pages * PAGE - needed
        self.pointer = self._base + start
        self._flat = np.frombuffer(self._map, values.dtype, max(needed, 0) // values.itemsize, start)
        for row in range(rows):
            self._flat[row * stride : row * stride + columns] = values[row]

    def protect(self, rights: int) -> None:
        size = len(self._map)
        if _libc.mprotect(ctypes.c_void_p(self._base + size - PAGE), ctypes.c_size_t(PAGE), rights):
            raise OSError(ctypes.get_errno(), "mprotect")


class Guarded:
    """A result in the middle of a marked area, with marks between its rows too."""

    def __init__(self, values: np.ndarray, stride: int) -> None:
        rows, columns = values.shape
        self._mark = np.dtype(values.dtype).type(-12345.0)
        self._all = np.full(2 * GUARD + rows * stride, self._mark)
        self._inside = np.zeros(self._all.shape, bool)
        self._index = np.arange(rows)[:, None] * stride + np.arange(columns) + GUARD
        self._inside[self._index] = True
        self._all[self._index] = values
        self.pointer = self._all.ctypes.data + GUARD * values.itemsize

    def values(self) -> np.ndarray:
        """The result, after a look at the marks."""
        assert (self._all[~self._inside] == self._mark).all(), "written outside the result"
        found: np.ndarray = self._all[self._index]
        return found


def call(compiled: MachineCode, name: str, *arguments: int) -> None:
    """Arguments are 64-bit integers or addresses, which are passed alike."""
    types = [ctypes.c_int64] * len(arguments)
    ctypes.CFUNCTYPE(None, *types)(compiled.address(name))(*arguments)


def workspace(elements: int, dtype: str) -> tuple[np.ndarray, int]:
    """NaNs at a multiple of 64 bytes, with marks behind them."""
    area = np.full(elements + 2 * GUARD, np.nan, dtype)
    skipped = -area.ctypes.data % 64 // area.itemsize
    area[skipped + elements :] = 7.0
    return area[skipped:], area.ctypes.data + skipped * area.itemsize


def check_values(got: np.ndarray, want: np.ndarray, sizes: np.ndarray, started: np.ndarray) -> None:
    """Within a few roundings of all that was added up, element by element. sizes: the sums of absolute values."""
    allowed = 4 * np.finfo(got.dtype).eps * (sizes + np.abs(started))
    worst = np.abs(got - want) - allowed
    assert not worst.size or worst.max() <= 0, f"{np.argmax(worst)}: off by {worst.max()} more than allowed"


def check_outer(
    isa: tuple[str, bool], dtype: str, sizes: tuple[int, int, int], extra: tuple[int, int, int], accumulate: int
) -> None:
    """One call against NumPy in float64. extra: how much longer the strides of lhs, rhs and result are than rows."""
    m, n, k = sizes
    compiled = kernels(*isa, dtype)
    rng = np.random.default_rng(m * 10007 + n * 101 + k)
    lhs, rhs = (rng.standard_normal((k, columns)).astype(dtype) for columns in (m, n))
    old = rng.standard_normal((m, n)).astype(dtype) if accumulate else np.full((m, n), np.nan, dtype)
    strides = (m + extra[0], n + extra[1], n + extra[2])
    left, right, result = AtPageEnd(lhs, strides[0]), AtPageEnd(rhs, strides[1]), Guarded(old, strides[2])
    target = target_of(*isa)
    assert target is not None
    elements = outer.outer_workspace(k, m, n, dtype, target)
    area, space = workspace(elements, dtype)
    operands = (left.pointer, strides[0], right.pointer, strides[1], result.pointer, strides[2])
    call(compiled, "outer", k, m, n, *operands, accumulate, space)
    started = old if accumulate else np.zeros_like(old)
    check_values(result.values(), lhs.astype("f8").T @ rhs + started, np.abs(lhs.astype("f8")).T @ np.abs(rhs), started)
    assert (area[elements:] == 7.0).all(), "written behind the workspace"


def check_row_sum(isa: tuple[str, bool], dtype: str, k: int, n: int, extra: int, accumulate: int) -> None:
    """One call against NumPy in float64."""
    compiled = kernels(*isa, dtype)
    rng = np.random.default_rng(k * 1009 + n)
    lhs = rng.standard_normal((k, n)).astype(dtype)
    old = rng.standard_normal((1, n)).astype(dtype) if accumulate else np.full((1, n), np.nan, dtype)
    left, result = AtPageEnd(lhs, n + extra), Guarded(old, n)
    call(compiled, "row_sum", k, n, left.pointer, n + extra, result.pointer, accumulate)
    started = old[0] if accumulate else np.zeros_like(old[0])
    wide = lhs.astype("f8")
    check_values(result.values()[0], wide.sum(axis=0) + started, np.abs(wide).sum(axis=0), started)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_number_of_rows_and_units(isa: tuple[str, bool], dtype: str) -> None:
    for number, (m, n) in enumerate(product(SIZES, SIZES)):
        check_outer(isa, dtype, (m, n, INNERS[number % 7]), (number % 3, number % 5, number % 2), number % 2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [0, *INNERS, 256, 257, 512])
def test_every_number_of_products(isa: tuple[str, bool], dtype: str, k: int) -> None:
    for (m, n), accumulate in product(((7, 17), (50, 3), (100, 50)), (0, 1)):
        check_outer(isa, dtype, (m, n, k), (3, 0, 5), accumulate)
        check_row_sum(isa, dtype, k, n, accumulate * 3, accumulate)


@pytest.mark.parametrize("sizes", [(193, 5, 300), (384, 1, 7), (7, 1025, 260), (400, 1030, 2), (200, 2100, 1)])
def test_more_than_a_block_of_rows_and_units(isa: tuple[str, bool], sizes: tuple[int, int, int]) -> None:
    for dtype, accumulate in product(DTYPES, (0, 1)):
        check_outer(isa, dtype, sizes, (0, 0, 1), accumulate)


@settings(max_examples=60, deadline=None)
@given(
    where=st.sampled_from(TARGETS),
    dtype=st.sampled_from(DTYPES),
    sizes=st.tuples(st.integers(0, 260), st.integers(0, 140), st.integers(0, 700)),
    extra=st.tuples(*[st.sampled_from((0, 1, 2, 13))] * 3),
    accumulate=st.integers(0, 1),
)
def test_any_sizes(
    where: tuple[str, bool], dtype: str, sizes: tuple[int, int, int], extra: tuple[int, int, int], accumulate: int
) -> None:
    if target_of(*where) is None:
        where = (where[0], True)
    check_outer(where, dtype, sizes, extra, accumulate)
    check_row_sum(where, dtype, sizes[2], sizes[1], extra[0], accumulate)


@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_of_rows_of_every_length(isa: tuple[str, bool], dtype: str) -> None:
    for number, (k, n) in enumerate(product((1, 7, 8, 9, 17), range(1, 70))):
        check_row_sum(isa, dtype, k, n, number % 3, number % 2)


def test_rounding_errors_grow_slowly() -> None:
    """A single chain of 100,000 additions of positive numbers loses five digits; blocks and trees lose far fewer."""
    target = host()
    compiled = kernels(target.name, False, "float32")
    k = 100_000
    lhs = np.random.default_rng(0).uniform(0, 1, (k, 2)).astype("f4")
    total, products = np.empty(2, "f4"), np.empty((2, 2), "f4")
    _, space = workspace(outer.outer_workspace(k, 2, 2, "float32", target), "float32")
    call(compiled, "row_sum", k, 2, lhs.ctypes.data, 2, total.ctypes.data, 0)
    call(compiled, "outer", k, 2, 2, lhs.ctypes.data, 2, lhs.ctypes.data, 2, products.ctypes.data, 2, 0, space)
    wide = lhs.astype("f8")
    np.testing.assert_allclose(total, wide.sum(axis=0), rtol=1e-5)
    np.testing.assert_allclose(products, wide.T @ wide, rtol=1e-5)


@pytest.mark.parametrize(("isa_name", "tile"), [("avx2", (6, 16)), ("avx512", (6, 64)), ("generic", (4, 8))])
def test_tiles_fill_the_registers(isa_name: str, tile: tuple[int, int]) -> None:
    chosen = outer.outer_tile("float32", legalized(isa_name))
    assert (chosen.rows, chosen.units) == tile
