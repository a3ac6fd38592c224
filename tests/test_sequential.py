"""Whole networks: their specs, their scores against PyTorch, and the noise of training."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

import rnnc
from rnnc.backends.reference.interpreter import run_graph
from rnnc.ir.computation import Computation
from rnnc.ir.equations import Value, linear, sigmoid, tanh
from rnnc.ir.errors import ArgumentError, ArgumentTypeError, DtypeError, LengthError, ParameterError, ShapeError
from rnnc.ir.ragged import check_rows_end
from rnnc.ir.text import parse_graph, print_graph
from rnnc.ir.verify import verify
from rnnc.networks.lowering import lower_network, masks
from tests.refusals import raises_saying
from tests.training_data import CLASSES, WORDS, tagger

READOUTS = ("every", "last", "mean")
CELLS = {"rnn": rnnc.RNN, "gru": rnnc.GRU, "lstm": rnnc.LSTM}


def numbers(steps: int = 6, rows: int = 4) -> Any:
    return np.random.default_rng(1).integers(0, WORDS, (steps, rows))


# -- specs --------------------------------------------------------------------------------------------


def test_parameters_are_named_and_shaped_as_in_pytorch() -> None:
    pytest.importorskip("torch")
    from tests.torch_network import TorchNetwork

    model = rnnc.Sequential(
        rnnc.Embedding(7, 4, padding_index=2), rnnc.Dropout(0.1), rnnc.LSTM(4, 5, 2, bidirectional=True),
        rnnc.Linear(10, 6), rnnc.GRU(6, 3), rnnc.Linear(3, 2, bias=False),
    )  # fmt: skip
    peer = TorchNetwork(model, model.init(0))  # load_state_dict is strict
    assert list(peer.state_dict()) == list(model.parameter_shapes())
    assert not model.init(0)["0.weight"][2].any()


def test_initial_parameters_have_pytorchs_distributions() -> None:
    model = rnnc.Sequential(rnnc.Embedding(400, 50), rnnc.GRU(50, 64), rnnc.Linear(64, 100))
    params = model.init(0)
    assert params["0.weight"].std() == pytest.approx(1, abs=0.02)
    assert params["0.weight"].mean() == pytest.approx(0, abs=0.02)
    for name in ("1.weight_hh_l0", "1.bias_ih_l0", "2.weight", "2.bias"):
        assert 0.9 / 8 < np.abs(params[name]).max() <= 1 / 8, name
    again, other = model.init(0), model.init(1)
    assert all(np.array_equal(params[k], again[k]) and not np.array_equal(params[k], other[k]) for k in params)
    assert {a.dtype.name for a in params.values()} == {"float32"}


def test_a_network_is_a_value_and_plain_data() -> None:
    model = rnnc.Sequential(
        rnnc.Embedding(7, 4, 1),
        rnnc.Regularized(rnnc.GRU(4, 5, dropout=0.1, num_layers=2), recurrent_dropout=0.2, zoneout=0.1),
        rnnc.Dropout(0.5, variational=True),
        rnnc.Linear(5, 3),
        readout="mean",
    )
    again = rnnc.Sequential.from_json(model.to_json())
    assert again == model and hash(again) == hash(model) and repr(again) == repr(model)
    assert eval(repr(model), vars(rnnc) | {n: getattr(rnnc, n) for n in rnnc.__all__}) == model
    assert again != tagger()


@pytest.mark.parametrize(
    ("layers", "words"),
    (
        ((rnnc.Activation("relu"), rnnc.Dropout(0.1)), ("how wide x is", "rnnc.Graph")),
        ((), ("at least one",)),
        ((rnnc.GRU(3, 4), rnnc.Linear(5, 2)), ("layer 1, Linear", "size 5", "layer 0, GRU", "size 4")),
        ((rnnc.GRU(3, 4, bidirectional=True), rnnc.Dropout(0.1), rnnc.LSTM(4, 4)), ("layer 2, LSTM", "size 8")),
        ((rnnc.GRU(3, 4), rnnc.Embedding(5, 4)), ("layer 1", "Embedding", "first")),
        ((rnnc.GRU(3, 4), rnnc.GRU(4, 4, dtype="float64")), ("layer 1, GRU", "dtype", "'float64'", "'float32'")),
        ((rnnc.GRU(3, 4), rnnc.GRU(4, 4, batch_first=True)), ("layer 1, GRU", "batch_first")),
    ),
)
def test_layers_that_do_not_fit_are_refused(layers: tuple[Any, ...], words: tuple[str, ...]) -> None:
    with raises_saying(ArgumentError, *words):
        rnnc.Sequential(*layers)


def test_what_is_no_layer_is_refused() -> None:
    with raises_saying(ArgumentTypeError, "layer 0", "call it"):
        rnnc.Sequential(rnnc.GRU)  # type: ignore[arg-type]
    with raises_saying(ArgumentError, "readout", "'first'"):
        rnnc.Sequential(rnnc.GRU(3, 4), readout="first")
    with raises_saying(ArgumentError, "p", "[0, 1)", "1"):
        rnnc.Dropout(1.0)
    with raises_saying(ArgumentError, "padding_index", "7"):
        rnnc.Embedding(7, 3, 7)
    with raises_saying(ArgumentTypeError, "spec", "Linear"):
        rnnc.Regularized(rnnc.Linear(3, 4))  # type: ignore[arg-type]


# -- scores -------------------------------------------------------------------------------------------


@pytest.mark.sampled(2)
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("lengths", (None, [6, 1, 4, 6]))
def test_scores_agree_with_pytorch(cell: str, readout: str, lengths: list[int] | None, backend: str) -> None:
    pytest.importorskip("torch")
    from tests.torch_network import TorchNetwork

    model = tagger(readout=readout, cell=CELLS[cell])
    params = model.init(0)
    found = model.compile(params, backend=backend)(numbers(), lengths=lengths)
    peer = TorchNetwork(model, params)
    expected = peer.scores(numbers(), None if lengths is None else np.array(lengths)).detach().numpy()
    if readout == "every" and lengths is not None:
        valid = np.arange(6)[:, None] < np.array(lengths)
        assert not found[~valid].any()
        found, expected = found[valid], expected[valid]
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("readout", READOUTS)
def test_batch_first_and_vectors_in_place_of_numbers(readout: str, backend: str) -> None:
    model = rnnc.Sequential(
        rnnc.LSTM(4, 5, batch_first=True, dtype="float64"), rnnc.Linear(5, CLASSES), readout=readout
    )
    plain = rnnc.Sequential(rnnc.LSTM(4, 5, dtype="float64"), rnnc.Linear(5, CLASSES), readout=readout)
    params = model.init(0)
    x = np.random.default_rng(0).standard_normal((6, 3, 4))
    expected = plain.compile(params, backend=backend)(x, lengths=[6, 2, 5])
    found = model.compile(params, backend=backend)(x.swapaxes(0, 1), lengths=[6, 2, 5])
    np.testing.assert_array_equal(found.swapaxes(0, 1) if readout == "every" else found, expected)


def test_a_sequence_may_come_in_pieces(backend: str) -> None:
    network = tagger(cell=rnnc.LSTM, bidirectional=False).compile(
        tagger(cell=rnnc.LSTM, bidirectional=False).init(0), backend=backend
    )
    x = numbers(7)
    first, state = network.advance(x[:3])
    second, _ = network.advance(x[3:], state)
    np.testing.assert_allclose(np.concatenate([first, second]), network(x), rtol=1e-13)


def test_rows_without_steps_and_batches_without_rows(backend: str) -> None:
    for readout in READOUTS:
        model = tagger(readout=readout)
        network = model.compile(model.init(0), backend=backend)
        found = network(numbers(), lengths=[0, 6, 0, 3])
        assert np.isfinite(found).all()
        empty = network(np.zeros((5, 0), np.int64))
        assert empty.shape == ((5, 0, CLASSES) if readout == "every" else (0, CLASSES))


@dataclass(frozen=True)
class Sharpened(rnnc.Cell):
    """A cell whose output is not its state."""

    name: ClassVar[str] = "sharpened"

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> tuple[Value, dict[str, Value]]:
        h = tanh(linear(x, p.weight_ih, p.bias_ih) + linear(state.h, p.weight_hh, p.bias_hh))
        return sigmoid(4 * h), {"h": h}


def test_the_last_output_of_a_cell_whose_output_is_no_state(backend: str) -> None:
    spec = rnnc.Recurrent(Sharpened(), 4, 5, bidirectional=True, dtype="float64")
    every, last = rnnc.Sequential(spec), rnnc.Sequential(spec, readout="last")
    params = every.init(0)
    x = np.random.default_rng(0).standard_normal((6, 3, 4))
    outputs = every.compile(params, backend=backend)(x, lengths=[6, 2, 4])
    found = last.compile(params, backend=backend)(x, lengths=[6, 2, 4])
    for row, length in enumerate((6, 2, 4)):
        expected = np.concatenate([outputs[length - 1, row, :5], outputs[0, row, 5:]])
        np.testing.assert_allclose(found[row], expected, rtol=1e-13)


def test_wrong_calls_are_refused() -> None:
    model = tagger(dtype="float32")
    params = model.init(0)
    network = model.compile(params, backend="reference")
    with raises_saying(ArgumentTypeError, "x", "Embedding", "integers", "float64"):
        network(np.zeros((3, 2)))
    with raises_saying(ShapeError, "x", "(T, B)", "(3,)"):
        network(np.zeros(3, np.int64))
    with raises_saying(ArgumentError, "x", f"0..{WORDS - 1}"):
        network(np.full((3, 2), WORDS))
    with raises_saying(LengthError, "lengths", "4"):
        network(np.zeros((3, 2), np.int64), lengths=[1, 4])
    with raises_saying(ShapeError, "x", "at least one"):
        network(np.zeros((0, 2), np.int64))
    with raises_saying(ArgumentError, "advance", "one direction"):
        network.advance(np.zeros((3, 2), np.int64))
    forward = rnnc.Sequential(rnnc.GRU(3, 4))
    with raises_saying(ArgumentTypeError, "state"):
        forward.compile(forward.init(0), backend="reference").advance(np.zeros((3, 2, 3), np.float32), {})
    with raises_saying(ParameterError, "missing", "'0.weight'"):
        model.compile({k: v for k, v in params.items() if k != "0.weight"}, backend="reference")
    vectors = rnnc.Sequential(rnnc.GRU(3, 4))
    with raises_saying(DtypeError, "x", "float32", "float64"):
        vectors.compile(vectors.init(0), backend="reference")(np.zeros((3, 2, 3)))


# -- the noise of training ----------------------------------------------------------------------------


def noisy(spec: Any, **noise: Any) -> rnnc.Sequential:
    return rnnc.Sequential(rnnc.Regularized(spec, **noise))


def trained_output(model: rnnc.Sequential, params: Any, x: Any, drawn: dict[str, Any]) -> Any:
    """The output in training, of the masks given."""
    graph = verify(lower_network(model, len(x), training=True))
    zeros = {
        node.attr("name"): np.zeros((x.shape[1], node.shape[1]))
        for node in graph.nodes
        if node.op == "input" and ".0_l" in node.attr("name")
    }
    return run_graph(graph, params | zeros | {"x": x} | drawn)["output"]


def test_masks_of_a_network_are_listed_in_order() -> None:
    model = rnnc.Sequential(
        rnnc.Embedding(7, 4),
        rnnc.Dropout(0.1),
        rnnc.Regularized(rnnc.LSTM(4, 5, 2, dropout=0.2, bidirectional=True), recurrent_dropout=0.3, zoneout=0.4),
        rnnc.Dropout(0.0),
        rnnc.Linear(10, 3),
        rnnc.Dropout(0.5, variational=True),
        readout="last",
    )
    found = {mask.name: mask for mask in masks(model)}
    assert len(found) == 1 + 1 + 8 + 8 + 1
    assert len({mask.number for mask in found.values()}) == len(found)
    assert found["mask_1"].width == 4 and found["mask_2_l1"].width == 10 and found["mask_5"].width == 3
    assert found["recurrent_mask_2_h_l1_reverse"].fixed and not found["zoneout_2_c_l0"].keep
    assert found["mask_1"].timed and not found["mask_5"].timed


def test_dropout_between_layers_is_where_pytorch_has_it() -> None:
    """A mask of zeros between the layers leaves the second with its bias alone."""
    spec = rnnc.GRU(4, 5, 2, dropout=0.5, dtype="float64")
    model = rnnc.Sequential(spec)
    params, x = model.init(0), np.random.default_rng(0).standard_normal((3, 2, 4))
    ones = trained_output(model, params, x, {"mask_0_l1": np.ones((3, 2, 5))})
    np.testing.assert_allclose(ones, model.compile(params, backend="reference")(x), rtol=1e-13)
    alone = {name.replace("_l1", "_l0"): array for name, array in params.items() if name.endswith("_l1")}
    second = rnnc.Sequential(rnnc.GRU(5, 5, dtype="float64"))
    zeros = trained_output(model, params, x, {"mask_0_l1": np.zeros((3, 2, 5))})
    expected = second.compile(alone, backend="reference")(np.zeros((3, 2, 5)))
    np.testing.assert_allclose(zeros, expected, rtol=1e-13)


def test_recurrent_dropout_masks_states_where_they_enter_a_product() -> None:
    """By hand, of a GRU: the products see h * mask, the leak z * h sees h."""
    model = noisy(rnnc.GRU(4, 5, dtype="float64"), recurrent_dropout=0.5)
    params, rng = model.init(0), np.random.default_rng(0)
    x, mask = rng.standard_normal((4, 3, 4)), np.where(rng.random((3, 5)) < 0.5, 0, 2.0)
    found = trained_output(model, params, x, {"recurrent_mask_0_h_l0": np.broadcast_to(mask, (4, 3, 5))})

    def logistic(v: Any) -> Any:
        return 1 / (1 + np.exp(-v))

    h = np.zeros((3, 5))
    for t in range(4):
        xr, xz, xn = np.split(x[t] @ params["0.weight_ih_l0"].T + params["0.bias_ih_l0"], 3, axis=1)
        hr, hz, hn = np.split((h * mask) @ params["0.weight_hh_l0"].T + params["0.bias_hh_l0"], 3, axis=1)
        z = logistic(xz + hz)
        h = (1 - z) * np.tanh(xn + logistic(xr + hr) * hn) + z * h
        np.testing.assert_allclose(found[t], h, rtol=1e-12)


def test_recurrent_dropout_reaches_products_through_gates() -> None:
    """Of the form whose reset gate acts before the product: r * h enters it, so r * (h * mask) must."""
    spec = rnnc.GRU(4, 5, reset_after=False, dtype="float64")
    model = noisy(spec, recurrent_dropout=0.5)
    params, x = model.init(0), np.random.default_rng(0).standard_normal((4, 3, 4))
    found = trained_output(model, params, x, {"recurrent_mask_0_h_l0": np.zeros((4, 3, 5))})
    silent = params | {"0.weight_hh_l0": np.zeros_like(params["0.weight_hh_l0"])}
    expected = rnnc.Sequential(spec).compile(silent, backend="reference")(x)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("cell", CELLS)
def test_zoneout_keeps_old_states(cell: str) -> None:
    """A mask of ones keeps every state at zero; of zeros, changes nothing; in between, units keep or do not."""
    spec = CELLS[cell](4, 5, dtype="float64")
    model = noisy(spec, zoneout=0.5)
    names = [f"zoneout_0_{state}_l0" for state in spec.states]
    params, rng = model.init(0), np.random.default_rng(0)
    x = rng.standard_normal((4, 3, 4))
    assert not trained_output(model, params, x, {name: np.ones((4, 3, 5)) for name in names}).any()
    free = trained_output(model, params, x, {name: np.zeros((4, 3, 5)) for name in names})
    np.testing.assert_allclose(free, rnnc.Sequential(spec).compile(params, backend="reference")(x), rtol=1e-13)
    drawn = {name: (rng.random((4, 3, 5)) < 0.5).astype(float) for name in names}
    output = trained_output(model, params, x, drawn)
    before = np.concatenate([np.zeros((1, 3, 5)), output[:-1]])
    np.testing.assert_array_equal(output == before, drawn[names[0]] == 1)


def test_zoneout_takes_the_expectation_in_inference(backend: str) -> None:
    """Of one step from a zero state: (1 - p) times the new state."""
    spec = rnnc.GRU(4, 5, dtype="float64")
    params, x = noisy(spec).init(0), np.random.default_rng(0).standard_normal((1, 3, 4))
    plain = rnnc.Sequential(spec).compile(params, backend=backend)(x)
    found = noisy(spec, zoneout=0.25).compile(params, backend=backend)(x)
    np.testing.assert_allclose(found, 0.75 * plain, rtol=1e-13)


@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("training", (False, True))
def test_the_graph_prints_parses_and_needs_no_padding(readout: str, training: bool) -> None:
    model = rnnc.Sequential(
        rnnc.Embedding(7, 4),
        rnnc.Regularized(rnnc.LSTM(4, 5, 2, dropout=0.2, bidirectional=True), recurrent_dropout=0.3, zoneout=0.4),
        rnnc.Dropout(0.2),
        rnnc.Linear(10, 3),
        readout=readout,
    )

    def build(steps: int, lengths: bool) -> Any:
        return lower_network(model, steps, lengths=lengths, training=training)

    graph = verify(build(3, True))
    assert parse_graph(print_graph(graph)) == graph
    check_rows_end(Computation(build).program(lengths=True))
