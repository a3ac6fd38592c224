"""Convolutions and pooling over time, which change the number of steps, against ONNX Runtime."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rnnc
from rnnc.ir.errors import OnnxError
from tests.onnx_models import model, node, onnxruntime_gives
from tests.refusals import raises_saying

KINDS = ("Conv", "Conv", "ConvTranspose", "MaxPool", "AveragePool")


@dataclass(frozen=True)
class Link:
    """An operator of a chain, with its attributes. Channels stay 4."""

    op: str
    kernel: int
    stride: int
    dilation: int
    pads: tuple[int, int]
    groups: int
    option: int

    def attributes(self) -> dict[str, Any]:
        found: dict[str, Any] = {"kernel_shape": [self.kernel], "strides": [self.stride], "pads": list(self.pads)}
        if self.op in ("Conv", "ConvTranspose"):
            found |= {"dilations": [self.dilation], "group": self.groups}
        if self.op == "ConvTranspose":
            found["output_padding"] = [min(self.option, self.stride - 1)]
        if self.op == "AveragePool":
            found["count_include_pad"] = self.option
        return found

    def weight(self, rng: np.random.Generator) -> Any:
        return 0.4 * rng.standard_normal((4, 4 // self.groups, self.kernel)).astype(np.float32)


@st.composite
def links(draw: Any) -> Link:
    op, kernel = draw(st.sampled_from(KINDS)), draw(st.integers(1, 4))
    most = (kernel - 1) // 2 if "Pool" in op or op == "ConvTranspose" else kernel
    pads = draw(st.tuples(st.integers(0, most), st.integers(0, most)))
    dilation = draw(st.sampled_from((1, 1, 2))) if op.startswith("Conv") else 1
    groups, option = draw(st.sampled_from((1, 2))), draw(st.integers(0, 1))
    return Link(op, kernel, draw(st.integers(1, 3)), dilation, pads, groups, option)


def chained(chain: list[Link], recurrent: bool, seed: int, sizes: tuple[int | str, int | str]) -> Any:
    """x (B, 4, T) through the chain, a Relu, and perhaps a GRU, whose states come out as well."""
    rng = np.random.default_rng(seed)
    nodes, constants, last = [], {}, "x"
    for number, link in enumerate(chain):
        inputs = [last]
        if link.op.startswith("Conv"):
            constants |= {f"w{number}": link.weight(rng), f"b{number}": rng.standard_normal(4).astype(np.float32)}
            inputs += [f"w{number}", f"b{number}"]
        nodes.append(node(link.op, inputs, [f"y{number}"], **link.attributes()))
        last = f"y{number}"
    nodes += [node("Relu", [last], ["relu"])]
    outputs = ["relu"]
    if recurrent:
        constants["W"] = rng.standard_normal((1, 9, 4)).astype(np.float32)
        constants["R"] = rng.standard_normal((1, 9, 3)).astype(np.float32)
        nodes.append(node("Transpose", ["relu"], ["t"], perm=[2, 0, 1]))
        nodes.append(node("GRU", ["t", "W", "R"], ["g", "h"], hidden_size=3))
        outputs = ["g", "h"]
    return model(nodes, {"x": ("float32", [sizes[0], 4, sizes[1]])}, outputs, constants, opset=17)


@settings(deadline=None, max_examples=6)
@given(st.lists(links(), min_size=1, max_size=3), st.booleans(), st.booleans(), st.integers(0, 99))
def test_chains_give_what_onnxruntime_gives(chain: list[Link], recurrent: bool, named: bool, seed: int) -> None:
    steps = (31, 26) if named else (31,)  # one of them is no multiple of any frame
    file = chained(chain, recurrent, seed, ("B", "T") if named else (2, 31))
    try:
        network = rnnc.from_onnx(file)
    except OnnxError as error:  # of plain numbers nobody can tell which axis they are of
        assert not named and "cannot be compiled" in str(error), error
        return
    for size in steps:
        x = np.random.default_rng(size).standard_normal((2, 4, size)).astype(np.float32)
        try:
            expected = onnxruntime_gives(file, {"x": x})
        except Exception:  # a sequence that is shorter than a kernel
            continue
        for name, y in network.run({"x": x}).items():
            np.testing.assert_allclose(y, expected[name], atol=2e-6, rtol=1e-5)
    if named:
        assert "compiled for each" not in network.explain()


POOLS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("MaxPool", {"kernel_shape": [3], "strides": [2], "pads": [1, 2]}),
    ("MaxPool", {"kernel_shape": [2], "dilations": [3], "pads": [1, 1]}),
    ("AveragePool", {"kernel_shape": [4], "strides": [3], "pads": [2, 1]}),
    ("AveragePool", {"kernel_shape": [3], "auto_pad": "SAME_LOWER", "strides": [2], "count_include_pad": 1}),
)


@pytest.mark.parametrize(("op", "attributes"), POOLS)
def test_pooling_over_columns(op: str, attributes: dict[str, Any]) -> None:
    """Over the numbers of each step, and over an axis between channels: (B, T, 10), and (B, 3, 10) of a step."""
    rng = np.random.default_rng(0)
    weights = {"W": rng.standard_normal((1, 9, 10)), "R": rng.standard_normal((1, 9, 3))}
    constants = {name: array.astype(np.float32) for name, array in weights.items()}
    numbers = [
        node("Relu", ["x"], ["r"]),
        node(op, ["r"], ["p"], **attributes),
        node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        node("GRU", ["t", "W", "R"], ["g"], hidden_size=3),
    ]
    channels = [node(op, ["x"], ["p"], **attributes), node("Sigmoid", ["p"], ["s"])]
    for nodes, axis, outputs in ((numbers, "T", ["p", "g"]), (channels, 3, ["s"])):
        file = model(nodes, {"x": ("float32", ["B", axis, 10])}, outputs, constants if axis == "T" else {})
        x = rng.standard_normal((2, 5 if axis == "T" else 3, 10)).astype(np.float32)
        network, expected = rnnc.from_onnx(file), onnxruntime_gives(file, {"x": x})
        for name, y in network.run({"x": x}).items():
            np.testing.assert_allclose(y, expected[name], atol=2e-6)


def test_what_stays_outside_is_named() -> None:
    lens = model(
        [
            node("MaxPool", ["x"], ["p"], kernel_shape=[2], strides=[2]),
            node("Transpose", ["p"], ["t"], perm=[2, 0, 1]),
            node("GRU", ["t", "W", "R", "", "lens"], ["g"], hidden_size=3),
        ],
        {"x": ("float32", ["B", 4, "T"]), "lens": ("int32", ["B"])},
        ["g"],
        {"W": np.ones((1, 9, 4), np.float32), "R": np.ones((1, 9, 3), np.float32)},
        opset=17,
    )
    x, counts = np.ones((2, 4, 8), np.float32), np.array([4, 2], np.int32)
    try:
        found = rnnc.from_onnx(lens).run({"x": x, "lens": counts})
    except OnnxError as error:
        assert "p" in str(error)
    else:
        np.testing.assert_allclose(found["g"], onnxruntime_gives(lens, {"x": x, "lens": counts})["g"], atol=1e-6)
    ceil = model(
        [node("MaxPool", ["x"], ["p"], kernel_shape=[2], strides=[2], ceil_mode=1)],
        {"x": ("float32", ["B", 4, "T"])}, ["p"], {}, opset=17,
    )  # fmt: skip
    with raises_saying(OnnxError, "MaxPool", "ceil_mode"):
        rnnc.from_onnx(ceil).run({"x": x})
