"""The demo's network in PyTorch, one word at a time: what a program without rnnc would run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import _g2p_checkpoint as checkpoint
import numpy as np
from _g2p_checkpoint import Array, Weights


class TorchPhonemizer:
    """nn.GRU reads the letters, nn.GRUCell writes the phonemes, under torch.inference_mode."""

    def __init__(self, weights: Weights) -> None:
        import torch
        from torch import nn

        self.torch = torch
        hidden, width = weights["enc_w_hh"].shape[1], weights["enc_emb"].shape[1]
        self.tables = {part: self._tensor(weights[f"{part}_emb"]) for part in ("enc", "dec")}
        self.reader, self.writer = nn.GRU(width, hidden), nn.GRUCell(width, hidden)
        self.scores = nn.Linear(hidden, len(weights["fc_b"]))
        self.reader.load_state_dict({f"{name}_l0": self._tensor(weights[f"enc_{short}"]) for name, short in _NAMES})
        self.writer.load_state_dict({name: self._tensor(weights[f"dec_{short}"]) for name, short in _NAMES})
        self.scores.load_state_dict({"weight": self._tensor(weights["fc_w"]), "bias": self._tensor(weights["fc_b"])})

    def _tensor(self, array: Array) -> Any:
        return self.torch.from_numpy(np.array(array))

    def one(self, word: str) -> list[str]:
        """The phonemes of a word (normalised)."""
        torch, spoken = self.torch, [checkpoint.SPEECH_START]
        with torch.inference_mode():
            letters = self.tables["enc"][torch.tensor(checkpoint.letter_numbers(word))]
            h = self.reader(letters[:, None])[1][0]
            while len(spoken) <= checkpoint.MOST_PHONEMES:
                h = self.writer(self.tables["dec"][spoken[-1]][None], h)
                spoken.append(int(self.scores(h).argmax()))
                if spoken[-1] == checkpoint.SPEECH_END:
                    return [checkpoint.PHONEMES[number] for number in spoken[1:-1]]
        return [checkpoint.PHONEMES[number] for number in spoken[1:]]

    def one_by_one(self, words: Sequence[str]) -> list[list[str]]:
        """The phonemes of each word."""
        return list(map(self.one, words))


_NAMES = (("weight_ih", "w_ih"), ("weight_hh", "w_hh"), ("bias_ih", "b_ih"), ("bias_hh", "b_hh"))
