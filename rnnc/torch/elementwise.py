"""Arithmetic and activations of tensors: functions of torch and methods, by their names, as layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from rnnc.ir.errors import TorchError
from rnnc.layers import Activation, Add, Dropout, LogSoftmax, Multiply, PReLU, Scale, Shift, Softmax
from rnnc.torch.traced import Dim, TracedTensor, Weight, ZeroTensor

if TYPE_CHECKING:
    from rnnc.torch.reading import Reader

__all__ = ["ELEMENTWISE"]

Number = int | float
SELU = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946
"""PyTorch's alpha and scale."""


def _activation(name: str) -> Callable[..., Any]:
    def read(r: Reader, input: Any, inplace: bool = False) -> TracedTensor:
        return r.each(Activation(name), input)

    return read


def _affine(r: Reader, x: Any, factor: float, shift: float) -> Any:
    if isinstance(x, ZeroTensor) or (factor, shift) == (1.0, 0.0):
        return x
    return r.each(Activation("affine", float(factor), float(shift)), x)


# ---- arithmetic


def add(r: Reader, input: Any, other: Any, *, alpha: Number = 1) -> Any:
    """input + alpha * other."""
    if isinstance(input, ZeroTensor) or isinstance(other, ZeroTensor):
        return other if isinstance(input, ZeroTensor) else input
    if isinstance(other, (int, float)):
        return _affine(r, input, 1.0, alpha * other)
    if isinstance(input, (int, float)):
        return _affine(r, other, alpha, input)
    if isinstance(input, Weight):
        return _shifted(r, _affine(r, other, alpha, 0.0), input)
    if isinstance(other, Weight):
        if alpha not in (1, -1):
            raise TorchError(f"alpha is {alpha} of parameter {other.name!r}; expected 1 or -1")
        return _affine(r, _shifted(r, _affine(r, input, alpha, 0.0), other), alpha, 0.0)
    return r.joined(Add(), (input, _affine(r, other, alpha, 0.0)))


def sub(r: Reader, input: Any, other: Any, *, alpha: Number = 1) -> Any:
    """input - alpha * other."""
    return add(r, input, other, alpha=-alpha)


def rsub(r: Reader, input: Any, other: Any, *, alpha: Number = 1) -> Any:
    """other - alpha * input."""
    return add(r, other, input, alpha=-alpha)


def mul(r: Reader, input: Any, other: Any) -> Any:
    """input * other."""
    if isinstance(input, Dim) and isinstance(other, Dim):
        return Dim(f"{input.label}*{other.label}")
    if isinstance(input, ZeroTensor) or isinstance(other, ZeroTensor):
        return ZeroTensor()
    if isinstance(other, (int, float)):
        return _affine(r, input, other, 0.0)
    if isinstance(input, (int, float)):
        return _affine(r, other, input, 0.0)
    if isinstance(input, Weight) or isinstance(other, Weight):
        return _scaled(r, *((other, input) if isinstance(input, Weight) else (input, other)))
    for one, two in ((input, other), (other, input)):
        if isinstance(one, TracedTensor) and one.weights:
            return r.weighted(two, one)
    return r.joined(Multiply(), (input, other))


def _shifted(r: Reader, x: Any, bias: Weight) -> TracedTensor:
    if bias.tensor.ndim != 1:
        raise TorchError(f"{bias.name} has shape {tuple(bias.tensor.shape)}; expected one number per number of a step")
    return r.per_step(Shift(len(bias.tensor)), x, {"bias": bias})


def _scaled(r: Reader, x: Any, weight: Any) -> TracedTensor:
    if weight.tensor.ndim != 1:
        shape = tuple(weight.tensor.shape)
        raise TorchError(f"{weight.name} has shape {shape}; expected one factor per number of a step")
    return r.per_step(Scale(len(weight.tensor)), x, {"weight": weight})


def div(r: Reader, input: Any, other: Any, *, rounding_mode: None = None) -> Any:
    """input / other, a number."""
    if not isinstance(other, (int, float)) or rounding_mode is not None:
        raise TorchError("it divides by a tensor; expected a number")
    return _affine(r, input, 1.0 / other, 0.0)


def neg(r: Reader, input: Any) -> Any:
    """-input."""
    return _affine(r, input, -1.0, 0.0)


def power(r: Reader, input: Any, exponent: Any) -> TracedTensor:
    """The square; no other power."""
    if exponent != 2:
        raise TorchError(f"exponent is {exponent!r}; expected 2")
    return r.each(Activation("square"), input)


