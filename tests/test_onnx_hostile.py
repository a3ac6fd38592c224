"""Model files that somebody changed: a network or an error of rnnc's own, in bounded time and memory, always."""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rnnc
from tests.onnx_models import helper, model, node, numpy_helper

X: dict[str, Any] = {"x": ("float32", ["B", 3])}
FLOAT = np.float32


# ------------------------------------------------------------------------------------------ random changes

NUMBERS = (0, 1, -1, 2, 5, 100_000, 2**31 - 1, -(2**31), 2**62, 2**63 - 1, -(2**63))
TEXTS = ("", "zz", "x" * 3000, "\0", "../../etc/passwd", "/etc/passwd", "reverse", "Tanh", "-1")


def recurrent() -> Any:
    nodes = [
        node("Transpose", ["X"], ["t"], perm=[1, 0, 2]),
        node("GRU", ["t", "W", "R"], ["Y", "h"], hidden_size=3, activations=["HardSigmoid", "Tanh"], clip=2.0),
        node("Squeeze", ["Y", "one"], ["s"]),
        node("Shape", ["s"], ["sizes"]),
        node("Gather", ["sizes", "one"], ["steps"]),
        node("Concat", ["steps", "minus"], ["target"], axis=0),
        node("Reshape", ["X", "target"], ["r"]),
        node("ConstantOfShape", ["sizes"], ["full"], value=numpy_helper.from_array(np.ones(1, FLOAT))),
        node("Add", ["full", "s"], ["added"]),
        node("LayerNormalization", ["added", "scale"], ["norm"], axis=-1),
        node("MatMul", ["norm", "v"], ["y"]),
    ]
    constants: dict[str, Any] = {"one": [1], "minus": [-1], "scale": np.ones(3, FLOAT), "v": np.ones((3, 5), FLOAT)}
    constants |= {"W": np.ones((1, 9, 4), FLOAT), "R": np.ones((1, 9, 3), FLOAT)}
    return model(nodes, {"X": ("float32", ["B", "T", 4])}, ["y", "r", "h"], constants)


def convolved() -> Any:
    nodes = [
        node("Conv", ["x", "w"], ["a"], pads=[1, 1], strides=[2]),
        node("BatchNormalization", ["a", "s", "s", "s", "s"], ["n"]),
        node("Flatten", ["n"], ["f"], axis=1),
        node("Gemm", ["f", "g"], ["z"], transB=1, alpha=0.5),
        helper.make_node("If", ["fast"], ["y"], then_branch=branch("Exp", "z"), else_branch=branch("Neg", "z")),
    ]
    constants: dict[str, Any] = {"w": np.ones((3, 2, 3), FLOAT), "s": np.ones(3, FLOAT), "g": np.ones((4, 12), FLOAT)}
    return model(nodes, {"x": ("float32", ["B", 2, 8])}, ["y"], constants | {"fast": np.array(True)})


def scanned() -> Any:
    inner = [helper.make_tensor_value_info(name, 1, ["B", 3]) for name in ("h", "xt")]
    nodes = [node("Gemm", ["xt", "w"], ["g"]), node("Add", ["g", "h"], ["a"]), node("Tanh", ["a"], ["h1"])]
    nodes.append(node("Identity", ["h1"], ["out"]))
    outputs = [helper.make_empty_tensor_value_info(name) for name in ("h1", "out")]
    body = helper.make_graph(nodes, "body", inner, outputs)
    scan = helper.make_node("Scan", ["h0", "x"], ["hn", "ys"], num_scan_inputs=1, scan_input_axes=[0], body=body)
    kinds: dict[str, Any] = {"x": ("float32", ["T", "B", 3]), "h0": ("float32", ["B", 3])}
    return model([scan, node("Neg", ["ys"], ["y"])], kinds, ["y", "hn"], {"w": np.ones((3, 3), FLOAT)})


def branch(op: str, read: str) -> Any:
    return helper.make_graph([node(op, [read], ["inner"])], op, [], [helper.make_empty_tensor_value_info("inner")])


