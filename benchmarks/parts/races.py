"""The parts that race rnnc against its peers on workloads: inference, small nets, training, narrow weights."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import Any

from benchmarks.parts.jobs import Job, Setting, contest
from benchmarks.parts.ours import Inference, Training, exact_inference, exact_training
from benchmarks.peers import entries as peers
from benchmarks.peers.entries import Entry
from benchmarks.peers.onnx_peer import OrtPeer, narrowed, onnx_model
from benchmarks.results.record import OURS, Row
from benchmarks.roofline import FLOAT, Format, roofline
from benchmarks.timing import Contestant
from benchmarks.workloads import Data, Workload, make_data, make_training_data, of_part

FORWARD_TOLERANCE, TRAINING_TOLERANCE = 1e-5, 1e-4

FORMS: dict[str, tuple[Format, dict[str, Any], float]] = {
    "float32": (FLOAT, {}, 1e-5),
    "bfloat16": (Format(2), {"weights": "bfloat16"}, 3e-2),
    "int8 weights": (Format(1), {"weights": "int8", "activations": "float32"}, 1e-1),
    "int8": (Format(1, dots=True), {"weights": "int8"}, 1e-1),
}
"""Of narrow weights: their storage, options of `rnnc.compile`, and the error allowed."""


def jobs(part: str, threads: int) -> list[Job]:
    """Of "inference", "small", "training" or "narrow"."""
    measure = {"training": measure_training, "narrow": measure_narrow}.get(part, measure_inference)
    return [Job(part, w.title, threads, partial(measure, part, w, threads)) for w in of_part(part)]


def measure_inference(part: str, workload: Workload, threads: int, setting: Setting) -> list[Row]:
    data = make_data(workload)
    ours = Inference(workload, data, threads)
    with ExitStack() as stack:
        others, failed = peers.gathered(
            setting.peers, lambda peer: peers.inference(peer, workload, data, threads, stack)
        )
        entries = {OURS: Entry(Contestant(ours.call), ours.result), **others}
        exact = exact_inference(workload, data)
        timings, errors, notes = contest(entries, exact, FORWARD_TOLERANCE, threads, setting)
    bound = roofline(workload, setting.machine, threads)
    return [Row(part, workload.title, threads, timings, errors, bound, notes=failed | notes)]


def measure_training(part: str, workload: Workload, threads: int, setting: Setting) -> list[Row]:
    data = make_training_data(workload)
    ours = Training(workload, data, threads)
    with ExitStack() as stack:
        others, failed = peers.gathered(
            setting.peers, lambda peer: peers.training(peer, workload, data, threads, stack)
        )
        entries = {OURS: Entry(Contestant(ours.call), ours.result), **others}
        exact = exact_training(workload, data)
        timings, errors, notes = contest(entries, exact, TRAINING_TOLERANCE, threads, setting)
    kept = float(ours.function.saved_bytes(workload.steps, workload.batch)) / 2**20
    bound = roofline(workload, setting.machine, threads, training=True)
    return [Row(part, workload.title, threads, timings, errors, bound, {"kept MiB": kept}, failed | notes)]


def measure_narrow(part: str, workload: Workload, threads: int, setting: Setting) -> list[Row]:
    """One race, and a row for each form, which only ONNX Runtime's same form is held against."""
    data = make_data(workload)
    entries = {}
    for form, (_, options, _) in FORMS.items():
        ours = Inference(workload, data, threads, **options)
        entries[f"{OURS} {form}"] = Entry(Contestant(ours.call), ours.result)
    failed: dict[str, str] = {}
    if "onnxruntime" in setting.peers:
        others, failed = peers.gathered(["onnxruntime"], lambda _: _onnxruntime(workload, data, threads))
        entries |= others
    exact = exact_inference(workload, data)
    allowed = {name: FORMS[name.partition(" ")[2]][2] for name in entries}
    timings, errors, notes = contest(entries, exact, allowed, threads, setting)
    rows = []
    for form, (storage, _, _) in FORMS.items():
        shown = {OURS: f"{OURS} {form}", f"{OURS} float32": f"{OURS} float32", "onnxruntime": f"onnxruntime {form}"}
        mine = {name: timings[of] for name, of in shown.items() if of in timings}
        gain = {"of float32": timings[f"{OURS} float32"].median / mine[OURS].median}
        bound = roofline(workload, setting.machine, threads, format=storage)
        error = {name: errors[of] for name, of in shown.items() if of in errors}
        rows.append(Row(part, f"{workload.title}, {form}", threads, mine, error, bound, gain, failed | notes))
    return rows


def _onnxruntime(workload: Workload, data: Data, threads: int) -> peers.Entries:
    """The float32 file, and what ONNX Runtime's own tool makes of an LSTM's; it leaves other cells as they are."""
    model = onnx_model(workload, data)
    models = {"float32": model} | ({"int8": narrowed(model)} if workload.cell == "lstm" else {})
    for form, file in models.items():
        session = OrtPeer(file, data, threads)
        yield f"onnxruntime {form}", Entry(Contestant(session.call), session.result)
