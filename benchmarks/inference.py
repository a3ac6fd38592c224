"""Inference on W1-W10, rnnc beside PyTorch and ONNX Runtime, all in one run on this machine.

    python -m benchmarks.inference                              # one thread, everything (some minutes)
    python -m benchmarks.inference --only W1,W3 --rounds 21     # two workloads, steadier medians
    python -m benchmarks.inference --peers torch --threads 2 --json table.json

Results are verified against PyTorch in float64 before anything is timed. Each contestant takes turns with the others;
the table holds medians, and the minima follow it. `of roofline` is the least time a core needs (benchmarks/machine.py)
over rnnc's median; `GFLOP/s` counts matmuls only, 2 m n k. torch is the better of oneDNN on and off, ort the better of
`run` and of inputs and outputs bound beforehand; rnnc is called as anyone calls it.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

import rnnc
from benchmarks.machine import Machine
from benchmarks.peers import Arrays, OrtPeer, TorchPeer
from benchmarks.timing import Contestant, Timing, clock_for, race
from benchmarks.workloads import Data, Workload, chosen, make_data

TOLERANCE = 1e-5


@dataclass(frozen=True)
class Row:
    """One workload's outcome. Times in seconds a call, errors relative to the largest magnitude."""

    workload: Workload
    timings: Mapping[str, Timing]
    errors: Mapping[str, float]
    least_seconds: float

    @property
    def best_peer(self) -> str | None:
        peers = {name: t.median for name, t in self.timings.items() if name != "rnnc"}
        return min(peers, key=peers.__getitem__) if peers else None

    def microseconds(self, who: str) -> float | None:
        """The median of a contestant, or of the better variant of a peer."""
        medians = [t.median * 1e6 for name, t in self.timings.items() if name.split()[0] == who]
        return min(medians, default=None)

    def as_json(self) -> dict[str, Any]:
        return {
            "workload": asdict(self.workload),
            "flops": self.workload.flops,
            "weight_bytes": self.workload.weight_bytes,
            "least_seconds": self.least_seconds,
            "seconds": {name: asdict(t) for name, t in self.timings.items()},
            "errors": dict(self.errors),
        }


def rnnc_call(workload: Workload, data: Data, threads: int, backend: str) -> Callable[[], Any]:
    make: dict[str, Any] = {"rnn": rnnc.RNN, "gru": rnnc.GRU, "lstm": rnnc.LSTM}
    spec = make[workload.cell](workload.input_size, workload.hidden_size, **workload.options)
    model = rnnc.compile(spec, data.params, backend=backend, threads=threads)
    state = data.states if len(data.states) > 1 else data.states[0] if data.states else None
    x = data.x
    return lambda: model(x, state)


def contestants(
    workload: Workload, data: Data, peers: Sequence[str], threads: int, backend: str | None
) -> tuple[dict[str, Contestant], dict[str, Arrays]]:
    """Who is timed, and what each computes."""
    entries: dict[str, Contestant] = {}
    results: dict[str, Arrays] = {}
    if backend is not None:
        call = rnnc_call(workload, data, threads, backend)
        entries["rnnc"] = Contestant(call)
        output, state = call()
        results["rnnc"] = (output, *(state if isinstance(state, tuple) else (state,)))
    if "torch" in peers:
        torch_peer = TorchPeer(workload, data)
        for name, onednn in (("torch onednn", True), ("torch native", False)):
            entries[name] = Contestant(torch_peer.call, torch_peer.around(onednn))
            results[name] = torch_peer.result(onednn)
    if "ort" in peers:
        ort_peer = OrtPeer(workload, data, threads)
        entries["ort run"] = Contestant(ort_peer.call)
        entries["ort bound"] = Contestant(ort_peer.call_bound)
        results["ort run"] = ort_peer.result()
        results["ort bound"] = ort_peer.bound_result()
    return entries, results


def relative_error(found: Arrays, exact: Arrays) -> float:
    pairs = list(zip(found, exact, strict=True))
    if any(a.shape != b.shape for a, b in pairs):
        return float("inf")
    return max(float(np.max(np.abs(a - b)) / np.max(np.abs(b))) for a, b in pairs)


