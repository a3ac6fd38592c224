"""Models that others have trained give, as networks of rnnc, what their own programs gave."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from tests import real_models

RTNEURAL = ("lstm", "gru", "lstm_1d", "gru_1d", "conv", "lstm_torch", "gru_torch")

pytestmark = pytest.mark.skipif(not real_models.REAL.exists(), reason=f"the data is not there: {real_models.REAL}")


@cache
def data(name: str) -> Any:
    return dict(np.load(real_models.REAL / f"{name}.npz"))


def pieces(network: Any, x: Any, size: int) -> Any:
    """The outputs of a network that is given its steps bit by bit."""
    state, found = None, []
    for start in range(0, len(x), size):
        y, state = network.advance(x[start : start + size], state)
        found.append(y)
    return found


@pytest.mark.parametrize("name", RTNEURAL)
def test_rtneural(name: str, backend: str) -> None:
    text = data("rtneural")[f"{name}_json"].tobytes()
    model, params = (real_models.rtneural_torch if "torch" in name else real_models.rtneural)(text)
    x, y = (data("rtneural")[f"{name}_{which}"][:, None, None] for which in "xy")
    network = model.compile(params, backend=backend)
    np.testing.assert_allclose(network(x), y, atol=1e-6)
    np.testing.assert_allclose(np.concatenate(pieces(network, x[:60], 7)), y[:60], atol=1e-6)


def test_rnnoise(backend: str) -> None:
    """Its C computes tanh and sigmoid from a table, to 1e-5."""
    model, params = real_models.rnnoise(data("rnnoise"))
    x, y = data("rnnoise")["x"][:, None], data("rnnoise")["y"][:, None]
    network = model.compile(params, backend=backend)
    found = network(x)
    np.testing.assert_allclose(np.concatenate([found["gains"], found["vad"]], -1), y, atol=2e-5)
    streamed = np.concatenate([piece["gains"] for piece in pieces(network, x, 1)])
    np.testing.assert_allclose(streamed, found["gains"], atol=1e-5)
