"""Whole networks against ONNX Runtime and PyTorch: convolutions, a denoiser, a voice-activity detector.

    python -m benchmarks.networks                      # one thread, CPU time, medians of 9 rounds

RNNoise needs its weights (tests/real_models.py says where), the detector `pip install --no-deps silero-vad`; what is
missing is left out, and said so. All results are compared before anything is timed.
"""

from __future__ import annotations

import argparse
import io
import os
import time
import warnings
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import numpy as np

import rnnc
from benchmarks.timing import Contestant, clock_for, race
from tests import real_models

CHANNELS, UNITS, STEPS = 40, 64, 200
DILATIONS, WIDTH, SAMPLES, PIECE = tuple(2**n for n in range(10)), 32, 1000, 64
MELS, HIDDEN, FRAMES = 80, 128, 400
CHUNK, CONTEXT, CHUNKS = 512, 64, 200


def session_of(model: Any) -> Any:
    """A session of ONNX Runtime with one thread. model: a path, or the bytes of a file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def peers(module: Any, given: Any) -> dict[str, Any]:
    """Calls of a torch module, and of the ONNX file that it is exported to. given: (T, 1, N)."""
    import torch

    torch.set_num_threads(1)
    module, file, x = module.eval(), io.BytesIO(), given.numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (given,), file, input_names=["x"], dynamic_axes={"x": {0: "T"}}, dynamo=False)
    session = session_of(file.getvalue())

    def torch_call() -> Any:
        with torch.no_grad():
            return module(given)

    return {"onnxruntime": lambda: session.run(None, {"x": x})[0], "torch": torch_call}


def convolution() -> dict[str, Contestant]:
    """conv1d (causal, 3 taps), relu and GRU, whole sequences of one row, and a streamed step."""
    import torch

    class Peer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.gru = torch.nn.Conv1d(CHANNELS, UNITS, 3), torch.nn.GRU(UNITS, UNITS)

        def forward(self, x: Any) -> Any:
            padded = torch.nn.functional.pad(x.permute(1, 2, 0), (2, 0))
            return self.gru(torch.relu(self.conv(padded)).permute(2, 0, 1))[0]

    peer, given = Peer(), torch.randn(STEPS, 1, CHANNELS, generator=torch.Generator().manual_seed(0))
    others, x = peers(peer, given), given.numpy()
    net = rnnc.Sequential(rnnc.Conv1d(CHANNELS, UNITS, 3), rnnc.Activation("relu"), rnnc.GRU(UNITS, UNITS))
    names = {"conv": "0", "gru": "2"}
    params = {f"{names[k.partition('.')[0]]}.{k.partition('.')[2]}": v for k, v in peer.state_dict().items()}
    network: Any = net.compile(params, threads=1)
    np.testing.assert_allclose(network(x), others["onnxruntime"](), atol=1e-5)
    _, state = network.advance(x[:1])
    calls = {"rnnc": lambda: network(x), **others}
    calls["rnnc, a streamed step"] = lambda: network.advance(x[:1], state)
    return {name: Contestant(call) for name, call in calls.items()}


def subsampled() -> dict[str, Contestant]:
    """Two convolutions of stride 2, each with a relu, a GRU over a fourth of the steps; a streamed frame."""
    import torch

    class Peer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = torch.nn.Conv1d(MELS, HIDDEN, 3, stride=2)
            self.second = torch.nn.Conv1d(HIDDEN, HIDDEN, 3, stride=2)
            self.gru = torch.nn.GRU(HIDDEN, HIDDEN)

        def forward(self, x: Any) -> Any:
            y = x.permute(1, 2, 0)
            for layer in (self.first, self.second):
                y = torch.relu(layer(torch.nn.functional.pad(y, (2, 0))))
            return self.gru(y.permute(2, 0, 1))[0]

    peer, given = Peer(), torch.randn(FRAMES, 1, MELS, generator=torch.Generator().manual_seed(0))
    others, x = peers(peer, given), given.numpy()
    first, second = rnnc.Conv1d(MELS, HIDDEN, 3, stride=2), rnnc.Conv1d(HIDDEN, HIDDEN, 3, stride=2)
    relu = rnnc.Activation("relu")
    net = rnnc.Sequential(first, relu, second, relu, rnnc.GRU(HIDDEN, HIDDEN))
    names = {"first": "0", "second": "2", "gru": "4"}
    params = {f"{names[k.partition('.')[0]]}.{k.partition('.')[2]}": v for k, v in peer.state_dict().items()}
    network: Any = net.compile(params, threads=1)
    np.testing.assert_allclose(network(x), others["onnxruntime"](), atol=1e-5)
    _, state = network.advance(x[:4])
    calls = {"rnnc": lambda: network(x), **others, "rnnc, a streamed frame": lambda: network.advance(x[:4], state)}
    return {name: Contestant(call) for name, call in calls.items()}


def dilated() -> dict[str, Contestant]:
    """Ten causal convolutions of two taps, each with a relu: whole sequences of one row, a streamed step, a piece."""
    import torch

    class Peer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.ModuleList(torch.nn.Conv1d(WIDTH, WIDTH, 2, dilation=d) for d in DILATIONS)

        def forward(self, x: Any) -> Any:
            y = x.permute(1, 2, 0)
            for layer, dilation in zip(self.layers, DILATIONS, strict=True):
                y = torch.relu(layer(torch.nn.functional.pad(y, (dilation, 0))))
            return y.permute(2, 0, 1)

    peer, given = Peer(), torch.randn(SAMPLES, 1, WIDTH, generator=torch.Generator().manual_seed(0))
    others, x = peers(peer, given), given.numpy()
    pairs = ((rnnc.Conv1d(WIDTH, WIDTH, 2, dilation=d), rnnc.Activation("relu")) for d in DILATIONS)
    net = rnnc.Sequential(*(layer for pair in pairs for layer in pair))
    params = {}
    for name, value in peer.state_dict().items():
        _, number, parameter = name.split(".")
        params[f"{2 * int(number)}.{parameter}"] = value
    network: Any = net.compile(params, threads=1)
    np.testing.assert_allclose(network(x), others["onnxruntime"](), atol=1e-5)
    _, state = network.advance(x)
    calls = {"rnnc": lambda: network(x), **others}
    calls["rnnc, a streamed step"] = lambda: network.advance(x[:1], state)
    calls[f"rnnc, a piece of {PIECE} steps"] = lambda: network.advance(x[:PIECE], state)
    return {name: Contestant(call) for name, call in calls.items()}


def denoiser() -> dict[str, Contestant]:
    """RNNoise: 60 frames at once, and a streamed frame."""
    data = dict(np.load(real_models.REAL / "rnnoise.npz"))
    model, params = real_models.rnnoise(data)
    network: Any = model.compile(params, threads=1)
    x = data["x"][:, None]
    found = network(x)
    np.testing.assert_allclose(np.concatenate([found["gains"], found["vad"]], -1)[:, 0], data["y"], atol=2e-5)
    _, state = network.advance(x[:1])
    calls = {"rnnc, 60 frames": lambda: network(x), "rnnc, a streamed frame": lambda: network.advance(x[:1], state)}
    return {name: Contestant(call) for name, call in calls.items()}


def detector(name: str, batch: int) -> dict[str, Contestant]:
    """A file of silero-vad at 16 kHz, chunk by chunk, with state. batch: the number of streams side by side."""
    spec = find_spec("silero_vad")
    assert spec is not None and spec.origin is not None
    path = Path(spec.origin).parent / "data" / name
    network, session = rnnc.from_onnx(path, threads=1), session_of(str(path))
    size = batch, CHUNK * CHUNKS + CONTEXT
    audio = np.random.default_rng(0).standard_normal(size, dtype=np.float32) * np.float32(0.1)
    rate = np.array(16000)

    def streamed(run: Any) -> list[Any]:
        state, found = np.zeros((2, batch, 128), np.float32), []
        for at in range(0, CHUNK * CHUNKS, CHUNK):
            output, state = run({"input": audio[:, at : at + CHUNK + CONTEXT], "state": state, "sr": rate})
            found.append(output)
        return found

    def ours(given: Any) -> tuple[Any, Any]:
        made = network.run(given)
        return made["output"], made["stateN"]

    def theirs(given: Any) -> Any:
        return session.run(["output", "stateN"], given)

    np.testing.assert_allclose(streamed(ours), streamed(theirs), atol=1e-4)
    return {"rnnc": Contestant(lambda: streamed(ours)), "onnxruntime": Contestant(lambda: streamed(theirs))}


def compile_seconds(frame: int) -> float:
    """Of a front end of two convolutions before a GRU, whose strides make frames of so many steps, uncached."""
    first, second = rnnc.Conv1d(1, 16, 4, stride=2), rnnc.Conv1d(16, 32, frame, stride=frame // 2)
    net = rnnc.Sequential(first, rnnc.PReLU(16), second, rnnc.GRU(32, 32))
    params = net.init(0)
    with TemporaryDirectory() as folder, mock.patch.dict(os.environ, {"RNNC_CACHE_DIR": folder}):
        start = time.perf_counter()
        net.compile(params)
        return time.perf_counter() - start


def report(title: str, contestants: dict[str, Contestant], rounds: int, per: int = 1) -> None:
    """Microseconds per call, or per one of `per` parts of it."""
    times = race(contestants, rounds, clock_for(1))
    print(f"{title}: {', '.join(f'{name} {timing.median * 1e6 / per:.1f}' for name, timing in times.items())}")


def main() -> None:
    """Prints microseconds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    seconds = ", ".join(f"{frame} steps {compile_seconds(frame):.1f}" for frame in (16, 64, 160))
    print(f"compile of two conv1d and a GRU, s, by their frame: {seconds}")
    report(f"conv1d {CHANNELS}/{UNITS}, relu, GRU {UNITS}, T = {STEPS}, us", convolution(), rounds)
    title = f"conv1d {WIDTH}/{WIDTH} of 2 taps and relu, dilated 1, 2, 4, ... {DILATIONS[-1]}, T = {SAMPLES}, us"
    report(title, dilated(), rounds)
    title = f"two conv1d of stride 2 and relu, {MELS}/{HIDDEN}, GRU {HIDDEN}, T = {FRAMES}, us"
    report(title, subsampled(), rounds)
    if real_models.REAL.exists():
        report("RNNoise, us", denoiser(), rounds)
    else:
        print(f"RNNoise: left out, its weights are not in {real_models.REAL}")
    for name, batch in (("silero_vad.onnx", 1), ("silero_vad_op18_ifless.onnx", 1), ("silero_vad.onnx", 8)):
        if find_spec("silero_vad"):
            streams = "" if batch == 1 else f" of each of {batch} streams at once"
            report(f"{name}, a chunk{streams}, us", detector(name, batch), rounds, CHUNKS)
        else:
            print(f"{name}: left out, silero-vad is not installed")


if __name__ == "__main__":
    main()
