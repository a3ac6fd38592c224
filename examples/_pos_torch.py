"""The tagger of examples/pos_tagging.py once more, in PyTorch: the same layers, weights, batches and updates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import rnnc
from rnnc.optimizers import SGD
from rnnc.train import Batch

CELLS = {"RNN": torch.nn.RNN, "GRU": torch.nn.GRU, "LSTM": torch.nn.LSTM}
PADDING = -100


class TorchTagger(torch.nn.Module):
    """Embedding, recurrent layers, output layer; names and numbers of the parameters as in the rnnc network."""

    def __init__(self, model: rnnc.Sequential, params: Mapping[str, Any], optimizer: rnnc.optimizers.Optimizer) -> None:
        super().__init__()
        self.names = list(params)
        plain = isinstance(optimizer, SGD)
        for number, layer in enumerate(model.layers):
            self.add_module(str(number), _module(layer, sparse=not plain))
        self.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in params.items()})
        table = [self.get_parameter("0.weight")]
        others = [parameter for name, parameter in self.named_parameters() if name != "0.weight"]
        rate = optimizer.learning_rate
        # Adam of the rows a batch names is SparseAdam, in PyTorch as in rnnc; SGD changes only these anyway.
        self.optimizers: list[torch.optim.Optimizer] = (
            [torch.optim.SGD([*table, *others], lr=rate)]
            if plain
            else [torch.optim.Adam(others, lr=rate), torch.optim.SparseAdam(table, lr=rate)]
        )

    def scores(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """(T, B) -> (T, B, tags); what stands behind a row's end is not read."""
        value: Any = x
        for module in self.children():
            if isinstance(module, torch.nn.RNNBase):
                packed, _ = module(pack_padded_sequence(value, lengths, enforce_sorted=False))
                value, _ = pad_packed_sequence(packed, total_length=x.shape[0])
            else:
                value = module(value)
        return torch.as_tensor(value)

    def step(self, batch: Batch) -> float:
        """One update; the loss before it."""
        x, lengths, inside = _tensors(batch)
        target = torch.from_numpy(batch.target[..., 0]).long().masked_fill(~inside, PADDING)
        scores = self.scores(x, lengths)
        loss = torch.nn.functional.cross_entropy(
            scores.flatten(0, 1), target.flatten(), ignore_index=PADDING, reduction="mean"
        )
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in self.optimizers:
            optimizer.step()
        return float(loss.detach())

    def right(self, batch: Batch) -> int:
        """How many tags of a batch are right."""
        x, lengths, inside = _tensors(batch)
        self.eval()
        with torch.inference_mode():
            found = self.scores(x, lengths).argmax(-1)
        self.train()
        return int(((found == torch.from_numpy(batch.target[..., 0]).long()) & inside).sum())


def _tensors(batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Words, lengths, and which steps are there. Padding repeats a word of its row: the table's gradient is sparse."""
    steps, rows = batch.sizes
    lengths = np.full(rows, steps) if batch.lengths is None else batch.lengths
    inside = np.arange(steps)[:, None] < lengths
    x = np.where(inside, batch.x, batch.x[:1])
    return torch.from_numpy(x), torch.from_numpy(lengths), torch.from_numpy(inside)


def _module(layer: Any, *, sparse: bool) -> torch.nn.Module:
    if isinstance(layer, rnnc.Embedding):
        return torch.nn.Embedding(layer.num_embeddings, layer.size, sparse=sparse)
    if isinstance(layer, rnnc.Dropout):
        return torch.nn.Dropout(layer.p)
    if isinstance(layer, rnnc.Linear):
        return torch.nn.Linear(layer.input_size, layer.output_size, layer.bias)
    return CELLS[type(layer).__name__](
        layer.input_size,
        layer.hidden_size,
        layer.num_layers,
        dropout=layer.dropout,
        bidirectional=layer.bidirectional,
    )
