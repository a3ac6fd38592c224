"""How long until the first result: `import rnnc`, a cold compile, a compile from the on-disk cache, the first calls.

    python -m benchmarks.compile_time                  # W2 and W5, median of 5 fresh processes each
    python -m benchmarks.compile_time --only W3 --runs 9

Every figure comes from a fresh process with its own cache folder. `cold` includes whatever the compiler imports on
first use. A program is compiled before it ever sees a length: T is a run-time value, and a row for T = 10 should differ
from one for T = 10,000 in its calls only, whose first is as fast as the next. Calls have a batch of 1.
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

from benchmarks.workloads import Workload, chosen, make_data

ROOT = Path(__file__).resolve().parent.parent
SHORT, LONG = 10, 10_000
Figures = dict[str, float]


def probe(workload: Workload, backend: str, steps: int) -> Figures:
    """Runs in the fresh process: milliseconds of each stage, wall clock. Calls have T = `steps`."""
    import numpy as np

    data = make_data(workload)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((LONG, 1, workload.input_size)).astype(np.float32)
    import rnnc

    clock, figures = Stopwatch(), {}
    make: dict[str, Any] = {"rnn": rnnc.RNN, "gru": rnnc.GRU, "lstm": rnnc.LSTM}
    spec = make[workload.cell](workload.input_size, workload.hidden_size, **workload.options)
    clock.lap()
    program = rnnc.compile(spec, backend=backend)
    figures["compile"] = clock.lap()
    model = program.bind(data.params)
    figures["bind"] = clock.lap()
    model(x[:steps])
    figures["first call"] = clock.lap()
    model(x[:steps])
    figures["second call"] = clock.lap()
    return figures


class Stopwatch:
    def __init__(self) -> None:
        self.last = time.perf_counter()

    def lap(self) -> float:
        """Milliseconds since the lap before."""
        now = time.perf_counter()
        self.last, elapsed = now, now - self.last
        return elapsed * 1e3


def fresh(workload: Workload, backend: str, steps: int, cache: str) -> Figures:
    command = [sys.executable, "-m", "benchmarks.compile_time", "--probe", workload.name, str(steps)]
    command += ["--backend", backend]
    environment = {**os.environ, "RNNC_CACHE_DIR": cache, "RNNC_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{workload.name}: the fresh process ended with {done.returncode}\n{done.stderr}")
    figures: Figures = json.loads(done.stdout)
    return figures


def import_time() -> float:
    """Milliseconds of `import rnnc` in an interpreter that has loaded nothing else, NumPy included."""
    code = "import time; t = time.perf_counter(); import rnnc; print(time.perf_counter() - t)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return float(done.stdout) * 1e3


def medians(runs: Sequence[Figures]) -> Figures:
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def report(workload: Workload, backend: str, runs: int) -> list[str]:
    rows = []
    for steps in (SHORT, LONG):
        cold, cached = [], []
        for _ in range(runs):
            with tempfile.TemporaryDirectory() as cache:
                cold.append(fresh(workload, backend, steps, cache))
                cached.append(fresh(workload, backend, steps, cache))
        a, b = medians(cold), medians(cached)
        columns = [a["compile"], b["compile"], a["bind"], a["first call"], a["second call"]]
        shown = " | ".join(f"{value:.2f}" for value in columns)
        rows.append(f"| {workload.title}, T = {steps} | {shown} |")
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="W2,W5", help="comma-separated workloads")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--backend", default="llvm")
    parser.add_argument("--probe", nargs=2, metavar=("WORKLOAD", "STEPS"), help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.probe:
        (workload,) = chosen(options.probe[0])
        print(json.dumps(probe(workload, options.backend, int(options.probe[1]))))
        return 0
    print(f"milliseconds, wall clock, median of {options.runs} fresh processes\n")
    print(f"import rnnc, NumPy included: {statistics.median(import_time() for _ in range(options.runs)):.0f} ms\n")
    print("| workload | compile, cold | compile, cached | bind | first call | second call |")
    print("|---|---|---|---|---|---|")
    for workload in chosen(options.only):
        print("\n".join(report(workload, options.backend, options.runs)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
