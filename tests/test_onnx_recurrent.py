"""RNN, GRU and LSTM nodes of ONNX files: ONNX's own tests, and random nodes against ONNX Runtime and the equations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rnnc
from tests.onnx_models import model, node, onnxruntime_gives
from tests.onnx_oracle import ALPHA, BETA, DEFAULTS, FUNCTIONS, GATES, recurrent

Array = np.ndarray[Any, np.dtype[Any]]
NAMES = ("X", "W", "R", "B", "lengths", "h0", "c0", "P")
WEIGHTS = ("W", "R", "B", "P")


# ------------------------------------------------------------------------------------------ ONNX's own tests


@cache
def node_tests() -> dict[str, Any]:
    """Those of the three operators. A module of `node` makes its tests when it is imported; all take 7 seconds."""
    from onnx.backend.test.case import node

    for operator in ("gru", "lstm", "rnn"):
        import_module(f"{node.__name__}.{operator}")
    made = node._NodeTestCases
    return {case.name: case for case in made if any(op in case.name for op in ("_lstm_", "_gru_", "_rnn_"))}


NODE_TESTS = (
    *(f"test_{op}_{what}" for op in ("gru", "lstm", "simple_rnn") for what in ("defaults", "with_initial_bias")),
    *(
        f"test_{op}_{what}"
        for op in ("gru", "lstm", "simple_rnn")
        for what in ("batchwise", "reverse", "bidirectional")
    ),
    *("test_gru_seq_length", "test_rnn_seq_length", "test_lstm_with_peepholes"),
)


def test_these_are_all_node_tests_of_recurrent_operators() -> None:
    assert set(NODE_TESTS) == set(node_tests()) and len(NODE_TESTS) == 18


@pytest.mark.sampled(3)
@pytest.mark.parametrize("constant", (False, True), ids=("weights given", "weights constant"))
@pytest.mark.parametrize("name", NODE_TESTS)
def test_node_test(name: str, constant: bool, backend: str) -> None:
    case = node_tests()[name]
    for inputs, outputs in case.data_sets:
        given = dict(zip((value.name for value in case.model.graph.input), inputs, strict=True))
        proto = fixed(case.model, given) if constant else case.model
        network = rnnc.from_onnx(proto, backend=backend)
        made = network.run({name: given[name] for name in network.inputs})
        for value, expected in zip(case.model.graph.output, outputs, strict=True):
            assert made[value.name].shape == expected.shape
            np.testing.assert_allclose(made[value.name], expected, rtol=0, atol=1e-6)


def fixed(proto: Any, given: Mapping[str, Array]) -> Any:
    """The model with its weights as constants."""
    from onnx import ModelProto, numpy_helper

    made = ModelProto.FromString(proto.SerializeToString())
    for value in list(made.graph.input):
        if value.name in WEIGHTS:
            made.graph.initializer.append(numpy_helper.from_array(given[value.name], value.name))
            made.graph.input.remove(value)
    return made


# ------------------------------------------------------------------------------------------ random nodes


@dataclass(frozen=True)
class Case:
    """A node and a call of it. constant: whether its weights are constants, or come with the call."""

    op: str
    attributes: dict[str, Any]
    inputs: dict[str, Array]
    dtype: str
    constant: bool

    def model(self, layout: int) -> Any:
        used = [name if name in self.inputs else "" for name in NAMES[: 8 if self.op == "LSTM" else 6]]
        while not used[-1]:
            used.pop()
        made = node(self.op, used, self.outputs, **self.attributes, **({"layout": 1} if layout else {}))
        constants = {n: a for n, a in self.inputs.items() if n in WEIGHTS} if self.constant else {}
        free = {n: a for n, a in self.inputs.items() if n not in constants}
        shapes: dict[str, Any] = {
            n: (a.dtype.name, a.shape if n in WEIGHTS else [None] * a.ndim) for n, a in free.items()
        }
        return model([made], shapes, self.outputs, constants, opset=14)

    @property
    def outputs(self) -> list[str]:
        return ["Y", "Y_h", "Y_c"] if self.op == "LSTM" else ["Y", "Y_h"]

    def given(self, layout: int) -> dict[str, Array]:
        """The inputs of a call."""
        turned = {n: a.swapaxes(0, 1) if layout and n in ("X", "h0", "c0") else a for n, a in self.inputs.items()}
        return {n: np.ascontiguousarray(a) for n, a in turned.items() if not (self.constant and n in WEIGHTS)}


@st.composite
def cases(draw: st.DrawFn, dtype: str = "float32") -> Case:
    op = draw(st.sampled_from(sorted(GATES)))
    direction = draw(st.sampled_from(("forward", "reverse", "bidirectional")))
    count, gates = (2 if direction == "bidirectional" else 1), GATES[op]
    steps, batch, size = (draw(st.integers(1, n)) for n in (6, 4, 5))
    hidden = draw(st.sampled_from((1, 2, 3, 7, 8, 9)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    attributes: dict[str, Any] = {"direction": direction, "hidden_size": hidden}
    if draw(st.booleans()):
        attributes |= activations(draw, op, count)
    if draw(st.booleans()):
        attributes["clip"] = draw(st.sampled_from((0.25, 0.5, 1.0, 3.0)))
    if op == "GRU":
        attributes["linear_before_reset"] = draw(st.integers(0, 1))
    if op == "LSTM":
        attributes["input_forget"] = draw(st.integers(0, 1))

    def numbers(*shape: int) -> Array:
        return (0.6 * rng.standard_normal(shape)).astype(dtype)

    inputs = {"X": numbers(steps, batch, size), "W": numbers(count, gates * hidden, size)}
    inputs["R"] = numbers(count, gates * hidden, hidden) / max(1, hidden**0.5)
    inputs["R"] = inputs["R"].astype(dtype)
    optional: dict[str, Any] = {
        "B": lambda: numbers(count, 2 * gates * hidden),
        "lengths": lambda: rng.integers(0, steps + 1, batch).astype(np.int32),
        "h0": lambda: numbers(count, batch, hidden),
    }
    if op == "LSTM":
        optional |= {"c0": lambda: numbers(count, batch, hidden), "P": lambda: numbers(count, 3 * hidden)}
    inputs |= {name: make() for name, make in optional.items() if draw(st.booleans())}
    return Case(op, attributes, inputs, dtype, constant=draw(st.booleans()))


def activations(draw: st.DrawFn, op: str, count: int) -> dict[str, Any]:
    """Random activations of each direction. An alpha is listed for each that has one, and so is a beta.

    Softplus grows without bound through the steps: only the last function of an LSTM may be one.
    """
    tame = sorted(set(FUNCTIONS) - {"Softplus"})
    names = [draw(st.sampled_from(tame)) for _ in DEFAULTS[op] * count]
    if op == "LSTM" and draw(st.booleans()):
        names[2] = "Softplus"
    alphas = [draw(st.sampled_from((0.1, 0.3, 0.7))) for name in names if name in ALPHA]
    betas = [draw(st.sampled_from((0.2, 0.5))) for name in names if name in BETA]
    found: dict[str, Any] = {"activations": names}
    return found | ({"activation_alpha": alphas} if alphas else {}) | ({"activation_beta": betas} if betas else {})


def close(made: Mapping[str, Array], expected: Mapping[str, Array], tolerance: float) -> None:
    for name, array in expected.items():
        assert made[name].shape == array.shape and made[name].dtype == array.dtype
        told = np.abs(array) < 1e30  # which step overflows first, with activations without bounds, rounding decides
        scale = max(1.0, float(np.abs(array[told]).max(initial=0.0)))
        np.testing.assert_allclose(made[name][told], array[told], rtol=0, atol=tolerance * scale, err_msg=name)


@settings(max_examples=14)
@given(case=cases())
def test_random_nodes_give_what_onnxruntime_gives(case: Case) -> None:
    as_onnxruntime(case)


@pytest.mark.rare
@settings(max_examples=200, derandomize=False)
@given(case=cases())
def test_many_random_nodes_give_what_onnxruntime_gives(case: Case) -> None:
    as_onnxruntime(case)


def as_onnxruntime(case: Case) -> None:
    made = rnnc.from_onnx(case.model(0)).run(case.given(0))
    close(made, onnxruntime_gives(case.model(0), case.given(0)), 2e-5)


@settings(max_examples=10)
@given(case=cases("float64"), layout=st.integers(0, 1))
def test_random_nodes_compute_the_equations(case: Case, layout: int) -> None:
    made = rnnc.from_onnx(case.model(layout)).run(case.given(layout))
    attributes = case.attributes | ({"layout": 1} if layout else {})
    turned = {n: a.swapaxes(0, 1) if layout and n in ("X", "h0", "c0") else a for n, a in case.inputs.items()}
    expected = recurrent(case.op, attributes, [turned.get(name) for name in NAMES])
    close(made, dict(zip(case.outputs, expected, strict=True)), 1e-12)


# ------------------------------------------------------------------------------------------ weights in int8


@pytest.mark.parametrize("per_row", (False, True), ids=("one scale", "a scale per row"))
@pytest.mark.parametrize("kind", ("int8", "uint8"))
def test_an_lstm_of_integers(kind: str, per_row: bool) -> None:
    """Its weights become numbers; ONNX Runtime rounds X and h to integers as well, so that it is only near."""
    rng, hidden, size = np.random.default_rng(0), 8, 5
    zero = np.array(0 if kind == "int8" else 128)
    whole = {name: rng.integers(-100, 100, (1, n, 4 * hidden)) for name, n in (("W", size), ("R", hidden))}
    scales = (0.5 + rng.random((1, 4 * hidden) if per_row else 1)).astype(np.float32) * np.float32(0.004)
    x, b = rng.standard_normal((6, 2, size)).astype(np.float32), rng.standard_normal((1, 8 * hidden)).astype(np.float32)
    constants: dict[str, Any] = {name: (array + zero).astype(kind) for name, array in whole.items()} | {"B": b}
    constants |= {"scale": scales, "zero": np.broadcast_to(zero, scales.shape).astype(kind)}
    inputs = ["X", "W", "R", "B", "", "", "", "", "scale", "zero", "scale", "zero"]
    made = node("DynamicQuantizeLSTM", inputs, ["Y", "Y_h", "Y_c"], hidden_size=hidden, domain="com.microsoft")
    kinds: dict[str, Any] = {"X": ("float32", ["T", "B", size])}
    proto = model([made], kinds, ["Y", "Y_h", "Y_c"], constants, domains={"com.microsoft": 1})
    network = rnnc.from_onnx(proto)
    plain = {name: (array * scales).swapaxes(1, 2).astype(np.float32) for name, array in whole.items()} | {"B": b}
    lstm = model(
        [node("LSTM", ["X", "W", "R", "B"], ["Y", "Y_h", "Y_c"], hidden_size=hidden)], kinds, ["Y", "Y_h", "Y_c"], plain
    )
    close(network.run({"X": x}), onnxruntime_gives(lstm, {"X": x}), 1e-5)
    close(network.run({"X": x}), onnxruntime_gives(proto, {"X": x}), 0.05)
    narrow = rnnc.from_onnx(proto, weights="int8", activations="float32")  # the same integers, not rounded again
    close(narrow.run({"X": x}), onnxruntime_gives(lstm, {"X": x}), 1e-5)
    close(rnnc.from_onnx(proto, weights="int8").run({"X": x}), onnxruntime_gives(proto, {"X": x}), 0.05)
