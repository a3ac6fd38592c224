"""Any cell on the llvm backend: random equations held against the unrolled graph, and plans by themselves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

from rnnc.backends.llvm import compile
from rnnc.backends.llvm.code import LlvmCode
from rnnc.backends.reference.interpreter import run_graph
from rnnc.ir.computation import Computation
from rnnc.ir.lower import lower
from rnnc.ir.stacks import Stack
from tests.cases import TOLERANCE, error
from tests.forward_calls import run_stack
from tests.networks import CELLS, Feeds, data_of, lengths_of, parameters_of, stack_of
from tests.random_cells import GRID_RECIPES, stacks
from tests.whole_plans import assert_plan_is_complete

STEPS, BATCH = 5, 4


def run_llvm(code: LlvmCode, stack: Stack, feeds: Feeds, ragged: bool) -> Feeds:
    """Outputs by the names of the graph's; what is not written stays NaN."""
    shapes = parameters_of(stack, np.random.default_rng(0))
    bound = code.bind({name: feeds[name] for name in shapes})
    states = tuple(np.stack([feeds[f"{name}.0{layer.suffix}"] for layer in stack.flat]) for name in stack.states)
    output, finals = run_stack(bound, stack, feeds["x"], states, lengths_of(STEPS, BATCH) if ragged else None)
    found = {"output": output}
    for name, final in zip(stack.states, finals, strict=True):
        found |= {f"{name}.n{layer.suffix}": row for layer, row in zip(stack.flat, final, strict=True)}
    return found


def assert_llvm_is_right(stack: Stack) -> None:
    code = compile(Computation.of_stack(stack), threads=1)
    for ragged in (False, True):
        rng = np.random.default_rng(7)
        lengths = lengths_of(STEPS, BATCH) if ragged else None
        feeds = parameters_of(stack, rng) | data_of(stack, STEPS, BATCH, rng, lengths)
        double = {k: v.astype("float64") if v.dtype.kind == "f" else v for k, v in feeds.items()}
        expected = run_graph(lower(stack._replace(dtype="float64"), STEPS, lengths=ragged), double)
        found = run_llvm(code, stack, feeds, ragged)
        assert set(found) == set(expected)
        for name, value in expected.items():
            assert error(found[name], value) <= TOLERANCE[stack.dtype], name


@settings(max_examples=11)
@given(stacks())
def test_random_cells(stack: Stack) -> None:
    assert_llvm_is_right(stack)


@settings(max_examples=10)
@given(stacks(recipe=GRID_RECIPES))
def test_random_cells_of_several_axes(stack: Stack) -> None:
    assert_llvm_is_right(stack)


# ------------------------------------------------------------------------------------------ plans


@pytest.mark.parametrize("bidirectional", (False, True))
@pytest.mark.parametrize("cell", CELLS)
def test_plans_of_cells(cell: str, bidirectional: bool) -> None:
    assert_plan_is_complete(stack_of(cell, 2, bidirectional))


@pytest.mark.rare
@settings(max_examples=300)
@given(stacks())
def test_plans_of_random_cells(stack: Stack) -> None:
    assert_plan_is_complete(stack)
