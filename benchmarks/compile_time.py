"""How long until the first result, in a process that has loaded NumPy and its arrays: without a cache, and from it.

    python -m benchmarks.compile_time                  # W2 and W5, median of 5 fresh processes each
    python -m benchmarks.compile_time --only W3 --runs 9

Every figure comes from a fresh process with its own cache folder. `import rnnc` imports next to nothing; what it saves
is part of the spec's and the compile's time. The cache is empty in the cold column, also of the runtime's functions. A
program is compiled before it ever sees a length. Calls have a batch of 1 and 10 steps.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.workloads import Workload, chosen, make_data

ROOT = Path(__file__).resolve().parent.parent
STEPS = 10
STAGES = ("import", "spec", "compile", "bind", "first call")
Figures = dict[str, float]


def probe(workload: Workload, kind: str) -> Figures:
    """Runs in the fresh process: milliseconds of each stage, wall clock."""
    data = make_data(workload)
    x = np.random.default_rng(0).standard_normal((STEPS, 1, workload.input_size)).astype(np.float32)
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
        (output, _), pullback = function(data.params, x)
        pullback(output)
    else:
        program = rnnc.compile(spec)
        figures["compile"] = clock.lap()
        model = program.bind(data.params)
        figures["bind"] = clock.lap()
        model(x)
    figures["first call"] = clock.lap()
    figures["llvmlite"] = float("llvmlite" in sys.modules)
    return figures


class Stopwatch:
    def __init__(self) -> None:
        self.last = time.perf_counter()

    def lap(self) -> float:
        """Milliseconds since the lap before."""
        now = time.perf_counter()
        self.last, elapsed = now, now - self.last
        return elapsed * 1e3


def fresh(workload: Workload, kind: str, cache: str) -> Figures:
    command = [sys.executable, "-m", "benchmarks.compile_time", "--probe", workload.name, kind]
    environment = {**os.environ, "RNNC_CACHE_DIR": cache, "RNNC_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{workload.name}: the fresh process ended with {done.returncode}\n{done.stderr}")
    figures: Figures = json.loads(done.stdout)
    return figures


def medians(runs: Sequence[Figures]) -> Figures:
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def report(workload: Workload, kind: str, runs: int) -> str:
    """A row of the table. Raises SystemExit if a process with a filled cache imports LLVM."""
    cold, stored = [], []
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as cache:
            cold.append(fresh(workload, kind, cache))
            stored.append(fresh(workload, kind, cache))
    if any(run["llvmlite"] for run in stored):
        raise SystemExit(f"{workload.name}: llvmlite was imported although all code was in the cache")
    first, second = medians(cold), medians(stored)
    columns = [first["compile"], total(first), *(second[stage] for stage in STAGES), total(second)]
    return f"| {workload.title}, {kind} | {' | '.join(f'{value:.1f}' for value in columns)} |"


def total(figures: Figures) -> float:
    return sum(figures[stage] for stage in STAGES)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="W2,W5", help="comma-separated workloads")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--probe", nargs=2, metavar=("WORKLOAD", "KIND"), help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.probe:
        (workload,) = chosen(options.probe[0])
        print(json.dumps(probe(workload, options.probe[1])))
        return 0
    print(f"milliseconds, wall clock, median of {options.runs} fresh processes\n")
    print(f"| workload | cold: compile | cold: all | {' | '.join(STAGES)} | from the cache: all |")
    print("|---" * (4 + len(STAGES)) + "|")
    for workload in chosen(options.only):
        for kind in ("forward", "vjp"):
            print(report(workload, kind, options.runs), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
