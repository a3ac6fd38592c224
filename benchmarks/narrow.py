"""Narrow weights against float32, and int8 against ONNX Runtime's: microseconds per step.

    python -m benchmarks.narrow                       # one thread, CPU time, medians of 9 rounds; needs '.[bench]'

A contestant's error is the largest difference from the float32 output, printed beside its time.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

import rnnc
from benchmarks.timing import Contestant, clock_for, race

Array = np.ndarray[Any, Any]

WORKLOADS: tuple[tuple[str, rnnc.Spec, int, int], ...] = (
    ("LSTM 512", rnnc.LSTM(512, 512), 50, 1),
    ("BiLSTM 384", rnnc.LSTM(384, 384, bidirectional=True), 50, 1),
    ("BiLSTM 384", rnnc.LSTM(384, 384, bidirectional=True), 20, 32),
    ("GRU 256", rnnc.GRU(256, 256), 50, 4),
    ("LSTM 64", rnnc.LSTM(64, 64), 100, 1),
)
FORMS: dict[str, dict[str, str]] = {
    "float32": {},
    "bfloat16": {"weights": "bfloat16"},
    "int8 weights": {"weights": "int8", "activations": "float32"},
    "int8": {"weights": "int8"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    rounds: int = parser.parse_args().rounds
    for label, spec, steps, batch in WORKLOADS:
        params = spec.init(seed=0)
        x = np.random.default_rng(0).standard_normal((steps, batch, spec.input_size), dtype=np.float32)
        calls = {form: _rnnc(spec, params, options, x) for form, options in FORMS.items()}
        if spec.bidirectional:
            calls |= _onnxruntime(spec, params, x)
        _report(f"{label}, B {batch}, T {steps}", calls, steps, rounds)


def _rnnc(spec: rnnc.Spec, params: dict[str, Array], options: dict[str, str], x: Array) -> Callable[[], Array]:
    model: Any = rnnc.compile(spec, params, threads=1, **options)  # type: ignore[call-overload]
    return lambda: model(x)[0]


def _onnxruntime(spec: rnnc.Spec, params: dict[str, Array], x: Array) -> dict[str, Callable[[], Array]]:
    """ONNX Runtime's sessions of the file that PyTorch exports, and of what `quantize_dynamic` makes of it."""
    import onnxruntime
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic

    module = torch.nn.LSTM(spec.input_size, spec.hidden_size, bidirectional=True)
    module.load_state_dict({name: torch.from_numpy(array) for name, array in params.items()})
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    calls: dict[str, Callable[[], Array]] = {}
    with TemporaryDirectory() as folder:
        whole, narrow = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
        torch.onnx.export(module, (torch.from_numpy(x),), str(whole), input_names=["x"], dynamo=False)
        quantize_dynamic(whole, narrow, weight_type=QuantType.QInt8, per_channel=True)
        for form, path in (("onnxruntime", whole), ("onnxruntime, int8", narrow)):
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            calls[form] = lambda session=session: session.run(None, {"x": x})[0]
    return calls


def _report(label: str, calls: dict[str, Callable[[], Array]], steps: int, rounds: int) -> None:
    want = calls["float32"]()
    timings = race({form: Contestant(call) for form, call in calls.items()}, rounds, clock_for(1))
    shown = [
        f"{form} {timings[form].median / steps * 1e6:.1f} (error {np.abs(call() - want).max():.2g})"
        for form, call in calls.items()
    ]
    print(f"{label}: {', '.join(shown)}", flush=True)


if __name__ == "__main__":
    main()
