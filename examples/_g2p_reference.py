"""The demo's yardstick: the same network in plain NumPy, computed the way the package g2p_en computes it.

One word at a time, one step at a time, float32; both matmuls of a step are done inside the step.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from _g2p_checkpoint import (
    MOST_PHONEMES,
    PHONEMES,
    SPEECH_END,
    SPEECH_START,
    Array,
    Weights,
    letter_numbers,
)


def gru_step(x: Array, h: Array, w_ih: Array, w_hh: Array, b_ih: Array, b_hh: Array) -> Array:
    """One step of a GRU that resets after the recurrent matmul, gates in the order r, z, n (PyTorch's form).

    x (B, E), h (B, H) -> (B, H); w_ih (3H, E), w_hh (3H, H), b_ih and b_hh (3H,).
    """
    hidden = h.shape[1]
    from_x = x @ w_ih.T + b_ih
    from_h = h @ w_hh.T + b_hh
    rz = 1 / (1 + np.exp(-(from_x[:, : 2 * hidden] + from_h[:, : 2 * hidden])))
    r, z = rz[:, :hidden], rz[:, hidden:]
    n = np.tanh(from_x[:, 2 * hidden :] + r * from_h[:, 2 * hidden :])
    new: Array = (1 - z) * n + z * h
    return new


class NumpyPhonemizer:
    """Words to phonemes with NumPy alone."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        gates = ("w_ih", "w_hh", "b_ih", "b_hh")
        self.encoder = tuple(weights[f"enc_{name}"] for name in gates)
        self.decoder = tuple(weights[f"dec_{name}"] for name in gates)

    def one(self, word: str) -> list[str]:
        """The phonemes of one normalised word."""
        weights = self.weights
        h = np.zeros((1, weights["fc_w"].shape[1]), np.float32)
        for letter in weights["enc_emb"][letter_numbers(word)]:
            h = gru_step(letter[None], h, *self.encoder)

        spoken: list[str] = []
        last = SPEECH_START
        while len(spoken) < MOST_PHONEMES:
            h = gru_step(weights["dec_emb"][[last]], h, *self.decoder)
            last = int((h @ weights["fc_w"].T + weights["fc_b"]).argmax())
            if last == SPEECH_END:
                break
            spoken.append(PHONEMES[last])
        return spoken

    def one_by_one(self, words: Sequence[str]) -> list[list[str]]:
        return [self.one(word) for word in words]
