"""Each operator that from_onnx compiles, in a small graph, against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

import rnnc
from rnnc.onnx.ops import OPS
from rnnc.onnx.ops.elementwise import ACTIVATIONS
from tests.golden import ROOT
from tests.onnx_models import model, node, onnxruntime_gives

Array = np.ndarray[Any, np.dtype[Any]]
RNG = np.random.default_rng(7)


def numbers(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def compiled_like_onnxruntime(proto: Any, inputs: Mapping[str, Array], tolerance: float = 2e-6) -> rnnc.OnnxNetwork:
    """Checks the outputs, that a direct call gives those of the plan, and that rnnc compiled something."""
    network = rnnc.from_onnx(proto)
    made, expected = network.run(inputs), onnxruntime_gives(proto, inputs)
    assert list(made) == list(expected)
    for name, array in expected.items():
        assert made[name].shape == array.shape and made[name].dtype == array.dtype
        np.testing.assert_allclose(made[name], array, rtol=tolerance, atol=tolerance, err_msg=name)
    assert "compiled: network 1" in network.explain()
    _, plan = network._plans.items()[-1]
    for name, array in plan.run(dict(inputs)).items():
        np.testing.assert_array_equal(made[name], array, strict=True)
    return network


def test_the_page_lists_what_is_compiled() -> None:
    page = (ROOT / "docs" / "onnx.md").read_text(encoding="utf-8")
    compiled = {name for (_, name), op in OPS.items() if op.lower is not None} - {*ACTIVATIONS, "Gelu"}
    assert not {name for name in compiled if f"`{name}`" not in page}


# ------------------------------------------------------------------------------------------ one number at a time

UNARY = ("Abs", "Neg", "Exp", "Relu", "Tanh", "Sigmoid", "Softplus", "Softsign", "Ceil", "Floor", "Round", "Sign")
UNARY += ("Sin", "Cos", "HardSwish", "Mish", "Elu", "Celu", "Selu", "LeakyRelu", "HardSigmoid", "ThresholdedRelu")
POSITIVE = ("Log", "Sqrt", "Reciprocal")
WITH_NUMBERS = (
    ("Elu", {"alpha": 0.5}),
    ("Celu", {"alpha": 0.5}),
    ("Selu", {"alpha": 1.1, "gamma": 0.9}),
    ("LeakyRelu", {"alpha": 0.3}),
    ("HardSigmoid", {"alpha": 0.3, "beta": 0.4}),
    ("ThresholdedRelu", {"alpha": 0.3}),
)


@pytest.mark.sampled(3)
@pytest.mark.parametrize(("op", "attributes"), [*((op, {}) for op in (*UNARY, *POSITIVE)), *WITH_NUMBERS])
def test_functions_of_one_value(op: str, attributes: dict[str, float]) -> None:
    x = numbers(3, 2, 5)
    proto = model([node(op, ["x"], ["y"], **attributes)], {"x": ("float32", ["B", 2, 5])}, ["y"], opset=18)
    compiled_like_onnxruntime(proto, {"x": abs(x) + 0.1 if op in POSITIVE else x}, 4e-6)


SHAPES: dict[str, tuple[int, ...]] = {"number": (), "one": (1,), "last": (5,), "first": (4, 1), "all": (1, 4, 5)}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("op", ("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "PRelu"))
def test_values_with_constants(op: str, shape: str) -> None:
    constant = abs(numbers(*SHAPES[shape])) + np.float32(0.5)
    x = numbers(3, 4, 5)
    proto = model([node(op, ["x", "c"], ["y"])], {"x": ("float32", ["B", 4, 5])}, ["y"], {"c": constant})
    compiled_like_onnxruntime(proto, {"x": abs(x) if op == "Pow" else x}, 1e-5)
    if op in ("Sub", "Div", "Pow"):
        proto = model([node(op, ["c", "x"], ["y"])], {"x": ("float32", ["B", 4, 5])}, ["y"], {"c": constant})
        compiled_like_onnxruntime(proto, {"x": abs(x) + np.float32(0.5)}, 1e-5)


@pytest.mark.parametrize("op", ("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean"))
@pytest.mark.parametrize("shape", ((4, 5), (1, 5), (4, 1)), ids=str)
def test_two_values(op: str, shape: tuple[int, int]) -> None:
    kinds: dict[str, Any] = {"x": ("float32", ["B", 4, 5]), "z": ("float32", ["B", *shape])}
    compiled_like_onnxruntime(
        model([node(op, ["x", "z"], ["y"])], kinds, ["y"]),
        {"x": numbers(3, 4, 5), "z": abs(numbers(3, *shape)) + np.float32(0.5)},
    )


@pytest.mark.parametrize("bounds", ((-0.5, 0.5), (None, 0.5), (-0.5, None), (None, None)))
def test_clip(bounds: tuple[float | None, float | None]) -> None:
    constants = {n: np.float32(b) for n, b in zip(("low", "high"), bounds, strict=True) if b is not None}
    clip = node("Clip", ["x", *(n if n in constants else "" for n in ("low", "high"))], ["c"])
    proto = model([clip, node("Neg", ["c"], ["y"])], {"x": ("float32", ["B", 5])}, ["y"], constants)
    compiled_like_onnxruntime(proto, {"x": numbers(3, 5)})


# ------------------------------------------------------------------------------------------ products, whole axes


@pytest.mark.parametrize("options", ({}, {"transB": 1}, {"alpha": 0.5, "beta": 2.0}), ids=str)
@pytest.mark.parametrize("bias", (None, (), (1,), (6,), (1, 6)), ids=str)
def test_gemm(options: dict[str, Any], bias: tuple[int, ...] | None) -> None:
    constants = {"w": numbers(6, 5) if "transB" in options else numbers(5, 6)}
    constants |= {} if bias is None else {"b": numbers(*bias)}
    proto = model([node("Gemm", ["x", *constants], ["y"], **options)], {"x": ("float32", ["B", 5])}, ["y"], constants)
    compiled_like_onnxruntime(proto, {"x": numbers(3, 5)})


@pytest.mark.parametrize("shape", (["B", 5], ["T", "B", 5], ["B", 3, 5], ["B", 1, 5]), ids=str)
def test_matmul(shape: list[Any]) -> None:
    proto = model([node("MatMul", ["x", "w"], ["y"])], {"x": ("float32", shape)}, ["y"], {"w": numbers(5, 6)})
    sizes = {"B": 2, "T": 4}
    compiled_like_onnxruntime(proto, {"x": numbers(*(sizes.get(size, size) for size in shape))})


@pytest.mark.sampled(3)
@pytest.mark.parametrize("keepdims", (0, 1))
@pytest.mark.parametrize("axes", ([1], [2], [1, 2], [-1]), ids=str)
@pytest.mark.parametrize("op", ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceSumSquare"))
def test_reductions(op: str, axes: list[int], keepdims: int) -> None:
    where: dict[str, Any] = {} if op == "ReduceSum" else {"axes": axes}
    given = {"axes": np.array(axes)} if op == "ReduceSum" else {}
    made = node(op, ["x", *given], ["y"], keepdims=keepdims, **where)
    proto = model([made], {"x": ("float32", ["B", 4, 5])}, ["y"], given, opset=13)
    compiled_like_onnxruntime(proto, {"x": numbers(3, 4, 5)})


@pytest.mark.parametrize("axis", (-1, 1, 2))
@pytest.mark.parametrize("opset", (11, 13))
@pytest.mark.parametrize("op", ("Softmax", "LogSoftmax"))
def test_softmax(op: str, opset: int, axis: int) -> None:
    proto = model([node(op, ["x"], ["y"], axis=axis)], {"x": ("float32", ["B", 4, 5])}, ["y"], opset=opset)
    compiled_like_onnxruntime(proto, {"x": numbers(3, 4, 5)})


def test_normalisations() -> None:
    constants = {name: abs(numbers(4)) + np.float32(0.1) for name in ("scale", "bias", "mean", "variance")}
    constants |= {"gain": numbers(5), "shift": numbers(5)}
    nodes = [
        node("BatchNormalization", ["x", "scale", "bias", "mean", "variance"], ["n"], epsilon=1e-3),
        node("Transpose", ["n"], ["t"], perm=[0, 2, 1]),
        node("LayerNormalization", ["z", "gain", "shift"], ["y"], epsilon=1e-4),
    ]
    kinds: dict[str, Any] = {"x": ("float32", ["B", 4, 3]), "z": ("float32", ["T", "B", 5])}
    compiled_like_onnxruntime(model(nodes[:2], {"x": kinds["x"]}, ["t"], constants), {"x": numbers(2, 4, 3)})
    compiled_like_onnxruntime(model(nodes[2:], {"z": kinds["z"]}, ["y"], constants), {"z": numbers(6, 2, 5)})


# ------------------------------------------------------------------------------------------ convolutions

CONVS: tuple[dict[str, Any], ...] = (
    {},
    {"pads": [1, 1]},
    {"pads": [2, 0]},
    {"strides": [2], "pads": [1, 1]},
    {"dilations": [2], "pads": [2, 2]},
    {"group": 2},
    {"group": 4, "pads": [1, 1]},
    {"auto_pad": "SAME_UPPER", "strides": [2]},
    {"auto_pad": "SAME_LOWER"},
    {"auto_pad": "VALID"},
)


@pytest.mark.parametrize(("number", "options"), list(enumerate(CONVS)), ids=str)
def test_convolution_over_positions(number: int, options: dict[str, Any]) -> None:
    """Every other one has a bias. There is a product per group and position, so few positions if there are groups."""
    groups, positions = options.get("group", 1), 3 if "group" in options else 7
    constants = {"w": numbers(8, 4 // groups, 3)} | ({"b": numbers(8)} if number % 2 else {})
    nodes = [node("Conv", ["x", *constants], ["c"], **options), node("Relu", ["c"], ["y"])]
    compiled_like_onnxruntime(
        model(nodes, {"x": ("float32", ["B", 4, positions])}, ["y"], constants), {"x": numbers(3, 4, positions)}, 5e-6
    )


@pytest.mark.parametrize("options", [options for options in CONVS if "strides" not in options and options], ids=str)
def test_convolution_over_time(options: dict[str, Any]) -> None:
    if options.get("auto_pad") == "VALID" or options == {"group": 2}:
        options = options | {"auto_pad": "NOTSET", "pads": [0, 2]}
    constants = {"w": numbers(8, 4 // options.get("group", 1), 3), "W": numbers(1, 9, 8), "R": numbers(1, 9, 3)}
    nodes = [
        node("Conv", ["x", "w"], ["c"], **options),
        node("Transpose", ["c"], ["t"], perm=[2, 0, 1]),
        node("GRU", ["t", "W", "R"], ["y"], hidden_size=3),
    ]
    proto = model(nodes, {"x": ("float32", ["B", 4, "T"])}, ["y"], constants)
    compiled_like_onnxruntime(proto, {"x": numbers(2, 4, 9)}, 5e-6)


# ------------------------------------------------------------------------------------------ axes and parts

MOVES: dict[str, list[Any]] = {
    "transpose": [node("Transpose", ["a"], ["b"], perm=[0, 2, 1])],
    "squeeze": [node("Unsqueeze", ["a", "two"], ["u"]), node("Squeeze", ["u", "two"], ["b"])],
    "flatten": [node("Flatten", ["a"], ["b"])],
    "reshape": [node("Reshape", ["a", "shape"], ["b"])],
    "rows mixed": [node("Reshape", ["a", "flat"], ["b"])],
    "slice": [node("Slice", ["a", "one", "three", "two"], ["b"])],
    "slice of a middle axis": [node("Slice", ["a", "one", "three", "one"], ["b"])],
    "every other": [node("Slice", ["a", "zero", "far", "two", "two"], ["b"])],
    "backwards": [node("Slice", ["a", "minus", "farback", "one", "minus"], ["b"])],
    "gather": [node("Gather", ["a", "numbers"], ["b"], axis=2)],
    "one column": [node("Gather", ["a", "last"], ["b"], axis=1)],
    "split": [node("Split", ["a"], ["s", "t"], axis=1), node("Sub", ["s", "t"], ["b"])],
    "uneven split": [node("Split", ["a", "parts"], ["s", "t"], axis=2), node("Concat", ["t", "s"], ["b"], axis=2)],
    "concat": [node("Tanh", ["a"], ["s"]), node("Concat", ["a", "s"], ["b"], axis=1)],
    "pad": [node("Pad", ["a", "pads"], ["b"])],
    "pad by a number": [node("Pad", ["a", "pads", "half"], ["b"])],
    "reflect": [node("Pad", ["a", "pads"], ["b"], mode="reflect")],
    "edge": [node("Pad", ["a", "pads"], ["b"], mode="edge")],
    "identity": [node("Identity", ["a"], ["i"]), node("Dropout", ["i"], ["b"])],
    "cast": [node("Cast", ["a"], ["b"], to=1)],
}
CONSTANTS: dict[str, Any] = {
    "zero": [0], "one": [1], "two": [2], "three": [3], "minus": [-1], "far": [2**63 - 1], "farback": [-(2**63) + 1],
    "shape": [0, 2, -1], "flat": [-1, 3], "numbers": [4, 0, 4], "last": -1, "parts": [1, 5], "pads": [0, 0, 1, 0, 0, 2],
}  # fmt: skip


@pytest.mark.parametrize("between", (False, True), ids=("outside", "in the network"))
@pytest.mark.parametrize("move", MOVES)
def test_moves(move: str, between: bool) -> None:
    """In a network, between two operators that compute, and on an input, where NumPy does it; a Pad is compiled."""
    if not between and move in ("identity", "cast", "concat"):
        pytest.skip("nothing of it is left outside the network")
    first = node("Mul", ["x", "x"], ["a"]) if between else node("Identity", ["x"], ["a"])
    nodes = [first, *MOVES[move], node("Exp", ["b"], ["y"])]
    constants = {name: np.array(value) for name, value in CONSTANTS.items()} | {"half": np.float32(0.5)}
    proto = model(nodes, {"x": ("float32", ["B", 4, 6])}, ["y"], constants)
    network = compiled_like_onnxruntime(proto, {"x": numbers(3, 4, 6)}, 5e-6)
    padded = move in ("pad", "pad by a number", "reflect", "edge")
    assert ("in NumPy" in network.explain()) == (not (between or padded) or move == "rows mixed")


@pytest.mark.parametrize("axis", (0, 1))
@pytest.mark.parametrize("place", (0, -1))
def test_first_and_last_steps(axis: int, place: int) -> None:
    constants = {"W": numbers(1, 9, 4), "R": numbers(1, 9, 3), "place": np.array(place), "h": numbers(3, 2)}
    nodes = [
        node("GRU", ["x", "W", "R"], ["Y"], hidden_size=3),
        node("Squeeze", ["Y", "one"], ["s"]),
        *([node("Transpose", ["s"], ["t"], perm=[1, 0, 2])] if axis else [node("Identity", ["s"], ["t"])]),
        node("Gather", ["t", "place"], ["g"], axis=axis),
        node("MatMul", ["g", "h"], ["y"]),
    ]
    proto = model(nodes, {"x": ("float32", ["T", "B", 4])}, ["y"], constants | {"one": np.array([1])})
    compiled_like_onnxruntime(proto, {"x": numbers(5, 2, 4)})


def test_a_forward_node_and_one_between_reversed_slices() -> None:
    constants = {f"{w}{d}": numbers(1, 12, n) for w, n in (("W", 4), ("R", 3)) for d in "fb"}
    constants |= {
        "minus": np.array([-1]),
        "farback": np.array([-(2**63) + 1]),
        "zero": np.array([0]),
        "v": numbers(6, 2),
    }
    back = ["minus", "farback", "zero", "minus"]
    nodes = [
        node("LSTM", ["x", "Wf", "Rf"], ["Yf"], hidden_size=3),
        node("Slice", ["x", *back], ["xr"]),
        node("LSTM", ["xr", "Wb", "Rb"], ["Yb", "Yh"], hidden_size=3),
        node("Slice", ["Yb", *back], ["Yr"]),
        node("Concat", ["Yf", "Yr"], ["both"], axis=3),
        node("MatMul", ["both", "v"], ["y"]),
    ]
    proto = model(nodes, {"x": ("float32", ["T", "B", 4])}, ["y", "Yh"], constants, opset=12)
    compiled_like_onnxruntime(proto, {"x": numbers(5, 2, 4)})


def test_a_branch_taken_by_an_input() -> None:
    from onnx import helper

    def branch(op: str) -> Any:
        output = helper.make_empty_tensor_value_info("inner")
        return helper.make_graph([node(op, ["x"], ["inner"])], op, [], [output])

    nodes = [
        node("Equal", ["rate", "fast"], ["is"]),
        helper.make_node("If", ["is"], ["b"], then_branch=branch("Exp"), else_branch=branch("Neg")),
        node("Tanh", ["b"], ["y"]),
    ]
    kinds: dict[str, Any] = {"x": ("float32", ["B", 4]), "rate": ("int64", [])}
    proto = model(nodes, kinds, ["y"], {"fast": np.array(16000)})
    network = rnnc.from_onnx(proto)
    assert "the numbers in 'rate'" in network.explain() and "the first run does it" in network.explain()
    for rate in (16000, 8000):
        compiled_like_onnxruntime(proto, {"x": numbers(3, 4), "rate": np.array(rate)})
    for rate in (16000, 16000, 8000, 8000, 16000):  # each by a direct call of its own
        given = {"x": numbers(3, 4), "rate": np.array(rate)}
        np.testing.assert_allclose(network.run(given)["y"], onnxruntime_gives(proto, given)["y"], atol=2e-6)
