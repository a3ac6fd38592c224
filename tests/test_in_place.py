"""Weights that a call reads where the caller has them: which, when, to what end, and nothing beside them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

import rnnc
from rnnc.backends.llvm.manifest import FEW_ROWS
from tests import user_cells
from tests.test_computed_weights import OneScale, flat
from tests.test_outer import AtPageEnd

SPECS: dict[str, rnnc.Spec] = {
    "gru of two layers": rnnc.GRU(5, 24, 2),
    "lstm of two directions": rnnc.LSTM(7, 13, 2, bidirectional=True),
    "rnn narrower than a vector": rnnc.RNN(3, 5),
    "two products in sequence": rnnc.GRU(9, 33, reset_after=False),
    "one unit": rnnc.GRU(1, 1),
    "a cell of one's own": rnnc.Recurrent(user_cells.NestedLSTM(), 6, 11),
}
SIZES = [(1, 1), (2, 1), (1, FEW_ROWS), (2, 2), (3, 3)]
"""T, B; the last has more rows than are read in place."""


def values(spec: rnnc.Spec, steps: int, batch: int) -> tuple[dict[str, Any], Any, Any, Any]:
    """Parameters, x, lengths and an adjoint of the output."""
    rng = np.random.default_rng(10 * steps + batch)
    params, size = spec.init(seed=1), (steps, batch)
    x = rng.standard_normal((*size, spec.input_size), dtype=np.float32)
    return params, x, rng.integers(0, steps + 1, batch), rng.standard_normal((*size, spec.output_size)).astype("f4")


def gradients(f: Any, params: Any, x: Any, lengths: Any, d_output: Any) -> list[Any]:
    results, pullback = f(params, x, lengths=lengths)
    return [*flat(results), *flat(pullback(d_output))]


@pytest.mark.parametrize("ragged", (False, True))
@pytest.mark.parametrize("name", SPECS)
def test_results_are_those_of_the_reference(name: str, ragged: bool) -> None:
    spec = SPECS[name]
    f, exact = rnnc.vjp(spec), rnnc.vjp(dataclasses.replace(spec, dtype="float64"), backend="reference")  # type: ignore[type-var]
    for steps, batch in SIZES:
        params, x, lengths, d_output = values(spec, steps, batch)
        given = lengths if ragged else None
        found = gradients(f, params, x, given, d_output)
        wide = {name: array.astype("f8") for name, array in params.items()}
        expected = gradients(exact, wide, x.astype("f8"), given, d_output.astype("f8"))
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max(initial=0))


@pytest.mark.parametrize("size", SIZES)
def test_parameters_that_change_after_the_call_do_not_reach_the_pullback(size: tuple[int, int]) -> None:
    f = rnnc.vjp(SPECS["gru of two layers"])
    params, x, _, d_output = values(f.spec, *size)
    expected = flat(f(params, x)[1](d_output))
    _, pullback = f(params, x)
    for array in params.values():
        array[...] = np.nan
    for _ in range(2):
        for a, b in zip(flat(pullback(d_output)), expected, strict=True):
            assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("name", SPECS)
def test_nothing_is_read_past_the_end_of_a_parameter(name: str) -> None:
    """Each ends where memory begins that may not be touched."""
    spec = SPECS[name]
    params, x, _, d_output = values(spec, 1, 1)
    areas = {key: AtPageEnd(array.reshape(1, -1), array.size) for key, array in params.items()}
    moved = {key: area._flat.reshape(params[key].shape) for key, area in areas.items()}
    f = rnnc.vjp(spec)
    for a, b in zip(gradients(f, moved, x, None, d_output), gradients(f, params, x, None, d_output), strict=True):
        assert a.tobytes() == b.tobytes()


def test_what_is_read_in_place_is_not_packed() -> None:
    f: Any = rnnc.vjp(SPECS["gru of two layers"])
    code = f._code
    assert code.reads_in_place(1, FEW_ROWS) and not code.reads_in_place(1, FEW_ROWS + 1)
    every, rest = (len(moves) for _, moves in (code.manifest.tables, code.manifest.tables_of_rest))
    assert 0 < rest < every
    assert "read in place by the first half" in f.explain()


def test_a_model_and_a_computed_weight_are_packed() -> None:
    model: Any = rnnc.compile(SPECS["gru of two layers"])
    assert not model._code.reads_in_place(1, 1)
    spec = rnnc.Recurrent(OneScale(), 3, 5)
    computed: Any = rnnc.vjp(spec)
    read = {family.name for phase in computed._code.emitted.phases for family in _in_place(phase)}
    assert read == {"ih_l0"}  # hh is multiplied by a number before


def _in_place(packed: Any) -> list[Any]:
    from rnnc.backends.llvm.packing.in_place import unit_rows

    return [rows.source for feed in unit_rows(packed.phase) or () for rows in feed]
