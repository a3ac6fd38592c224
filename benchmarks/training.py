"""A training step on W4, W5, W6, W7 and W10, rnnc beside PyTorch and JAX, all in one run on this machine.

    python -m benchmarks.training                              # one thread, everything (some minutes)
    python -m benchmarks.training --only W4,W6 --rounds 21     # two workloads, steadier medians
    python -m benchmarks.training --peers torch --threads 2 --json table.json
    python -m benchmarks.training --backend reference --shrink 16      # does it work? Its times mean nothing

One step is the forward pass over all time steps of a batch and then, for a given gradient of the output, the gradients
of all parameters, of x and of the initial state. Every result is verified against PyTorch in float64 before anything is
timed. Each contestant takes turns with the others; the table holds medians, and the minima follow it. Flops are three
times the forward pass's, matmuls only. torch is the better of oneDNN on and off; jax, in a process of its own, the
better of a rolled and a partly unrolled scan; rnnc is called as anyone calls it, with parameters that may have changed.
With one thread the clock is CPU time, with more it is wall time.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import rnnc
from benchmarks.inference import heading, number, relative_error
from benchmarks.jax_peer import UNROLLS, JaxTrainer
from benchmarks.machine import Machine
from benchmarks.peers import NamedArrays, TorchTrainer
from benchmarks.timing import Contestant, Timed, Timing, clock_for, race
from benchmarks.workloads import TRAINING, TrainingData, Workload, chosen, make_training_data

TOLERANCE = 1e-4
PEERS = ("torch", "jax")


@dataclass(frozen=True)
class Row:
    """One workload's outcome. Times in seconds a step, errors relative to the largest magnitude.

    kept: bytes rnnc holds between the forward pass and the pullback, where it says so.
    """

    workload: Workload
    timings: Mapping[str, Timing]
    errors: Mapping[str, float]
    kept: int | None

    @property
    def best_peer(self) -> str | None:
        peers = {name: t.median for name, t in self.timings.items() if name != "rnnc"}
        return min(peers, key=peers.__getitem__) if peers else None

    def microseconds(self, who: str) -> float | None:
        """The median of a contestant, or of the better variant of a peer."""
        return min((t.median * 1e6 for name, t in self.timings.items() if name.split()[0] == who), default=None)

    def as_json(self) -> dict[str, Any]:
        return {
            "workload": asdict(self.workload),
            "flops": self.workload.training_flops,
            "kept_bytes": self.kept,
            "seconds": {name: asdict(t) for name, t in self.timings.items()},
            "errors": dict(self.errors),
        }


class RnncTrainer:
    """A step as a user of `rnnc.vjp` takes it."""

    def __init__(self, workload: Workload, data: TrainingData, threads: int, backend: str) -> None:
        make: dict[str, Any] = {"rnn": rnnc.RNN, "gru": rnnc.GRU, "lstm": rnnc.LSTM}
        spec = make[workload.cell](workload.input_size, workload.hidden_size, **workload.options)
        self.function = rnnc.vjp(spec, backend=backend, threads=threads)
        self.data = data
        self.state = data.states if len(data.states) > 1 else data.states[0]

    def call(self) -> Any:
        (output, _), pullback = self.function(self.data.params, self.data.x, self.state)
        return output, pullback(self.data.d_output)

    def result(self) -> NamedArrays:
        output, (d_params, d_x, d_state) = self.call()
        states = d_state if isinstance(d_state, tuple) else (d_state,)
        named = {"output": output, "d_x": d_x} | {f"d_state_{i}": v for i, v in enumerate(states)}
        return named | {f"d_{name}": value for name, value in d_params.items()}

    def kept(self) -> int | None:
        steps, batch, _ = self.data.x.shape
        saved_bytes = getattr(self.function, "saved_bytes", None)
        return None if saved_bytes is None else int(saved_bytes(steps, batch))


def measure(workload: Workload, peers: Sequence[str], rounds: int, threads: int, backend: str | None) -> Row:
    data = make_training_data(workload)
    exact = TorchTrainer(workload, data, "float64").result()
    entries: dict[str, Timed] = {}
    errors: dict[str, float] = {}
    kept = None

    def enter(name: str, contestant: Timed, result: NamedArrays) -> None:
        entries[name], errors[name] = contestant, step_error(result, exact)
        if not errors[name] <= TOLERANCE:
            raise SystemExit(f"{workload.title}: {name} is off by {errors[name]:.3g} relative to float64: not timed")

    with ExitStack() as stack:
        if backend is not None:
            ours = RnncTrainer(workload, data, threads, backend)
            enter("rnnc", Contestant(ours.call), ours.result())
            kept = ours.kept()
        if "torch" in peers:
            theirs = TorchTrainer(workload, data)
            for name, onednn in (("torch onednn", True), ("torch native", False)):
                enter(name, Contestant(theirs.call, theirs.around(onednn)), theirs.result(onednn))
        if "jax" in peers:
            worker = stack.enter_context(closing(JaxTrainer(workload, data, threads)))
            for unroll in UNROLLS:
                enter(f"jax unroll={unroll}", worker.contestant(unroll), worker.result(unroll))
        timings = race(entries, rounds, clock_for(threads))
    return Row(workload, timings, errors, kept)


def step_error(found: NamedArrays, exact: NamedArrays) -> float:
    """The worst array's: its largest error over its largest magnitude."""
    if found.keys() != exact.keys() or not all(np.isfinite(value).all() for value in found.values()):
        return float("inf")
    return relative_error(tuple(found[name] for name in exact), tuple(exact.values()))


