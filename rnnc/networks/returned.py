"""The check of what a layer's equations return."""

from __future__ import annotations

from collections.abc import Mapping

from rnnc.ir.equations import Value
from rnnc.ir.errors import IRError
from rnnc.ir.graph import Node
from rnnc.ir.shape_rules import BATCH
from rnnc.layers import Layer, Readout


def checked(
    layer: Layer, returned: object, x: Value, width: int, states: Mapping[str, int]
) -> tuple[Node, dict[str, Node]]:
    """What a layer's equations return, if it is what the layer declares. Raises IRError."""
    if isinstance(layer, Readout):
        output, new = x, returned
    elif isinstance(returned, Value):
        output, new = returned, {}
    elif isinstance(returned, tuple) and len(returned) == 2:
        output, new = returned
        _expect(layer, "its output", output, width)
    else:
        raise IRError(f"{type(layer).__name__} must return a value, or (value, {{state: new value}}); got {returned!r}")
    if not isinstance(new, Mapping) or set(new) != set(states):
        came = sorted(new) if isinstance(new, Mapping) else new
        raise IRError(f"{type(layer).__name__} returned the states {came}, it declared {sorted(states)}")
    if isinstance(returned, Value):
        _expect(layer, "its output", output, width)
    for state, size in states.items():
        _expect(layer, f"state {state!r}", new[state], size)
    return output.as_numbers().node, {state: new[state].as_numbers().node for state in states}


def _expect(layer: Layer, what: str, value: object, width: int) -> None:
    if not isinstance(value, Value) or value.as_numbers().shape != (BATCH, width):
        came = f"shape {value.shape}" if isinstance(value, Value) else repr(value)
        raise IRError(f"{type(layer).__name__} returned {what} as {came}; it declared ('B', {width})")
