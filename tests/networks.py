"""Networks by the name of their cell, built-in and a user's, and their data: for tests of the compiler's inside.

Everything here is plain data of rnnc.ir: a `Stack`, and arrays by the names of a graph's inputs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

import rnnc
from rnnc import cells
from rnnc.ir.stacks import Stack
from tests import user_cells

Array = NDArray[Any]
Feeds = dict[str, Array]

BUILT_IN: dict[str, rnnc.Cell] = {
    "rnn": cells.ElmanCell(),
    "gru": cells.GRUCell(),
    "gru_reset_first": cells.ResetFirstGRUCell(),
    "lstm": cells.LSTMCell(),
    "lstm_projected": cells.ProjectedLSTMCell(2),
}
USERS: dict[str, rnnc.Cell] = {
    "minimal_gated_unit": user_cells.MinimalGatedUnit(),
    "peephole_lstm": user_cells.PeepholeLSTM(),
    "layer_norm_lstm": user_cells.LayerNormLSTM(),
    "simple_recurrent_unit": user_cells.SimpleRecurrentUnit(),
    "independent_rnn": user_cells.IndependentRNN(),
    "nested_lstm": user_cells.NestedLSTM(),
    "elman_network": user_cells.ElmanNetwork(),
    "fast_and_slow": user_cells.FastAndSlow(),
}
CELLS = BUILT_IN | USERS


def stack_of(
    cell: str,
    num_layers: int = 1,
    bidirectional: bool = False,
    *,
    input_size: int = 3,
    hidden_size: int = 4,
    bias: bool = True,
    dtype: str = "float64",
) -> Stack:
    """The stack of a cell of `CELLS`."""
    spec = rnnc.Recurrent(
        CELLS[cell], input_size, hidden_size, num_layers, bias=bias, bidirectional=bidirectional, dtype=dtype
    )
    return spec.stack()


def parameters_of(stack: Stack, rng: np.random.Generator) -> Feeds:
    """Parameters by full name, uniform in +-1/sqrt(their last axis)."""
    return {
        name + layer.suffix: rng.uniform(-1, 1, shape).astype(stack.dtype) / np.sqrt(shape[-1]).astype(stack.dtype)
        for layer in stack.flat
        for name, shape in layer.parameters.items()
    }


def data_of(stack: Stack, steps: int, batch: int, rng: np.random.Generator, lengths: Array | None = None) -> Feeds:
    """Inputs that are no parameters. With lengths: the mask, and NaN wherever x is padding."""
    feeds = {"x": rng.standard_normal((steps, batch, stack.input_size)).astype(stack.dtype)}
    for layer in stack.flat:
        for name, width in layer.states.items():
            feeds[f"{name}.0{layer.suffix}"] = rng.uniform(-1, 1, (batch, width)).astype(stack.dtype)
    if lengths is not None:
        feeds["valid"] = np.arange(steps)[:, None, None] < lengths[None, :, None]
        feeds["x"][~feeds["valid"][..., 0]] = np.nan
    return feeds


def lengths_of(steps: int, batch: int) -> NDArray[np.int64]:
    """Lengths that repeat 0, 1, ..., steps from the middle on, in no order."""
    return (np.arange(batch) * 5 + steps // 2) % (steps + 1)
