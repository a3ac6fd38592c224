"""Networks as graphs of layers: against PyTorch and NumPy, whole, ragged and streamed, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import rnnc
from rnnc.ir.equations import Value, linear, tanh
from rnnc.ir.errors import ArgumentError, ArgumentTypeError, IRError, ShapeError
from rnnc.layers.activations import FORMULAS
from tests.refusals import raises_saying

STEPS, ROWS = 9, 4
LENGTHS = (9, 1, 0, 5)


@dataclass(frozen=True)
class Smoothed(rnnc.Layer):
    """A layer with a state of its own: a running mean that forgets."""

    def states(self, *widths: int) -> dict[str, int]:
        return {"level": widths[0]}

    def step(self, x: Value, state: Any, p: Any) -> tuple[Value, dict[str, Value]]:
        level = 0.75 * state.level + 0.25 * x
        return x - level, {"level": level}


def series(width: int, dtype: str = "float64") -> Any:
    return np.random.default_rng(3).standard_normal((STEPS, ROWS, width)).astype(dtype)


def chain(*layers: Any, width: int, **options: Any) -> rnnc.Graph:
    """Layers one after the other, float64."""
    sources = ["x", *(str(number) for number in range(len(layers)))]
    entries = {str(n): (layer, sources[n]) for n, layer in enumerate(layers)}
    return rnnc.Graph({"x": width}, entries, sources[-1], dtype="float64", **options)


CONVOLUTIONS = (
    dict(kernel_size=3),
    dict(kernel_size=1, bias=False),
    dict(kernel_size=4, padding="same", dilation=2),
    dict(kernel_size=3, padding=(1, 3), dilation=2, groups=2),
    dict(kernel_size=5, groups=4, output_size=4),  # depthwise
    dict(kernel_size=2, groups=4, output_size=8),
)


@pytest.mark.parametrize("options", CONVOLUTIONS, ids=str)
def test_a_convolution_is_pytorchs(options: dict[str, Any], backend: str) -> None:
    torch = pytest.importorskip("torch")
    layer = rnnc.Conv1d(4, **({"output_size": 6} | options))
    net = chain(layer, width=4)
    params, x = net.init(1), series(4)
    peer = torch.nn.Conv1d(
        4, layer.output_size, layer.kernel_size, dilation=layer.dilation, groups=layer.groups, bias=layer.bias
    ).double()
    peer.load_state_dict({name.removeprefix("0."): torch.tensor(array) for name, array in params.items()})
    padded = torch.nn.functional.pad(torch.tensor(x).permute(1, 2, 0), layer.window)
    expected = peer(padded).permute(2, 0, 1).detach().numpy()
    np.testing.assert_allclose(net.compile(params, backend=backend)(x), expected, atol=1e-13)


STREAMED: dict[str, rnnc.Graph] = {
    "causal convolutions": chain(rnnc.Conv1d(4, 6, 3, dilation=2), Smoothed(), rnnc.Conv1d(6, 3, 2), width=4),
    "a residual around a recurrence": rnnc.Graph(
        {"x": 4},
        {
            "delay": (rnnc.Delay(2), "x"),
            "gru": (rnnc.GRU(4, 4, dtype="float64"), "x"),
            "sum": (rnnc.Add(), "gru", "delay"),
            "gate": (rnnc.Multiply(), "sum", "x"),
            "some": (rnnc.Select((3, 0, 1)), "gate"),
            "scale": (rnnc.Scale(3, bias=True), "some"),
            "norm": (rnnc.RMSNorm(3), "scale"),
        },
        ("norm", "some"),
    ),
    "readouts so far": rnnc.Graph(
        {"x": 4},
        {
            "act": (rnnc.Activation("selu"), "x"),
            "mean": (rnnc.Mean(), "act"),
            "max": (rnnc.Max(), "act"),
            "first": (rnnc.First(), "act"),
            "last": (rnnc.Last(), "act"),
            "pool": (rnnc.AttentionPooling(4), "act"),
            "shifted": (rnnc.Shift(4), "act"),
            "sum": (rnnc.Sum(), "shifted"),
            "score": (rnnc.Select((3,)), "x"),
            "scored": (rnnc.SoftmaxPooling(), "act", "score"),
        },
        ("mean", "max", "first", "last", "pool", "sum", "scored"),
        dtype="float64",
    ),
}
WHOLE = STREAMED | {
    "looking ahead": chain(rnnc.Conv1d(4, 4, 3, padding="same"), rnnc.BatchNorm(4), rnnc.Softmax(), width=4),
    "a value per sequence at every step, tied directions": rnnc.Graph(
        {"x": 4},
        {
            "mean": (rnnc.Mean(), "x"),
            "all": (rnnc.Concat(), "x", "mean"),
            "lstm": (
                rnnc.LSTM(8, 3, bidirectional=True, dtype="float64"),
                "all",
                {"weight_hh_l0": "lstm.weight_hh_l0_reverse"},
            ),
            "again": ("lstm", "all"),
            "last": (rnnc.Last(), "again"),
        },
        ("again", "last"),
    ),
}


def named(output: Any) -> dict[str, Any]:
    return output if isinstance(output, dict) else {"": output}


@pytest.mark.parametrize("name", WHOLE)
def test_a_ragged_batch_is_each_row_alone(name: str, backend: str) -> None:
    net, x = WHOLE[name], series(4)
    params = net.init(2)
    oracle = net.compile(params, backend="reference")
    x[5:, 3], x[1:, 1], x[:, 2] = np.nan, np.inf, np.nan  # padding
    found = named(net.compile(params, backend=backend)(x, lengths=LENGTHS))
    for row, length in enumerate(LENGTHS):
        alone = named(oracle(x[:length, row : row + 1])) if length else {}
        for key, value in found.items():
            mine = value[row] if value.ndim == 2 else value[:length, row]
            if length:
                np.testing.assert_allclose(mine, alone[key][0] if value.ndim == 2 else alone[key][:, 0], atol=1e-12)
            assert np.isfinite(value[row] if value.ndim == 2 else value[:, row]).all()
            assert value.ndim == 2 or not value[length:, row].any()


@pytest.mark.parametrize("name", STREAMED)
def test_pieces_give_what_the_whole_gives(name: str, backend: str) -> None:
    net, x = STREAMED[name], series(4)
    network = net.compile(net.init(2), backend=backend)
    whole, state, pieces = named(network(x)), None, []
    for start, stop in ((0, 1), (1, 2), (2, 6), (6, 9)):
        output, state = network.advance(x[start:stop], state)
        pieces.append(named(output))
    for key, value in whole.items():
        parts = [piece[key] for piece in pieces]
        np.testing.assert_allclose(np.concatenate(parts) if value.ndim == 3 else parts[-1], value, atol=1e-12)


def test_readouts_are_numpys() -> None:
    net, x = STREAMED["readouts so far"], series(4)
    params = net.init(2)
    params["shifted.bias"] += np.arange(4)
    found = net.compile(params, backend="llvm")(x)
    act = np.where(x > 0, x, 1.67326319217681884765625 * np.expm1(x)) * 1.05070102214813232421875
    weights = np.exp(act @ params["pool.weight"].T)
    pool = (weights / weights.sum(0) * act).sum(0)
    expected = {"mean": act.mean(0), "max": act.max(0), "first": act[0], "last": act[-1], "pool": pool}
    scores = np.exp(x[:, :, 3:])
    expected |= {"sum": (act + np.arange(4)).sum(0), "scored": (scores / scores.sum(0) * act).sum(0)}
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-12)


@pytest.mark.parametrize("name", FORMULAS)
def test_activations_agree_with_the_reference_far_out_too(name: str) -> None:
    net, x = chain(rnnc.Activation(name), width=8), series(8) * np.geomspace(1e-3, 300, 8)
    with np.errstate(over="ignore"):
        expected = net.compile({}, backend="reference")(x)
    # atol: 1 + tanh(x) cancels in gelu_tanh, as in PyTorch's
    np.testing.assert_allclose(net.compile({}, backend="llvm")(x), expected, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("name", WHOLE)
def test_a_graph_is_plain_data(name: str) -> None:
    net = WHOLE[name]
    if "causal" in name:
        again = rnnc.Graph.from_json(net.to_json(), trusted=[__name__])
    else:
        again = rnnc.Graph.from_json(net.to_json())
    assert again == net and hash(again) == hash(net)


GRU = rnnc.GRU(4, 4)
REFUSED: tuple[tuple[Any, type[Exception], tuple[str, ...]], ...] = (
    ({"out": (GRU, "b"), "b": (GRU, "out")}, ArgumentError, ("out", "b", "cycle")),
    ({"out": (rnnc.SoftmaxPooling(), "x", "x")}, ShapeError, ("layer 'out'", "scores of size 1", "size 4")),
    ({"out": (GRU, "y")}, ArgumentError, ("layer 'out'", "'y'", "no input and no layer")),
    ({"out": (GRU, "x", "x")}, ArgumentError, ("layer 'out'", "GRU reads 1", "got 2")),
    ({"out": GRU}, ArgumentTypeError, ("layer 'out'", "(layer, *names", "GRU")),
    ({"out": (rnnc.Linear, "x")}, ArgumentTypeError, ("layer 'out'", "call it")),
    ({"out": (rnnc.Linear(5, 2), "x")}, ShapeError, ("layer 'out'", "size 5", "size 4")),
    ({"x": (GRU, "x"), "out": (GRU, "x")}, ArgumentError, ("'x'", "input")),
    ({"a b": (GRU, "x"), "out": (GRU, "x")}, ArgumentError, ("'a b'", "no name")),
    ({"out": ("other", "x")}, ArgumentError, ("layer 'out'", "shares", "'other'")),
    ({"m": (rnnc.Mean(), "x"), "out": (GRU, "m")}, ArgumentError, ("layer 'out'", "per step", "'m'")),
    ({"out": (GRU, "x", {"c": "x"})}, ArgumentError, ("layer 'out'", "'c'", "GRU", "h")),
    ({"out": (GRU, "x", {"h": "x"})}, ShapeError, ("layer 'out'", "'h'", "per sequence", "'x'", "per step")),
    ({"out": (rnnc.Embedding(3, 4), "x")}, ArgumentError, ("layer 'out'", "Embedding", "'numbers'", "'x'")),
    ({"g": (rnnc.GRU(4, 4, dtype="float64"), "x"), "out": (GRU, "x")}, ArgumentError, ("'out'", "dtype", "'g'")),
    ({"a": (GRU, "x"), "a.h": (GRU, "x"), "out": (GRU, "a.h")}, ArgumentError, ("'a.h'", "state 'h'", "'a'")),
    ({"s": (rnnc.Select((0, 1)), "x"), "out": (rnnc.Add(), "x", "s")}, ShapeError, ("'out'", "4, 2")),
    ({"out": (rnnc.Select((4,)), "x")}, ShapeError, ("'out'", "column 4", "size 4")),
    ({"other": (GRU, "x")}, ArgumentError, ("outputs", "'out'")),
    ({"g": (GRU, "x"), "out": (GRU, "x", {"bias": "g.h"})}, ArgumentError, ("'out'", "'bias'", "bias_ih_l0")),
    ({"g": (GRU, "x"), "out": (GRU, "x", {"bias_ih_l0": "g.bias"})}, ArgumentError, ("'out'", "'g.bias'", "holds")),
    ({"g": (GRU, "x"), "out": (GRU, "x", {"bias_ih_l0": "out.bias_hh_l0", "bias_hh_l0": "out.bias_ih_l0"})},
        ArgumentError, ("'out'", "tied", "holds itself")),
    ({"g": (GRU, "x"), "out": (GRU, "x", {"bias_ih_l0": "g.weight_ih_l0"})}, ShapeError, ("(12,)", "(12, 4)")),
    ({"g": (GRU, "x"), "out": ("g", "x", {"bias_ih_l0": "g.bias_hh_l0"})}, ArgumentError, ("'out'", "'g'", "tie")),
)  # fmt: skip


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_what_does_not_fit_is_refused(number: int) -> None:
    layers, error, words = REFUSED[number]
    with raises_saying(error, *words):
        rnnc.Graph({"x": 4}, layers, "out")


def test_arguments_of_layers_are_checked() -> None:
    for make, words in (
        (lambda: rnnc.Conv1d(4, 6, 3, groups=4), ("groups", "output_size = 6", "4")),
        (lambda: rnnc.Conv1d(4, 6, 3, padding=(1, 2, 3)), ("padding", "(before, after)", "3 numbers")),
        (lambda: rnnc.Activation("rellu"), ("name", "'relu'", "'rellu'")),
        (lambda: rnnc.Activation("relu", alpha=0.1), ("alpha", "relu has no alpha")),
        (lambda: rnnc.Select(()), ("columns", "at least one")),
    ):
        with raises_saying(ArgumentError, *words):
            make()


def test_equations_that_break_their_word_are_refused() -> None:
    class Wider(rnnc.Layer):
        def step(self, x: Any, state: Any, p: Any) -> Any:
            return x[:, :2]

    with raises_saying(IRError, "Wider", "its output", "4"):
        chain(Wider(), width=4).compile({}, backend="reference")


def test_calls_with_wrong_inputs_are_refused() -> None:
    net = rnnc.Graph({"a": 2, "b": 3}, {"out": (rnnc.Concat(), "a", "b")}, "out")
    network = net.compile({}, backend="llvm")
    a, b = np.zeros((5, 2, 2), np.float32), np.zeros((5, 2, 3), np.float32)
    with raises_saying(ArgumentTypeError, "x", "'a', 'b'"):
        network(a)
    with raises_saying(ArgumentTypeError, "x", "'a', 'b'", "'c'"):
        network({"a": a, "c": b})
    for call in (network, lambda x: rnnc.vjp(net)({}, x)):
        with raises_saying(ShapeError, "as many steps", "'a': (5, 2, 2)", "'b': (4, 2, 3)"):
            call({"a": a, "b": b[1:]})
    late = WHOLE["a value per sequence at every step, tied directions"]
    one_way = rnnc.Graph({"x": 4}, {"m": (rnnc.Mean(), "x"), "out": (rnnc.Concat(), "x", "m")}, "out", dtype="float64")
    for waiting in (late, one_way):
        with raises_saying(ArgumentError, "advance", "a value per sequence"):
            waiting.compile(waiting.init(), backend="reference").advance(series(4))


@dataclass(frozen=True)
class Doubled(rnnc.Cell):
    """A cell whose output is no state."""

    name = "doubled"

    def step(self, x: Value, state: Any, p: Any) -> tuple[Value, dict[str, Value]]:
        h = tanh(linear(x, p.weight_ih, p.bias_ih) + linear(state.h, p.weight_hh, p.bias_hh))
        return 2.0 * h, {"h": h}


@pytest.mark.parametrize("cell", (Doubled(), rnnc.cells.GRUCell()))
def test_the_last_output_stays_while_a_row_has_no_steps(cell: rnnc.Cell, backend: str) -> None:
    net = chain(rnnc.Recurrent(cell, 4, 3, dtype="float64"), rnnc.Last(), width=4)
    network = net.compile(net.init(), backend=backend)
    whole, (_, state) = network(series(4)), network.advance(series(4))
    found, _ = network.advance(series(4)[:1], state, lengths=[0, 1, 0, 1])
    np.testing.assert_allclose(found[[0, 2]], whole[[0, 2]], rtol=1e-12)
    assert (found[[1, 3]] != whole[[1, 3]]).all()


class Odd(rnnc.Layer):
    """A layer that declares what a case says."""

    def __init__(self, **declared: Any) -> None:
        self.declared = declared
        self.inputs = declared.get("inputs", 1)  # type: ignore[misc]

    @property
    def window(self) -> tuple[int, int]:
        window: tuple[int, int] = self.declared.get("window", (0, 0))
        return window

    def output_width(self, *widths: int) -> int:
        width: int = self.declared.get("width", widths[0])
        return width

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        return dict(self.declared.get("parameters", {}))

    def states(self, *widths: int) -> dict[str, int]:
        return dict(self.declared.get("states", {}))

    def noise(self, *widths: int) -> dict[str, rnnc.layers.Noise]:
        return {name: rnnc.layers.Noise(1, 0.5) for name in self.declared.get("noise", ())}


@pytest.mark.parametrize(
    ("declared", "words"),
    (
        ({"width": 0}, ("output_width", "0")),
        ({"parameters": {"w": (3, 0)}}, ("a size of w", "0")),
        ({"parameters": {"a.b": (3,)}}, ("'a.b'", "identifier")),
        ({"parameters": {"w": (1, 1, 1, 1)}}, ("the shape of w", "3 sizes")),
        ({"states": {"s": -1}}, ("the width of state s", "-1")),
        ({"states": {"past": 4}, "window": (1, 0)}, ("'past'", "window")),
        ({"noise": ("w",), "parameters": {"w": (1,)}}, ("'w'", "parameter", "noise")),
        ({"window": (-1, 0)}, ("window", "-1")),
        ({"window": (1, 0), "inputs": None}, ("window", "reads one value", "None")),
    ),
)
def test_a_layer_that_declares_nonsense_is_refused(declared: dict[str, Any], words: tuple[str, ...]) -> None:
    with raises_saying(ArgumentError, "layer 'out', Odd", *words):
        rnnc.Graph({"x": 4}, {"out": (Odd(**declared), "x")}, "out")


TRAINED = {
    "norm": (rnnc.Conv1d(3, 4, 3), rnnc.LayerNorm(4), rnnc.GRU(4, 4), rnnc.Mean()),
    "attention": (rnnc.Conv1d(3, 4, 3, padding="same"), rnnc.PReLU(), rnnc.AttentionPooling(4)),
}


@pytest.mark.parametrize("layers", TRAINED.values(), ids=TRAINED)
def test_such_networks_train_alike_on_every_backend(layers: tuple[Any, ...], backend: str) -> None:
    net = rnnc.Sequential(*layers, rnnc.Linear(4, 2))
    rng = np.random.default_rng(0)
    data = [(rng.standard_normal((t, 3)).astype("f4"), rng.standard_normal(2).astype("f4")) for t in (6, 3, 1, 5)]
    adam = rnnc.optimizers.Adam(1e-2)
    found, expected = (
        rnnc.train.fit(
            net, data, loss="mse", optimizer=adam, epochs=3, batch_size=2, seed=1, progress=False, backend=name
        )
        for name in (backend, "reference")
    )
    for name, array in expected.params.items():
        np.testing.assert_allclose(found.params[name], array, atol=1e-4)
