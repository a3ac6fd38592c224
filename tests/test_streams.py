"""`Model.advance`: pieces of streams with the state of `Network.advance`, on every backend, against whole calls."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import rnnc
from tests.refusals import raises_saying
from tests.user_cells import MinimalGatedUnit

SPECS: dict[str, rnnc.Spec] = {
    "two states, two layers": rnnc.LSTM(3, 5, num_layers=2, proj_size=2),
    "batch first, a cell of one's own": rnnc.Recurrent(MinimalGatedUnit(), 3, 4, batch_first=True, dtype="float64"),
}


def host(array: Any) -> Any:
    return array.get() if hasattr(array, "get") else np.asarray(array)


@pytest.mark.parametrize("name", SPECS)
def test_pieces_are_the_whole_and_states_are_those_of_a_call(name: str, backend: str) -> None:
    spec = SPECS[name]
    model = rnnc.compile(spec, spec.init(1), backend=backend)
    axis = 1 if spec.batch_first else 0
    x = np.random.default_rng(0).standard_normal((6, 3, 3)).astype(spec.dtype)
    x = x.swapaxes(0, 1).copy() if spec.batch_first else x
    (whole, last), state, pieces = model(x), None, []
    for piece in np.split(x, [1, 3], axis):
        y, state = model.advance(np.ascontiguousarray(piece), state)
        pieces.append(host(y))
    np.testing.assert_allclose(np.concatenate(pieces, axis), host(whole), atol=1e-6)
    slabs = [host(slab) for array in (last if isinstance(last, tuple) else (last,)) for slab in array]
    assert list(state) == [f"{key}_l{k}" for key in spec.states for k in range(spec.num_layers)]
    for slab, array in zip(slabs, state.values(), strict=True):
        np.testing.assert_allclose(host(array), slab, atol=1e-6)


def test_checked_and_quick_pieces_agree_and_a_paused_row_keeps_its_state() -> None:
    spec = SPECS["two states, two layers"]
    model = rnnc.compile(spec, spec.init(1))
    x = np.random.default_rng(0).standard_normal((4, 3, 3)).astype("float32")
    _, state = model.advance(x)
    strided = {name: np.repeat(array, 2, axis=1)[:, ::2] for name, array in state.items()}
    quick, checked = model.advance(x, state), model.advance(x, strided, lengths=[4, 4, 0])
    np.testing.assert_array_equal(quick[0][:, :2], checked[0][:, :2])
    for name, array in state.items():
        np.testing.assert_array_equal(checked[1][name][:2], quick[1][name][:2])
        np.testing.assert_array_equal(checked[1][name][2], array[2])


def test_what_is_no_piece_is_refused() -> None:
    spec = rnnc.GRU(3, 4, num_layers=2)
    model = rnnc.compile(spec, spec.init(0))
    x = np.zeros((2, 3, 3), "float32")
    _, state = model.advance(x)
    with raises_saying(rnnc.ShapeError, "x", "batch axis", "(2, 3)"):
        model.advance(x[:, 0])
    with raises_saying(rnnc.ArgumentTypeError, "state", "'h_l0', 'h_l1'", "'h_l0'"):
        model.advance(x, {"h_l0": state["h_l0"]})
    with raises_saying(rnnc.ArgumentTypeError, "state", "'h_l0'", "ndarray"):
        model.advance(x, model(x)[1])
    with raises_saying(rnnc.ShapeError, "state['h_l1']", "(3, 4)", "(2, 4)"):
        model.advance(x, state | {"h_l1": state["h_l1"][:2]})
    with raises_saying(rnnc.DtypeError, "state['h_l1']", "float64"):
        model.advance(x, state | {"h_l1": state["h_l1"].astype("float64")})
    both = rnnc.GRU(3, 4, bidirectional=True)
    with raises_saying(rnnc.ArgumentError, "advance", "bidirectional"):
        rnnc.compile(both, both.init(0)).advance(x)
