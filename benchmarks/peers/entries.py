"""Which peers this Python has, and the forms in which each takes part in an inference or a training race."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from benchmarks.peers.jax_peer import UNROLLS, JaxPeer
from benchmarks.peers.onnx_peer import OpenVinoPeer, OrtPeer, onnx_model
from benchmarks.peers.torch_peer import TorchPeer, TorchTrainer
from benchmarks.timing import Contestant, Timed
from benchmarks.workloads import Data, NamedArrays, TrainingData, Workload

NEEDED: Mapping[str, tuple[str, ...]] = {
    "torch": ("torch",),
    "onnxruntime": ("onnxruntime", "onnx"),
    "openvino": ("openvino", "onnx"),
    "jax": ("jax",),
}
"""The modules that each peer needs."""


def lacking(peer: str) -> list[str]:
    """The modules that it needs and this Python has not."""
    return [module for module in NEEDED[peer] if find_spec(module) is None]


@dataclass(frozen=True)
class Entry:
    """One form of a contestant. result: what it computes, held against the exact result before it is timed."""

    timed: Timed
    result: Callable[[], NamedArrays]


Entries = Iterator[tuple[str, Entry]]


def inference(peer: str, workload: Workload, data: Data, threads: int, stack: ExitStack) -> Entries:
    """The forms of a peer. stack: closes what a form holds, a process for example."""
    if peer == "torch":
        torch = TorchPeer(workload, data, threads)
        for name, onednn in (("torch onednn", True), ("torch native", False)):
            yield name, Entry(Contestant(torch.call, torch.around(onednn)), lambda on=onednn: torch.result(on))  # type: ignore[misc]
    elif peer == "onnxruntime":
        ort = OrtPeer(onnx_model(workload, data), data, threads)
        yield "onnxruntime run", Entry(Contestant(ort.call), ort.result)
        yield "onnxruntime bound", Entry(Contestant(ort.call_bound), ort.bound_result)
    elif peer == "openvino":
        openvino = OpenVinoPeer(onnx_model(workload, data), data, threads)
        yield "openvino", Entry(Contestant(openvino.call), openvino.result)
    elif peer == "jax":
        yield from _jax(workload, data, threads, stack)


def training(peer: str, workload: Workload, data: TrainingData, threads: int, stack: ExitStack) -> Entries:
    """The forms of a peer that computes gradients; none of one that does not."""
    if peer == "torch":
        torch = TorchTrainer(workload, data, threads)
        for name, onednn in (("torch onednn", True), ("torch native", False)):
            yield name, Entry(Contestant(torch.call, torch.around(onednn)), lambda on=onednn: torch.result(on))  # type: ignore[misc]
    elif peer == "jax":
        yield from _jax(workload, data, threads, stack)


def _jax(workload: Workload, data: Data, threads: int, stack: ExitStack) -> Entries:
    worker = stack.enter_context(closing(JaxPeer(workload, data, threads)))
    for unroll in UNROLLS[: 1 if workload.steps == 1 else None]:
        yield f"jax unroll={unroll}", Entry(worker.contestant(unroll), lambda n=unroll: worker.result(n))  # type: ignore[misc]


def gathered(peers: Sequence[str], forms: Callable[[str], Entries]) -> tuple[dict[str, Entry], dict[str, str]]:
    """The entries of all peers, and of those that failed why. One that fails does not end the others."""
    entries: dict[str, Entry] = {}
    notes: dict[str, str] = {}
    for peer in peers:
        try:
            entries |= dict(forms(peer))
        except Exception as error:
            notes[peer] = reason(error)
    return entries, notes


def reason(error: Any) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]
