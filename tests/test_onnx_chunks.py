"""A detector that cuts chunks of samples into frames: convolutions over few positions, or over many, and an LSTM."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import pytest

import rnnc
from rnnc.ir.errors import ArgumentTypeError, DtypeError, ShapeError
from tests.onnx_models import model, node, onnxruntime_gives
from tests.refusals import raises_saying

HOP, KERNEL, BINS, CHANNELS, UNITS = 8, 16, 5, 12, 6
FEW, MANY = 4, 20
"""Positions in a chunk: written out, or rows of a network of their own."""


def numbers(rng: np.random.Generator, *shape: int) -> Any:
    return (0.4 * rng.standard_normal(shape)).astype(np.float32)


def detector(positions: int, order: tuple[int, int] = (0, 1)) -> Any:
    """(B, samples), (2, B, UNITS) -> (B, 1), (2, B, UNITS): reflected edge, spectrum, three convolutions, an LSTM.

    order: the places of h and c in the states. The input sr is read for 0 * sr.
    """
    rng, back = np.random.default_rng(0), KERNEL - HOP
    left = -(-positions // 2)
    constants = {
        "pads": np.array([0, 0, 0, back]),
        "basis": numbers(rng, 2 * BINS, 1, KERNEL),
        "axis": np.array([1]),
        "last": np.array([2]),
        "starts": np.array([0]),
        "cut": np.array([BINS]),
        "end": np.array([2**31 - 1]),
        "w1": numbers(rng, CHANNELS, BINS, 3),
        "b1": numbers(rng, CHANNELS),
        "w2": numbers(rng, CHANNELS, CHANNELS, 3),
        "b2": numbers(rng, CHANNELS),
        "w3": numbers(rng, CHANNELS, CHANNELS, left),
        "W": numbers(rng, 1, 4 * UNITS, CHANNELS),
        "R": numbers(rng, 1, 4 * UNITS, UNITS),
        "head": numbers(rng, UNITS, 1),
        "first": np.array([0]),
        "h_number": np.array(order[0]),
        "c_number": np.array(order[1]),
        "nothing": np.array(0),
    }
    nodes = [
        node("Pad", ["x", "pads"], ["padded"], mode="reflect"),
        node("Unsqueeze", ["padded", "axis"], ["samples"]),
        node("Conv", ["samples", "basis"], ["spectrum"], strides=[HOP]),
        node("Slice", ["spectrum", "starts", "cut", "axis"], ["real"]),
        node("Slice", ["spectrum", "cut", "end", "axis"], ["imaginary"]),
        node("Mul", ["real", "real"], ["real2"]),
        node("Mul", ["imaginary", "imaginary"], ["imaginary2"]),
        node("Add", ["real2", "imaginary2"], ["power"]),
        node("Sqrt", ["power"], ["magnitude"]),
        node("Conv", ["magnitude", "w1", "b1"], ["c1"], pads=[1, 1]),
        node("Relu", ["c1"], ["y1"]),
        node("Conv", ["y1", "w2", "b2"], ["c2"], pads=[1, 1], strides=[2]),
        node("Relu", ["c2"], ["y2"]),
        node("Conv", ["y2", "w3"], ["c3"]),
        node("Squeeze", ["c3", "last"], ["v"]),
        node("Unsqueeze", ["v", "first"], ["steps"]),
        node("Gather", ["state", "h_number"], ["h_row"], axis=0),
        node("Gather", ["state", "c_number"], ["c_row"], axis=0),
        node("Unsqueeze", ["h_row", "first"], ["h_0"]),
        node("Unsqueeze", ["c_row", "first"], ["c_0"]),
        node("LSTM", ["steps", "W", "R", "", "", "h_0", "c_0"], ["Y", "h_n", "c_n"], hidden_size=UNITS),
        node("Squeeze", ["h_n", "first"], ["h"]),
        node("MatMul", ["h", "head"], ["score"]),
        node("Sigmoid", ["score"], ["output"]),
        node("Concat", ["h_n", "c_n"] if order == (0, 1) else ["c_n", "h_n"], ["states"], axis=0),
        node("Mul", ["sr", "nothing"], ["zero"]),
        node("Cast", ["zero"], ["number"], to=1),
        node("Add", ["states", "number"], ["state_n"]),
    ]
    inputs = {"x": ("float32", ["batch", None]), "state": ("float32", [2, "batch", UNITS]), "sr": ("int64", [])}
    return model(nodes, inputs, ["output", "state_n"], constants, opset=17)


RATE = np.array(16000)


@pytest.mark.parametrize(("positions", "order"), [(FEW, (0, 1)), (FEW, (1, 0)), (MANY, (0, 1))])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_detector_streams_chunks(positions: int, order: tuple[int, int], batch: int) -> None:
    file, rng = detector(positions, order), np.random.default_rng(batch)
    network = rnnc.from_onnx(file)
    state = expected_state = numbers(rng, 2, batch, UNITS)
    for _ in range(3):
        x = numbers(rng, batch, HOP * positions)
        made = network.run({"x": x, "state": state, "sr": RATE})
        expected = onnxruntime_gives(file, {"x": x, "state": expected_state, "sr": RATE})
        assert list(made) == list(expected)
        for name, y in expected.items():
            assert made[name].shape == y.shape
            np.testing.assert_allclose(made[name], y, atol=2e-6)
        state, expected_state = made["state_n"], expected["state_n"]
    explained = network.explain()
    assert ("network 2" in explained) == ("goes through NumPy" in explained) == (positions == MANY)


def test_direct_calls_take_plain_arguments_and_decline_others() -> None:
    network, rng = rnnc.from_onnx(detector(FEW)), np.random.default_rng(0)
    x, state = numbers(rng, 3, HOP * FEW), numbers(rng, 2, 3, UNITS)
    plain = {"x": x, "state": state, "sr": RATE}
    expected = network.run(plain)
    direct = network._direct
    assert direct is not None and direct(plain) is not None
    wide = np.zeros((3, 100), np.float32)
    wide[:, 7 : 7 + HOP * FEW] = x
    assert direct({"x": wide[:, 7 : 7 + HOP * FEW], "state": state, "sr": RATE}) is not None
    assert direct(plain | {"state": np.asfortranarray(state)}) is not None
    others: list[Any] = [
        OrderedDict(plain),
        plain | {"x": x.tolist()},
        plain | {"sr": 5},
    ]
    assert [direct(given) for given in others] == [None] * len(others)
    for given in (plain | {"state": np.asfortranarray(state)}, OrderedDict(plain)):
        for name, y in network.run(given).items():
            np.testing.assert_array_equal(y, expected[name], strict=True)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"state": np.zeros((2, 4, UNITS), np.float32)}, ShapeError, ("'batch'", "3 in 'x'", "got 4")),
        ({"state": np.zeros((3, 3, UNITS), np.float32)}, ShapeError, ("'state'", "(3, 3, 6)")),
        ({"state": np.zeros((2, 3, UNITS))}, DtypeError, ("'state'", "float64")),
        ({"sr": np.array([1])}, ShapeError, ("'sr'", "(1,)")),
        ({"sr": np.array(1.0)}, DtypeError, ("'sr'", "float64")),
        ({"more": RATE}, ArgumentTypeError, ("'more'",)),
    ],
)
def test_what_direct_calls_decline_is_refused(change: Any, error: type[Exception], words: tuple[str, ...]) -> None:
    network, x = rnnc.from_onnx(detector(FEW)), np.zeros((3, HOP * FEW), np.float32)
    plain = {"x": x, "state": np.zeros((2, 3, UNITS), np.float32), "sr": RATE}
    network.run(plain)
    with raises_saying(error, *words):
        network.run(plain | change)


SHAPES: dict[str, tuple[list[Any], int, str]] = {
    "(D, B, H)": ([], 0, "directly"),
    "(B, D, H)": ([], 1, "through NumPy"),
    "(B, H)": ([node("Squeeze", ["h_n", "first"], ["h"])], 0, "directly"),
    "(H,)": ([node("Squeeze", ["h_n", "both"], ["h"])], 0, "through NumPy"),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_last_states_of_any_shape(shape: str) -> None:
    """Direct calls give last states where these lie one after the other; `Plan.run` gives all others."""
    moves, layout, way = SHAPES[shape]
    directions, rng, batch = (2 if layout else 1), np.random.default_rng(0), (3 if layout else 1)
    constants = {"W": numbers(rng, directions, 9, 4), "R": numbers(rng, directions, 9, 3)}
    constants |= {"first": np.array([0]), "both": np.array([0, 1])}
    options = {"direction": "bidirectional" if layout else "forward", "layout": layout}
    nodes = [node("GRU", ["x", "W", "R"], ["y", "h_n"], hidden_size=3, **options), *moves]
    sizes = [batch, 5, 4] if layout else [5, batch, 4]
    file = model(nodes, {"x": ("float32", sizes)}, ["y", "h" if moves else "h_n"], constants, opset=17)
    network, x = rnnc.from_onnx(file), numbers(rng, *sizes)
    made = network.run({"x": x})
    _, plan = network._plans.items()[-1]
    for name, array in plan.run({"x": x}).items():
        np.testing.assert_array_equal(made[name], array, strict=True)
    assert f"{way}\n" in network.explain()
