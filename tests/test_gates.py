"""Weights in other libraries' layouts give what those libraries' documented equations give, written here in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import rnnc
from rnnc import gates
from tests.refusals import raises_saying

N, H, T, B = 3, 4, 5, 2  # widths of x and h, steps, rows
RNG = np.random.default_rng(3)
X = RNG.standard_normal((T, B, N))


def array(*shape: int) -> Any:
    return RNG.standard_normal(shape)


def sigmoid(a: Any) -> Any:
    return 1 / (1 + np.exp(-a))


def over_time(step: Any, x: Any, states: int) -> Any:
    """The output of a function step(x, *states) -> states, whose first state is the output."""
    state, outputs = (np.zeros((B, H)),) * states, []
    for x_t in x:
        state = step(x_t, *state)
        outputs.append(state[0])
    return np.stack(outputs)


def assert_runs(kind: str, params: Any, expected: Any, **options: Any) -> None:
    """Compiled, the parameters give the expected output."""
    spec = getattr(rnnc, kind)(N, H, dtype="float64", bias="bias_ih_l0" in params, **options)
    found = rnnc.compile(spec, params, backend="reference")(X)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)


# ---- Keras: y = x @ kernel, gates side by side


def keras_lstm(kernel: Any, recurrent: Any, bias: Any) -> Any:
    """https://keras.io/api/layers/recurrent_layers/lstm: gates i, f, c, o."""

    def step(x: Any, h: Any, c: Any) -> Any:
        i, f, g, o = np.split(x @ kernel + h @ recurrent + bias, 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        return sigmoid(o) * np.tanh(c), c

    return over_time(step, X, 2)


def keras_gru(kernel: Any, recurrent: Any, bias: Any, recurrent_bias: Any = None) -> Any:
    """https://keras.io/api/layers/recurrent_layers/gru: gates z, r, h; recurrent_bias: with reset_after=True."""

    def step(x: Any, h: Any) -> Any:
        xz, xr, xh = np.split(x @ kernel + bias, 3, axis=1)
        if recurrent_bias is None:
            uz, ur, uh = np.split(recurrent, 3, axis=1)
            z, r = sigmoid(xz + h @ uz), sigmoid(xr + h @ ur)
            n = np.tanh(xh + (r * h) @ uh)
        else:
            hz, hr, hh = np.split(h @ recurrent + recurrent_bias, 3, axis=1)
            z, r = sigmoid(xz + hz), sigmoid(xr + hr)
            n = np.tanh(xh + r * hh)
        return (z * h + (1 - z) * n,)

    return over_time(step, X, 1)


def test_keras() -> None:
    kernel, recurrent, bias = array(N, 4 * H), array(H, 4 * H), array(4 * H)
    assert_runs("LSTM", gates.from_keras("LSTM", kernel, recurrent, bias), keras_lstm(kernel, recurrent, bias))
    assert_runs("LSTM", gates.from_keras("LSTM", kernel, recurrent), keras_lstm(kernel, recurrent, 0))
    kernel, recurrent, bias = array(N, 3 * H), array(H, 3 * H), array(2, 3 * H)
    after = keras_gru(kernel, recurrent, *bias)
    assert_runs("GRU", gates.from_keras("GRU", kernel, recurrent, bias), after)
    before = keras_gru(kernel, recurrent, bias[0])
    assert_runs("GRU", gates.from_keras("GRU", kernel, recurrent, bias[0]), before, reset_after=False)
    kernel, recurrent, bias = array(N, H), array(H, H), array(H)
    simple = over_time(lambda x, h: (np.tanh(x @ kernel + h @ recurrent + bias),), X, 1)
    assert_runs("RNN", gates.from_keras("RNN", kernel, recurrent, bias), simple)


def test_cudnn_layers_of_keras() -> None:
    """cuDNN reads the numbers of a gate's block, in their order in memory, as a matrix (rows out, columns in)."""
    for kind, count in (("LSTM", 4), ("GRU", 3)):
        kernel, recurrent, bias = array(N, count * H), array(H, count * H), array(2 * count * H)
        plain = [
            np.hstack([block.ravel().reshape(H, -1).T for block in np.split(given, count, axis=1)])
            for given in (kernel, recurrent)
        ]
        b_ih, b_hh = np.split(bias, 2)
        expected = keras_lstm(*plain, b_ih + b_hh) if kind == "LSTM" else keras_gru(*plain, b_ih, b_hh)
        assert_runs(kind, gates.from_cudnn(kind, kernel, recurrent, bias), expected)


# ---- ONNX: y = x @ W', gates one below the other


def onnx_step(kind: str, w: Any, r: Any, b: Any, after: int) -> Any:
    """https://onnx.ai/onnx/operators: the equations of RNN, GRU (zrh) and LSTM (iofc). after: linear_before_reset."""
    wb, rb = np.split(b, 2)

    def rnn(x: Any, h: Any) -> Any:
        return (np.tanh(x @ w.T + h @ r.T + wb + rb),)

    def gru(x: Any, h: Any) -> Any:
        (wz, wr, wh), (rz, rr, rh) = np.split(w, 3), np.split(r, 3)
        (bz, br, bh), (cz, cr, ch) = np.split(wb, 3), np.split(rb, 3)
        z, reset = sigmoid(x @ wz.T + h @ rz.T + bz + cz), sigmoid(x @ wr.T + h @ rr.T + br + cr)
        past = reset * (h @ rh.T + ch) if after else (reset * h) @ rh.T + ch
        return ((1 - z) * np.tanh(x @ wh.T + past + bh) + z * h,)

    def lstm(x: Any, h: Any, c: Any) -> Any:
        i, o, f, g = np.split(x @ w.T + h @ r.T + wb + rb, 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        return sigmoid(o) * np.tanh(c), c

    return {"RNN": rnn, "GRU": gru, "LSTM": lstm}[kind]


@pytest.mark.parametrize("directions", (1, 2))
@pytest.mark.parametrize(("kind", "count", "after"), (("RNN", 1, 0), ("GRU", 3, 0), ("GRU", 3, 1), ("LSTM", 4, 0)))
def test_onnx(kind: str, count: int, after: int, directions: int) -> None:
    w, r = array(directions, count * H, N), array(directions, count * H, H)
    b = array(directions, 2 * count * H)
    states = 2 if kind == "LSTM" else 1
    forward = over_time(onnx_step(kind, w[0], r[0], b[0], after), X, states)
    both = [forward]
    if directions == 2:
        both.append(over_time(onnx_step(kind, w[1], r[1], b[1], after), X[::-1], states)[::-1])
    options: dict[str, Any] = {"reset_after": bool(after)} if kind == "GRU" else {}
    params = gates.from_onnx(kind, w, r, b)
    assert_runs(kind, params, np.concatenate(both, axis=2), bidirectional=directions == 2, **options)


# ---- DyNet, from its sources: lstm.cc, nodes-lstm.cc, gru.cc


@pytest.mark.parametrize("forget_bias", (1.0, 0.0))
def test_dynet_lstm(forget_bias: float) -> None:
    wx, wh, b = array(4 * H, N), array(4 * H, H), array(4 * H)

    def step(x: Any, h: Any, c: Any) -> Any:
        i, f, o, g = np.split(x @ wx.T + h @ wh.T + b, 4, axis=1)
        c = sigmoid(f + forget_bias) * c + sigmoid(i) * np.tanh(g)
        return sigmoid(o) * np.tanh(c), c

    before = b.copy()
    params = gates.from_dynet("LSTM", wx, wh, b, forget_bias=forget_bias)
    assert_runs("LSTM", params, over_time(step, X, 2))
    np.testing.assert_array_equal(b, before)


def test_dynet_gru() -> None:
    wz, uz, bz, wr, ur, br, wh, uh, bh = given = [
        part for _ in range(3) for part in (array(H, N), array(H, H), array(H))
    ]

    def step(x: Any, h: Any) -> Any:
        z, r = sigmoid(x @ wz.T + h @ uz.T + bz), sigmoid(x @ wr.T + h @ ur.T + br)
        n = np.tanh(x @ wh.T + (r * h) @ uh.T + bh)
        return ((1 - z) * h + z * n,)

    assert_runs("GRU", gates.from_dynet("GRU", *given), over_time(step, X, 1), reset_after=False)


def test_cells_of_torch() -> None:
    torch = pytest.importorskip("torch")
    for kind, count in (("RNN", 1), ("GRU", 3), ("LSTM", 4)):
        for bias in (True, False):
            cell = getattr(torch.nn, f"{kind}Cell")(N, H, bias=bias, dtype=torch.float64)
            step = cell if kind == "LSTM" else lambda x, h, cell=cell: (cell(x, h),)
            with torch.no_grad():
                state, outputs = (torch.zeros(B, H, dtype=torch.float64),) * (2 if kind == "LSTM" else 1), []
                for x in torch.tensor(X):
                    state = step(x, state) if kind == "LSTM" else step(x, *state)
                    outputs.append(state[0].numpy())
            assert count * H == len(cell.weight_hh)
            assert_runs(kind, gates.from_cell(cell.state_dict()), np.stack(outputs))


def test_names_say_layer_and_direction() -> None:
    kernel, recurrent = array(N, H), array(H, H)
    assert set(gates.from_keras("RNN", kernel, recurrent, layer=2, reverse=True)) == {
        "weight_ih_l2_reverse",
        "weight_hh_l2_reverse",
    }
    assert "bias_hh_l1_reverse" in gates.from_onnx("RNN", array(2, H, N), array(2, H, H), array(2, 2 * H), layer=1)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: gates.from_keras("Lstm", array(N, 4), array(1, 4)), ["kind", "'RNN' or 'GRU' or 'LSTM'", "'Lstm'"]),
        (lambda: gates.from_keras("LSTM", array(4 * H, N), array(4 * H, H)), ["kernel", "(I, 4 H)", "(16, 3)"]),
        (lambda: gates.from_keras("GRU", array(N, 12), array(H, 12), array(24)), ["(12,) or (2, 12)", "from_cudnn"]),
        (lambda: gates.from_keras("LSTM", array(N, 16), array(H, 16), array(2, 16)), ["bias", "(16,)", "(2, 16)"]),
        (lambda: gates.from_cudnn("GRU", array(N, 12), array(H, 12), array(2, 12)), ["bias", "1 axes"]),
        (lambda: gates.from_cudnn("GRU", array(N, 12), array(H, 12), array(12)), ["(24,)", "from_keras"]),
        (lambda: gates.from_onnx("GRU", array(16, 3), array(16, 4)), ["W", "3 axes"]),
        (lambda: gates.from_onnx("GRU", array(1, 16, 3), array(1, 16, 4)), ["W (D, 3 H, I)", "(1, 16, 3)"]),
        (lambda: gates.from_dynet("GRU", array(H, N)), ["expected the 9 arrays", "got 1"]),
        (lambda: gates.from_dynet("LSTM", array(8, N), array(8, H), array(8)), ["4 gates"]),
        (lambda: gates.from_cell({"weight_ih_l0": array(4, 4)}), ["state", "weight_ih, weight_hh", "weight_ih_l0"]),
        (lambda: gates.from_keras("RNN", [[1.0]], array(1, 1)), ["kernel", "expected a NumPy array"]),
    ],
)
def test_what_does_not_fit_is_refused(call: Any, words: list[str]) -> None:
    with raises_saying(rnnc.RnncError, *words):
        call()
