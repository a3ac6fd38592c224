"""Normalisations over the numbers of a step, and by statistics of the data."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

from rnnc.cells import Parameter, Shape
from rnnc.checking import checks
from rnnc.checking.arguments import explained_class
from rnnc.initializers import Ones, Zeros
from rnnc.ir.equations import Value, mean, rsqrt
from rnnc.layers.base import Layer, size

__all__ = ["BatchNorm", "LayerNorm", "RMSNorm"]


@dataclass(frozen=True)
class _Norm(Layer):
    size: int
    eps: float = 1e-5
    affine: bool = True

    def __post_init__(self) -> None:
        size(self, "size")
        self._set("eps", checks.number("eps", self.eps))
        self._set("affine", checks.flag("affine", self.affine))

    @property
    def width(self) -> int | None:
        return self.size

    def _gain(self) -> dict[str, Shape]:
        return {"weight": Parameter((self.size,), Ones())} if self.affine else {}

    def _shift(self) -> dict[str, Shape]:
        return {"bias": Parameter((self.size,), Zeros())} if self.affine else {}


@explained_class
@dataclass(frozen=True)
class LayerNorm(_Norm):
    """(x - mean) / sqrt(variance + eps) * weight + bias over the numbers of a step (Ba et al. 2016), as PyTorch's.

    size: the width of x. affine: whether weight and bias are there.
    """

    def parameter_shapes(self) -> dict[str, Shape]:
        return self._gain() | self._shift()

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> Value:
        centred = x - mean(x)
        normal = centred * rsqrt(mean(centred * centred) + self.eps)
        return normal * p.weight + p.bias if self.affine else normal


@explained_class
@dataclass(frozen=True)
class RMSNorm(_Norm):
    """x / sqrt(mean(x^2) + eps) * weight over the numbers of a step (Zhang & Sennrich 2019), as PyTorch's.

    size: the width of x. affine: whether there is a weight.
    """

    def parameter_shapes(self) -> dict[str, Shape]:
        return self._gain()

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> Value:
        normal = x * rsqrt(mean(x * x) + self.eps)
        return normal * p.weight if self.affine else normal


@explained_class
@dataclass(frozen=True)
class BatchNorm(_Norm):
    """(x - running_mean) / sqrt(running_var + eps) * weight + bias, as torch.nn.BatchNorm1d computes it in eval mode
    (Ioffe & Szegedy 2015).

    The statistics are parameters. What is made of parameters alone is computed when they are bound, so a step costs
    one multiplication and one addition per number. There is no training mode yet: `rnnc.train` refuses the layer.

    size: the width of x. affine: whether weight and bias are there.
    """

    trains: ClassVar[bool] = False

    def parameter_shapes(self) -> dict[str, Shape]:
        statistics: dict[str, Shape] = {
            "running_mean": Parameter((self.size,), Zeros()),
            "running_var": Parameter((self.size,), Ones()),
        }
        return self._gain() | self._shift() | statistics

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> Value:
        scale = rsqrt(p.running_var + self.eps)
        if self.affine:
            scale = scale * p.weight
        shift: Value = p.bias - p.running_mean * scale if self.affine else -p.running_mean * scale
        return x * scale + shift
