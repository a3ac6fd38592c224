"""A `rnnc.Sequential` as PyTorch modules with the same parameters: the second opinion on whole networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import rnnc

Array = NDArray[Any]
RECURRENT = {"RNN": torch.nn.RNN, "GRU": torch.nn.GRU, "LSTM": torch.nn.LSTM}


class TorchNetwork(torch.nn.Sequential):
    """Evaluation mode: no dropout. Rows of length 0 are not supported, as in PyTorch."""

    def __init__(self, model: rnnc.Sequential, params: Mapping[str, Array], *, sparse: bool = False) -> None:
        dtype = getattr(torch, model.dtype)
        super().__init__(*(_module(layer, dtype, sparse) for layer in model.layers))
        self.readout = model.readout
        self.last_recurrent = model.last_recurrent
        self.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in params.items()})
        self.eval()

    def scores(self, x: Array, lengths: Array | None = None) -> torch.Tensor:
        """x and the result are time first; the result is (T, B, N), or (B, N) behind a readout."""
        steps, rows = x.shape[:2]
        counts = torch.full((rows,), steps) if lengths is None else torch.from_numpy(lengths)
        if lengths is not None and x.ndim == 2:  # what is looked up for the padding would be a row of the gradient
            x = np.where(np.arange(steps)[:, None] < lengths, x, x[:1])
        value = torch.from_numpy(np.ascontiguousarray(x))
        for number, module in enumerate(self):
            if not isinstance(module, torch.nn.RNNBase):
                value = module(value)
                continue
            packed, state = module(pack_padded_sequence(value, counts, enforce_sorted=False))
            value, _ = pad_packed_sequence(packed, total_length=steps)
            if number == self.last_recurrent and self.readout != "every":
                h = state[0] if isinstance(state, tuple) else state
                directions = 2 if module.bidirectional else 1
                last = torch.cat(tuple(h[-directions:]), -1)
                value = last if self.readout == "last" else value.sum(0) / counts[:, None].to(value.dtype)
        return value

    def gradients(self) -> dict[str, Array]:
        """Name -> gradient, after a backward pass."""
        found = {}
        for name, parameter in self.named_parameters():
            assert parameter.grad is not None
            found[name] = (parameter.grad.to_dense() if parameter.grad.is_sparse else parameter.grad).numpy()
        return found

    def arrays(self) -> dict[str, Array]:
        """Name -> parameter."""
        return {name: parameter.detach().numpy() for name, parameter in self.named_parameters()}


def _module(layer: Any, dtype: torch.dtype, sparse: bool) -> torch.nn.Module:
    if isinstance(layer, rnnc.Embedding):
        return torch.nn.Embedding(
            layer.num_embeddings, layer.size, padding_idx=layer.padding_index, sparse=sparse, dtype=dtype
        )
    if isinstance(layer, rnnc.Dropout):
        return torch.nn.Dropout(layer.p)
    if isinstance(layer, rnnc.Linear):
        return torch.nn.Linear(layer.input_size, layer.output_size, layer.bias, dtype=dtype)
    options = {} if not isinstance(layer, rnnc.RNN) else {"nonlinearity": layer.nonlinearity}
    return RECURRENT[type(layer).__name__](
        layer.input_size,
        layer.hidden_size,
        layer.num_layers,
        bias=layer.bias,
        bidirectional=layer.bidirectional,
        dtype=dtype,
        **options,
    )
