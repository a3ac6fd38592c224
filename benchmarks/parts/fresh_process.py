"""The fresh process of the start-up part: prints the seconds of each stage as JSON.

    python -m benchmarks.parts.fresh_process W2 forward rnnc    # or vjp; or the name of a peer

Before its clock starts it imports nothing but NumPy and the workloads, and what makes a peer's ONNX file.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

from benchmarks.workloads import WORKLOADS, Workload, first_call, make_training_data

Figures = Mapping[str, float]


class Stopwatch:
    def __init__(self) -> None:
        self.last = time.perf_counter()

    def lap(self) -> float:
        """Seconds since the lap before."""
        now = time.perf_counter()
        self.last, elapsed = now, now - self.last
        return elapsed


def probe(workload: Workload, kind: str) -> Figures:
    """Wall time of each of rnnc's stages."""
    data = make_training_data(workload)
    clock, figures = Stopwatch(), {}
    import rnnc

    figures["import"] = clock.lap()
    make: Any = getattr(rnnc, workload.cell.upper())
    spec = make(workload.input_size, workload.hidden_size, **workload.options)
    figures["spec"] = clock.lap()
    if kind == "vjp":
        function = rnnc.vjp(spec)
        figures["compile"] = clock.lap()
        figures["bind"] = 0.0
        (output, _), pullback = function(data.params, data.x)
        pullback(output)
    else:
        program = rnnc.compile(spec)
        figures["compile"] = clock.lap()
        model = program.bind(data.params)
        figures["bind"] = clock.lap()
        model(data.x)
    figures["first call"] = clock.lap()
    return figures | {"llvmlite": float("llvmlite" in sys.modules)}


def probe_peer(workload: Workload, kind: str, peer: str) -> Figures:
    """Wall time of a peer, from its import to its first result."""
    data = make_training_data(workload)
    from benchmarks.peers import jax_peer, onnx_peer, torch_peer

    model = onnx_peer.onnx_model(workload, data) if peer in ("onnxruntime", "openvino") else b""
    clock = Stopwatch()
    made: Any
    if peer == "torch":
        made = (torch_peer.TorchTrainer if kind == "vjp" else torch_peer.TorchPeer)(workload, data, 1)
    elif peer == "jax":
        jax_peer.limit(1)
        made = jax_peer.Step(workload, data if kind == "vjp" else data.forward, unroll=1)
    else:
        made = (onnx_peer.OrtPeer if peer == "onnxruntime" else onnx_peer.OpenVinoPeer)(model, data, 1)
    with made.around(True)() if peer == "torch" else nullcontext():
        made.call()
    return {"first call": clock.lap()}


if __name__ == "__main__":
    name, kind, who = sys.argv[1:]
    workload = first_call(WORKLOADS[name])
    print(json.dumps(probe(workload, kind) if who == "rnnc" else probe_peer(workload, kind, who)))
