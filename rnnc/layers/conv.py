"""Convolution and pooling over time: layers that read the steps around their own."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

from rnnc.cells import Parameter, Shape
from rnnc.checking import checks
from rnnc.checking.arguments import explained_class
from rnnc.initializers import Uniform
from rnnc.ir.equations import Value, concat, linear
from rnnc.ir.errors import ArgumentError
from rnnc.layers.base import Layer, size

__all__ = ["Conv1d", "Delay"]

PADDINGS = ("causal", "same")


@explained_class
@dataclass(frozen=True)
class Conv1d(Layer):
    """A convolution over time, as torch.nn.Conv1d with stride 1: values (T, B, input_size) -> (T, B, output_size).

        y[t] = bias + sum over k of weight[:, :, k] @ x[t + k * dilation - before]

    Steps before the first and after the last one, of each row, are zeros.

    input_size, output_size: channels of x and y. kernel_size: taps.
    padding: "causal": y[t] reads no later step than t (before = (kernel_size - 1) * dilation), so that sequences may
        come in pieces; "same": PyTorch's, before = half of that, rounded down; or (before, after), with the sum
        (kernel_size - 1) * dilation.
    dilation: steps between taps. groups: channels are cut into so many groups, each convolved by itself.
    bias: whether there is a bias. Parameters: weight (output_size, input_size / groups, kernel_size), bias.
    Raises ArgumentError or ArgumentTypeError.
    """

    input_size: int
    output_size: int
    kernel_size: int
    padding: str | tuple[int, int] = "causal"
    dilation: int = 1
    groups: int = 1
    bias: bool = True

    def __post_init__(self) -> None:
        for name in ("input_size", "output_size", "kernel_size", "dilation", "groups"):
            size(self, name)
        self._set("bias", checks.flag("bias", self.bias))
        for name in ("input_size", "output_size"):
            if getattr(self, name) % self.groups:
                raise ArgumentError(f"groups: expected a divisor of {name} = {getattr(self, name)}, got {self.groups}")
        self._set("padding", _padding(self.padding, self._span))

    @property
    def _span(self) -> int:
        """Steps from the first tap to the last."""
        return (self.kernel_size - 1) * self.dilation

    @property
    def window(self) -> tuple[int, int]:
        if isinstance(self.padding, tuple):
            return self.padding
        before = self._span if self.padding == "causal" else self._span // 2
        return before, self._span - before

    def parameter_shapes(self) -> dict[str, Shape]:
        inner = self.input_size // self.groups
        uniform = Uniform(-((inner * self.kernel_size) ** -0.5), (inner * self.kernel_size) ** -0.5)
        shapes: dict[str, Shape] = {"weight": Parameter((self.output_size, inner, self.kernel_size), uniform)}
        return shapes | ({"bias": Parameter((self.output_size,), uniform)} if self.bias else {})

    @property
    def width(self) -> int | None:
        return self.input_size

    def output_width(self, *widths: int) -> int:
        return self.output_size

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> Value:
        taps = [self._tap(x, k) for k in range(self.kernel_size)]
        made = self._depthwise(taps, p.weight) if self._is_depthwise else self._grouped(taps, p.weight)
        return made + p.bias if self.bias else made

    @property
    def _is_depthwise(self) -> bool:
        """Whether each channel is multiplied by numbers of its own."""
        return self.groups == self.input_size == self.output_size

    def _tap(self, x: Value, k: int) -> Value:
        start = k * self.dilation * self.input_size
        return x[:, start : start + self.input_size]

    def _depthwise(self, taps: list[Value], weight: Value) -> Value:
        rows = weight.permute(2, 1, 0).reshape(self.kernel_size * self.output_size).split(self.kernel_size)
        made = taps[0] * rows[0]
        for tap, row in zip(taps[1:], rows[1:], strict=True):
            made = made + tap * row
        return made

    def _grouped(self, taps: list[Value], weight: Value) -> Value:
        """One product per tap and group: taps of one group that lie side by side are one product."""
        inner, taken = self.input_size // self.groups, self.kernel_size
        matrix = weight.permute(0, 2, 1).reshape(self.output_size, taken * inner)
        parts = []
        for number, rows in enumerate(matrix.split(self.groups)):
            if self.groups == self.dilation == 1:
                parts.append(linear(concat(taps), rows))
                continue
            columns = rows.split(taken, axis=1)
            made = linear(taps[0][:, number * inner : (number + 1) * inner], columns[0])
            for tap, column in zip(taps[1:], columns[1:], strict=True):
                made = made + linear(tap[:, number * inner : (number + 1) * inner], column)
            parts.append(made)
        return concat(parts)


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


def _padding(padding: object, span: int) -> str | tuple[int, int]:
    if not isinstance(padding, (tuple, list)):
        return checks.choice("padding", padding, PADDINGS)
    if len(padding) != 2:
        raise ArgumentError(f"padding: expected (before, after), got {len(padding)} numbers")
    before, after = (checks.integer("padding", number, 0) for number in padding)
    if before + after != span:
        raise ArgumentError(
            f"padding: expected (before, after) with the sum (kernel_size - 1) * dilation = {span}, got {padding}"
        )
    return before, after
