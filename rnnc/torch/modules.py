"""Modules of torch.nn as layers, by the names of their classes. An argument that no layer has raises TorchError."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnc.ir.errors import TorchError
from rnnc.layers import (
    Activation,
    AvgPool1d,
    BatchNorm,
    Conv1d,
    ConvTranspose1d,
    Dropout,
    Embedding,
    LayerNorm,
    Linear,
    MaxPool1d,
    PReLU,
    RMSNorm,
    Scale,
)
from rnnc.torch import elementwise, functions
from rnnc.torch.recurrent import cell, recurrent_layer
from rnnc.torch.traced import STEPS, TracedTensor

if TYPE_CHECKING:
    from rnnc.torch.reading import Reader

__all__ = ["MODULES"]

Read = Callable[..., Any]


def _linear(r: Reader, m: Any, x: Any) -> TracedTensor:
    layer = Linear(m.in_features, m.out_features, m.bias is not None)
    return r.per_step(layer, x, r.weights(m, layer))


def _embedding(r: Reader, m: Any, x: Any) -> TracedTensor:
    expect(m, max_norm=None, scale_grad_by_freq=False)
    layer = Embedding(m.num_embeddings, m.embedding_dim, m.padding_idx)
    return r.looked_up(layer, x, r.weights(m, layer))


def _dropout(r: Reader, m: Any, x: Any) -> TracedTensor:
    return r.each(Dropout(m.p), x)


def _dropout1d(r: Reader, m: Any, x: Any) -> TracedTensor:
    """Whole channels of a row: one mask for all its steps."""
    value = r.channels(r.tensor(x))
    return r.apply(Dropout(m.p, variational=True), (value,), value)


# ---- convolutions and pooling


def _conv(r: Reader, m: Any, x: Any) -> TracedTensor:
    expect(m, padding_mode="zeros")
    (kernel,), (dilation,), (stride,) = m.kernel_size, m.dilation, m.stride
    padding = m.padding if isinstance(m.padding, str) else (m.padding[0], m.padding[0])
    bias = m.bias is not None
    layer = Conv1d(m.in_channels, m.out_channels, kernel, padding, dilation, m.groups, bias, stride)
    return r.over_steps(layer, x, r.weights(m, layer))


def _transposed_conv(r: Reader, m: Any, x: Any) -> TracedTensor:
    expect(m, padding_mode="zeros")
    (kernel,), (dilation,), (stride,) = m.kernel_size, m.dilation, m.stride
    padding = (m.padding[0], m.padding[0] - m.output_padding[0])
    bias = m.bias is not None
    layer = ConvTranspose1d(m.in_channels, m.out_channels, kernel, padding, dilation, m.groups, bias, stride)
    return r.over_steps(layer, x, r.weights(m, layer))


def _max_pool(r: Reader, m: Any, x: Any) -> TracedTensor:
    expect(m, ceil_mode=False, return_indices=False)
    pad = _one(m.padding)
    return r.over_steps(MaxPool1d(_one(m.kernel_size), _one(m.stride), (pad, pad), _one(m.dilation)), x, {})


def _avg_pool(r: Reader, m: Any, x: Any) -> TracedTensor:
    expect(m, ceil_mode=False)
    pad = _one(m.padding)
    return r.over_steps(AvgPool1d(_one(m.kernel_size), _one(m.stride), (pad, pad), m.count_include_pad), x, {})


def _adaptive(readout: Callable[..., Any]) -> Read:
    def read(r: Reader, m: Any, x: Any) -> TracedTensor:
        if getattr(m, "return_indices", False):
            raise TorchError("return_indices=True; rnnc has no indices of maxima")
        if _one(m.output_size) != 1:
            raise TorchError(f"output_size is {m.output_size}; expected 1, the pooling of all steps")
        value = r.channels(r.tensor(x))
        if value.axes[-1] != STEPS:
            raise TorchError(f"it reads {value}; expected the steps on the last axis")
        return readout(r, value, -1, keepdim=True)  # type: ignore[no-any-return]

    return read


def _one(size: Any) -> int:
    return int(size[0] if isinstance(size, (tuple, list)) else size)


# ---- norms


def _layer_norm(r: Reader, m: Any, x: Any) -> TracedTensor:
    size = _normal_size(m)
    if m.elementwise_affine and m.bias is None:  # a norm, then a factor by the module's name
        normal = r.per_step(LayerNorm(size, m.eps, affine=False), x, {}, name=f"{r.name}.normal")
        scale = Scale(size)
        return r.per_step(scale, normal, r.weights(m, scale))
    layer = LayerNorm(size, m.eps, m.elementwise_affine)
    return r.per_step(layer, x, r.weights(m, layer))


def _rms_norm(r: Reader, m: Any, x: Any) -> TracedTensor:
    size, eps = _normal_size(m), m.eps
    if eps is None:
        if m.weight is None:
            raise TorchError("eps=None depends on the dtype of its weight, and there is none; give eps")
        eps = float(np.finfo(str(m.weight.dtype).removeprefix("torch.")).eps)
    layer = RMSNorm(size, eps, m.elementwise_affine)
    return r.per_step(layer, x, r.weights(m, layer))


def _normal_size(m: Any) -> int:
    if len(m.normalized_shape) != 1:
        raise TorchError(f"normalized_shape is {tuple(m.normalized_shape)}; expected one size, that of a step")
    return int(m.normalized_shape[0])


def _batch_norm(r: Reader, m: Any, x: Any) -> TracedTensor:
    expect(m, track_running_stats=True)
    layer = BatchNorm(m.num_features, m.eps, m.affine, m.momentum)
    return r.per_channel(layer, x, r.weights(m, layer))


def _prelu(r: Reader, m: Any, x: Any) -> TracedTensor:
    layer = PReLU(m.num_parameters)
    weights = r.weights(m, layer)
    return r.each(layer, x, weights) if m.num_parameters == 1 else r.per_channel(layer, x, weights)


# ---- activations


def _activation(name: str, **numbers: str) -> Read:
    """numbers: alpha and beta of `rnnc.Activation` -> the attributes of the module."""

    def read(r: Reader, m: Any, x: Any) -> TracedTensor:
        return r.each(Activation(name, **{ours: float(getattr(m, theirs)) for ours, theirs in numbers.items()}), x)

    return read


def _function(function: Callable[..., Any], *attributes: str) -> Read:
    """A module that calls a function with its attributes."""

    def read(r: Reader, m: Any, x: Any) -> Any:
        return function(r, x, *(getattr(m, name) for name in attributes))

    return read


def _identity(r: Reader, m: Any, x: Any) -> Any:
    return x


def expect(m: Any, **values: object) -> None:
    """Raises TorchError unless attributes have these values."""
    for name, value in values.items():
        if (came := getattr(m, name)) != value:
            raise TorchError(f"{name} is {came!r}; rnnc has {name}={value!r} alone")


MODULES: Mapping[str, Read] = {
    "RNN": recurrent_layer,
    "GRU": recurrent_layer,
    "LSTM": recurrent_layer,
    "Recurrent": recurrent_layer,
    "RNNCell": cell,
    "GRUCell": cell,
    "LSTMCell": cell,
    "Linear": _linear,
    "Embedding": _embedding,
    "Dropout": _dropout,
    "Dropout1d": _dropout1d,
    "Conv1d": _conv,
    "ConvTranspose1d": _transposed_conv,
    "MaxPool1d": _max_pool,
    "AvgPool1d": _avg_pool,
    "AdaptiveAvgPool1d": _adaptive(functions.mean),
    "AdaptiveMaxPool1d": _adaptive(functions.amax),
    "BatchNorm1d": _batch_norm,
    "LayerNorm": _layer_norm,
    "RMSNorm": _rms_norm,
    "PReLU": _prelu,
    "ReLU": _activation("relu"),
    "ReLU6": _activation("relu6"),
    "Sigmoid": _activation("sigmoid"),
    "Tanh": _activation("tanh"),
    "LeakyReLU": _activation("leaky_relu", alpha="negative_slope"),
    "ELU": _activation("elu", alpha="alpha"),
    "CELU": _activation("celu", alpha="alpha"),
    "SELU": _function(elementwise.selu),
    "GELU": _function(elementwise.gelu, "approximate"),
    "SiLU": _activation("silu"),
    "Mish": _activation("mish"),
    "Hardtanh": _activation("hard_tanh", alpha="min_val", beta="max_val"),
    "Hardsigmoid": _function(elementwise.hardsigmoid),
    "Hardswish": _activation("hard_swish"),
    "Softsign": _activation("softsign"),
    "Softplus": _function(elementwise.softplus, "beta", "threshold"),
    "LogSigmoid": _function(elementwise.logsigmoid),
    "GLU": _function(functions.glu, "dim"),
    "Softmax": _function(elementwise.softmax, "dim"),
    "LogSoftmax": _function(elementwise.log_softmax, "dim"),
    "Flatten": _function(functions.flatten, "start_dim", "end_dim"),
    "ConstantPad1d": lambda r, m, x: functions.pad(r, x, m.padding, "constant", m.value),
    "ZeroPad1d": lambda r, m, x: functions.pad(r, x, m.padding),
    "Identity": _identity,
}
"""Class of torch.nn -> what reads a call of such a module: (reader, module, *arguments) -> its result."""
