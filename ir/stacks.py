"""Stacks: recurrent layers as plain data, which lowering reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType, SimpleNamespace
from typing import NamedTuple

from rnnc.ir.symbolic import Value

Step = Callable[[Value, SimpleNamespace, SimpleNamespace], tuple[Value, Mapping[str, Value]]]
"""x (B, I), states, parameters -> output (B, O), new states. Absent parameters are None."""


class Direction(NamedTuple):
    """One direction of one layer.

    suffix: "_l0", "_l0_reverse", ...: ends the name of each parameter and state.
    parameters: base name -> shape, without the suffix; absent ones (bias=False) are left out.
    optional: base names the equations may ask for that are absent here.
    states: base name -> width.
    step: the cell's equations.
    tied: base name -> full name, of parameters that are another layer's.
    """

    suffix: str
    parameters: Mapping[str, tuple[int, ...]]
    states: Mapping[str, int]
    output_size: int
    reverse: bool
    step: Step
    optional: tuple[str, ...] = ()
    tied: Mapping[str, str] = MappingProxyType({})


class Stack(NamedTuple):
    """A stack of layers; layers[k] holds the directions of layer k (one or two)."""

    input_size: int
    dtype: str
    layers: tuple[tuple[Direction, ...], ...]

    @property
    def flat(self) -> tuple[Direction, ...]:
        """All directions of all layers, in the order of the first axis of h_n: layer outermost."""
        return tuple(layer for directions in self.layers for layer in directions)

    @property
    def states(self) -> tuple[str, ...]:
        """Names of the cell's states, in the order they are passed in and returned."""
        return tuple(self.layers[0][0].states)
