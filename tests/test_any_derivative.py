"""Derivatives of random cells as machine code, against the unrolled graph run node by node."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rnnc.backends.llvm import compile
from rnnc.backends.reference.interpreter import run_graph
from rnnc.ir.autodiff import jvp, vjp
from rnnc.ir.computation import Computation
from rnnc.ir.graph import Graph
from rnnc.ir.lower import lower
from rnnc.ir.stacks import Stack
from tests.random_cells import GRID_RECIPES, stacks

TOLERANCE = {"float32": 1e-3, "float64": 1e-9}
"""Relative to the largest number of an array: random cells are far worse conditioned than real ones."""


def inputs_of(graph: Graph) -> list[str]:
    names = (n.attr("name") for n in graph.nodes if n.op == "input" and n.dtype != "bool")
    return list(dict.fromkeys(names))


def differentiated(stack: Stack, mode: str, steps: int, lengths: bool) -> Graph:
    graph = lower(stack, steps, lengths=lengths)
    if mode == "jvp":
        return jvp(graph, inputs_of(graph))
    graph = vjp(graph, inputs_of(graph))
    return jvp(graph, inputs_of(graph)) if mode == "hvp" else graph


def random_inputs(graph: Graph, steps: int, batch: int, seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    made: dict[str, np.ndarray] = {}
    for node in graph.nodes:
        if node.op == "input" and node.dtype != "bool" and node.attr("name") not in made:
            sizes = [batch if size == "B" else int(size) for size in node.shape]
            sizes = sizes if node.step is None else [steps, *sizes]
            made[node.attr("name")] = random.uniform(0.2, 1.2, sizes).astype(graph.dtype)
    return made


CALLS = {
    "stack": stacks(),
    "steps": st.integers(1, 4),
    "rows": st.lists(st.integers(0, 4), min_size=1, max_size=4),
    "ragged": st.booleans(),
    "seed": st.integers(0, 1000),
}


@settings(max_examples=8)
@given(**CALLS)
def test_reverse_mode(stack: Stack, steps: int, rows: list[int], ragged: bool, seed: int) -> None:
    check("vjp", stack, steps, rows, ragged, seed)


@settings(max_examples=8)
@given(**CALLS | {"stack": stacks(recipe=GRID_RECIPES)})
def test_reverse_mode_of_several_axes(stack: Stack, steps: int, rows: list[int], ragged: bool, seed: int) -> None:
    check("vjp", stack, steps, rows, ragged, seed)


@pytest.mark.rare
@settings(max_examples=6)
@given(**CALLS | {"stack": stacks(recipe=GRID_RECIPES)}, mode=st.sampled_from(["jvp", "hvp"]))
def test_other_modes_of_several_axes(
    stack: Stack, steps: int, rows: list[int], ragged: bool, seed: int, mode: str
) -> None:
    check(mode, stack, steps, rows, ragged, seed)


@pytest.mark.rare
@settings(max_examples=6)
@given(**CALLS)
def test_forward_mode(stack: Stack, steps: int, rows: list[int], ragged: bool, seed: int) -> None:
    check("jvp", stack, steps, rows, ragged, seed)


@pytest.mark.rare
@settings(max_examples=4)
@given(**CALLS)
def test_forward_over_reverse(stack: Stack, steps: int, rows: list[int], ragged: bool, seed: int) -> None:
    check("hvp", stack, steps, rows, ragged, seed)


def check(mode: str, stack: Stack, steps: int, rows: list[int], ragged: bool, seed: int) -> None:
    """Machine code computes what the graph says: with lengths, too; a vjp in two calls; into arrays that held NaN."""
    lengths = np.minimum(rows, steps).astype(np.int64) if ragged else None
    graph = differentiated(stack, mode, steps, ragged)
    inputs = random_inputs(graph, steps, len(rows), seed)
    valid = {} if lengths is None else {"valid": np.arange(steps)[:, None, None] < lengths[None, :, None]}
    expected = run_graph(graph, inputs | valid)
    late = {name for name in (*inputs, *expected) if mode == "vjp" and name.startswith("d:")}
    computation = Computation(lambda count, masked: differentiated(stack, mode, count, masked), frozenset(late))
    bound = compile(computation, threads=1).bind({})
    outputs = {name: np.full(value.shape, np.nan, stack.dtype) for name, value in expected.items()}
    first, second = ({n: a for n, a in inputs.items() if (n in late) == part} for part in (False, True))
    made, rest = ({n: a for n, a in outputs.items() if (n in late) == part} for part in (False, True))
    tape = bound.start(first, made, steps, len(rows), lengths)
    if late:
        tape.finish(second, rest)
    for name, value in expected.items():
        assert_close(outputs[name], value, TOLERANCE[stack.dtype], name)


def assert_close(found: np.ndarray, expected: np.ndarray, tolerance: float, name: str) -> None:
    """Where the expected numbers are finite and not beyond what float32 holds."""
    known = np.isfinite(expected) & (np.abs(expected) < 1e30)
    scale = max(1.0, float(np.abs(expected[known]).max(initial=0)))
    np.testing.assert_allclose(found[known], expected[known], rtol=0, atol=tolerance * scale, err_msg=name)
