"""Optimisers as machine code: the same numbers as NumPy makes of the same equations, and nothing else is written."""

from __future__ import annotations

import numpy as np
import pytest

from rnnc.backends.llvm.asm.target import host
from rnnc.backends.llvm.training.update import compile_update
from rnnc.backends.reference import training
from rnnc.ir.errors import BackendError
from rnnc.ir.graph import Graph
from rnnc.optimizers import SGD, Adam, AdamW, Optimizer, update_graph

OPTIMIZERS = (SGD(0.1), SGD(0.1, 0.9, nesterov=True, weight_decay=1e-3), Adam(1e-3, weight_decay=0.1), AdamW(1e-3))
GUARD = 8


@pytest.mark.parametrize("size", (0, 1, 7, 8, 1003))
@pytest.mark.parametrize("dtype", ("float32", "float64"))
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_machine_code_updates_as_numpy_does(optimizer: Optimizer, dtype: str, size: int) -> None:
    graph = update_graph(optimizer, dtype)
    random = np.random.default_rng(size)
    names = ("p", "g", *optimizer.slots)
    guarded = {name: np.abs(random.standard_normal(size + 2 * GUARD)).astype(dtype) for name in names}
    before = {name: array.copy() for name, array in guarded.items()}
    expected = {name: array[GUARD : GUARD + size].copy() for name, array in guarded.items()}
    scalars = {"scale": 0.5} | optimizer.scalars(3, 0.01)
    training.compile_update(graph).run(expected, scalars)
    compile_update(graph).run({name: array[GUARD : GUARD + size] for name, array in guarded.items()}, scalars)
    tolerance = 1e-6 if dtype == "float32" else 1e-14
    for name in names:
        np.testing.assert_allclose(guarded[name][GUARD : GUARD + size], expected[name], rtol=tolerance)
        np.testing.assert_array_equal(guarded[name][:GUARD], before[name][:GUARD])
        np.testing.assert_array_equal(guarded[name][GUARD + size :], before[name][GUARD + size :])
    assert not size or not np.array_equal(guarded["p"], before["p"])


def test_every_instruction_set_of_this_machine() -> None:
    graph = update_graph(Adam(1e-2), "float32")
    arrays = {name: np.linspace(0.1, 1, 37, dtype=np.float32) for name in ("p", "g", "m", "v")}
    scalars = {"scale": 1.0} | Adam(1e-2).scalars(1, 0.01)
    results = []
    for target in (host(), host("generic")):
        copies = {name: array.copy() for name, array in arrays.items()}
        compile_update(graph, target).run(copies, scalars)
        results.append(copies)
    for name in arrays:
        np.testing.assert_allclose(results[0][name], results[1][name], rtol=1e-6)


def test_what_is_not_elementwise_is_refused() -> None:
    graph = Graph("float32", 1)
    p = graph.input("p", ("B", 1))
    graph.outputs["p"] = graph.add("reduce_sum", (p,))
    with pytest.raises(BackendError, match="reduce_sum"):
        compile_update(graph)
