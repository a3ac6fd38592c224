"""Formats of matrix products: how weights and activations are rounded, and what such a product is, in NumPy.

    bfloat16    x @ round(W)                                   weights rounded to the nearest bfloat16, ties to even
    int8        (codes(x) @ codes(W)) * scale(x) * scale(W)    exact sums of 32-bit integers
    int8,       (x @ codes(W)) * scale(W)                      activations stay as they are
     plain x

A column of the right operand W (K, N), which is one output unit, has a scale of its own. So has each row of x, found
anew in each product: its largest magnitude is 127 steps of its scale.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rnnc.ir.errors import BackendError

if TYPE_CHECKING:
    from rnnc.ir.ops import Array

STEPS = 127
"""The largest magnitude of a code that rounding makes. Codes of weights that come on a grid may also be -128."""
MOST_INNER = 1 << 17
"""The longest row of integers whose products with others surely fit a 32-bit sum."""
WITNESSES = 8
"""The numbers of a column, the largest, on which grids are tried before all of it is looked at."""
OFF_GRID = 1 / 4096
"""The distance from a grid, in its steps, up to which numbers lie on it: float32's rounding of 128 steps takes 1/65536.
"""

BFLOAT16, INT8 = "bfloat16", "int8"
WEIGHTS = (BFLOAT16, INT8)
"""The formats of weights besides the dtype of all values."""


class ProductFormat(NamedTuple):
    """The types of a product's operands. None: the dtype of all values.

    weights: "bfloat16" or "int8". activations: "int8", with weights of int8 only.
    """

    weights: str | None = None
    activations: str | None = None

    @property
    def sums(self) -> str | None:
        """The type of the sums over k."""
        return "int32" if self.activations else None

    @property
    def per_word(self) -> int:
        """The number of successive weights of a unit that one 32-bit word holds."""
        return {None: 1, BFLOAT16: 2, INT8: 4}[self.weights]

    @property
    def scaled(self) -> bool:
        """True if each output unit has a scale."""
        return self.weights == INT8

    def words(self, inner: int) -> int:
        """The number of words that hold `inner` weights of a unit."""
        return -(-inner // self.per_word)

    def __str__(self) -> str:
        weights = self.weights or "unrounded"
        return f"{weights} weights, {self.activations} activations" if self.activations else f"{weights} weights"


PLAIN = ProductFormat()


class Rounded(NamedTuple):
    """A right operand (K, N) as it is stored: bits of bfloat16 (uint16), or codes (int8) and a scale per column."""

    codes: Array
    scales: Array | None

    def widened(self) -> Array:
        """The numbers that are multiplied, float32 (K, N)."""
        if self.scales is None:
            return (self.codes.astype(np.uint32) << 16).view(np.float32)
        with np.errstate(all="ignore"):  # a scale may be NaN
            return self.codes.astype(np.float32) * self.scales


def check_dtype(form: ProductFormat, dtype: str) -> None:
    """Raises BackendError for narrow weights in a computation of another dtype than float32."""
    if form.weights and dtype != "float32":
        raise BackendError(f'weights: {form.weights!r} goes with dtype "float32", got a computation of {dtype!r}')


def check_inner(form: ProductFormat, inner: int) -> None:
    """Raises BackendError for rows of integers that are too long for a 32-bit sum."""
    if form.activations and inner > MOST_INNER:
        raise BackendError(
            f"weights: int8 sums products of up to {MOST_INNER:,} numbers exactly, got rows of {inner:,}; "
            'use activations="float32", or bfloat16'
        )


def rounded(matrix: Array, form: ProductFormat) -> Rounded:
    """A right operand (K, N) of float32, rounded."""
    matrix = np.asarray(matrix, np.float32)
    return Rounded(_bfloat16(matrix), None) if form.weights == BFLOAT16 else _int8(matrix)


def _bfloat16(matrix: Array) -> Array:
    """The upper half of each number's bits, rounded to nearest, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(matrix).view(np.uint32)
    upper = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    return np.where(np.isnan(matrix), np.uint32(0x7FC0), upper).astype(np.uint16)


def _int8(matrix: Array) -> Rounded:
    """Codes and scales. A column that holds NaN or an infinity has the scale NaN, one of zeros the scale 0."""
    largest = np.abs(matrix).max(axis=0)
    with np.errstate(all="ignore"):
        scales = np.where(np.isfinite(largest), largest / np.float32(STEPS), np.float32(np.nan))
        _keep_grids(matrix, largest, scales)
        codes = np.rint(matrix / scales)
    # A column too small for a scale has the largest magnitude 0 / 0 or x / 0.
    return Rounded(np.where(np.isfinite(codes), np.clip(codes, -128, STEPS), 0).astype(np.int8), scales)


def _keep_grids(matrix: Array, largest: Array, scales: Array) -> None:
    """Sets the scale of each column whose numbers are small multiples of one step to that step.

    Weights that were integers when they were written to a file keep these integers.
    """
    inner = len(matrix)
    some = np.argpartition(np.abs(matrix), inner - WITNESSES, axis=0)[-WITNESSES:] if inner > WITNESSES else None
    seen = matrix if some is None else np.take_along_axis(matrix, some, axis=0)
    left = np.flatnonzero(np.isfinite(largest) & (largest > 0))
    negative = ~(matrix == largest).any(axis=0)  # -128 is a code, 128 is none
    for steps in range(STEPS + 1, 0, -1):
        columns = left if steps <= STEPS else left[negative[left]]
        for numbers in (seen, matrix):
            columns = columns[_on_grid(numbers[:, columns], largest[columns] / np.float32(steps))]
        scales[columns] = largest[columns] / np.float32(steps)
        left = np.setdiff1d(left, columns, assume_unique=True)


def _on_grid(columns: Array, step: Array) -> Array:
    """Which columns hold multiples of their step."""
    codes = columns / step
    return np.asarray((np.abs(codes - np.rint(codes)) <= OFF_GRID).all(axis=0))


def quantized_rows(x: Array) -> tuple[Array, Array]:
    """The codes (..., K) of rows, whole numbers as float32, and the scale (..., 1) of each.

    A row that holds NaN or an infinity has the scale NaN, so that its products are NaN.
    """
    with np.errstate(all="ignore"):
        largest = np.abs(x).max(axis=-1, keepdims=True)
        inverse = np.float32(STEPS) / largest
        inverse = np.where(np.isinf(inverse), np.float32(0), inverse)
        scale = np.where(np.isfinite(largest), largest * np.float32(1 / STEPS), np.float32(np.nan))
        codes = np.rint(x * inverse)
    return np.where(np.isfinite(codes), codes, np.float32(0)), scale


def product(x: Array, weights: Rounded, form: ProductFormat) -> Array:
    """x (..., K) times a rounded right operand: float32 (..., N)."""
    if weights.scales is None:
        return np.asarray(np.matmul(x, weights.widened()))
    with np.errstate(all="ignore"):
        if form.activations is None:
            return np.asarray(np.matmul(x, weights.codes.astype(np.float32)) * weights.scales)
        codes, scale = quantized_rows(x)
        # float64 holds these sums of integers exactly.
        sums = np.matmul(codes.astype(np.float64), weights.codes.astype(np.float64)).astype(np.float32)
        return np.asarray(sums * (scale * weights.scales))
