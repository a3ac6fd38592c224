"""A call of a stack's bound code, without a model around it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rnnc.backends.base import Bound
from rnnc.ir.names import OUTPUT, X, final, initial
from rnnc.ir.stacks import Stack


def run_stack(
    bound: Bound,
    stack: Stack,
    x: Any,
    states: Sequence[Any] | None = None,
    lengths: Any = None,
    move: Callable[[Any], Any] = lambda array: array,
) -> tuple[Any, tuple[Any, ...]]:
    """(output, final states (layers * directions, B, width)); what is not written is NaN. move: to a device."""
    steps, batch = x.shape[:2]
    width = sum(layer.output_size for layer in stack.layers[-1])
    output = move(np.full((steps, batch, width), np.nan, stack.dtype))
    widths = stack.flat[0].states
    finals = {name: move(np.full((len(stack.flat), batch, size), np.nan, stack.dtype)) for name, size in widths.items()}
    given = {} if states is None else dict(zip(stack.states, states, strict=True))
    places = [(name, slab, layer.suffix) for name in stack.states for slab, layer in enumerate(stack.flat)]
    inputs = {X: x} | {initial(name, suffix): given[name][slab] for name, slab, suffix in places if name in given}
    outputs = {OUTPUT: output} | {final(name, suffix): finals[name][slab] for name, slab, suffix in places}
    bound.start(inputs, outputs, steps, batch, lengths)
    return output, tuple(finals.values())
