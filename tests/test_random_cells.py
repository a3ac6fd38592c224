"""Cells nobody would write: random equations over every op, as machine code, held against the interpreter."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, given, settings

from rnnc.backends import reference
from rnnc.backends.llvm.executable import compile
from rnnc.ir.lower import Stack
from tests.random_cells import stacks

CALLS = [(1, 1, False), (4, 3, False), (5, 6, True)]


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(stacks())
def test_machine_code_agrees_with_the_interpreter(stack: Stack) -> None:
    rng = np.random.default_rng(0)
    params = {
        name + layer.suffix: (0.5 * rng.standard_normal(shape)).astype(stack.dtype)
        for layer in stack.flat
        for name, shape in layer.parameters.items()
    }
    runners = [backend(stack, threads=1).bind(params) for backend in (compile, reference.compile)]
    widths = stack.flat[0].states.values()
    output_size = sum(layer.output_size for layer in stack.layers[-1])
    for steps, batch, ragged in CALLS:
        x = rng.standard_normal((steps, batch, stack.input_size)).astype(stack.dtype)
        states = tuple(rng.standard_normal((len(stack.flat), batch, w)).astype(stack.dtype) for w in widths)
        lengths = rng.integers(0, steps + 1, batch) if ragged else None
        results = []
        for runner in runners:
            output = np.full((steps, batch, output_size), np.nan, stack.dtype)
            finals = tuple(np.full_like(s, np.nan) for s in states)
            runner.run(x, states, lengths, output, finals)
            results.append((output, *finals))
        for native, interpreted in zip(*results, strict=True):
            np.testing.assert_allclose(native, interpreted, rtol=1e-9, atol=1e-9)
