"""Model files that are no model, are damaged, or hold what cannot be: an OnnxError that says what, and where."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rnnc
from tests.onnx_models import helper, model, node, numpy_helper, onnx

Array = np.ndarray[Any, np.dtype[Any]]


def lstm(**attributes: Any) -> Any:
    """A model of one node."""
    made = node("LSTM", ["X", "W", "R"], ["Y"], name="rec", **({"hidden_size": 4} | attributes))
    weights = {"W": np.ones((1, 16, 3), np.float32), "R": np.ones((1, 16, 4), np.float32)}
    return model([made], {"X": ("float32", ["T", "B", 3])}, ["Y"], weights)


def refused(proto: object, *messages: str, **arguments: Any) -> None:
    with pytest.raises(rnnc.RnncError) as found:
        rnnc.from_onnx(proto, **arguments)  # type: ignore[arg-type]
    for message in messages:
        assert re.search(message, str(found.value)), str(found.value)


# ------------------------------------------------------------------------------------------ whole files


@pytest.mark.parametrize("data", (b"", b"\x00" * 50, b"no model at all", b"PK\x03\x04", b"\x08\x08"))
def test_bytes_that_are_no_model(data: bytes) -> None:
    refused(data, "^the bytes: no ONNX model")


def test_a_truncated_file_is_refused_wherever_it_ends() -> None:
    data = lstm().SerializeToString()
    rnnc.from_onnx(data)
    for length in range(0, len(data), 17):
        refused(data[:length], "the bytes: ")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    refused(tmp_path / "none.onnx", "none.onnx: cannot be read: No such file")
    refused(str(tmp_path), "cannot be read: Is a directory")


@pytest.mark.parametrize("came", (None, 3, [b"bytes"], np.zeros(3)))
def test_what_is_no_file(came: object) -> None:
    refused(came, "model: expected a path, bytes or an onnx.ModelProto, got")


def test_a_path_bytes_and_a_proto_are_the_same(tmp_path: Path) -> None:
    proto, x = lstm(), np.ones((2, 1, 3), np.float32)
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    for came in (tmp_path / "m.onnx", str(tmp_path / "m.onnx"), proto, proto.SerializeToString()):
        assert rnnc.from_onnx(came).run({"X": x})["Y"].shape == (2, 1, 1, 4)


@pytest.mark.parametrize(("opset", "found"), ((6, "version 6"), (99, "version 99")))
def test_versions(opset: int, found: str) -> None:
    proto = lstm()
    proto.opset_import[0].version = opset
    refused(proto, f"operators are of {found}, rnnc reads 7 to ")


def test_no_version_of_the_operators() -> None:
    proto = lstm()
    proto.opset_import[0].domain = "com.example"
    refused(proto, "expected one version of ONNX's operators, found none")


# ------------------------------------------------------------------------------------------ graphs


def test_a_cycle_is_named() -> None:
    nodes = [node("Add", ["x", "b"], ["a"], name="first"), node("Neg", ["a"], ["b"], name="second")]
    proto = model(nodes, {"x": ("float32", [2])}, ["a"])
    refused(proto, "a cycle, in which each node waits for the one before: node '(first|second)'")


def test_nodes_in_another_order_are_sorted() -> None:
    first, second = node("Identity", ["X"], ["N"]), lstm().graph.node[0]
    second.input[0] = "N"
    weights = {"W": np.ones((1, 16, 3), np.float32), "R": np.ones((1, 16, 4), np.float32)}
    x = {"X": np.ones((2, 1, 3), np.float32)}
    made = [
        rnnc.from_onnx(model(nodes, {"X": ("float32", ["T", "B", 3])}, ["Y"], weights)).run(x)["Y"]
        for nodes in ([first, second], [second, first])
    ]
    np.testing.assert_array_equal(*made)


def test_an_unknown_name() -> None:
    proto = lstm()
    proto.graph.node[0].input[0] = "Xs"
    refused(proto, "node 'rec' \\(LSTM\\) reads 'Xs', which nothing gives.*did you mean")


def test_an_output_of_nothing() -> None:
    proto = lstm()
    proto.graph.output[0].name = "Z"
    refused(proto, "its output 'Z' is no input, no constant, and of no node")


@pytest.mark.parametrize("what", ("node", "initializer", "input"))
def test_a_name_used_twice(what: str) -> None:
    proto = lstm()
    values = getattr(proto.graph, what)
    values.append(values[0])
    refused(proto, "two (value|constant|input)s are called '(Y|W|X)'")


def test_an_unknown_operator_is_named_with_all_others() -> None:
    nodes = [node("Frobnicate", ["X"], ["a"], name="f"), node("Whirl", ["a"], ["Y"], name="w", domain="com.example")]
    proto = model(nodes, {"X": ("float32", ["T", "B", 3])}, ["Y"], domains={"com.example": 1})
    refused(proto, "2 nodes cannot be compiled", "node 'f' \\(Frobnicate\\)", "node 'w' \\(com.example.Whirl\\)")


def test_outputs_that_are_not_wanted_need_not_be_known() -> None:
    proto = lstm()
    proto.graph.node.append(node("Frobnicate", ["X"], ["Z"]))
    proto.graph.output.append(helper.make_empty_tensor_value_info("Z"))
    refused(proto, "Frobnicate")
    assert rnnc.from_onnx(proto, outputs=["Y"]).outputs == ("Y",)
    refused(proto, "outputs: 'Q' is no output of the ModelProto; it has 'Y', 'Z'", outputs=["Q"])
    refused(proto, "outputs: expected a list of names", outputs="Y")


def test_the_arguments() -> None:
    refused(lstm(), "fallback: expected 'error' or 'onnxruntime', got 'ort'", fallback="ort")


# ------------------------------------------------------------------------------------------ recurrent nodes


@pytest.mark.parametrize(
    ("attributes", "message"),
    (
        ({"direction": "sideways"}, "direction: expected 'forward' or 'reverse' or 'bidirectional', got 'sideways'"),
        ({"hidden_size": 5}, "W: expected shape \\(1, 20, 3\\) for 1 directions, 4 gates and hidden_size 5"),
        ({"hidden_size": 0}, "hidden_size: expected an integer >= 1, got 0"),
        ({"hidden_size": 4.0}, "hidden_size: expected an integer, got 4.0"),
        ({"activations": ["Tanh"]}, "activations: expected 3 for each of 1 directions, got \\['Tanh'\\]"),
        ({"activations": ["Tanh", "Tanh", "Tan"]}, "activations: 'Tan' is none of ONNX's.*did you mean 'tanh'"),
        ({"activations": ["Sigmoid", "Affine", "Tanh"]}, "activation_alpha: expected a number for Affine"),
        (
            {"activations": ["Sigmoid", "ScaledTanh", "Tanh"], "activation_alpha": [1.0]},
            "activation_beta: expected a number for ScaledTanh, which has no default",
        ),
        ({"activations": ["Sigmoid", "ThresholdedRelu", "Tanh"]}, "expected a number for ThresholdedRelu"),
        ({"clip": -1.0}, "clip: expected a number >= 0, got -1.0"),
        ({"layout": 2}, "layout: expected 0 or 1, got 2"),
        ({"direction": "bidirectional"}, "W: expected shape \\(2, 16, 3\\)"),
    ),
)
def test_attributes_that_do_not_fit(attributes: dict[str, Any], message: str) -> None:
    refused(lstm(**attributes), "node 'rec' \\(LSTM\\)", message)


def test_weights_of_another_dtype() -> None:
    proto = lstm()
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones((1, 16, 3), np.float16), "W"))
    refused(proto, "node 'rec'", "W: expected float32 or float64, got float16")


def test_a_call_is_checked() -> None:
    network = rnnc.from_onnx(lstm())
    x = np.ones((2, 1, 3), np.float32)
    for given, error, message in (
        ({"x": x}, rnnc.ArgumentTypeError, "inputs: expected a dict of 'X', got the names 'x'"),
        (x, rnnc.ArgumentTypeError, "inputs: expected a dict of 'X', got"),
        ({"X": x.astype("float64")}, rnnc.DtypeError, "'X': expected float32, got float64"),
        ({"X": x[0]}, rnnc.ShapeError, "'X': expected shape \\(T, B, 3\\), got \\(1, 3\\)"),
        ({"X": x[:, :, :2]}, rnnc.ShapeError, "'X': expected shape \\(T, B, 3\\), got \\(2, 1, 2\\)"),
    ):
        with pytest.raises(error, match=message):
            network.run(given)  # type: ignore[arg-type]


def test_sequences_without_steps_and_without_rows() -> None:
    network = rnnc.from_onnx(lstm())
    assert network.run({"X": np.ones((0, 2, 3), np.float32)})["Y"].shape == (0, 1, 2, 4)
    assert network.run({"X": np.ones((2, 0, 3), np.float32)})["Y"].shape == (2, 1, 0, 4)


# ------------------------------------------------------------------------------------------ data outside the file


def outside(folder: Path, location: str, length: int | None = None, offset: int = 0) -> Path:
    """A model whose W lies in another file."""
    proto = lstm()
    w = proto.graph.initializer[0]
    data = w.raw_data
    w.ClearField("raw_data")
    w.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", len(data) if length is None else length)):
        entry = w.external_data.add()
        entry.key, entry.value = key, str(value)
    (folder / "weights.bin").write_bytes(data)
    (folder.parent / "elsewhere.bin").write_bytes(data)
    (folder / "m.onnx").write_bytes(proto.SerializeToString())
    return folder / "m.onnx"


def test_data_beside_the_model(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    x = np.ones((2, 1, 3), np.float32)
    path = outside(home, "weights.bin")
    np.testing.assert_array_equal(rnnc.from_onnx(path).run({"X": x})["Y"], rnnc.from_onnx(lstm()).run({"X": x})["Y"])
    refused(path.read_bytes(), "constant 'W': its data lies in the file 'weights.bin'; give from_onnx the path")


@pytest.mark.parametrize("location", ("../elsewhere.bin", "/etc/hostname", "", "none.bin", ".", "link.bin"))
def test_data_elsewhere_is_not_read(tmp_path: Path, location: str) -> None:
    home = tmp_path / "home"
    home.mkdir()
    path = outside(home, location)
    (home / "link.bin").symlink_to(tmp_path / "elsewhere.bin")
    refused(path, "constant 'W'", "expected a file in the model's own folder")


@pytest.mark.parametrize(("length", "offset"), ((10, 0), (-1, 0), (192, -4), (192, 100)))
def test_data_of_another_size(tmp_path: Path, length: int, offset: int) -> None:
    home = tmp_path / "home"
    home.mkdir()
    refused(outside(home, "weights.bin", length, offset), "constant 'W'", "expected 192 bytes")


def test_a_tensor_with_less_data_than_its_shape_says() -> None:
    proto = lstm()
    proto.graph.initializer[0].raw_data = b"1234"
    refused(proto, "constant 'W': damaged: ")


@pytest.mark.sampled(8)
@pytest.mark.parametrize("seed", range(80))
def test_damaged_bytes_give_a_network_or_an_error_of_rnnc(seed: int) -> None:
    rng = np.random.default_rng(seed)
    nodes = [
        node("Transpose", ["X"], ["t"], perm=[1, 0, 2]),
        node("GRU", ["t", "W", "R"], ["Y"], hidden_size=3, activations=["HardSigmoid", "Tanh"], clip=2.0),
        node("Squeeze", ["Y", "one"], ["s"]),
        node("MatMul", ["s", "v"], ["m"]),
        node("Slice", ["m", "one", "three", "two"], ["c"]),
        node("Softmax", ["c"], ["y"], axis=-1),
    ]
    constants: dict[str, Any] = {"one": [1], "three": [3], "two": [2]}
    constants |= {"W": np.ones((1, 9, 4), "f"), "R": np.ones((1, 9, 3), "f"), "v": np.ones((3, 5), "f")}
    data = bytearray(model(nodes, {"X": ("float32", ["B", "T", 4])}, ["y"], constants).SerializeToString())
    small = [at for at in range(len(data)) if at < 500 or at > len(data) - 60]  # not in the weights, as a rule
    for at in rng.choice(small, rng.integers(1, 4)):
        data[at] = rng.integers(256)
    try:
        network = rnnc.from_onnx(bytes(data))
        sizes = {
            name: [n if isinstance(n, int) else 2 for n in kind.shape or ()] for name, kind in network.inputs.items()
        }
        network.run({name: np.ones(sizes[name], kind.dtype) for name, kind in network.inputs.items()})
    except rnnc.RnncError:
        pass


def test_outputs_are_the_callers_own() -> None:
    """Writing to them changes neither the inputs nor the constants of the file."""
    moves = (("Identity", "x", "same"), ("Identity", "c", "constant"), ("Transpose", "x", "turned"))
    nodes = [node(op, [read], [made]) for op, read, made in moves]
    weights = {"c": np.arange(3, dtype=np.float32)}
    network = rnnc.from_onnx(model(nodes, {"x": ("float32", ["B", 3])}, ["same", "constant", "turned"], weights))
    x = np.ones((2, 3), np.float32)
    for array in network.run({"x": x}).values():
        array[...] = 7
    assert (x == 1).all() and network.run({"x": x})["constant"].tolist() == [0, 1, 2]