def messages(proto: Any) -> Iterator[Any]:
    """A message of protobuf and all inside it."""
    yield proto
    for field, value in proto.ListFields():
        if field.message_type is not None:
            for inner in [value] if hasattr(value, "ListFields") else value:
                yield from messages(inner)


def changed(rng: random.Random, proto: Any) -> None:
    """Removes, doubles or replaces one field anywhere in a model."""
    message = rng.choice([message for message in messages(proto) if message.ListFields()])
    field, value = rng.choice(message.ListFields())
    several = hasattr(value, "append")
    if rng.random() < 0.3:
        message.ClearField(field.name)
    elif several and rng.random() < 0.5:
        value.extend([value[-1]])
    elif field.message_type is None:
        new = replacement(rng, field)
        if several:
            value[rng.randrange(len(value))] = new
        else:
            setattr(message, field.name, new)


def replacement(rng: random.Random, field: Any) -> Any:
    if field.type == field.TYPE_STRING:
        return rng.choice(TEXTS)
    if field.type == field.TYPE_BYTES:
        return rng.choice((b"", b"\xff\xfe", b"\0" * 40))
    if field.cpp_type == field.CPPTYPE_FLOAT:
        return rng.choice((0.0, -1.0, float("nan"), float("inf")))
    small = field.cpp_type in (field.CPPTYPE_INT32, field.CPPTYPE_ENUM)
    return rng.choice([number for number in NUMBERS if not small or 0 <= number < 20])


@cache
def opened() -> list[str]:
    """What this process opens from now on."""
    found: list[str] = []
    sys.addaudithook(lambda event, args: found.append(str(args[0])) if event == "open" else None)
    return found


@pytest.mark.sampled(5)
@pytest.mark.parametrize("seed", range(100))
@pytest.mark.parametrize("make", (recurrent, convolved, scanned))
def test_a_changed_model_gives_a_network_or_an_error_of_rnnc(make: Any, seed: int, tmp_path: Path) -> None:
    rng, proto = random.Random(seed), make()
    for _ in range(rng.randint(1, 3)):
        changed(rng, proto)
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    files = opened()
    files.clear()
    try:
        network = rnnc.from_onnx(tmp_path / "m.onnx")
        network.explain()
        network.run({name: np.ones(sizes(kind), kind.dtype) for name, kind in network.inputs.items()})
    except rnnc.RnncError:
        pass
    assert not [file for file in files if "passwd" in file]


def sizes(kind: Any) -> list[int]:
    return [min(size, 1000) if isinstance(size, int) else 2 for size in kind.shape or ()]


# ------------------------------------------------------------------------------------------ work without end


def refused(nodes: list[Any], message: str, constants: dict[str, Any] | None = None, inputs: Any = X) -> None:
    with pytest.raises(rnnc.RnncError) as found:
        rnnc.from_onnx(model(nodes, inputs, ["y"], constants)).run({"x": np.ones((2, 3), FLOAT)})
    assert re.search(message, str(found.value)), str(found.value)


def test_constants_that_grow() -> None:
    doubled = [node("Concat", [f"c{n}", f"c{n}"], [f"c{n + 1}"], axis=0) for n in range(45)]
    refused([*doubled, node("ReduceSum", ["c45"], ["y"])], "'c24' .*constants", {"c0": np.ones((1, 3), FLOAT)})
    numbers = {"first": np.array(0), "last": np.array(10**12), "one": np.array(1)}
    refused(
        [node("Range", ["first", "last", "one"], ["r"]), node("ReduceSum", ["r"], ["y"])],
        "'r' .*constants that nodes make",
        numbers,
    )
    squared = [node("Mul", [f"s{n}", f"s{n}"], [f"s{n + 1}"]) for n in range(60)]
    refused([node("Shape", ["x"], ["s0"]), *squared, node("ConstantOfShape", ["s60"], ["y"])], "do not fit")


