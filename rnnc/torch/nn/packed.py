"""PackedSequence in and out: its rows are padded, run with their lengths, and packed again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn.utils.rnn import PackedSequence

from rnnc.torch.nn.gradients import as_state

if TYPE_CHECKING:
    from rnnc.torch.nn.layers import Layers

__all__ = ["run"]


def run(module: Layers, sequence: Any, state: Any) -> tuple[Any, Any]:
    """(PackedSequence, state) of a module. States have the rows in the order from before packing."""
    data, batch_sizes, order, back = sequence
    steps = len(batch_sizes)
    padded, lengths = torch._VF._pad_packed_sequence(data, batch_sizes, module.batch_first, 0.0, steps)
    if state is not None:
        parts = state if isinstance(state, (tuple, list)) else (state,)
        state = as_state([_rows(part, order) for part in parts])
    full = int(lengths[-1]) == steps  # they fall: all rows are as long as the longest
    output, final = module.run(padded, state, None if full else lengths)
    packed, _ = torch._VF._pack_padded_sequence(output, lengths, module.batch_first)
    finals = final if isinstance(final, tuple) else (final,)
    return PackedSequence(packed, batch_sizes, order, back), as_state([_rows(part, back) for part in finals])


def _rows(part: Any, order: Any) -> Any:
    return part if order is None else part.index_select(1, order)
