"""Normalisations over the numbers of a step, and by statistics of the data."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

from rnnc.cells import Parameter, Shape
from rnnc.checking import checks
from rnnc.checking.arguments import explained_class
from rnnc.initializers import Ones, Zeros
from rnnc.ir.equations import Value, maximum, mean, rsqrt
from rnnc.ir.errors import ArgumentError
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
    """(x - mean) / sqrt(variance + eps) * weight + bias, as torch.nn.BatchNorm1d (Ioffe & Szegedy 2015).

    In inference, mean and variance are the parameters running_mean and running_var. What is made of parameters alone is
    computed when they are bound, so a step costs one multiplication and one addition per number.

    In training, they are those of the batch: over all rows, and over the steps that each row has. A training step moves
    the running ones towards them by `momentum`. As in PyTorch, x is divided by the root of the variance over n steps,
    and the running variance follows that over n - 1; with n = 1 both are 0. If the running ones are frozen, they are
    used in training, too.

    size: the width of x. affine: whether weight and bias are there. momentum: in [0, 1], or None for a network that is
    not trained.
    """

    momentum: float | None = 0.1
    statistics: ClassVar[tuple[str, ...]] = ("running_mean", "running_var")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.momentum is not None:
            self._set("momentum", checks.number("momentum", self.momentum))
            if self.momentum > 1:
                raise ArgumentError(f"momentum: expected a number in [0, 1] or None, got {self.momentum:g}")

    @property
    def untrained(self) -> str | None:
        if self.momentum is not None:
            return None
        return "momentum is None; expected a number in [0, 1], the share of each batch in the running statistics"

    def parameter_shapes(self) -> dict[str, Shape]:
        statistics: dict[str, Shape] = {
            "running_mean": Parameter((self.size,), Zeros()),
            "running_var": Parameter((self.size,), Ones()),
        }
        return self._gain() | self._shift() | statistics

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> Value:
        trained = p.mean is not None
        scale = rsqrt((p.variance if trained else p.running_var) + self.eps)
        if self.affine:
            scale = scale * p.weight
        if trained:  # centred first, which is exact for data far from zero
            normal: Value = (x - p.mean) * scale
            return normal + p.bias if self.affine else normal
        shift: Value = p.bias - p.running_mean * scale if self.affine else -p.running_mean * scale
        return x * scale + shift

    def renewed(self, p: SimpleNamespace) -> dict[str, Value]:
        unbiased = p.variance * p.count / maximum(p.count - 1.0, 1.0)
        return {
            "running_mean": p.running_mean + self.momentum * (p.mean - p.running_mean),
            "running_var": p.running_var + self.momentum * (unbiased - p.running_var),
        }
