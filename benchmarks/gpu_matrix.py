"""The test matrix on a GPU: the calls of tests/cases.py and tests/derivative_oracles.py, whose arrays are NumPy's.

    compute-sanitizer --tool memcheck python -m benchmarks.gpu_matrix 4     # every fourth case, forward and backward

Each case is one call, held against the float64 oracle (forward) or the reference backend in float64 (derivatives). A
backend made here carries arrays to the GPU and back.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

import rnnc
from rnnc import backends
from rnnc.backends import cuda
from tests.cases import TOLERANCE, Case, error, worst_error
from tests.derivative_oracles import Point, direction, primal, pull, push, second, seeds
from tests.matrix import cases

Array = NDArray[Any]
Outcome = dict[str, Any]

NAME = "cuda, called with NumPy arrays"
ORDERS = ("forward", "gradients", "tangents", "second")


# ------------------------------------------------------------------------------------------ there and back


class Carried:
    """A backend of NumPy arrays that computes on the GPU."""

    OPERANDS = cuda.OPERANDS

    def compile(self, computation: Any, *, threads: int | None, operands: str | None = None) -> Any:
        inner = cuda.compile(computation, threads=threads, operands=operands)
        return SimpleNamespace(
            stages=inner.stages,
            text=inner.text,
            explain=inner.explain,
            saved_bytes=inner.saved_bytes,
            bind=lambda parameters: CarriedBound(inner.bind(_all_up(parameters))),
        )


class CarriedBound:
    """Bound code of `Carried`."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def quick(self, call: object, outcomes: object) -> None:
        """Every call is checked."""

    def real_time(self, call: object, fixed: object, outcomes: object) -> None:
        return None

    def quick_halves(self, first: object, second: object, outcomes: object) -> None:
        """Every call is checked."""

    def start(
        self, inputs: Mapping[str, Array], outputs: Mapping[str, Array], steps: int, batch: int, lengths: Array | None
    ) -> CarriedTape:
        results = {name: _poisoned(array) for name, array in outputs.items()}
        counts = None if lengths is None else _up(lengths)
        tape = self._inner.start(_all_up(inputs), results, steps, batch, counts)
        _fetch(outputs.values(), results.values())
        return CarriedTape(tape)


class CarriedTape:
    """What a first half left."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def finish(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        results = {name: _poisoned(array) for name, array in outputs.items()}
        self._inner.finish(_all_up(inputs), results)
        _fetch(outputs.values(), results.values())


def _up(array: Array) -> Any:
    return cuda.arrays.from_host(array)


def _all_up(arrays: Mapping[str, Array]) -> dict[str, Any]:
    return {name: _up(array) for name, array in arrays.items()}


def _poisoned(array: Array) -> Any:
    """Results start as NaN: one that is not written shows."""
    return cuda.arrays.xp.full(array.shape, np.nan, array.dtype)


def _fetch(targets: Any, sources: Any) -> None:
    for target, source in zip(targets, sources, strict=True):
        target[...] = cuda.arrays.to_host(source)


def install() -> None:
    """Makes the backend known to this process."""
    backends.MODULES[NAME] = NAME
    sys.modules[NAME] = Carried()  # type: ignore[assignment]


# ------------------------------------------------------------------------------------------ the cases


@cache
def selected() -> list[Case]:
    """All pairs of options."""
    return cases(strength=2)


def run(order: str, number: int) -> Outcome:
    """One case: its title, the worst relative error, and what is allowed."""
    install()
    case = selected()[number]
    return {"title": str(case), "error": ERRORS[order](case), "allowed": TOLERANCE[case.dtype]}


def _forward(case: Case) -> float:
    found = case.call(rnnc.compile(case.spec(), case.params, backend=NAME))
    return worst_error(found, case.expected())


def _double(case: Case) -> Case:
    """What the reference backend is asked, at the very numbers of the case."""
    return replace(case, dtype="float64")


def _gradients(case: Case) -> float:
    adjoints = seeds(case, 1)
    return _worst((pull(case, NAME, adjoints),), (pull(_double(case), "reference", adjoints, primal(case)),))


def _tangents(case: Case) -> float:
    along = direction(case, 2)
    return _worst(push(case, NAME, along), push(_double(case), "reference", along, primal(case)))


def _second(case: Case) -> float:
    given = seeds(case, 1), direction(case, 2), seeds(case, 3)
    return _worst(second(case, NAME, *given), second(_double(case), "reference", *given, primal(case)))


def _worst(found: Sequence[Point], expected: Sequence[Point]) -> float:
    return max(error(a[name], b[name]) for a, b in zip(found, expected, strict=True) for name in b)


ERRORS: dict[str, Callable[[Case], float]] = {
    "forward": _forward,
    "gradients": _gradients,
    "tangents": _tangents,
    "second": _second,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs every n-th case without a memory pool, so that each array is an allocation of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("each", type=int, help="run every n-th case")
    options = parser.parse_args(argv)
    cuda.arrays.xp.cuda.set_allocator(None)
    failed = 0
    for number in range(0, len(selected()), options.each):
        for order in ("forward", "gradients"):
            outcome = run(order, number)
            bad = not outcome["error"] <= outcome["allowed"]
            failed += bad
            print(f"{order} {outcome['title']}: {outcome['error']:.1e}{' WRONG' * bad}", flush=True)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
