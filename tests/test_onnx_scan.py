"""Scan, whose body is a cell of whatever operators an exporter wrote, against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import rnnc
from tests.onnx_models import helper, model, node, onnxruntime_gives

Array = np.ndarray[Any, np.dtype[Any]]
SIZE, HIDDEN = 3, 4


def numbers(*shape: int) -> Array:
    return (0.5 * np.random.default_rng(sum(shape)).standard_normal(shape)).astype(np.float32)


def body(nodes: list[Any], inputs: dict[str, list[Any]], outputs: list[str]) -> Any:
    ins = [helper.make_tensor_value_info(name, 1, shape) for name, shape in inputs.items()]
    return helper.make_graph(nodes, "body", ins, [helper.make_empty_tensor_value_info(name) for name in outputs])


def cell() -> Any:
    """A step of an LSTM as exporters write it, and a second result."""
    nodes = [
        node("Gemm", ["xt", "W", "b"], ["gx"], transB=1),
        node("Gemm", ["h", "R", "b"], ["gh"], transB=1),
        node("Add", ["gx", "gh"], ["g"]),
        node("Split", ["g", "quarters"], ["gi", "gf", "gg", "go"], axis=1),
        *(node("Sigmoid", [name], [f"{name}s"]) for name in ("gi", "gf", "go")),
        node("Tanh", ["gg"], ["ggt"]),
        node("Mul", ["gfs", "c"], ["kept"]),
        node("Mul", ["gis", "ggt"], ["new"]),
        node("Add", ["kept", "new"], ["c1"]),
        node("Tanh", ["c1"], ["c1t"]),
        node("Mul", ["gos", "c1t"], ["h1"]),
        node("Identity", ["h1"], ["out"]),
        node("ReduceSum", ["c1", "one"], ["sum"], keepdims=1),
    ]
    shapes: dict[str, list[Any]] = {"h": ["B", HIDDEN], "c": ["B", HIDDEN], "xt": ["B", SIZE]}
    return body(nodes, shapes, ["h1", "c1", "out", "sum"])


WEIGHTS: dict[str, Any] = {"W": numbers(16, SIZE), "R": numbers(16, HIDDEN), "b": numbers(16), "one": np.array([1])}
WEIGHTS["quarters"] = np.array([HIDDEN] * 4)
X: dict[str, Any] = {"x": ("float32", ["T", "B", SIZE])}


def scan(**attributes: Any) -> Any:
    made = helper.make_node("Scan", ["h0", "c0", "x"], ["hn", "cn", "y", "s"], name="scan", num_scan_inputs=1)
    made.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())
    made.attribute.append(helper.make_attribute("body", cell()))
    return made


def agree(network: rnnc.OnnxNetwork, proto: Any, given: dict[str, Array]) -> None:
    made = network.run(given)
    for name, expected in onnxruntime_gives(proto, given).items():
        assert made[name].shape == expected.shape and made[name].dtype == expected.dtype
        np.testing.assert_allclose(made[name], expected, rtol=0, atol=2e-6, err_msg=name)


FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "backward": {"scan_input_directions": [1], "scan_output_directions": [1, 1]},
    "backward in": {"scan_input_directions": [1]},
    "one result backward": {"scan_output_directions": [0, 1]},
    "axes": {"scan_input_axes": [1], "scan_output_axes": [1, 2]},
}


@pytest.mark.parametrize("form", FORMS)
def test_a_scan_is_a_cell(form: str, backend: str) -> None:
    """Initial states come with the call; last states and results are outputs."""
    batch_first = "axes" in form
    kinds: dict[str, Any] = {"h0": ("float32", ["B", HIDDEN]), "c0": ("float32", ["B", HIDDEN])}
    kinds |= {"x": ("float32", ["B", "T", SIZE])} if batch_first else X
    proto = model([scan(**FORMS[form])], kinds, ["hn", "cn", "y", "s"], WEIGHTS)
    network = rnnc.from_onnx(proto, backend=backend)
    assert "node 'scan' (Scan): compiled: network 1" in network.explain() and "for all sizes" in network.explain()
    for steps, batch in ((5, 2), (1, 3), (4, 1)):
        x = numbers(batch, steps, SIZE) if batch_first else numbers(steps, batch, SIZE)
        agree(network, proto, {"x": x, "h0": numbers(batch, HIDDEN), "c0": numbers(batch, HIDDEN)})


def test_between_layers() -> None:
    """In one network with what is before and behind it; its states start at zeros of the batch's size."""
    nodes = [
        node("MatMul", ["x", "V"], ["v"]),
        node("Shape", ["x"], ["sizes"]),
        node("Slice", ["sizes", "one", "two"], ["batch"]),
        node("Concat", ["batch", "hidden"], ["shape"], axis=0),
        node("ConstantOfShape", ["shape"], ["h0"]),
        node("Identity", ["h0"], ["c0"]),
        scan(),
        node("Tanh", ["y"], ["z"]),
    ]
    nodes[6].input[2] = "v"
    constants = WEIGHTS | {"V": numbers(SIZE, SIZE), "two": np.array([2]), "hidden": np.array([HIDDEN])}
    proto = model(nodes, X, ["z", "hn"], constants)
    network = rnnc.from_onnx(proto)
    assert {line.rpartition(" ")[2] for line in network.explain().splitlines() if "compiled: network" in line} == {"1"}
    agree(network, proto, {"x": numbers(5, 2, SIZE)})


