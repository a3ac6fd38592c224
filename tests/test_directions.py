"""Recurrent layers that run backwards only, and those with another cell in each direction."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import rnnc
from rnnc.cells import Cell, ElmanCell, GRUCell, LSTMCell

Array = np.ndarray[Any, np.dtype[Any]]
LENGTHS = [5, 2, 0]


def turned(x: Array) -> Array:
    """Each row from its own last step to its first."""
    y = x.copy()
    for row, n in enumerate(LENGTHS):
        y[:n, row] = x[:n, row][::-1]
    return y


def numbers(*shape: int) -> Array:
    return np.random.default_rng(0).standard_normal(shape)


@pytest.mark.parametrize("cell", (ElmanCell("relu"), GRUCell(), LSTMCell()), ids=lambda cell: cell.name)
def test_reverse_is_forward_on_turned_rows(cell: Cell, backend: str) -> None:
    spec = rnnc.Recurrent(cell, 4, 6, dtype="float64", reverse=True)
    params, x = spec.init(0), numbers(5, 3, 4)
    output, state = rnnc.compile(spec, params, backend=backend)(x, lengths=LENGTHS)
    forward = rnnc.compile(rnnc.Recurrent(cell, 4, 6, dtype="float64"), params, backend="reference")
    expected, last = forward(turned(x), lengths=LENGTHS)
    np.testing.assert_allclose(output, turned(expected), rtol=0, atol=1e-13)
    np.testing.assert_allclose(np.stack(state), np.stack(last), rtol=0, atol=1e-13)


def test_the_gradient_of_reverse_is_that_of_forward_on_turned_rows() -> None:
    reverse = rnnc.Recurrent(GRUCell(), 4, 6, dtype="float64", reverse=True)
    params, x, g = reverse.init(0), numbers(5, 3, 4), numbers(5, 3, 6)
    _, pullback = rnnc.vjp(reverse)(params, x, lengths=LENGTHS)
    _, expected = rnnc.vjp(rnnc.Recurrent(GRUCell(), 4, 6, dtype="float64"))(params, turned(x), lengths=LENGTHS)
    d_params, d_x, _ = pullback(g)
    e_params, e_x, _ = expected(turned(g))
    np.testing.assert_allclose(d_x, turned(e_x), rtol=0, atol=1e-13)
    for name, array in d_params.items():
        np.testing.assert_allclose(array, e_params[name], rtol=0, atol=1e-13)


def test_each_direction_has_its_own_cell() -> None:
    spec = rnnc.Recurrent(ElmanCell(), 4, 6, dtype="float64", bidirectional=True, backward=ElmanCell("relu"))
    params, x = spec.init(0), numbers(5, 3, 4)
    output, state = rnnc.compile(spec, params)(x, lengths=LENGTHS)
    for number, (cell, reverse) in enumerate(((ElmanCell(), False), (ElmanCell("relu"), True))):
        suffix = "_reverse" if reverse else ""
        alone = rnnc.Recurrent(cell, 4, 6, dtype="float64", reverse=reverse)
        own = {name: params[name + suffix] for name in alone.parameter_shapes()}
        expected, last = rnnc.compile(alone, own)(x, lengths=LENGTHS)
        np.testing.assert_allclose(output[:, :, 6 * number : 6 * number + 6], expected, rtol=0, atol=1e-13)
        np.testing.assert_allclose(np.asarray(state)[number], np.asarray(last)[0], rtol=0, atol=1e-13)


def test_a_network_that_runs_backwards_takes_no_pieces() -> None:
    net = rnnc.Graph({"x": 4}, {"last": (rnnc.Recurrent(GRUCell(), 4, 6, reverse=True), "x")}, "last")
    assert not net.causal
    with pytest.raises(rnnc.ArgumentError, match="cannot be cut in time"):
        rnnc.vjp(rnnc.Recurrent(GRUCell(), 4, 6, reverse=True), remat="sqrt")


@pytest.mark.parametrize("spec", ({"reverse": True}, {"bidirectional": True, "backward": ElmanCell("relu")}))
def test_plain_data(spec: dict[str, Any]) -> None:
    made = rnnc.Recurrent(ElmanCell(), 4, 6, **spec)
    assert rnnc.Spec.from_json(made.to_json()) == made != rnnc.Recurrent(ElmanCell(), 4, 6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    (
        ({"reverse": True, "bidirectional": True}, "has a reverse direction already"),
        ({"backward": GRUCell()}, "only a layer with bidirectional=True"),
        ({"backward": LSTMCell(), "bidirectional": True}, "backward: states is .*'c': 6.*they must be the same"),
        ({"reverse": 1}, "reverse: expected True or False"),
        ({"backward": "gru"}, "backward: expected an instance of a subclass of rnnc.Cell"),
    ),
)
def test_what_does_not_fit_is_said(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(rnnc.RnncError, match=message):
        rnnc.Recurrent(GRUCell(), 4, 6, **arguments)
