"""Names of a graph's inputs and outputs: what they stand for, and how one is derived from another.

    x  output  valid  target  loss                 the roles of a network's arrays
    weight_ih_l0  1.weight_hh_l0_reverse           a parameter: the user's name for it, and its place
    h.0_l0  h.n_l0_reverse                         the first and the last value of state h
    x:speech  output:gains                         one of several inputs or outputs
    d:weight_ih_l0  d:output                       a gradient; the adjoint of an output
    t:x  t:d:x                                     a tangent
    new:norm.running_mean                          what a training step makes of a statistic
    part:0                                         a value that one part of a computation passes to later ones

Users name parameters and states by identifiers, which contain neither "." nor ":". So no user's name can clash with a
derived one, and every derived name shows what it is derived from. Code calls these functions to make a name, and never
takes a name apart.
"""

from __future__ import annotations

X = "x"
"""The input at a step."""
OUTPUT = "output"
"""The result of the last layer: at every step, or once per sequence after a readout."""
VALID = "valid"
"""The mask (B, 1) of a step, in graphs with lengths: True for rows that have not ended."""
SPAN = "span"
"""Where the steps of a frame lie, in networks whose values have other numbers of steps than x: `BEFORE`, ..."""
TARGET = "target"
"""The target of a loss, compared with the output."""
WEIGHT = "weight"
"""The factor of each row's loss."""
LOSS = "loss"
"""The loss summed over rows and steps."""

UPDATED, SLOPE, CLIPPING = "p", "g", "scale"
"""In the graph of an optimiser's update: the parameters, their gradients, and the factor that clips the gradients."""

GRADIENT = "d:"
"""The prefix of gradients (of inputs), and of adjoints (of outputs), which are inputs of the pullback."""
TANGENT = "t:"
"""The prefix of tangents: derivatives of inputs and outputs along a direction."""
RENEWED = "new:"
"""The prefix of the values that training gives statistics, parameters that are not learned by gradients."""


def initial(state: str, suffix: str) -> str:
    """The name of a state's initial value. suffix: the place of the layer, such as "_l0" or "_l0_reverse"."""
    return f"{state}.0{suffix}"


def final(state: str, suffix: str) -> str:
    """The name of a state's final value, after its last step."""
    return f"{state}.n{suffix}"


def in_layer(layer: str | int, name: str) -> str:
    """The name within a network of a layer's own `name`, such as "0.weight" or "encoder.weight"."""
    return f"{layer}.{name}"


def part(role: str, name: str) -> str:
    """The name of one of several arrays with the same role, such as "x:speech" or "output:gains"."""
    return f"{role}:{name}"


def gradient(name: str) -> str:
    """The name of an input's gradient, or of an output's adjoint."""
    return GRADIENT + name


def renewed(name: str) -> str:
    """The name of what a training step makes of a statistic."""
    return RENEWED + name


def passed(number: int) -> str:
    """The name of a value that one part of a computation passes to later ones."""
    return part("part", str(number))


def tangent(name: str) -> str:
    """The name of the tangent of an input or output."""
    return TANGENT + name
