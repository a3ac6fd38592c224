"""Pooling over time: the largest or the mean of a window that slides over the steps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import SimpleNamespace

from rnnc.checking import checks
from rnnc.checking.arguments import explained_class
from rnnc.ir.equations import Value, maximum, where
from rnnc.layers.base import size
from rnnc.layers.windows import Sliding, padding

__all__ = ["AvgPool1d", "MaxPool1d"]


@explained_class
@dataclass(frozen=True)
class MaxPool1d(Sliding):
    """The largest number of a window, as torch.nn.MaxPool1d: values (T, B, N) -> (T', B, N).

        y[u] = max over k of x[u * stride + k * dilation - before]

    Steps before the first and after the last one, of each row, do not count; a window without others gives -inf.

    kernel_size: steps in the window. stride: steps of x from one step of y to the next; default: kernel_size.
    padding, T': as in `rnnc.Conv1d`; the default is "valid". dilation: steps between those that the window holds.
    Raises ArgumentError or ArgumentTypeError.
    """

    kernel_size: int
    stride: int = 0
    padding: str | tuple[int, int] = "valid"
    dilation: int = 1

    def __post_init__(self) -> None:
        size(self, "kernel_size")
        self._set("stride", checks.integer("stride", self.stride, 0) or self.kernel_size)
        size(self, "dilation")
        self._set("padding", padding(self.padding))

    @property
    def sees_padding(self) -> bool:
        return any(self.pads)

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> Value:
        taps = self.taps(x)
        if self.sees_padding:
            inside = p.inside[:, : self.span + 1]
            there = [inside[:, k : k + 1] for k in range(0, self.span + 1, self.dilation)]
            taps = [where(here > 0.5, tap, -math.inf) for here, tap in zip(there, taps, strict=True)]
        found = taps[0]
        for tap in taps[1:]:
            found = maximum(found, tap)
        return found


@explained_class
@dataclass(frozen=True)
class AvgPool1d(Sliding):
    """The mean of a window, as torch.nn.AvgPool1d: values (T, B, N) -> (T', B, N).

        y[u] = sum over k of x[u * stride + k - before] / kernel_size

    kernel_size, stride, padding, T': as in `rnnc.MaxPool1d`.
    count_include_pad: whether padding counts as zeros; else the mean is that of the row's own steps.
    Raises ArgumentError or ArgumentTypeError.
    """

    kernel_size: int
    stride: int = 0
    padding: str | tuple[int, int] = "valid"
    count_include_pad: bool = True

    def __post_init__(self) -> None:
        size(self, "kernel_size")
        self._set("stride", checks.integer("stride", self.stride, 0) or self.kernel_size)
        self._set("padding", padding(self.padding))
        self._set("count_include_pad", checks.flag("count_include_pad", self.count_include_pad))

    @property
    def dilation(self) -> int:  # type: ignore[override]
        """Windows have no gaps."""
        return 1

    @property
    def sees_padding(self) -> bool:
        return any(self.pads) and not self.count_include_pad

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> Value:
        taps = self.taps(x)
        found = taps[0]
        for tap in taps[1:]:
            found = found + tap
        if not self.sees_padding:
            return found * (1.0 / self.kernel_size)
        inside = p.inside[:, : self.span + 1]
        count = inside[:, :1]
        for k in range(1, self.span + 1):
            count = count + inside[:, k : k + 1]
        return found / maximum(count, 1.0)
