"""Convolution over time, and delays: layers that read the steps around their own."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from functools import reduce
from types import SimpleNamespace

from rnnc.cells import Parameter, Shape
from rnnc.checking import checks
from rnnc.checking.arguments import explained_class
from rnnc.initializers import Uniform
from rnnc.ir.equations import Value, concat, linear
from rnnc.ir.errors import ArgumentError
from rnnc.layers.base import MOST, Layer, Pace, size
from rnnc.layers.windows import Sliding, padding

__all__ = ["Conv1d", "ConvTranspose1d", "Delay"]


@explained_class
@dataclass(frozen=True)
class Conv1d(Sliding):
    """A convolution over time, as torch.nn.Conv1d: values (T, B, input_size) -> (T', B, output_size).

        y[u] = bias + sum over k of weight[:, :, k] @ x[u * stride + k * dilation - before]

    Steps before the first and after the last one, of each row, are zeros. With span = (kernel_size - 1) * dilation,

        T' = floor((T + before + after - span - 1) / stride) + 1

    input_size, output_size: channels of x and y. kernel_size: taps.
    padding: "causal": before = span, after = 0: y[u] reads no later step than u * stride, and T' = ceil(T / stride);
        "same": before = span // 2, and after makes T' = ceil(T / stride): PyTorch's with stride 1; "valid": none; or
        (before, after). PyTorch's padding=n is (n, n).
    dilation: steps between taps. groups: channels are cut into so many groups, each convolved by itself.
    bias: whether there is a bias. Parameters: weight (output_size, input_size / groups, kernel_size), bias.
    stride: steps of x from one step of y to the next.
    Raises ArgumentError or ArgumentTypeError.
    """

    input_size: int
    output_size: int
    kernel_size: int
    padding: str | tuple[int, int] = "causal"
    dilation: int = 1
    groups: int = 1
    bias: bool = True
    stride: int = 1

    def __post_init__(self) -> None:
        _check_sizes(self)
        self._set("padding", padding(self.padding))

    def parameter_shapes(self) -> dict[str, Shape]:
        return _shapes(self, (self.output_size, self.input_size // self.groups, self.kernel_size))

    @property
    def width(self) -> int | None:
        return self.input_size

    def output_width(self, *widths: int) -> int:
        return self.output_size

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> Value:
        taps = self.taps(x)
        made = self._depthwise(taps, p.weight) if self._is_depthwise else self._grouped(taps, p.weight)
        return made + p.bias if self.bias else made

    @property
    def _is_depthwise(self) -> bool:
        """Whether each channel is multiplied by numbers of its own."""
        return self.groups == self.input_size == self.output_size

    def _depthwise(self, taps: list[Value], weight: Value) -> Value:
        rows = weight.permute(2, 1, 0).reshape(self.kernel_size * self.output_size).split(self.kernel_size)
        return _sum([tap * row for tap, row in zip(taps, rows, strict=True)])

    def _grouped(self, taps: list[Value], weight: Value) -> Value:
        """One product per tap and group: taps of one group that lie side by side are one product."""
        inner, taken = self.input_size // self.groups, self.kernel_size
        matrix = weight.permute(0, 2, 1).reshape(self.output_size, taken * inner)
        parts = []
        for number, rows in enumerate(matrix.split(self.groups)):
            if self.groups == self.dilation == 1:
                parts.append(linear(concat(taps), rows))
                continue
            columns = slice(number * inner, (number + 1) * inner)
            terms = zip(taps, rows.split(taken, axis=1), strict=True)
            parts.append(_sum([linear(tap[:, columns], part) for tap, part in terms]))
        return concat(parts)


@explained_class
@dataclass(frozen=True)
class ConvTranspose1d(Layer):
    """A transposed convolution over time, as torch.nn.ConvTranspose1d: (T, B, input_size) -> (T', B, output_size).

        y[u] = bias + sum over i, k with i * stride + k * dilation = u + before of weight[:, :, k].T @ x[i]

    With span = (kernel_size - 1) * dilation, T' = T * stride + span + 1 - stride - before - after.

    input_size, output_size, kernel_size, dilation, groups, bias: as in `rnnc.Conv1d`. stride: steps of y per step of x.
    padding: "causal": y[u] reads no later step than floor(u / stride), and T' = T * stride; or (before, after), the
        steps that are cut off at the start and at the end; after may be negative. PyTorch's padding=n with
        output_padding=m is (n, n - m).
    Parameters: weight (input_size, output_size / groups, kernel_size), bias.
    Raises ArgumentError or ArgumentTypeError.
    """

    input_size: int
    output_size: int
    kernel_size: int
    padding: str | tuple[int, int] = "causal"
    dilation: int = 1
    groups: int = 1
    bias: bool = True
    stride: int = 1

    def __post_init__(self) -> None:
        _check_sizes(self)
        cut = padding(self.padding, -MOST)
        if cut in ("same", "valid"):
            raise ArgumentError(f"padding: expected 'causal' or (before, after), got {cut!r}")
        if isinstance(cut, tuple):
            checks.integer("padding", cut[0], 0)
        self._set("padding", cut)

    @property
    def _longer(self) -> int:
        """By how many steps the uncut result is longer than T * stride."""
        return (self.kernel_size - 1) * self.dilation + 1 - self.stride

    @property
    def _cut(self) -> tuple[int, int]:
        """Steps that are cut off, (before, after)."""
        return self.padding if isinstance(self.padding, tuple) else (0, self._longer)

    @property
    def pace(self) -> Pace:
        return Pace(factor=self.stride, more=self._longer - sum(self._cut))

    @property
    def _places(self) -> list[list[tuple[int, int]]]:
        """For each of the steps that a call gives: (tap, the step that it reads, relative to the call's)."""
        found = []
        for phase in range(self.stride):
            reached = [(k, phase + self._cut[0] - k * self.dilation) for k in range(self.kernel_size)]
            found.append([(k, place // self.stride) for k, place in reached if place % self.stride == 0])
        return found

    @property
    def window(self) -> tuple[int, int]:
        read = [place for places in self._places for _, place in places]
        return max(0, -min(read, default=0)), max(0, *read, 0)

    def parameter_shapes(self) -> dict[str, Shape]:
        return _shapes(self, (self.input_size, self.output_size // self.groups, self.kernel_size))

    @property
    def width(self) -> int | None:
        return self.input_size

    def output_width(self, *widths: int) -> int:
        return self.output_size

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> Value:
        steps, before = x.split(sum(self.window) + 1), self.window[0]
        outer, inner = self.output_size // self.groups, self.input_size // self.groups
        matrices = p.weight.permute(2, 1, 0).reshape(self.kernel_size * outer, self.input_size).split(self.kernel_size)
        given = []
        for places in self._places:
            parts = []
            for group in range(self.groups):
                columns = slice(group * inner, (group + 1) * inner)
                terms = [linear(steps[before + at][:, columns], matrices[k][:, columns]) for k, at in places]
                parts.append(_sum(terms) if terms else linear(steps[0][:, columns], matrices[0][:, columns] * 0.0))
            made = concat(parts)
            given.append(made + p.bias if self.bias else made)
        return concat(given)


@explained_class
@dataclass(frozen=True)
class Delay(Layer):
    """x of some steps before, zeros at first: y[t] = x[t - steps]."""

    steps: int

    def __post_init__(self) -> None:
        size(self, "steps")

    @property
    def window(self) -> tuple[int, int]:
        return self.steps, 0

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> Value:
        return x[:, : int(x.shape[-1]) // (self.steps + 1)]


def _check_sizes(layer: Conv1d | ConvTranspose1d) -> None:
    """Checks all arguments but the padding. Raises ArgumentError or ArgumentTypeError."""
    for name in ("input_size", "output_size", "kernel_size", "dilation", "groups", "stride"):
        size(layer, name)
    layer._set("bias", checks.flag("bias", layer.bias))
    for name in ("input_size", "output_size"):
        if getattr(layer, name) % layer.groups:
            raise ArgumentError(f"groups: expected a divisor of {name} = {getattr(layer, name)}, got {layer.groups}")


def _shapes(layer: Conv1d | ConvTranspose1d, weight: tuple[int, int, int]) -> dict[str, Shape]:
    """The parameters, which start as PyTorch's do: within 1 / sqrt(the last two sizes of the weight)."""
    bound = (weight[1] * weight[2]) ** -0.5
    shapes: dict[str, Shape] = {"weight": Parameter(weight, Uniform(-bound, bound))}
    return shapes | ({"bias": Parameter((layer.output_size,), Uniform(-bound, bound))} if layer.bias else {})


def _sum(terms: list[Value]) -> Value:
    return reduce(operator.add, terms)
