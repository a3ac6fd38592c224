"""Products that read a value and parts of it: x, a state or a computed value, and columns that overlap.

The property runs in a process whose fresh memory is full of garbage (`tests.fuzz.poison`).
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rnnc
from rnnc import optimizers, train
from rnnc.backends.cuda.emulator import find_compiler
from rnnc.ir.equations import Value, linear, tanh
from tests.fuzz import poison

X, H, T, B = 6, 8, 3, 3
WIDTHS = {"x": X, "h": H, "z": 2 * H}
LENGTHS = np.array([3, 1, 2])

Part = tuple[str, int, int]
"""A value, and the columns of it that are read."""


@dataclass(frozen=True)
class Overlapping(rnnc.Cell):
    """Sums of products of parts, multiplied; z is computed in the same step."""

    sums: tuple[tuple[Part, ...], ...]
    name: ClassVar[str] = "overlapping"

    def parameters(self, input_size: int, hidden_size: int, bias: bool) -> dict[str, tuple[int, ...]]:
        weights = {
            f"w{n}_{k}": (hidden_size, stop - start)
            for n, parts in enumerate(self.sums)
            for k, (_, start, stop) in enumerate(parts)
        }
        return {"zx": (2 * hidden_size, input_size), "zh": (2 * hidden_size, hidden_size)} | weights

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> tuple[Value, dict[str, Value]]:
        values = {"x": x, "h": state.h, "z": tanh(linear(x, p.zx) + linear(state.h, p.zh))}
        h: Value | float = 1.0
        for n, parts in enumerate(self.sums):
            products = [
                linear(values[of][:, start:stop], getattr(p, f"w{n}_{k}")) for k, (of, start, stop) in enumerate(parts)
            ]
            h = h * tanh(sum(products[1:], products[0]))
        assert isinstance(h, Value)
        return h, {"h": h}


@st.composite
def cells(draw: st.DrawFn) -> Overlapping:
    """Parts of few values, which mostly begin where others do."""
    sources = draw(st.lists(st.sampled_from(sorted(WIDTHS)), min_size=1, max_size=2, unique=True))

    def part() -> Part:
        of = draw(st.sampled_from(sources))
        start = draw(st.sampled_from((0, 0, 0, 2, 4)))
        return of, start, draw(st.sampled_from([n for n in (WIDTHS[of], WIDTHS[of] // 2, start + 1) if n > start]))

    sums = [tuple(part() for _ in range(draw(st.integers(1, 2)))) for _ in range(draw(st.integers(2, 3)))]
    return Overlapping(tuple(sums))


def check(cell: Overlapping, backend: str) -> None:
    """Results, all derivatives and a training step, as those of the reference backend."""
    spec = rnnc.Recurrent(cell, X, H, dtype="float64")
    found, expected = everything(spec, backend), everything(spec, "reference")
    for number, (a, b) in enumerate(zip(found, expected, strict=True)):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * max(1.0, np.abs(b).max()), err_msg=f"{number} of {cell}")


def everything(spec: rnnc.Recurrent, backend: str) -> list[Any]:
    rng = np.random.default_rng(0)
    at, along = ((spec.init(seed), rng.standard_normal((T, B, X)), rng.standard_normal((1, B, H))) for seed in (0, 1))
    model = rnnc.compile(spec, at[0], backend=backend)
    (output, state), pull = rnnc.vjp(spec, backend=backend)(*at, LENGTHS)
    seeds = (rng.standard_normal(output.shape), rng.standard_normal(state.shape))
    (_, tangents), second = (
        rnnc.jvp(spec, backend=backend)(at, along, lengths=LENGTHS),
        rnnc.hvp(spec, backend=backend)(at, seeds, along, lengths=LENGTHS),
    )
    network = rnnc.Sequential(spec, rnnc.Linear(H, 2))
    step = train.TrainingStep(network, "mse", optimizers.SGD(0.1), seed=1, backend=backend)
    pairs = [(at[1][:n, row], rng.standard_normal((n, 2))) for row, n in enumerate(LENGTHS)]
    outcome, _ = step.step(train.Sequences(network, "mse", pairs).batch(np.arange(B)))
    gradients = [array for params, x, initial in (pull(*seeds), *second) for array in (*params.values(), x, initial)]
    return [*model(at[1], at[2]), output, state, *tangents, *gradients, outcome.loss, step.flat]


SMALLEST = Overlapping(((("z", 0, 2 * H),), (("z", 0, H),)))


@pytest.mark.sampled(2)
def test_a_value_and_its_first_half(backend: str) -> None:
    check(SMALLEST, backend)


@pytest.mark.skipif(find_compiler() is None, reason="emulating CUDA needs a C++ compiler")
def test_a_value_and_its_first_half_on_an_emulated_gpu() -> None:
    check(SMALLEST, "cuda-emulated")


@settings(max_examples=5, derandomize=True, database=None, deadline=None)
@given(cells())
def random_cells(cell: Overlapping) -> None:
    check(cell, "llvm")


@pytest.mark.rare
def test_random_cells_in_a_process_with_garbage_for_memory() -> None:
    code = "from tests.fuzz import poison; poison.new_arrays(); from tests.test_overlapping import *; random_cells()"
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **poison.ENVIRONMENT},
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-3000:]
