"""A user's own cells against plain NumPy loops: any cell one can write down takes the path of the built-in ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import rnnc
from tests import oracle
from tests.cases import Result, as_result, assert_close
from tests.oracle import Array, Arrays, linear, relu, sigmoid
from tests.user_cells import (
    ElmanNetwork,
    FastAndSlow,
    IndependentRNN,
    LayerNormLSTM,
    MinimalGatedUnit,
    NestedLSTM,
    PeepholeLSTM,
    SimpleRecurrentUnit,
)


def minimal_gated_unit(x: Array, state: Arrays, p: Arrays) -> tuple[Array, Arrays]:
    h, size = state["h"], state["h"].shape[1]
    projected = linear(x, p["weight_ih"], p.get("bias"))
    f = sigmoid(projected[:, :size] + h @ p["weight_hh"][:size].T)
    n = np.tanh(projected[:, size:] + (f * h) @ p["weight_hh"][size:].T)
    h = (1 - f) * h + f * n
    return h, {"h": h}


def peephole_lstm(x: Array, state: Arrays, p: Arrays) -> tuple[Array, Arrays]:
    h, c = state["h"], state["c"]
    i, f, g, o = np.split(
        linear(x, p["weight_ih"], p.get("bias_ih")) + linear(h, p["weight_hh"], p.get("bias_hh")), 4, axis=1
    )
    see_i, see_f, see_o = np.split(p["peephole"], 3)
    c = sigmoid(f + see_f * c) * c + sigmoid(i + see_i * c) * np.tanh(g)
    h = sigmoid(o + see_o * c) * np.tanh(c)
    return h, {"h": h, "c": c}


def _normed(v: Array, eps: float = 1e-5) -> Array:
    return np.asarray((v - v.mean(1, keepdims=True)) / np.sqrt(v.var(1, keepdims=True) + eps))


def layer_norm_lstm(x: Array, state: Arrays, p: Arrays) -> tuple[Array, Arrays]:
    gates = p["scale_ih"] * _normed(x @ p["weight_ih"].T) + p["scale_hh"] * _normed(state["h"] @ p["weight_hh"].T)
    i, f, g, o = np.split(gates + p.get("bias", 0.0), 4, axis=1)
    c = sigmoid(f) * state["c"] + sigmoid(i) * np.tanh(g)
    h = sigmoid(o) * np.tanh(p["scale_c"] * _normed(c) + p.get("bias_c", 0.0))
    return h, {"h": h, "c": c}


def simple_recurrent_unit(x: Array, state: Arrays, p: Arrays) -> tuple[Array, Arrays]:
    c = state["c"]
    new, forget, reset, skip = np.split(x @ p["weight"].T, 4, axis=1)
    see_forget, see_reset = np.split(p["see_c"], 2)
    bias_forget, bias_reset = np.split(p["bias"], 2) if "bias" in p else (0.0, 0.0)
    f = sigmoid(forget + see_forget * c + bias_forget)
    r = sigmoid(reset + see_reset * c + bias_reset)
    c = f * c + (1 - f) * new
    return r * c + (1 - r) * skip, {"c": c}


def independent_rnn(x: Array, state: Arrays, p: Arrays) -> tuple[Array, Arrays]:
    h = relu(linear(x, p["weight_ih"], p.get("bias")) + p["recurrent"] * state["h"])
    return h, {"h": h}


def nested_lstm(x: Array, state: Arrays, p: Arrays) -> tuple[Array, Arrays]:
    outer = linear(x, p["weight_ih"], p.get("bias")) + state["h"] @ p["weight_hh"].T
    i, f, g, o = np.split(outer, 4, axis=1)
    inner_x, inner_h = sigmoid(i) * np.tanh(g), sigmoid(f) * state["c"]
    gates = linear(inner_x, p["inner_ih"], p.get("inner_bias")) + inner_h @ p["inner_hh"].T
    inner_i, inner_f, inner_g, inner_o = np.split(gates, 4, axis=1)
    inner = sigmoid(inner_f) * state["inner"] + sigmoid(inner_i) * np.tanh(inner_g)
    c = sigmoid(inner_o) * np.tanh(inner)
    h = sigmoid(o) * np.tanh(c)
    return h, {"h": h, "c": c, "inner": inner}


def elman_network(x: Array, state: Arrays, p: Arrays) -> tuple[Array, Arrays]:
    h = np.tanh(linear(x, p["weight_ih"], p.get("bias_h")) + state["h"] @ p["weight_hh"].T)
    return linear(h, p["weight_ho"], p.get("bias_o")), {"h": h}


def fast_and_slow(x: Array, state: Arrays, p: Arrays) -> tuple[Array, Arrays]:
    s = 0.05 * (x @ p["weight_slow"].T) + 0.95 * state["s"]
    h = sigmoid(linear(x, p["weight_ih"], p.get("bias")) + s @ p["weight_sh"].T + state["h"] @ p["weight_hh"].T)
    return np.concatenate([h, s], axis=1), {"h": h, "s": s}


CELLS: list[tuple[Any, oracle.Step]] = [
    (MinimalGatedUnit(), minimal_gated_unit),
    (PeepholeLSTM(), peephole_lstm),
    (LayerNormLSTM(), layer_norm_lstm),
    (SimpleRecurrentUnit(), simple_recurrent_unit),
    (IndependentRNN(), independent_rnn),
    (NestedLSTM(), nested_lstm),
    (ElmanNetwork(outputs=3), elman_network),
    (FastAndSlow(leak=0.95), fast_and_slow),
]
each_cell = pytest.mark.parametrize(("cell", "step"), CELLS, ids=lambda v: getattr(v, "name", ""))


class Setup:
    """A spec of a user's cell with data for one call."""

    def __init__(self, cell: Any, hidden_size: int = 19, steps: int = 9, batch: int = 5, **options: Any) -> None:
        self.spec = rnnc.Recurrent(cell, 11, hidden_size, **options)
        self.cell, self.hidden_size = cell, hidden_size
        rng = np.random.default_rng(1)
        dtype = options.get("dtype", "float32")
        self.params = {k: rng.uniform(-0.5, 0.5, v.shape).astype(dtype) for k, v in self.spec.init(seed=0).items()}
        self.x = rng.standard_normal((steps, batch, 11)).astype(dtype)
        self.layers = options.get("num_layers", 1)
        self.bidirectional = options.get("bidirectional", False)
        count = self.layers * (2 if self.bidirectional else 1)
        self.states = {
            k: rng.uniform(-1, 1, (count, batch, width)).astype(dtype) for k, width in cell.states(hidden_size).items()
        }

    @property
    def state(self) -> Any:
        states = tuple(self.states.values())
        return states if len(states) > 1 else states[0]

    def expected(self, step: oracle.Step, lengths: Any = None) -> Result:
        network = oracle.Network(
            step,
            tuple(self.cell.states(self.hidden_size).items()),
            self.cell.output_size(self.hidden_size),
            self.layers,
            self.bidirectional,
        )
        output, states = oracle.run(network, self.params, self.x, self.states, lengths)
        return Result(output, tuple(states.values()))


