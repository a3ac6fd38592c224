"""Models that others have trained, with what their own programs give: a voice-activity detector, a denoiser, and audio
effects of one sample per step.

RNNoise and RTNeural's nets need their data (`tests.real_models` says where), the detector `pip install --no-deps
silero-vad onnxruntime`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

import rnnc
from benchmarks.networks import session_of
from tests import real_models

Array = Any
CHUNK, CONTEXT, CHUNKS = 512, 64, 12
SAMPLES = 480
"""Ten milliseconds at 48 kHz."""

LSTM_SIZES = (8, 16, 24, 32)


@dataclass(frozen=True)
class Net:
    """model: bound. x: (frames, width). want: (frames, widths of the outputs), to within `tolerance`.

    frame: what a frame is called. peers: name -> a call that does all frames.
    """

    name: str
    model: Any
    x: Array
    want: Array
    tolerance: float
    frame: str = "frame"
    peers: tuple[tuple[str, Callable[[], object]], ...] = ()


EFFECTS = ("lstm", "gru", "lstm_1d", "gru_1d", "conv", "lstm_torch", "gru_torch")


def all_nets(words: Sequence[str] = ()) -> Iterator[Callable[[], Net]]:
    """Those whose data is here. words: one of them is to be in the name; none: all."""
    found: dict[str, Callable[[], Net]] = {}
    if find_spec("silero_vad") and find_spec("onnxruntime"):
        found["silero-vad"] = detector
    if real_models.REAL.exists():
        found["RNNoise"] = denoiser
        found |= {f"RTNeural {name}": partial(effect, name) for name in EFFECTS}
    found |= {f"LSTM {size}, dense": partial(amplifier, size) for size in LSTM_SIZES}
    return (net for name, net in found.items() if not words or any(word in name for word in words))


def detector() -> Net:
    """silero-vad at 16 kHz, from its ONNX file."""
    spec = find_spec("silero_vad")
    assert spec is not None and spec.origin is not None
    path = Path(spec.origin).parent / "data" / "silero_vad.onnx"
    rng, rate = np.random.default_rng(0), np.array(16000)
    audio = rng.standard_normal(CHUNK * CHUNKS + CONTEXT, dtype=np.float32) * np.float32(0.1)
    x = np.stack([audio[at : at + CHUNK + CONTEXT] for at in range(0, CHUNK * CHUNKS, CHUNK)])
    session, start = session_of(str(path)), np.zeros((2, 1, 128), np.float32)

    def streamed() -> list[Any]:
        state, found = start, []
        for chunk in x:
            output, state = session.run(["output", "stateN"], {"input": chunk[None], "state": state, "sr": rate})
            found.append(output[0])
        return found

    network = rnnc.from_onnx(path)
    network.run({"input": x[:1], "state": start, "sr": rate})  # the rate and the size choose the branch
    return Net("silero-vad", network, x, np.stack(streamed()), 1e-5, "chunk", (("onnxruntime", streamed),))


def denoiser() -> Net:
    """RNNoise 0.1. Its C computes tanh and sigmoid from a table, to 1e-5."""
    data = dict(np.load(real_models.REAL / "rnnoise.npz"))
    model, params = real_models.rnnoise(data)
    peers = (("onnxruntime", _denoiser_peer(params, data)),) if find_spec("onnxruntime") and find_spec("onnx") else ()
    return Net("RNNoise", model.compile(params), data["x"], data["y"], 2e-5, "frame", peers)


def _denoiser_peer(params: dict[str, Array], data: dict[str, Array]) -> Callable[[], object]:
    session = session_of(denoiser_file(params))
    starts = {f"{name}_first": np.zeros((1, 1, size), np.float32) for name, size in DENOISER_GRUS.items()}

    def streamed() -> Array:
        state, found = starts, []
        for row in data["x"]:
            gains, vad, *last = session.run(None, {"x": row[None, None], **state})
            state = dict(zip(starts, last, strict=True))
            found.append(np.concatenate([gains.ravel(), vad.ravel()]))
        return np.stack(found)

    np.testing.assert_allclose(streamed(), data["y"], atol=2e-5)
    return streamed


DENOISER_GRUS = {"vad_gru": 24, "noise_gru": 48, "denoise_gru": 96}


def denoiser_file(params: dict[str, Array]) -> bytes:
    """RNNoise as an ONNX file, a frame per call: GRUs whose candidate is a relu."""
    from onnx import TensorProto, helper, numpy_helper

    nodes: list[Any] = []
    arrays: dict[str, Array] = {}

    def dense(name: str, source: str, activation: str) -> str:
        arrays[f"{name}_w"], arrays[f"{name}_b"] = params[f"{name}.weight"].T, params[f"{name}.bias"]
        nodes.append(helper.make_node("MatMul", [source, f"{name}_w"], [f"{name}_m"]))
        nodes.append(helper.make_node("Add", [f"{name}_m", f"{name}_b"], [f"{name}_s"]))
        nodes.append(helper.make_node(activation, [f"{name}_s"], [name]))
        return name

    def gru(name: str, *sources: str) -> str:
        source, size = f"{name}_x", DENOISER_GRUS[name]
        nodes.append(helper.make_node("Concat", list(sources), [source], axis=2))
        arrays[f"{name}_w"], arrays[f"{name}_r"] = (params[f"{name}.weight_{k}h_l0"][None] for k in "ih")
        bias = params[f"{name}.bias_ih_l0"]
        arrays[f"{name}_b"] = np.concatenate([bias, np.zeros_like(bias)])[None]
        inputs = [source, f"{name}_w", f"{name}_r", f"{name}_b", "", f"{name}_first"]
        functions = ["Sigmoid", "Relu"]
        nodes.append(
            helper.make_node("GRU", inputs, [f"{name}_y", f"{name}_last"], hidden_size=size, activations=functions)
        )
        arrays["one"] = np.array([1])
        nodes.append(helper.make_node("Squeeze", [f"{name}_y", "one"], [name]))
        return name

    first = dense("input_dense", "x", "Tanh")
    voice = gru("vad_gru", first)
    noise = gru("noise_gru", first, voice, "x")
    gains = dense("denoise_output", gru("denoise_gru", voice, noise, "x"), "Sigmoid")
    kind, f32 = helper.make_tensor_value_info, TensorProto.FLOAT
    states = [kind(f"{name}_first", f32, (1, 1, size)) for name, size in DENOISER_GRUS.items()]
    last = [kind(f"{name}_last", f32, (1, 1, size)) for name, size in DENOISER_GRUS.items()]
    outputs = [kind(gains, f32, (1, 1, 22)), kind(dense("vad_output", voice, "Sigmoid"), f32, (1, 1, 1)), *last]
    constants = [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "rnnoise", [kind("x", f32, (1, 1, 42)), *states], outputs, constants)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    made.ir_version = 8
    return bytes(made.SerializeToString())


def effect(name: str) -> Net:
    """One of RTNeural's nets, with what its tests expect."""
    data = _effects()
    text = data[f"{name}_json"].tobytes()
    model, params = (real_models.rtneural_torch if "torch" in name else real_models.rtneural)(text)
    x, y = (data[f"{name}_{which}"][:SAMPLES, None] for which in "xy")
    return Net(f"RTNeural {name}", model.compile(params), x, y, 1e-6, "sample")


