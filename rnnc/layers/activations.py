"""Activations: functions of each number, and of the numbers of a step. Names and defaults are those of ONNX."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from types import SimpleNamespace
from typing import NamedTuple

from rnnc.cells import Parameter, Shape
from rnnc.checking import checks
from rnnc.checking.arguments import explained_class
from rnnc.initializers import Constant
from rnnc.ir.equations import (
    Value,
    absolute,
    clip,
    elu,
    exp,
    expm1,
    gelu,
    gelu_tanh,
    leaky_relu,
    log_softmax,
    maximum,
    minimum,
    relu,
    sigmoid,
    silu,
    softmax,
    softplus,
    tanh,
    where,
)
from rnnc.ir.errors import ArgumentError, ArgumentTypeError
from rnnc.layers.base import Layer, size

__all__ = ["Activation", "LogSoftmax", "PReLU", "Softmax"]


class Formula(NamedTuple):
    """An activation: f(x, alpha, beta), and its defaults; None: it has no such number."""

    function: Callable[[Value, float, float], Value]
    alpha: float | None = None
    beta: float | None = None


SELU_ALPHA, SELU_GAMMA = 1.67326319217681884765625, 1.05070102214813232421875
"""The defaults of ONNX's Selu, float32 numbers."""

FORMULAS: dict[str, Formula] = {
    "identity": Formula(lambda x, a, b: x),
    "sigmoid": Formula(lambda x, a, b: sigmoid(x)),
    "tanh": Formula(lambda x, a, b: tanh(x)),
    "relu": Formula(lambda x, a, b: relu(x)),
    "relu6": Formula(lambda x, a, b: clip(x, 0.0, 6.0)),
    "affine": Formula(lambda x, a, b: a * x + b, 1.0, 0.0),
    "leaky_relu": Formula(lambda x, a, b: leaky_relu(x, a), 0.01),
    "thresholded_relu": Formula(lambda x, a, b: where(x > a, x, 0.0), 1.0),
    "scaled_tanh": Formula(lambda x, a, b: a * tanh(b * x), 1.0, 1.0),
    "hard_sigmoid": Formula(lambda x, a, b: clip(a * x + b, 0.0, 1.0), 0.2, 0.5),
    "hard_swish": Formula(lambda x, a, b: x * clip(x * (1.0 / 6.0) + 0.5, 0.0, 1.0)),
    "hard_tanh": Formula(lambda x, a, b: clip(x, a, b), -1.0, 1.0),
    "elu": Formula(lambda x, a, b: elu(x, a), 1.0),
    "celu": Formula(lambda x, a, b: maximum(x, 0.0) + a * expm1(minimum(x, 0.0) * (1.0 / a)), 1.0),
    "selu": Formula(lambda x, a, b: b * where(x > 0.0, x, a * expm1(minimum(x, 0.0))), SELU_ALPHA, SELU_GAMMA),
    "softsign": Formula(lambda x, a, b: x / (1.0 + absolute(x))),
    "softplus": Formula(lambda x, a, b: softplus(x)),
    "silu": Formula(lambda x, a, b: silu(x)),
    "mish": Formula(lambda x, a, b: x * tanh(softplus(x))),
    "gelu": Formula(lambda x, a, b: gelu(x)),
    "gelu_tanh": Formula(lambda x, a, b: gelu_tanh(x)),
    "gelu_quick": Formula(lambda x, a, b: x * sigmoid(a * x), 1.702),
    "exp": Formula(lambda x, a, b: exp(x)),
    "absolute": Formula(lambda x, a, b: absolute(x)),
    "square": Formula(lambda x, a, b: x * x),
    "negative": Formula(lambda x, a, b: -x),
}


@explained_class
@dataclass(frozen=True)
class Activation(Layer):
    """A function of each number, by its name: "relu", "leaky_relu", "hard_sigmoid", ... (`FORMULAS` lists all).

    alpha, beta: the numbers in its formula; default: those of ONNX's operator of this name, which are not always
        PyTorch's (hard_sigmoid: clip(alpha x + beta, 0, 1) with 0.2 and 0.5, PyTorch's has alpha = 1/6).
    Raises ArgumentError for another name, and for a number that the formula does not have.
    """

    name: str
    alpha: float | None = None
    beta: float | None = None

    def __post_init__(self) -> None:
        formula = FORMULAS[checks.choice("name", self.name, FORMULAS)]
        for field, usual in (("alpha", formula.alpha), ("beta", formula.beta)):
            given = getattr(self, field)
            if given is None:
                continue
            if usual is None:
                raise ArgumentError(f"{field}: {self.name} has no {field}, got {checks.came(given)}")
            if isinstance(given, bool) or not isinstance(given, (int, float)) or not isfinite(given):
                raise ArgumentTypeError(f"{field}: expected a finite number, got {checks.came(given)}")
            self._set(field, float(given))
        if self.name == "celu" and self.alpha == 0:
            raise ArgumentError("alpha: celu divides by it; expected another number than 0")

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> Value:
        formula = FORMULAS[self.name]
        alpha = formula.alpha if self.alpha is None else self.alpha
        beta = formula.beta if self.beta is None else self.beta
        return formula.function(x, alpha or 0.0, beta or 0.0)


@explained_class
@dataclass(frozen=True)
class Softmax(Layer):
    """exp(x) / sum(exp(x)) over the numbers of a step."""

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> Value:
        return softmax(x)


@explained_class
@dataclass(frozen=True)
class LogSoftmax(Layer):
    """The logarithm of `Softmax`."""

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> Value:
        return log_softmax(x)


@explained_class
@dataclass(frozen=True)
class PReLU(Layer):
    """x where x > 0, weight * x elsewhere, one weight per unit or a single one (He et al. 2015), as torch.nn.PReLU.

    num_parameters: 1, or the width of x. start: what the weights start at.
    """

    num_parameters: int = 1
    start: float = 0.25

    def __post_init__(self) -> None:
        size(self, "num_parameters")
        if isinstance(self.start, bool) or not isinstance(self.start, (int, float)) or not isfinite(self.start):
            raise ArgumentTypeError(f"start: expected a finite number, got {checks.came(self.start)}")
        self._set("start", float(self.start))

    def parameter_shapes(self) -> dict[str, Shape]:
        return {"weight": Parameter((self.num_parameters,), Constant(self.start))}

    @property
    def width(self) -> int | None:
        return None if self.num_parameters == 1 else self.num_parameters

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> Value:
        return where(x > 0.0, x, p.weight * x)