def measure(
    workload: Workload, peers: Sequence[str], rounds: int, threads: int, backend: str | None, machine: Machine
) -> Row:
    data = make_data(workload)
    entries, results = contestants(workload, data, peers, threads, backend)
    exact = TorchPeer(workload, data, "float64").result()
    errors = {name: relative_error(result, exact) for name, result in results.items()}
    for name, error in errors.items():
        if not error <= TOLERANCE:
            raise SystemExit(f"{workload.title}: {name} is off by {error:.3g} relative to float64: not timed")
    timings = race(entries, rounds, clock_for(threads))
    return Row(workload, timings, errors, machine.least_seconds(workload))


# ---------------------------------------------------------------------------------------------- tables

HEAD = (
    "| workload | rnnc us | torch us | ort us | best peer / rnnc "
    "| GFLOP/s | of peak | of roofline | MFLOP | weights KiB |"
)


def table_row(row: Row, peak: float) -> str:
    """Rates are rnnc's; of the best peer when rnnc is not timed."""
    ours = row.microseconds("rnnc")
    best = row.best_peer
    theirs = row.timings[best].median * 1e6 if best else None
    shown = ours or theirs
    assert shown is not None
    rate = row.workload.flops / shown * 1e6
    ratio = f"{theirs / ours:.2f} " if ours and theirs else ""
    columns = [
        row.workload.title,
        *(number(row.microseconds(who)) for who in ("rnnc", "torch", "ort")),
        f"{ratio}({best})" if best else "",
        f"{rate / 1e9:.1f}",
        f"{rate / peak:.0%}",
        f"{row.least_seconds / shown * 1e6:.0%}",
        f"{row.workload.flops / 1e6:.1f}",
        f"{row.workload.weight_bytes / 1024:.0f}",
    ]
    return "| " + " | ".join(columns) + " |"


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}" if value < 1000 else f"{value:.0f}"


def best_times(row: Row) -> str:
    times = ", ".join(f"{name} {number(t.best * 1e6)}" for name, t in row.timings.items())
    errors = ", ".join(f"{name} {error:.1e}" for name, error in row.errors.items())
    return f"{row.workload.name}: minimum us: {times}; error: {errors}"


def versions(peers: Sequence[str]) -> str:
    names = ["rnnc", "numpy", *({"ort": "onnxruntime"}.get(peer, peer) for peer in peers)]
    found = []
    for name in names:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} (not installed as a package)")
    return ", ".join(found)


def heading(machine: Machine, threads: int, peers: Sequence[str]) -> str:
    from llvmlite.binding import get_host_cpu_name

    clock = "CPU time" if threads == 1 else "wall time"
    return (
        f"{get_host_cpu_name()} ({platform.machine()}), {threads} thread(s), {clock}; {versions(peers)}\n"
        f"peak of one core, multiply-add loop in registers: {machine.peak / 1e9:.1f} GFLOP/s float32\n"
    )


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="comma-separated workloads, e.g. W1,W3")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peers", default="torch,ort", help="comma-separated: torch, ort; empty for none")
    parser.add_argument("--backend", default="llvm", help="of rnnc; `none` times the peers alone")
    parser.add_argument("--json", type=Path, help="also write every figure to this file")
    options = parser.parse_args(argv)
    options.peers = [peer for peer in options.peers.split(",") if peer]
    if unknown := set(options.peers) - {"torch", "ort"}:
        parser.error(f"--peers: unknown {', '.join(sorted(unknown))}")
    if options.rounds < 1 or options.threads < 1:
        parser.error("--rounds and --threads are at least 1")
    if options.backend == "none" and not options.peers:
        parser.error("--backend none with no peers leaves nothing to time")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments(argv)
    import torch  # the float64 results that everything is verified against

    warnings.filterwarnings("ignore", message="TF32 acceleration")  # oneDNN's flags mention Intel GPUs, once
    torch.set_num_threads(options.threads)
    backend = None if options.backend == "none" else options.backend
    machine = Machine()
    print(heading(machine, options.threads, options.peers))
    print(HEAD)
    print("|" + "---|" * (HEAD.count("|") - 1))
    rows = []
    for workload in chosen(options.only):
        row = measure(workload, options.peers, options.rounds, options.threads, backend, machine)
        rows.append(row)
        print(table_row(row, machine.peak * options.threads), flush=True)
    print("\n" + "\n".join(map(best_times, rows)))
    if options.json:
        record = {"peak_flops": machine.peak, "threads": options.threads, "rows": [r.as_json() for r in rows]}
        options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
