"""Layers of networks (`rnnc.Sequential`, `rnnc.Graph`) besides recurrent specs, and of one's own."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from rnnc.checking import checks
from rnnc.ir.errors import ArgumentError, ArgumentTypeError
from rnnc.ir.stacks import Direction
from rnnc.layers.activations import Activation, LogSoftmax, PReLU, Softmax
from rnnc.layers.attention import Attention
from rnnc.layers.base import Layer, Noise, Pace, Readout
from rnnc.layers.basic import Dropout, Embedding, LearnedStart, Linear, Regularized
from rnnc.layers.conv import Conv1d, ConvTranspose1d, Delay
from rnnc.layers.joins import Add, Concat, Multiply, Scale, Select, Shift
from rnnc.layers.norms import BatchNorm, LayerNorm, RMSNorm
from rnnc.layers.pooling import AvgPool1d, MaxPool1d
from rnnc.layers.readouts import AttentionPooling, First, Last, Max, Mean, SoftmaxPooling, Sum
from rnnc.references import resolve
from rnnc.specs import SPECS, Spec, check_arguments

__all__ = [
    "Activation",
    "Add",
    "Attention",
    "AttentionPooling",
    "AvgPool1d",
    "BatchNorm",
    "Concat",
    "Conv1d",
    "ConvTranspose1d",
    "Delay",
    "Dropout",
    "Embedding",
    "First",
    "Last",
    "Layer",
    "LayerNorm",
    "LearnedStart",
    "Linear",
    "LogSoftmax",
    "Max",
    "MaxPool1d",
    "Mean",
    "Multiply",
    "Noise",
    "PReLU",
    "Pace",
    "RMSNorm",
    "Readout",
    "Regularized",
    "Scale",
    "Select",
    "Shift",
    "Softmax",
    "SoftmaxPooling",
    "Sum",
    "is_layer",
    "layer_from_dict",
    "recurrent",
    "starts_of",
]

LAYERS: dict[str, type[Layer]] = {
    layer.__name__: layer
    for layer in (
        *(Activation, Add, Attention, AttentionPooling, AvgPool1d, BatchNorm, Concat, Conv1d, ConvTranspose1d, Delay),
        *(Dropout, Embedding, First, Last, LayerNorm, LearnedStart, Linear, LogSoftmax, Max, MaxPool1d, Mean, Multiply),
        *(PReLU, RMSNorm, Regularized, Scale, Select, Shift, Softmax, SoftmaxPooling, Sum),
    )
}
"""rnnc's own layers, by the "type" of their plain data."""


def is_layer(value: object) -> bool:
    """Whether a value may stand in a network: a layer or a recurrent spec, not their base classes."""
    bases = (Layer, Readout)
    return isinstance(value, tuple(SPECS.values())) or (isinstance(value, Layer) and type(value) not in bases)


def recurrent(layer: Layer | Spec) -> Spec | None:
    """The recurrent spec that a layer is, or that it regularises."""
    if isinstance(layer, LearnedStart):
        return layer.bare
    if isinstance(layer, Regularized):
        return layer.spec
    return layer if isinstance(layer, Spec) else None


def starts_of(layer: Layer | Spec, direction: Direction | None = None) -> dict[str, str]:
    """State -> the parameter that it starts at, of a direction, or of the first one; empty if it starts at zeros."""
    if not isinstance(layer, LearnedStart):
        return {}
    return layer.starts(layer.bare.stack().flat[0] if direction is None else direction)


def layer_from_dict(data: object, trusted: Collection[str]) -> Layer | Spec:
    """The layer or the spec of its `to_dict`. trusted: modules that may be imported for it (`rnnc.Spec.from_dict`)."""
    if not isinstance(data, Mapping):
        raise ArgumentTypeError(f"layers: expected a list of dicts, got {checks.came(data)} in it")
    kind = data.get("type")
    if isinstance(kind, str) and ":" in kind:
        return _own_layer(kind, data, trusted)
    kind = checks.choice("type", kind, (*LAYERS, *SPECS))
    if kind in SPECS:
        return Spec.from_dict(data, trusted=trusted)
    values = _arguments(data)
    check_arguments(LAYERS[kind], values)
    if kind == "Regularized":
        values["spec"] = Spec.from_dict(values["spec"], trusted=trusted)
    if kind == "LearnedStart":
        values["spec"] = layer_from_dict(values["spec"], trusted)
    return LAYERS[kind](**values)


def _own_layer(kind: str, data: Mapping[str, Any], trusted: Collection[str]) -> Layer:
    cls = resolve(kind, trusted)
    if not (isinstance(cls, type) and issubclass(cls, Layer)):
        raise ArgumentError(f"type: expected a subclass of rnnc.Layer, got {checks.shown(kind)}")
    try:
        return cls(**_arguments(data))
    except ArgumentError:
        raise
    except Exception as error:  # a user's class may raise anything
        made = f"{kind} cannot be made of {checks.shown(data)}"
        raise ArgumentError(f"{made}: {type(error).__name__}: {error}") from error


def _arguments(data: Mapping[str, Any]) -> dict[str, Any]:
    """Fields by name; lists of plain data were tuples."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in data.items() if k != "type"}