def clamp(r: Reader, input: Any, min: Number | None = None, max: Number | None = None) -> TracedTensor:
    """Between two numbers."""
    if min == 0 and max is None:
        return r.each(Activation("relu"), input)
    if min is None or max is None:
        raise TorchError("expected min and max")
    return r.each(Activation("hard_tanh", float(min), float(max)), input)


def hardtanh(
    r: Reader, input: Any, min_val: Number = -1.0, max_val: Number = 1.0, inplace: bool = False
) -> TracedTensor:
    """Between two numbers."""
    return clamp(r, input, float(min_val), float(max_val))


# ---- activations that are not one of rnnc's by itself


def leaky_relu(r: Reader, input: Any, negative_slope: float = 0.01, inplace: bool = False) -> TracedTensor:
    return r.each(Activation("leaky_relu", float(negative_slope)), input)


def elu(r: Reader, input: Any, alpha: float = 1.0, inplace: bool = False) -> TracedTensor:
    return r.each(Activation("elu", float(alpha)), input)


def celu(r: Reader, input: Any, alpha: float = 1.0, inplace: bool = False) -> TracedTensor:
    return r.each(Activation("celu", float(alpha)), input)


def selu(r: Reader, input: Any, inplace: bool = False) -> TracedTensor:
    return r.each(Activation("selu", *SELU), input)


def hardsigmoid(r: Reader, input: Any, inplace: bool = False) -> TracedTensor:
    return r.each(Activation("hard_sigmoid", 1.0 / 6.0, 0.5), input)


def gelu(r: Reader, input: Any, approximate: str = "none") -> TracedTensor:
    return r.each(Activation("gelu_tanh" if approximate == "tanh" else "gelu"), input)


def softplus(r: Reader, input: Any, beta: Number = 1.0, threshold: Number = 20.0) -> TracedTensor:
    """log(1 + exp(beta x)) / beta; torch's is x from the threshold on, which differs by less than exp(-threshold)."""
    if threshold < 20:
        raise TorchError(f"threshold is {threshold}; expected at least 20, where x and softplus(x) are the same")
    made = r.each(Activation("softplus"), _affine(r, input, beta, 0.0))
    return _affine(r, made, 1.0 / beta, 0.0)  # type: ignore[no-any-return]


def logsigmoid(r: Reader, input: Any) -> TracedTensor:
    """-softplus(-x)."""
    return neg(r, r.each(Activation("softplus"), neg(r, input)))  # type: ignore[no-any-return]


def prelu(r: Reader, input: Any, weight: Weight) -> TracedTensor:
    layer = PReLU(len(weight.tensor))
    weights = {"weight": weight}
    return r.each(layer, input, weights) if len(weight.tensor) == 1 else r.per_channel(layer, input, weights)


def softmax(r: Reader, input: Any, dim: Any = None, _stacklevel: int = 3, dtype: None = None) -> TracedTensor:
    return r.along(Softmax(), input, dim)


def log_softmax(r: Reader, input: Any, dim: Any = None, _stacklevel: int = 3, dtype: None = None) -> TracedTensor:
    return r.along(LogSoftmax(), input, dim)


def dropout(r: Reader, input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> TracedTensor:
    """Of a module in eval mode, where training=self.training is False, the dropout of its training."""
    if training != r.root.training:
        if training:
            raise TorchError("training=True in eval mode draws numbers in inference; rnnc's dropout acts in training")
        return r.tensor(input)
    return r.each(Dropout(p), input)


_ACTIVATIONS = {
    "relu": "relu",
    "relu6": "relu6",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
    "silu": "silu",
    "mish": "mish",
    "softsign": "softsign",
    "hardswish": "hard_swish",
    "exp": "exp",
    "abs": "absolute",
    "square": "square",
}

ELEMENTWISE: Mapping[str, Callable[..., Any]] = {
    **{name: _activation(ours) for name, ours in _ACTIVATIONS.items()},
    **{"leaky_relu": leaky_relu, "elu": elu, "celu": celu, "selu": selu, "gelu": gelu, "prelu": prelu},
    **{"hardsigmoid": hardsigmoid, "hardtanh": hardtanh, "softplus": softplus, "logsigmoid": logsigmoid},
    **{"softmax": softmax, "log_softmax": log_softmax, "dropout": dropout},
    **{"add": add, "sub": sub, "subtract": sub, "rsub": rsub, "mul": mul, "multiply": mul, "neg": neg},
    **{"iadd": add, "isub": sub, "imul": mul, "itruediv": div},
    **{"div": div, "divide": div, "truediv": div, "true_divide": div, "pow": power, "clamp": clamp, "clip": clamp},
}
"""Name of a function or method -> what reads a call of it: (reader, *arguments) -> its result."""
