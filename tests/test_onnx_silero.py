"""A voice-activity detector as its authors publish it (PyPI: silero-vad), whole, streamed chunk by chunk."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rnnc
from tests.onnx_models import onnx

runtime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is the oracle here: pip install onnxruntime")
CHUNK, CONTEXT = 512, 64


def folder() -> Path:
    spec = find_spec("silero_vad")
    if spec is None or spec.origin is None:
        pytest.skip("silero-vad is not installed: pip install --no-deps silero-vad")
    return Path(spec.origin).parent / "data"


def sound(chunks: int) -> Any:
    """Something like audio: a low rumble, and bursts of noise and of tones."""
    rng = np.random.default_rng(0)
    t = np.arange(CHUNK * chunks + CONTEXT) / 16000
    rumble = np.cumsum(rng.standard_normal(len(t))) * 1e-3
    bursts = (np.sin(2 * np.pi * 0.7 * t) > 0) * (
        0.2 * np.sin(2 * np.pi * 170 * t) + 0.05 * rng.standard_normal(len(t))
    )
    return (rumble - rumble.mean() + bursts).astype(np.float32)


@pytest.mark.parametrize("name", ("silero_vad.onnx", "silero_vad_op18_ifless.onnx"))
@pytest.mark.parametrize("rate", (16000, 8000))
def test_streamed_over_200_chunks(name: str, rate: int) -> None:
    proto = onnx.load(folder() / name)
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    session = runtime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    network, audio = rnnc.from_onnx(folder() / name), sound(200)
    size, context = CHUNK * rate // 16000, CONTEXT * rate // 16000
    batch = 16000 // rate
    state = expected_state = np.zeros((2, batch, 128), np.float32)
    worst = 0.0
    for at in range(0, 200 * size, size):
        x = np.stack([audio[at // row : at // row + size + context] for row in range(1, batch + 1)])
        given = {"input": x, "sr": np.array(rate)}
        expected, expected_state = session.run(["output", "stateN"], given | {"state": expected_state})
        made = network.run(given | {"state": state})
        state = made["stateN"]
        assert made["output"].shape == expected.shape and state.shape == expected_state.shape
        worst = max(
            worst, *(float(np.abs(a - b).max()) for a, b in ((made["output"], expected), (state, expected_state)))
        )
    assert worst < 1e-4
    assert "enters machine code directly" in network.explain()


def test_sequence_of_chunks() -> None:
    """The variant whose batch axis is time."""
    path = folder() / "silero_vad_16k_sequence.onnx"
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    audio = sound(40)
    x = np.stack([audio[at : at + CHUNK + CONTEXT] for at in range(0, 40 * CHUNK, CHUNK)])
    given = {"input": x, "h": np.zeros((1, 1, 128), np.float32), "c": np.zeros((1, 1, 128), np.float32)}
    made, expected = rnnc.from_onnx(path).run(given), session.run(None, given)
    for output, array in zip(session.get_outputs(), expected, strict=True):
        assert made[output.name].shape == array.shape
        np.testing.assert_allclose(made[output.name], array, rtol=0, atol=1e-4)
