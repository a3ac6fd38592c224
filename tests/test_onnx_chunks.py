"""A detector that cuts chunks of samples into frames: convolutions over few positions, or over many, and an LSTM."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import rnnc
from tests.onnx_models import model, node, onnxruntime_gives

HOP, KERNEL, BINS, CHANNELS, UNITS = 8, 16, 5, 12, 6
FEW, MANY = 4, 12
"""Positions in a chunk: written out, or rows of a network of their own."""


def numbers(rng: np.random.Generator, *shape: int) -> Any:
    return (0.4 * rng.standard_normal(shape)).astype(np.float32)


def detector(positions: int) -> Any:
    """(B, samples), (2, B, UNITS) -> (B, 1), (2, B, UNITS): reflected edge, spectrum, three convolutions, an LSTM."""
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
        "h_number": np.array(0),
        "c_number": np.array(1),
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
        node("Concat", ["h_n", "c_n"], ["state_n"], axis=0),
    ]
    inputs = {"x": ("float32", ["batch", None]), "state": ("float32", [2, "batch", UNITS])}
    return model(nodes, inputs, ["output", "state_n"], constants, opset=17)


@pytest.mark.parametrize("positions", [FEW, MANY])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_detector_streams_chunks(positions: int, batch: int) -> None:
    file, rng = detector(positions), np.random.default_rng(batch)
    network, size = rnnc.from_onnx(file), HOP * positions - HOP + KERNEL - (KERNEL - HOP)
    state = expected_state = numbers(rng, 2, batch, UNITS)
    for _ in range(3):
        x = numbers(rng, batch, size)
        made = network.run({"x": x, "state": state})
        expected = onnxruntime_gives(file, {"x": x, "state": expected_state})
        for name, y in expected.items():
            assert made[name].shape == y.shape
            np.testing.assert_allclose(made[name], y, atol=2e-6)
        state, expected_state = made["state_n"], expected["state_n"]
    assert ("network 2" in network.explain()) == (positions == MANY)