# ---------------------------------------------------------------------------------------------- tables

HEAD = "| workload | rnnc us | torch us | jax us | best peer / rnnc | GFLOP/s | of peak | GFLOP | kept MiB |"


def table_row(row: Row, peak: float) -> str:
    """Rates are rnnc's; of the best peer when rnnc is not timed."""
    ours = row.microseconds("rnnc")
    best = row.best_peer
    theirs = row.timings[best].median * 1e6 if best else None
    shown = ours or theirs
    assert shown is not None
    rate = row.workload.training_flops / shown * 1e6
    ratio = f"{theirs / ours:.2f} " if ours and theirs else ""
    columns = [
        row.workload.title,
        *(number(row.microseconds(who)) for who in ("rnnc", *PEERS)),
        f"{ratio}({best})" if best else "",
        f"{rate / 1e9:.1f}",
        f"{rate / peak:.0%}",
        f"{row.workload.training_flops / 1e9:.3g}",
        "" if row.kept is None else f"{row.kept / 2**20:.1f}",
    ]
    return "| " + " | ".join(columns) + " |"


def best_times(row: Row) -> str:
    both = ", ".join(f"{name} {number(t.median * 1e6)} / {number(t.best * 1e6)}" for name, t in row.timings.items())
    errors = ", ".join(f"{name} {error:.1e}" for name, error in row.errors.items())
    return f"{row.workload.name}: median / minimum us: {both}; error: {errors}"


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", "--workloads", default=",".join(TRAINING), help="comma-separated, e.g. W4,W6")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peers", default=",".join(PEERS), help="comma-separated: torch, jax; empty for none")
    parser.add_argument("--backend", default="llvm", help="of rnnc; `none` times the peers alone")
    parser.add_argument("--shrink", type=int, default=1, metavar="N", help="divide every size by N, for a quick try")
    parser.add_argument("--json", type=Path, help="also write every figure to this file")
    options = parser.parse_args(argv)
    options.peers = [peer for peer in options.peers.split(",") if peer]
    if unknown := set(options.peers) - set(PEERS):
        parser.error(f"--peers: unknown {', '.join(sorted(unknown))}")
    if min(options.rounds, options.threads, options.shrink) < 1:
        parser.error("--rounds, --threads and --shrink are at least 1")
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
        row = measure(workload.shrunk(options.shrink), options.peers, options.rounds, options.threads, backend)
        rows.append(row)
        print(table_row(row, machine.peak * options.threads), flush=True)
    print("\n" + "\n".join(map(best_times, rows)))
    if options.json:
        record = {"peak_flops": machine.peak, "threads": options.threads, "rows": [r.as_json() for r in rows]}
        options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
