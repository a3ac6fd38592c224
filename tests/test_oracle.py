"""The oracle against PyTorch in float64, when PyTorch is installed; the covering selection against its promise."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest

from tests import oracle
from tests.cases import CELLS, Case, worst_error
from tests.pairwise import Choice, covering

TORCH_CELLS = tuple(cell for cell in CELLS if cell != "gru_before")


@pytest.mark.parametrize("cell", TORCH_CELLS)
@pytest.mark.parametrize("num_layers", (1, 3))
@pytest.mark.parametrize("bidirectional", (False, True))
@pytest.mark.parametrize("bias", (False, True))
@pytest.mark.parametrize("lengths", ("none", "mixed"))
def test_agrees_with_pytorch(cell: str, num_layers: int, bidirectional: bool, bias: bool, lengths: str) -> None:
    pytest.importorskip("torch")
    from tests import torch_peer

    case = Case(cell, num_layers, bidirectional, bias, batch_first=bias, dtype="float64", lengths=lengths)
    if case.row_lengths is not None:  # PyTorch packs no row of length 0
        np.maximum(case.row_lengths, 1, out=case.row_lengths)
    assert worst_error(torch_peer.run(case), case.expected()) < 1e-14


def test_a_row_of_length_zero_keeps_its_state_and_gives_zeros() -> None:
    case = Case(bidirectional=True, lengths="mixed", batch=5)
    assert case.row_lengths is not None and 0 in case.row_lengths
    row = int(np.flatnonzero(case.row_lengths == 0)[0])
    output, states = case.expected()
    assert not output[:, row].any()
    for last, first in zip(states, case.state, strict=True):
        np.testing.assert_array_equal(last[:, row], first[:, row])


def test_the_two_forms_of_gru_agree_when_the_reset_gate_is_open_and_differ_otherwise() -> None:
    """r = 1 makes r * (U h + b) and U (r * h) + b the same, which ties the second form to the one PyTorch checks."""
    before = Case("gru_before", dtype="float64")
    after = replace(before, cell="gru")
    assert worst_error(before.expected(), after.expected()) > 1e-3
    for case in (before, after):
        case.params["bias_ih_l0"][: case.hidden_size] = 50.0
    assert worst_error(before.expected(), after.expected()) < 1e-14


def test_sigmoid_has_the_right_limits() -> None:
    x = np.array([-np.inf, -800.0, -1.0, 0.0, 1.0, 800.0, np.inf])
    found = oracle.sigmoid(x)
    np.testing.assert_allclose(found, [0.0, 0.0, 1 / (1 + np.e), 0.5, np.e / (1 + np.e), 1.0, 1.0], rtol=1e-15)
    assert np.isnan(oracle.sigmoid(np.array([np.nan])))[0]


@pytest.mark.parametrize("strength", (1, 2, 3))
def test_covering_holds_every_valid_combination(strength: int) -> None:
    options = {"a": (1, 2, 3), "b": "xyzw", "c": (True, False), "d": range(5)}

    def valid(choice: Choice) -> bool:
        return not (choice.get("a") == 1 and choice.get("c") is True)

    cases = covering(options, strength, valid)
    assert cases == covering(options, strength, valid)
    assert all(valid(case) for case in cases)
    for names in combinations(options, strength):
        wanted = {v for v in product(*(options[n] for n in names)) if valid(dict(zip(names, v, strict=True)))}
        assert wanted == {tuple(case[n] for n in names) for case in cases}
    if strength == 2:
        assert len(cases) < len(list(product(*options.values()))) / 4
