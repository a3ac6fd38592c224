"""The largest relative errors over the test matrix, against the float64 oracle and against PyTorch.

    python -m benchmarks.accuracy                      # every triple of option values meets in some case
    python -m benchmarks.accuracy --strength 4         # every quadruple; slow
    python -m benchmarks.accuracy --backends reference
    python -m benchmarks.accuracy --only gradients     # or forward, second

The cases are those of tests/matrix.py. An error is the largest difference in an array over the largest magnitude in it.
PyTorch's own float32 error against the oracle stands beside, so that one sees what rounding alone costs. What holds the
gradients of both orders to the truth is in benchmarks/gradient_errors.py.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

import rnnc
from benchmarks import gradient_errors
from tests import torch_peer
from tests.cases import CELLS, TOLERANCE, Case, Result, worst_error
from tests.matrix import cases


@dataclass
class Worst:
    """The largest errors seen, by who, dtype and cell, with the case that gave each."""

    errors: dict[tuple[str, str, str], tuple[float, Case]] = field(default_factory=dict)

    def see(self, who: str, case: Case, error: float) -> None:
        key = (who, case.dtype, case.cell)
        if key not in self.errors or error > self.errors[key][0]:
            self.errors[key] = (error, case)

    def of(self, who: str, dtype: str, cell: str | None = None) -> tuple[float, Case] | None:
        seen = [v for (w, d, c), v in self.errors.items() if (w, d) == (who, dtype) and cell in (None, c)]
        return max(seen, key=lambda v: v[0], default=None)


def run_forward(case: Case, backends: Sequence[str], worst: Worst) -> None:
    exact = case.expected()
    peer = torch_result(case)
    if peer is not None:
        worst.see("torch against oracle", case, worst_error(peer, exact))
    for backend in backends:
        found = case.call(rnnc.compile(case.spec(), case.params, backend=backend))
        worst.see(f"{backend} against oracle", case, worst_error(found, exact))
        if peer is not None:
            worst.see(f"{backend} against torch", case, worst_error(found, as_float64(peer)))


def run_derivatives(case: Case, backends: Sequence[str], worst: Worst, measure: gradient_errors.Measure) -> None:
    for who, error in measure(case, backends):
        worst.see(who, case, error)


def torch_result(case: Case) -> Result | None:
    import torch

    return torch_peer.run(case, getattr(torch, case.dtype)) if torch_peer.supports(case) else None


def as_float64(result: Result) -> Result:
    return Result(result.output.astype(np.float64), tuple(s.astype(np.float64) for s in result.states))


def table(worst: Worst) -> str:
    rows = [
        "| | dtype | largest | " + " | ".join(CELLS) + " | allowed |",
        "|---|---|---|" + "---|" * len(CELLS) + "---|",
    ]
    for who in dict.fromkeys(who for who, _, _ in worst.errors):
        for dtype, tolerance in TOLERANCE.items():
            largest = [worst.of(who, dtype), *(worst.of(who, dtype, cell) for cell in CELLS)]
            shown = " | ".join(f"{v[0]:.1e}" if v else "" for v in largest)
            rows.append(f"| {who} | {dtype} | {shown} | {tolerance:g} |")
    return "\n".join(rows)


def failures(worst: Worst, backends: Sequence[str]) -> list[str]:
    found = []
    for who in (f"{backend} against oracle" for backend in backends):
        for dtype, tolerance in TOLERANCE.items():
            largest = worst.of(who, dtype)
            if largest and not largest[0] <= tolerance:
                found.append(f"{who}, {dtype}: {largest[0]:.3g} exceeds {tolerance:g} in {largest[1]}")
    return found


RUNS: dict[str, Callable[[Case, Sequence[str], Worst], None]] = {
    "forward": run_forward,
    "gradients": partial(run_derivatives, measure=gradient_errors.first_order),
    "second": partial(run_derivatives, measure=gradient_errors.second_order),
}
TITLES = {
    "forward": "Output and last states",
    "gradients": "Gradients (`rnnc.vjp`)",
    "second": "Gradients and their derivative along a direction (`rnnc.hvp`)",
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strength", type=int, default=3, help="how many option values meet in every combination")
    parser.add_argument("--backends", default="reference,llvm")
    parser.add_argument("--only", default=",".join(RUNS), help="comma-separated: forward, gradients, second")
    options = parser.parse_args(argv)
    backends, orders, selected = options.backends.split(","), options.only.split(","), cases(options.strength)
    if unknown := set(orders) - set(RUNS):
        parser.error(f"--only: unknown {', '.join(sorted(unknown))}; there are {', '.join(RUNS)}")
    warnings.filterwarnings("ignore", message="TF32 acceleration")  # oneDNN's flags mention Intel GPUs, once
    failed = []
    for order in orders:
        start, worst = time.perf_counter(), Worst()
        for case in selected:
            RUNS[order](case, backends, worst)
        print(f"{TITLES[order]}\n\n{table(worst)}")
        print(f"\n{len(selected)} cases in {time.perf_counter() - start:.0f} s\n", flush=True)
        failed += [f"{order}: {failure}" for failure in failures(worst, backends)]
    print("\n".join(failed))
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
