"""How long until the first result, in a process that has loaded NumPy and its arrays: without a cache, and from it.

Every figure comes from a fresh process with its own cache folder. `import rnnc` imports next to nothing; what it saves
is part of the spec's and the compile's time. Without a cache its folder is empty, also of the runtime's functions. A
program is compiled before it ever sees a length. Calls have a batch of 1 and few steps. Peers are imported, set up
and called in the same way; an ONNX file is made before their clock starts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from benchmarks.parts.jobs import Job, Setting
from benchmarks.peers.entries import reason
from benchmarks.results.record import OURS, Row
from benchmarks.timing import Timing
from benchmarks.workloads import Workload, first_call, of_part

ROOT = Path(__file__).resolve().parent.parent.parent
PART = "startup"
KINDS = ("forward", "vjp")
STAGES = ("import", "spec", "compile", "bind", "first call")
SERVED = {"forward": ("torch", "onnxruntime", "openvino", "jax"), "vjp": ("torch", "jax")}
Figures = Mapping[str, float]


def jobs() -> list[Job]:
    return [Job(PART, title(w, kind), 1, partial(measure, w, kind)) for w in of_part(PART) for kind in KINDS]


def title(workload: Workload, kind: str) -> str:
    return f"{first_call(workload).title} {kind}"


def measure(workload: Workload, kind: str, setting: Setting) -> list[Row]:
    """Two rows, without and with a cache. Raises RuntimeError if a process with a filled cache imports LLVM."""
    cold, stored = [], []
    for _ in range(setting.runs):
        with tempfile.TemporaryDirectory() as cache:
            cold.append(fresh(workload, kind, OURS, cache))
            stored.append(fresh(workload, kind, OURS, cache))
    if any(run["llvmlite"] for run in stored):
        raise RuntimeError(f"{title(workload, kind)}: llvmlite was imported although all code was in the cache")
    others, notes = {}, {}
    for peer in (peer for peer in setting.peers if peer in SERVED[kind]):
        try:
            others[peer] = summed([fresh(workload, kind, peer) for _ in range(setting.runs)])
        except RuntimeError as error:
            notes[peer] = reason(error)
    return [
        Row(PART, f"{title(workload, kind)}, {which}", 1, {OURS: summed(runs), **others}, {}, None, stages(runs), notes)
        for which, runs in (("empty cache", cold), ("from the cache", stored))
    ]


def summed(runs: list[Figures]) -> Timing:
    return Timing.of([sum(run[stage] for stage in STAGES if stage in run) for run in runs])


def stages(runs: list[Figures]) -> dict[str, float]:
    """Milliseconds."""
    return {f"{stage} ms": Timing.of([run[stage] for run in runs]).median * 1e3 for stage in STAGES}


def fresh(workload: Workload, kind: str, who: str, cache: str | None = None) -> Figures:
    """Seconds of each stage. Raises RuntimeError if the process fails."""
    command = [sys.executable, "-m", "benchmarks.parts.fresh_process", workload.name, kind, who]
    environment = {**os.environ, "RNNC_NUM_THREADS": "1"} | ({"RNNC_CACHE_DIR": cache} if cache else {})
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the fresh process ended with {done.returncode}: {done.stderr.strip()[-1000:]}")
    figures: Figures = json.loads(done.stdout)
    return figures
