"""The largest relative errors over the test matrix, against the float64 oracle and against PyTorch.

    python -m benchmarks.accuracy                      # every triple of option values meets in some case
    python -m benchmarks.accuracy --strength 4         # every quadruple; slow
    python -m benchmarks.accuracy --backends reference

The cases are those of tests/matrix.py. An error is the largest difference in an array over the largest magnitude in it.
PyTorch's own float32 error against the oracle stands beside, so that one sees what rounding alone costs.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

import rnnc
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


def run(case: Case, backends: Sequence[str], worst: Worst) -> None:
    exact = case.expected()
    peer = torch_result(case)
    if peer is not None:
        worst.see("torch against oracle", case, worst_error(peer, exact))
    for backend in backends:
        found = case.call(rnnc.compile(case.spec(), case.params, backend=backend))
        worst.see(f"{backend} against oracle", case, worst_error(found, exact))
        if peer is not None:
            worst.see(f"{backend} against torch", case, worst_error(found, as_float64(peer)))


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


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strength", type=int, default=3, help="how many option values meet in every combination")
    parser.add_argument("--backends", default="reference,llvm")
    options = parser.parse_args(argv)
    backends = options.backends.split(",")
    start, worst, selected = time.perf_counter(), Worst(), cases(options.strength)
    for case in selected:
        run(case, backends, worst)
    print(table(worst))
    print(f"\n{len(selected)} cases in {time.perf_counter() - start:.0f} s")
    failed = False
    for who in (f"{backend} against oracle" for backend in backends):
        for dtype, tolerance in TOLERANCE.items():
            found = worst.of(who, dtype)
            if found and not found[0] <= tolerance:
                failed = True
                print(f"{who}, {dtype}: {found[0]:.3g} exceeds {tolerance:g} in {found[1]}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
