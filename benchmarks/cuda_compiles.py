"""What NVRTC makes of the cuda backend's kernels, without a GPU: whether each compiles and fits its chip, registers,
shared memory, spills, and how long it takes.

    python -m benchmarks.cuda_compiles [--every N] [--threads N]

The first table counts units of every cell, derivative, home of weights and kind of operands, for A100 (sm_80), H100
(sm_90) and B200 (sm_100) in turn, and forward units of four cells at sizes in use for each of them. The second one is
of the kernels that run steps, at these sizes, on the H100. Seconds are of processor time, for all kernels of a unit.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from rnnc.backends.cuda.schedule.chip import H100
from rnnc.backends.cuda.tools import nvrtc as toolkit
from rnnc.ir.errors import BackendError
from tests.cuda_units import CHIPS, KINDS, Made, Unit, all_units, compiled, sized_units

Outcome = Made | str


def attempt(unit: Unit) -> Outcome:
    """The compiled unit, or why it is none."""
    try:
        return compiled(unit)
    except BackendError as error:
        return str(error).splitlines()[0]


def counts(outcomes: Sequence[tuple[Unit, Outcome]]) -> list[str]:
    """A line for each chip: units that pass, of all; kernels; spills; seconds."""
    lines = [f"{'chip':6} {'arch':7} {'units':>11} {'kernels':>8} {'spilling':>8} {'seconds a unit':>15}   by kind"]
    for chip in CHIPS:
        own = [(unit, made) for unit, made in outcomes if unit.chip is chip]
        done = [made for _, made in own if isinstance(made, Made)]
        kernels = sum(len(made.usage) for made in done)
        spilling = sum(bool(usage.spill_stores) for made in done for usage in made.usage.values())
        passed = {unit for unit, made in own if isinstance(made, Made) and not list(made.problems())}
        kinds = ", ".join(
            f"{kind} {sum(u.kind == kind for u in passed)}/{sum(u.kind == kind for u, _ in own)}" for kind in KINDS
        )
        mean = sum(made.seconds for made in done) / max(1, len(done))
        units = f"{len(passed)} of {len(own)}"
        lines.append(f"{chip.name:6} {chip.arch:7} {units:>11} {kernels:>8} {spilling:>8} {mean:>15.2f}   {kinds}")
    return lines


def problems(outcomes: Sequence[tuple[Unit, Outcome]]) -> list[str]:
    """What did not pass."""
    found = []
    for unit, made in outcomes:
        found += [f"{unit}: {made}"] if isinstance(made, str) else [f"{unit}: {p}" for p in made.problems()]
    return found


def kernels(outcomes: Sequence[tuple[Unit, Outcome]]) -> list[str]:
    """A line for each kernel that runs steps."""
    lines = [
        f"{'cell':16} {'H':>5} {'operands':8} {'weights in':13} {'slices':>6} {'registers':>9} {'spills':>6} "
        f"{'shared':>8} {'seconds':>7} {'us/step':>9}   kernel"
    ]
    for unit, made in outcomes:
        if isinstance(made, str):
            continue
        for name, layouts in made.recurrences():
            usage, layout = made.usage[name], layouts[0]
            kernel = next(k for k in made.code.kernels if k.name == name)
            lines.append(
                f"{unit.cell:16} {unit.hidden_size:>5} {unit.operands or unit.dtype:8} {layout.weights_in.value:13} "
                f"{layout.slices:>6} {usage.registers:>9} {usage.spill_stores:>6} {kernel.shared + usage.shared:>8,} "
                f"{made.seconds:>7.2f} {max(w.microseconds for w in layouts):>9.2f}   {name}"
            )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--every",
        type=int,
        default=1,
        help="every N-th unit of the first table only (an odd N: a cell has 20)",
    )
    parser.add_argument("--threads", type=int, default=2, help="units that are compiled at a time")
    options = parser.parse_args()
    print(toolkit.available()[1])
    units = all_units()[:: options.every]
    sized = [unit for chip in CHIPS for unit in sized_units(chip)]
    with ThreadPoolExecutor(options.threads) as pool:
        outcomes = list(zip(units, pool.map(attempt, units), strict=True))
        at_size = list(zip(sized, pool.map(attempt, sized), strict=True))
    print("\nevery cell, derivative, home of weights and kind of operands, at H = 40\n")
    print("\n".join(counts(outcomes)))
    print("\nforward, at H = 128, 512, 1024, 2048, as the model of each chip chooses\n")
    print("\n".join(counts(at_size)))
    print("\n".join(["", "what did not pass:", *(problems([*outcomes, *at_size]) or ["nothing"])]))
    print("\nkernels that run steps, on the H100; us/step is an estimate of the model\n")
    print("\n".join(kernels([(unit, made) for unit, made in at_size if unit.chip is H100])))


if __name__ == "__main__":
    main()