def test_values_too_wide_or_too_scattered() -> None:
    refused([node("Pad", ["x", "p"], ["y"])], "it gives 100000000003 numbers", {"p": [0, 0, 0, 10**11]})
    wide: dict[str, Any] = {"x": ("float32", ["B", 2**40])}
    refused([node("Exp", ["x"], ["y"])], "1099511627776 columns", inputs=wide)
    tall: dict[str, Any] = {"x": ("float32", ["B", 5000, 3])}
    refused([node("Softmax", ["x"], ["y"], axis=2)], "5000 places one by one", inputs=tall)
    refused([node("Softmax", ["x"], ["y"], axis=1)], "14999 places one by one|15000 places one by one", inputs=tall)


def test_an_output_that_rnnc_does_not_compute() -> None:
    norm = node("LayerNormalization", ["x", "scale"], ["n", "mean"], axis=-1)
    refused(
        [norm, node("Neg", ["mean"], ["y"])], "'n' .*does not compute its output 'mean'", {"scale": np.ones(3, "f")}
    )


def test_a_batch_norm_in_training_mode() -> None:
    norm = node("BatchNormalization", ["x", "s", "s", "s", "s"], ["y"], name="bn", training_mode=1)
    refused([norm], "'bn' .*training_mode is 1: it takes the statistics of the batch", {"s": np.ones(3, FLOAT)})


def test_the_mask_of_a_dropout() -> None:
    proto = model([node("Dropout", ["x"], ["y", "mask"])], X, ["y", "mask"])
    assert rnnc.from_onnx(proto).run({"x": np.ones((2, 3), FLOAT)})["mask"].all()


def test_graphs_in_graphs() -> None:
    """Protobuf refuses deep nesting of bytes itself; what it lets pass is read."""
    inner = branch("Exp", "x")
    for depth in range(20):
        node_ = helper.make_node("If", ["c"], [f"y{depth}"], then_branch=inner, else_branch=inner)
        outputs = [helper.make_empty_tensor_value_info(f"y{depth}")]
        inner = helper.make_graph([node_], "g", [], outputs) if depth < 3 else inner
    outer = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    proto = model([outer], X, ["y"], {"c": np.array(True)})
    x = np.ones((2, 3), FLOAT)
    np.testing.assert_allclose(rnnc.from_onnx(proto).run({"x": x})["y"], np.exp(x), rtol=1e-6)
    deep = b"".join([b"\x0a\x7f"] * 1000)
    with pytest.raises(rnnc.OnnxError, match="no ONNX model"):
        rnnc.from_onnx(deep)


def test_text_that_is_no_utf_8() -> None:
    proto = recurrent()
    proto.graph.node[1].attribute[0].strings[0] = b"\xff"
    with pytest.raises(rnnc.OnnxError, match="expected text in UTF-8"):
        rnnc.from_onnx(proto)
    data = recurrent().SerializeToString()
    assert b"LayerNormalization" in data
    with pytest.raises(rnnc.OnnxError, match="."):
        rnnc.from_onnx(data.replace(b"LayerNormalization", b"Layer\xff\xfeormalization"))


# ------------------------------------------------------------------------------------------ sizes in a call


def test_sizes_of_a_call_reach_what_numpy_does() -> None:
    """A Reshape before any network, to a shape that holds the batch, and the shape itself as an output."""
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "zero"], ["b"], axis=0),
        node("Concat", ["b", "rest"], ["t"], axis=0),
        node("Reshape", ["x", "t"], ["y"]),
    ]
    proto = model(nodes, {"x": ("float32", ["B", 6])}, ["y", "s"], {"zero": [0], "rest": [2, -1]})
    network = rnnc.from_onnx(proto)
    for batch in (3, 4):
        made = network.run({"x": np.ones((batch, 6), FLOAT)})
        assert made["y"].shape == (batch, 2, 3) and made["s"].tolist() == [batch, 6] and made["s"].dtype == np.int64
    assert "for all sizes" in network.explain()