@cache
def _effects() -> dict[str, Array]:
    return dict(np.load(real_models.REAL / "rtneural.npz"))


def amplifier(size: int) -> Net:
    """The usual model of an amplifier: an LSTM and a dense layer. The reference backend says what is right."""
    model, params = real_models.rtneural(amplifier_json(size).encode())
    x = np.random.default_rng(1).standard_normal((SAMPLES, 1), dtype=np.float32)
    reference: Any = model.compile(params, backend="reference")
    want = reference(x[:, None])[:, 0]
    return Net(f"LSTM {size}, dense", model.compile(params), x, want, 5e-6, "sample")


def amplifier_json(size: int) -> str:
    """Its weights, as Keras and RTNeural have them."""
    rng = np.random.default_rng(size)

    def layer(kind: str, units: int, *shapes: tuple[int, ...]) -> dict[str, Any]:
        weights = [rng.uniform(-1, 1, shape) / np.sqrt(size) for shape in shapes]
        shown = [array.astype(np.float32).tolist() for array in weights]
        return {
            "type": kind,
            "activation": "tanh" if kind == "lstm" else "",
            "shape": [None, None, units],
            "weights": shown,
        }

    layers = [
        layer("lstm", size, (1, 4 * size), (size, 4 * size), (4 * size,)),
        layer("dense", 1, (size, 1), (1,)),
    ]
    return json.dumps({"in_shape": [None, None, 1], "layers": layers})
