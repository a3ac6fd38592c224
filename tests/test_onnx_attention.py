"""Products of two computed tensors, softmax and sums over time, against ONNX Runtime: attention in its usual forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import rnnc
from tests.onnx_models import model, node, onnxruntime_gives

Nodes = list[Any]
H = 4
RECURRENT = [
    node("Transpose", ["x"], ["xt"], perm=[1, 0, 2]),
    node("GRU", ["xt", "W", "R"], ["y", "y_h"], hidden_size=H),
    node("Squeeze", ["y", "one"], ["yt"]),
    node("Transpose", ["yt"], ["h"], perm=[1, 0, 2]),
]
"""x (B, T, 3) -> h (B, T, H), and the last state y_h (1, B, H)."""


def pooled_by_a_product() -> Nodes:
    return [
        node("MatMul", ["h", "v"], ["scores"]),
        node("Softmax", ["scores"], ["weights"], axis=1),
        node("Transpose", ["weights"], ["row"], perm=[0, 2, 1]),
        node("MatMul", ["row", "h"], ["found"]),
    ]


def pooled_by_a_sum() -> Nodes:
    return [
        node("MatMul", ["h", "v"], ["scores"]),
        node("LogSoftmax", ["scores"], ["logarithms"], axis=1),
        node("Exp", ["logarithms"], ["weights"]),
        node("Mul", ["h", "weights"], ["weighted"]),
        node("ReduceSum", ["weighted", "one"], ["found"], keepdims=0),
    ]


def asked_by_the_last_state() -> Nodes:
    return [
        node("Transpose", ["y_h"], ["query"], perm=[1, 0, 2]),
        node("Transpose", ["h"], ["keys"], perm=[0, 2, 1]),
        node("MatMul", ["query", "keys"], ["scores"]),
        node("Softmax", ["scores"], ["weights"], axis=-1),
        node("MatMul", ["weights", "h"], ["context"]),
        node("Concat", ["query", "context"], ["found"], axis=-1),
    ]


def heads_that_ask_a_memory() -> Nodes:
    """Two heads of two numbers each; the memory (B, 2, 2, 5) is an input."""
    return [
        node("Reshape", ["h", "split"], ["parts"]),
        node("Transpose", ["parts"], ["heads"], perm=[0, 2, 1, 3]),
        node("MatMul", ["heads", "memory"], ["scores"]),
        node("Softmax", ["scores"], ["found"], axis=-1),
    ]


def outer_products_of_a_step() -> Nodes:
    return [node("Unsqueeze", ["h", "last"], ["down"]), node("Unsqueeze", ["h", "two"], ["across"])] + [
        node("MatMul", ["down", "across"], ["found"])
    ]


FORMS = (
    pooled_by_a_product,
    pooled_by_a_sum,
    asked_by_the_last_state,
    heads_that_ask_a_memory,
    outer_products_of_a_step,
)


@pytest.mark.parametrize("form", FORMS)
def test_attention_in_a_file(form: Any) -> None:
    rng = np.random.default_rng(0)
    constants: dict[str, Any] = {"one": np.array([1]), "last": np.array([3]), "two": np.array([2])}
    constants |= {"split": np.array([0, 0, 2, 2])}
    for name, shape in {"W": (1, 3 * H, 3), "R": (1, 3 * H, H), "v": (H, 1)}.items():
        constants[name] = rng.standard_normal(shape).astype(np.float32)
    kinds: dict[str, Any] = {"x": ("float32", ["B", "T", 3])}
    if form is heads_that_ask_a_memory:
        kinds["memory"] = ("float32", ["B", 2, 2, 5])
    file = model([*RECURRENT, *form()], kinds, ["found"], constants)
    network = rnnc.from_onnx(file)
    for batch, steps in ((2, 6), (3, 1)):
        sizes = {"B": batch, "T": steps}
        given = {
            name: rng.standard_normal([sizes.get(size, size) for size in shape]).astype(np.float32)
            for name, (_, shape) in kinds.items()
        }
        np.testing.assert_allclose(network.run(given)["found"], onnxruntime_gives(file, given)["found"], atol=3e-6)
