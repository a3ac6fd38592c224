"""The network of forecasting.py in PyTorch, with the same parameters and updates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn


class TorchForecaster(nn.Module):
    """A GRU over all that is known, and two dense layers that make the quantiles of the next hours; without dropout."""

    def __init__(self, params: Mapping[str, Any], levels: Sequence[float], rate: float, clip: float) -> None:
        super().__init__()
        shapes = {name: array.shape for name, array in params.items()}
        hidden = shapes["gru.weight_hh_l0"][1]
        self.gru = nn.GRU(shapes["gru.weight_ih_l0"][1], hidden)
        self.dense = nn.Linear(*reversed(shapes["dense.weight"]))
        self.quantiles = nn.Linear(*reversed(shapes["quantiles.weight"]))
        self.load_state_dict({name: torch.tensor(array) for name, array in params.items()})
        self.levels = torch.tensor(levels)
        self.clip = clip
        self.optimizer = torch.optim.Adam(self.parameters(), rate)

    def forward(self, past: Any, ahead: Any, site: Any) -> Any:
        every = site.expand(len(past), -1, -1)
        output, _ = self.gru(torch.cat([past, ahead, every], -1))
        dense = torch.relu(self.dense(torch.cat([output, ahead, every], -1)))
        return self.quantiles(dense).unflatten(-1, (-1, len(self.levels)))

    def step(self, inputs: Mapping[str, Any], targets: Any) -> float:
        """One update. targets: (T, B, 24), NaN where missing. Returns the loss, the mean over targets and levels."""
        given = {name: torch.from_numpy(array) for name, array in inputs.items()}
        target = torch.from_numpy(targets)[..., None]
        self.optimizer.zero_grad()
        error = torch.nan_to_num(target) - self(**given)
        each = torch.maximum(self.levels * error, (self.levels - 1) * error)
        there = ~torch.isnan(target).expand_as(each)
        loss = each[there].mean()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters(), self.clip)
        self.optimizer.step()
        return float(loss.detach())
