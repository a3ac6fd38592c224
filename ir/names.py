"""Names of a graph's inputs and outputs: what they stand for, and how one is made of another.

    x  output  valid  target  loss  scale          the roles of a network's arrays
    weight_ih_l0  1.weight_hh_l0_reverse           a parameter: what the user calls it, and its place
    h.0_l0  h.n_l0_reverse                         the first and the last value of state h
    x:speech  output:gains                         one of several inputs or outputs
    d:weight_ih_l0  d:output                       a gradient; the adjoint of an output
    t:x  t:d:x                                     a tangent

Users name parameters and states by identifiers, which hold neither "." nor ":". So no name that a user can write is a
derived one, and every derived name tells what it is derived from. Code asks these functions for
the name of what it wants; it reads nothing from the letters of a name.
"""

from __future__ import annotations

X = "x"
"""The input of a step."""
OUTPUT = "output"
"""What the last layer gives, at every step or behind a readout."""
VALID = "valid"
"""The mask (B, 1) of a step, in graphs with lengths: whether a row has not ended."""
TARGET = "target"
"""What a loss compares the output with."""
LOSS = "loss"
"""The loss summed over rows and steps."""
SCALE = "scale"
"""One over the number of steps of each row, (B, 1): the mean over time is a sum times this."""

UPDATED, SLOPE, CLIPPING = "p", "g", "scale"
"""In the graph of an optimiser's update: the parameters, their gradients, and the factor that clips them."""

GRADIENT = "d:"
"""Before the name of an input: its gradient. Before the name of an output: its adjoint, an input of the pullback."""
TANGENT = "t:"
"""Before the name of an input or output: its derivative along a direction."""


def initial(state: str, suffix: str) -> str:
    """The value before a state's first step. suffix: "_l0", "_l0_reverse", ..., the place of the layer."""
    return f"{state}.0{suffix}"


def final(state: str, suffix: str) -> str:
    """The value after a state's last step."""
    return f"{state}.n{suffix}"


def in_layer(layer: str | int, name: str) -> str:
    """The name, within a network, of what a layer calls `name`: "0.weight", "encoder.weight"."""
    return f"{layer}.{name}"


def part(role: str, name: str) -> str:
    """One of several arrays with the same role: "x:speech", "output:gains"."""
    return f"{role}:{name}"


def gradient(name: str) -> str:
    """The gradient of an input, or the adjoint of an output."""
    return GRADIENT + name


def tangent(name: str) -> str:
    """The tangent of an input or of an output."""
    return TANGENT + name
