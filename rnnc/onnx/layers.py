"""Layers that operators of ONNX need besides rnnc's own: axes of a tensor lie side by side in the columns of a step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import product
from operator import add
from types import SimpleNamespace
from typing import ClassVar

from rnnc.cells import Shape
from rnnc.ir.equations import (
    Value,
    ceil,
    clip,
    concat,
    cos,
    floor,
    largest,
    linear,
    log,
    log_softmax,
    maximum,
    mean,
    minimum,
    power,
    rint,
    sign,
    sin,
    smallest,
    softmax,
    sqrt,
    total,
    vecmat,
    where,
)
from rnnc.layers.base import Layer

__all__ = [
    "EQUATIONS",
    "OVER_UNITS",
    "Blocks",
    "Elementwise",
    "PositionConv",
    "PositionLinear",
    "PositionPool",
    "PositionProduct",
    "ZeroPad",
]

EQUATIONS: Mapping[str, Callable[..., Value]] = {
    "Add": lambda *xs: reduce(lambda a, b: a + b, xs),
    "Ceil": ceil,
    "Clip": clip,
    "Cos": cos,
    "Div": lambda a, b: a / b,
    "Floor": floor,
    "Log": log,
    "Max": lambda *xs: reduce(maximum, xs),
    "Mean": lambda *xs: reduce(lambda a, b: a + b, xs) * (1.0 / len(xs)),
    "Min": lambda *xs: reduce(minimum, xs),
    "Mul": lambda a, b: a * b,
    "PRelu": lambda x, slope: where(x < 0.0, slope * x, x),
    "Pow": lambda a, b: power(a, b),
    "Reciprocal": lambda x: 1.0 / x,
    "Round": rint,
    "Sign": sign,
    "Sin": sin,
    "Sqrt": sqrt,
    "Sub": lambda a, b: a - b,
    "Sum": lambda *xs: reduce(lambda a, b: a + b, xs),
}
"""Operators on each number by itself: of values, and of numbers where the operand is one."""


@dataclass(frozen=True)
class Elementwise(Layer):
    """An operator of `EQUATIONS`.

    operands: "x" for the next value that is read, a float for itself, an int for a parameter of that width, called
        "operand0", ... by its place.
    """

    op: str
    operands: tuple[str | int | float, ...]
    inputs: ClassVar[int | None] = None

    def parameter_shapes(self) -> dict[str, Shape]:
        return {f"operand{n}": (size,) for n, size in enumerate(self.operands) if isinstance(size, int)}

    def output_width(self, *widths: int) -> int:
        return max(*widths, *(size for size in self.operands if isinstance(size, int)), 1)

    def step(self, x: tuple[Value, ...], state: SimpleNamespace, p: SimpleNamespace) -> Value:
        values = iter(x)
        given = [
            next(values) if operand == "x" else getattr(p, f"operand{n}") if isinstance(operand, int) else operand
            for n, operand in enumerate(self.operands)
        ]
        return EQUATIONS[self.op](*given)


OVER_UNITS: Mapping[str, Callable[[Value], Value]] = {
    "ReduceMean": mean,
    "ReduceSum": total,
    "ReduceMax": largest,
    "ReduceMin": smallest,
    "ReduceL2": lambda x: sqrt(total(x * x)),
    "ReduceSumSquare": lambda x: total(x * x),
    "Softmax": softmax,
    "LogSoftmax": log_softmax,
}


@dataclass(frozen=True)
class Blocks(Layer):
    """A function of `OVER_UNITS` of each block of columns. count: how many blocks."""

    op: str
    count: int

    def output_width(self, *widths: int) -> int:
        return self.count if self.op.startswith("Reduce") else widths[0]

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> Value:
        return concat([OVER_UNITS[self.op](block) for block in x.split(self.count)])


@dataclass(frozen=True)
class PositionLinear(Layer):
    """weight x + bias at each of some positions: (positions * input_size) -> (positions * output_size) columns."""

    positions: int
    input_size: int
    output_size: int
    bias: bool = False

    @property
    def width(self) -> int | None:
        return self.positions * self.input_size

    def parameter_shapes(self) -> dict[str, Shape]:
        shapes: dict[str, Shape] = {"weight": (self.output_size, self.input_size)}
        return shapes | ({"bias": (self.output_size,)} if self.bias else {})

    def output_width(self, *widths: int) -> int:
        return self.positions * self.output_size

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> Value:
        bias = p.bias if self.bias else None
        return concat([linear(block, p.weight, bias) for block in x.split(self.positions)])


@dataclass(frozen=True)
class ZeroPad(Layer):
    """Columns of a number before and after x."""

    before: int
    after: int
    number: float = 0.0

    def output_width(self, *widths: int) -> int:
        return self.before + widths[0] + self.after

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> Value:
        parts = [self._filled(x, self.before), x, self._filled(x, self.after)]
        return concat([part for part in parts if part is not None])

    def _filled(self, x: Value, width: int) -> Value | None:
        """A condition that always holds chooses the number: 0 * x would keep a NaN."""
        if not width:
            return None
        number = where(x[:, :1] == x[:, :1], self.number, self.number)
        return concat([number] * width)


WIDE = 8
"""Columns of a position for which a product with a single tap is worth a loop of its own."""
MOST_PRODUCTS = 64
"""The most products of single taps that a convolution is written out as."""


@dataclass(frozen=True)
class PositionConv(Layer):
    """A convolution over positions that lie side by side: (length * input_size) -> (out length * output_size) columns.

        y[l] = bias + sum over k of weight[:, :, k] @ x[l * stride + k * dilation - before]

    What lies outside is 0. weight: (output_size, input_size / groups, kernel_size), as ONNX's W.
    """

    input_size: int
    output_size: int
    kernel_size: int
    length: int
    stride: int = 1
    before: int = 0
    after: int = 0
    dilation: int = 1
    groups: int = 1
    bias: bool = False

    @property
    def out_length(self) -> int:
        """Positions of y."""
        span = (self.kernel_size - 1) * self.dilation
        return (self.before + self.length + self.after - span - 1) // self.stride + 1

    @property
    def width(self) -> int | None:
        return self.length * self.input_size

    def parameter_shapes(self) -> dict[str, Shape]:
        shapes: dict[str, Shape] = {"weight": (self.output_size, self.input_size // self.groups, self.kernel_size)}
        return shapes | ({"bias": (self.output_size,)} if self.bias else {})

    def output_width(self, *widths: int) -> int:
        return self.out_length * self.output_size

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> Value:
        inner = self.input_size // self.groups
        matrix = p.weight.permute(0, 2, 1).reshape(self.output_size, self.kernel_size * inner)
        runs = self._runs()
        columns = [slice(run.start * inner, run.stop * inner) for run in runs]
        weights = [[rows[:, each] for each in columns] for rows in matrix.split(self.groups)]
        each = list(product(range(self.out_length), range(self.groups)))
        made = [self._group(x, at, group, list(zip(runs, weights[group], strict=True))) for at, group in each]
        positions = [concat(made[at : at + self.groups]) for at in range(0, len(made), self.groups)]
        return concat([position + p.bias for position in positions] if self.bias else positions)

    def _place(self, at: int, tap: int) -> int:
        """The position of x that a tap reads for position `at` of y."""
        return at * self.stride + tap * self.dilation - self.before

    def _runs(self) -> list[range]:
        """The taps that are read, in runs: each position of y reads all taps of a run, side by side in x, or none.

        So all positions multiply by the same weights. A tap of many columns is a run of its own, as long as that leaves
        few products: what it reads is one position, which the layer before may finish in registers.
        """
        taps = range(self.kernel_size)
        inside = [[0 <= self._place(at, tap) < self.length for at in range(self.out_length)] for tap in taps]
        inner = self.input_size // self.groups
        alone = self.dilation > 1 or self.groups > 1
        alone = alone or (inner >= WIDE and self.kernel_size * self.out_length <= MOST_PRODUCTS)
        runs: list[range] = []
        for tap in taps:
            if not alone and runs and inside[tap] == inside[tap - 1] and runs[-1].stop == tap:
                runs[-1] = range(runs[-1].start, tap + 1)
            elif any(inside[tap]):
                runs.append(range(tap, tap + 1))
        return runs

    def _group(self, x: Value, at: int, group: int, runs: list[tuple[range, Value]]) -> Value:
        """One position and group of y: the sum of a product for each run of taps that lies within x."""
        inner = self.input_size // self.groups
        parts = []
        for run, weight in runs:
            if 0 <= self._place(at, run.start) < self.length:
                begin = self._place(at, run.start) * self.input_size + group * inner
                parts.append(linear(x[:, begin : begin + len(run) * inner], weight))
        return reduce(add, parts)


@dataclass(frozen=True)
class PositionPool(Layer):
    """The largest, or the mean, of a window that slides over positions side by side: (length * inner) columns.

        y[l] = max over k of x[l * stride + k * dilation - before]

    Places outside x are left out. The mean divides by the places within; by all kernel_size if it `counts_padding`.
    """

    op: str  # "MaxPool" or "AveragePool"
    inner: int
    kernel_size: int
    length: int
    out_length: int
    stride: int = 1
    before: int = 0
    dilation: int = 1
    counts_padding: bool = False

    @property
    def width(self) -> int | None:
        return self.length * self.inner

    def output_width(self, *widths: int) -> int:
        return self.out_length * self.inner

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> Value:
        positions = x.split(self.length)
        return concat([self._one(positions, at * self.stride - self.before) for at in range(self.out_length)])

    def _one(self, positions: Sequence[Value], start: int) -> Value:
        places = range(start, start + self.kernel_size * self.dilation, self.dilation)
        inside = [positions[place] for place in places if 0 <= place < self.length]
        if self.op == "MaxPool":
            return reduce(maximum, inside)
        return reduce(add, inside) * (1.0 / (self.kernel_size if self.counts_padding else len(inside)))


@dataclass(frozen=True)
class PositionProduct(Layer):
    """Products of matrices that lie in the columns of two values: (count, rows, inner) @ (count, inner, columns)."""

    count: int
    rows: int
    inner: int
    columns: int
    inputs: ClassVar[int | None] = 2

    def output_width(self, *widths: int) -> int:
        return self.count * self.rows * self.columns

    def step(self, x: tuple[Value, Value], state: SimpleNamespace, p: SimpleNamespace) -> Value:
        each = zip(x[0].split(self.count), x[1].split(self.count), strict=True)
        return concat([self._product(a, b) for a, b in each])

    def _product(self, a: Value, b: Value) -> Value:
        right = b.reshape(-1, self.inner, self.columns)
        return concat([vecmat(row, right) for row in a.split(self.rows)])