def test_a_state_of_several_axes_and_several_sequences() -> None:
    nodes = [
        node("Mul", ["m", "half"], ["kept"]),
        node("Unsqueeze", ["a", "two"], ["column"]),
        node("Unsqueeze", ["b", "one"], ["row"]),
        node("Mul", ["column", "row"], ["outer"]),
        node("Add", ["kept", "outer"], ["m1"]),
        node("ReduceSum", ["m1", "two"], ["y"], keepdims=0),
    ]
    inner = body(nodes, {"m": ["B", 2, 3], "a": ["B", 2], "b": ["B", 3]}, ["m1", "y"])
    made = helper.make_node("Scan", ["m0", "a", "b"], ["mn", "ys"], num_scan_inputs=2, body=inner)
    kinds: dict[str, Any] = {"m0": ("float32", ["B", 2, 3]), "a": ("float32", ["T", "B", 2])}
    kinds["b"] = ("float32", ["T", "B", 3])
    constants: dict[str, Any] = {"half": np.array(0.5, np.float32), "one": np.array([1]), "two": np.array([2])}
    proto = model([made], kinds, ["mn", "ys"], constants)
    given = {"m0": numbers(2, 2, 3), "a": numbers(5, 2, 2), "b": numbers(5, 2, 3)}
    agree(rnnc.from_onnx(proto), proto, given)


def loop(gather_axis: int = 0, condition: str = "true") -> Any:
    """The cell as a Loop over the steps of x, which its body reads by the number of the round."""
    graph = cell()
    graph.node.insert(0, node("Gather", ["x", "t"], ["xt"], axis=gather_axis))
    graph.node.append(node("Identity", ["on"], ["still"]))
    del graph.input[-1]
    graph.input.insert(0, helper.make_tensor_value_info("t", 7, []))
    graph.input.insert(1, helper.make_tensor_value_info("on", 9, []))
    graph.output.insert(0, helper.make_empty_tensor_value_info("still"))
    return helper.make_node("Loop", ["T", condition, "h0", "c0"], ["hn", "cn", "y", "s"], name="loop", body=graph)


LOOP: dict[str, Any] = WEIGHTS | {"true": np.array(True), "zero": np.array(0), "axis": np.array(1)}


@pytest.mark.parametrize("condition", ["true", ""])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_loop_over_the_steps_of_a_sequence_is_a_scan(axis: int, condition: str) -> None:
    nodes = [
        node("Shape", ["x"], ["sizes"]),
        node("Gather", ["sizes", "axis" if axis else "zero"], ["T"]),
        loop(axis, condition),
        node("Tanh", ["y"], ["z"]),
    ]
    kinds: dict[str, Any] = {"h0": ("float32", ["B", HIDDEN]), "c0": ("float32", ["B", HIDDEN])}
    kinds["x"] = ("float32", ["B", "T", SIZE] if axis else ["T", "B", SIZE])
    proto = model(nodes, kinds, ["hn", "cn", "z", "s"], LOOP)
    network = rnnc.from_onnx(proto)
    assert "node 'loop' (Loop): compiled: network 1" in network.explain() and "for all sizes" in network.explain()
    for steps, batch in ((5, 2), (1, 3), (4, 1)):
        x = numbers(batch, steps, SIZE) if axis else numbers(steps, batch, SIZE)
        agree(network, proto, {"x": x, "h0": numbers(batch, HIDDEN), "c0": numbers(batch, HIDDEN)})


def test_loops_that_are_left() -> None:
    """Fewer rounds than steps; a condition that is computed; a body that counts."""
    ends, counts = loop(), loop()
    ends.attribute[0].g.node[-1].CopyFrom(node("Greater", ["t", "zero"], ["still"]))
    counts.attribute[0].g.node.append(node("Cast", ["t"], ["number"], to=1))
    counts.attribute[0].g.node.append(node("Add", ["c1", "number"], ["c2"]))
    counts.attribute[0].g.output[2].name = "c2"
    kinds: dict[str, Any] = {
        "h0": ("float32", [2, HIDDEN]),
        "c0": ("float32", [2, HIDDEN]),
        "x": ("float32", [5, 2, 3]),
    }
    cases = ((loop(), 4, "4 rounds"), (ends, 5, "its condition"), (counts, 5, "the number of its round"))
    for made, rounds, why in cases:
        proto = model([made], kinds, ["hn", "y"], LOOP | {"T": np.array(rounds)})
        with pytest.raises(rnnc.OnnxError, match=f"\\(Loop\\): .*{why}"):
            rnnc.from_onnx(proto)
        network = rnnc.from_onnx(proto, fallback="onnxruntime")
        assert "left to ONNX Runtime" in network.explain()
        agree(network, proto, {"x": numbers(5, 2, SIZE), "h0": numbers(2, HIDDEN), "c0": numbers(2, HIDDEN)})


def test_what_is_left() -> None:
    """A body with an operator that rnnc does not know; one that reads what the graph around it computes."""
    kinds = X | {"h0": ("float32", ["B", SIZE])}
    for inner, why in ((node("Erf", ["xt"], ["e"]), "Erf"), (node("Mul", ["xt", "h0"], ["e"]), "'h0'")):
        graph = body([inner, node("Add", ["h", "e"], ["h1"])], {"h": ["B", SIZE], "xt": ["B", SIZE]}, ["h1"])
        proto = model([helper.make_node("Scan", ["h0", "x"], ["y"], num_scan_inputs=1, body=graph)], kinds, ["y"])
        with pytest.raises(rnnc.OnnxError, match=f"\\(Scan\\): .*{why}"):
            rnnc.from_onnx(proto)
        network = rnnc.from_onnx(proto, fallback="onnxruntime")
        assert "left to ONNX Runtime" in network.explain()
        agree(network, proto, {"x": numbers(5, 2, SIZE), "h0": numbers(2, SIZE)})