@pytest.mark.sampled(3)
@each_cell
@pytest.mark.parametrize("dtype", ("float32", "float64"))
@pytest.mark.parametrize("bias", (True, False))
def test_one_layer(cell: Any, step: oracle.Step, dtype: str, bias: bool, backend: str) -> None:
    setup = Setup(cell, dtype=dtype, bias=bias)
    model = rnnc.compile(setup.spec, setup.params, backend=backend)
    assert_close(as_result(model(setup.x, setup.state)), setup.expected(step), dtype)


@pytest.mark.sampled(3)
@each_cell
def test_stacked_both_directions_ragged(cell: Any, step: oracle.Step, backend: str) -> None:
    setup = Setup(cell, num_layers=2, bidirectional=True, dtype="float64")
    lengths = np.array([4, 0, 9, 1, 7])
    model = rnnc.compile(setup.spec, setup.params, backend=backend)
    found = as_result(model(setup.x, setup.state, lengths=lengths))
    assert_close(found, setup.expected(step, lengths), "float64")


@pytest.mark.sampled(3)
@each_cell
@pytest.mark.parametrize(("hidden_size", "batch"), ((1, 1), (16, 1), (64, 7)))
def test_sizes_on_and_off_the_vector_width(
    cell: Any, step: oracle.Step, hidden_size: int, batch: int, backend: str
) -> None:
    setup = Setup(cell, hidden_size, batch=batch)
    model = rnnc.compile(setup.spec, setup.params, backend=backend)
    assert_close(as_result(model(setup.x, setup.state)), setup.expected(step), "float32")


@each_cell
def test_streaming_one_step_at_a_time(cell: Any, step: oracle.Step, backend: str) -> None:
    setup = Setup(cell, dtype="float64")
    model = rnnc.compile(setup.spec, setup.params, backend=backend)
    pieces, state = [], setup.state
    for t in range(len(setup.x)):
        output, state = model(setup.x[t : t + 1], state)
        pieces.append(output)
    assert_close(as_result((np.concatenate(pieces), state)), setup.expected(step), "float64")


def test_a_spec_of_a_users_cell_is_a_value() -> None:
    assert rnnc.Recurrent(ElmanNetwork(3), 4, 5) == rnnc.Recurrent(ElmanNetwork(3), 4, 5)
    assert rnnc.Recurrent(ElmanNetwork(3), 4, 5) != rnnc.Recurrent(ElmanNetwork(2), 4, 5)
    assert len({rnnc.Recurrent(ElmanNetwork(3), 4, 5), rnnc.Recurrent(ElmanNetwork(3), 4, 5)}) == 1


def test_parameters_have_the_cells_names_and_shapes_in_order() -> None:
    params = rnnc.Recurrent(MinimalGatedUnit(), 4, 5, num_layers=2, bidirectional=True).init(seed=0)
    assert [(name, value.shape) for name, value in params.items()] == [
        ("weight_ih_l0", (10, 4)),
        ("weight_hh_l0", (10, 5)),
        ("bias_l0", (10,)),
        ("weight_ih_l0_reverse", (10, 4)),
        ("weight_hh_l0_reverse", (10, 5)),
        ("bias_l0_reverse", (10,)),
        ("weight_ih_l1", (10, 10)),
        ("weight_hh_l1", (10, 5)),
        ("bias_l1", (10,)),
        ("weight_ih_l1_reverse", (10, 10)),
        ("weight_hh_l1_reverse", (10, 5)),
        ("bias_l1_reverse", (10,)),
    ]
