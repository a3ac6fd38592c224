"""The network of language_model.py in PyTorch, with the same parameters and updates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn


class TorchLanguageModel(nn.Module):
    """A table, an LSTM, a layer back to the size of the table, and scores by the table; without dropout."""

    def __init__(self, params: Mapping[str, Any], layers: int, rate: float, clip: float) -> None:
        super().__init__()
        symbols, size = params["table.weight"].shape
        hidden = params["back.weight"].shape[1]
        self.table = nn.Embedding(symbols, size)
        self.lstm = nn.LSTM(size, hidden, num_layers=layers)
        self.back = nn.Linear(hidden, size)
        self.scores = nn.Linear(size, symbols)
        self.scores.weight = self.table.weight
        own = {name: torch.tensor(array) for name, array in params.items()}
        self.load_state_dict(own | {"scores.weight": own["table.weight"]})
        self.clip = clip
        self.optimizer = torch.optim.Adam(self.parameters(), rate)

    def step(self, numbers: Any, targets: Any, state: Any) -> tuple[float, Any]:
        """One update. Returns the loss and the final states."""
        x, classes = torch.from_numpy(numbers), torch.from_numpy(targets.astype(np.int64))
        self.optimizer.zero_grad()
        output, (h, c) = self.lstm(self.table(x), state)
        loss = nn.functional.cross_entropy(self.scores(self.back(output)).flatten(0, 1), classes.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters(), self.clip)
        self.optimizer.step()
        return float(loss.detach()), (h.detach(), c.detach())
