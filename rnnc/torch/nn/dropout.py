"""Dropout between layers in training: one call per layer, and torch.nn.functional.dropout between them.

The values are time first, as those of torch.nn's modules, so that PyTorch's generator drops the same there and here.
It is not so for a PackedSequence, whose values torch.nn drops in their packed order.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from rnnc.specs import Spec
from rnnc.torch.nn.calls import call
from rnnc.torch.nn.engine import Packed
from rnnc.torch.nn.gradients import as_state

if TYPE_CHECKING:
    from rnnc.torch.nn.layers import Layers

__all__ = ["layers", "run"]


def run(module: Layers, x: Any, state: Any, lengths: Any) -> tuple[Any, Any]:
    """(output, state) of a module in training."""
    turned = module.batch_first and x.dim() == 3
    value = x.transpose(0, 1) if turned else x
    weights, finals = module.weights(), []
    states = () if state is None else state if isinstance(state, (tuple, list)) else (state,)
    directions = module.spec.num_directions
    for number, (packed, count) in enumerate(module._by_layer):
        if number:
            value = functional.dropout(value, module.dropout, True)
        rows = slice(number * directions, (number + 1) * directions)
        initial = as_state([part[rows] for part in states])
        value, final = call(packed, weights[:count], value, initial, lengths)
        finals.append(final if isinstance(final, tuple) else (final,))
        weights = weights[count:]
    last = as_state([torch.cat(parts) for parts in zip(*finals, strict=True)])
    return value.transpose(0, 1) if turned else value, last


def layers(spec: Spec) -> list[tuple[Packed, int]]:
    """Each of several layers by itself, time first, and the number of its parameters; none of a single layer."""
    found: list[tuple[Packed, int]] = []
    if spec.num_layers == 1:
        return found
    width = spec.input_size
    for layer in spec.stack().layers:
        sizes = {"input_size": width, "num_layers": 1, "batch_first": False}
        one: Spec = replace(spec, **sizes)  # type: ignore[type-var]
        found.append((Packed(one), sum(len(direction.parameters) for direction in layer)))
        width = spec.output_size
    return found
