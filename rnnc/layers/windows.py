"""What layers that slide a window over time have in common: taps, padding, and how many steps they make."""

from __future__ import annotations

from rnnc.checking import checks
from rnnc.ir.equations import Value
from rnnc.ir.errors import ArgumentError
from rnnc.layers.base import MOST, Layer, Pace

PADDINGS = ("causal", "same", "valid")


class Sliding(Layer):
    """Base of layers whose call u reads the steps u * stride + k * dilation - before, for k = 0 .. kernel_size - 1."""

    kernel_size: int
    stride: int
    padding: str | tuple[int, int]
    dilation: int

    @property
    def span(self) -> int:
        """Steps from the first tap to the last."""
        return (self.kernel_size - 1) * self.dilation

    @property
    def pads(self) -> tuple[int, int]:
        """(before, after): how many steps of padding there are around a row's own."""
        if isinstance(self.padding, tuple):
            return self.padding
        half = self.span // 2
        return {"causal": (self.span, 0), "same": (half, self.span - half), "valid": (0, 0)}[self.padding]

    @property
    def window(self) -> tuple[int, int]:
        before, _ = self.pads
        return before, max(0, self.span - before)

    @property
    def pace(self) -> Pace:
        return Pace(self.stride, fewer=self.span - sum(self.pads))

    def taps(self, x: Value) -> list[Value]:
        """What each tap reads, of the window x."""
        places = sum(self.window) + 1
        width = int(x.shape[-1]) // places
        return [x[:, k * width : (k + 1) * width] for k in range(0, self.span + 1, self.dilation)]


def padding(value: object, least: int = 0) -> str | tuple[int, int]:
    """The normal form of an argument `padding`. Raises ArgumentError or ArgumentTypeError."""
    if not isinstance(value, (tuple, list)):
        return checks.choice("padding", value, PADDINGS)
    if len(value) != 2:
        raise ArgumentError(f"padding: expected (before, after), got {len(value)} numbers")
    before, after = (checks.integer("padding", number, least, MOST) for number in value)
    return before, after
