"""Loops over a cell as PyTorch exports them, step by step: one cell again, against ONNX Runtime."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import rnnc
from tests.onnx_models import model, node
from tests.test_onnx_models import Module, agree, exported, nn, torch, x

STEPS, SIZE, HIDDEN = 6, 5, 4
B = {"x": {0: "B"}}


def lstm(m: Any, x: Any) -> Any:
    h = c = torch.zeros(x.shape[0], HIDDEN)
    found = []
    for t in range(x.shape[1]):
        h, c = m.cell(x[:, t], (h, c))
        found.append(h)
    return torch.stack(found, 1), h, c


def gru(m: Any, x: Any, h: Any) -> Any:
    """An initial state that comes with the call, a readout of each step, and a layer behind the last one."""
    found = []
    for t in range(x.shape[1]):
        h = m.cell(x[:, t], h)
        found.append(torch.sigmoid(m.out(h)))
    return torch.cat([y.unsqueeze(1) for y in found], 1), m.last(h)


def stacked(m: Any, x: Any) -> Any:
    """Two cells, the second of which reads the first, behind a layer."""
    h = k = torch.zeros(x.shape[0], HIDDEN)
    x = torch.tanh(m.first(x))
    for t in range(x.shape[1]):
        h = m.cell(x[:, t], h)
        k = m.other(h, k)
    return m.out(k)


def own(m: Any, x: Any) -> Any:
    """Equations of nobody's cell; batch second; a step in the middle is an output, too."""
    h = torch.zeros(x.shape[1], HIDDEN)
    found = []
    for t in range(x.shape[0]):
        z = torch.sigmoid(m.a(x[t]) + m.b(h))
        h = z * h + (1 - z) * torch.relu(m.c(x[t]))
        found.append(h)
    return torch.stack(found), found[2]


def linear(size: int = SIZE, out: int = HIDDEN) -> Any:
    return nn.Linear(size, out)


LOOPS: dict[str, tuple[Callable[..., Any], dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "lstm": (lstm, {"cell": nn.LSTMCell(SIZE, HIDDEN)}, {"x": x(3, STEPS, SIZE)}, B),
    "gru": (
        gru,
        {"cell": nn.GRUCell(SIZE, HIDDEN), "out": linear(HIDDEN, 2), "last": linear(HIDDEN, 3)},
        {"x": x(3, STEPS, SIZE), "h": x(3, HIDDEN)},
        B | {"h": {0: "B"}},
    ),
    "stacked": (
        stacked,
        {
            "first": linear(SIZE, 7),
            "cell": nn.RNNCell(7, HIDDEN),
            "other": nn.GRUCell(HIDDEN, HIDDEN),
            "out": linear(HIDDEN, 2),
        },
        {"x": x(3, STEPS, SIZE)},
        B,
    ),
    "own": (own, {"a": linear(), "b": linear(HIDDEN), "c": linear()}, {"x": x(STEPS, 3, SIZE)}, {"x": {1: "B"}}),
    "fixed sizes": (lstm, {"cell": nn.LSTMCell(SIZE, HIDDEN)}, {"x": x(3, STEPS, SIZE)}, {}),
}


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_is_one_cell_again(name: str, backend: str) -> None:
    forward, parts, inputs, axes = LOOPS[name]
    proto = exported(Module(forward, **parts), inputs, axes)
    network = rnnc.from_onnx(proto, backend=backend)
    assert len(re.findall(r"\(Scan\): compiled: network", network.explain())) == 1
    assert "compiled: a step of node" in network.explain()
    agree(network, proto, {key: value.numpy() for key, value in inputs.items()})


def written_out(steps: int = 5, **changed: Any) -> Any:
    """h = act(W x + R h) by hand. changed: node of step 3 -> what it has instead, its operator or an input."""
    nodes = []
    for t in range(steps):
        before = f"h{t - 1}" if t else "start"
        own = {"op": "Tanh", "weight": "R", "reads": before} | (changed if t == 3 else {})
        nodes += [
            node("Gather", ["x", f"at{t}"], [f"x{t}"], axis=0),
            node("MatMul", [f"x{t}", "W"], [f"a{t}"]),
            node("MatMul", [own["reads"], own["weight"]], [f"b{t}"]),
            node("Add", [f"a{t}", f"b{t}"], [f"s{t}"]),
            node(own["op"], [f"s{t}"], [f"h{t}"]),
        ]
    rng = np.random.default_rng(0)
    constants: dict[str, Any] = {f"at{t}": np.array(t) for t in range(steps)}
    for name, rows in (("W", SIZE), ("R", HIDDEN), ("Q", HIDDEN)):
        constants[name] = rng.standard_normal((rows, HIDDEN)).astype(np.float32)
    kinds: dict[str, Any] = {"x": ("float32", [steps, "B", SIZE]), "start": ("float32", ["B", HIDDEN])}
    return model(nodes, kinds, [f"h{steps - 1}"], constants)


@pytest.mark.parametrize(
    "changed", ({}, {"op": "Sigmoid"}, {"weight": "Q"}, {"reads": "h1"}, {"reads": "start"}, {"reads": "a3"})
)
def test_steps_that_differ_stay_as_they_are(changed: dict[str, str]) -> None:
    proto = written_out(**changed)
    network = rnnc.from_onnx(proto)
    assert ("(Scan)" in network.explain()) == (not changed)
    agree(network, proto, {"x": x(5, 3, SIZE).numpy(), "start": x(3, HIDDEN).numpy()})


def test_a_position_that_is_not_read() -> None:
    proto = written_out()
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 6
    network = rnnc.from_onnx(proto)
    assert "(Scan)" not in network.explain()
    agree(network, proto, {"x": x(6, 3, SIZE).numpy(), "start": x(3, HIDDEN).numpy()})


def test_a_body_that_rnnc_cannot_compile_stays_as_it_is() -> None:
    """Each step is a recurrent node of its own, which is no equation of a cell. explain() says so."""
    nodes, state = [], "start"
    for t in range(4):
        nodes.append(node("Gather", ["x", f"at{t}"], [f"g{t}"], axis=0))
        nodes.append(node("Unsqueeze", [f"g{t}", "zero"], [f"u{t}"]))
        nodes.append(node("RNN", [f"u{t}", "W", "R", "", "", state], ["", f"h{t}"], hidden_size=HIDDEN))
        state = f"h{t}"
    rng = np.random.default_rng(0)
    constants: dict[str, Any] = {f"at{t}": np.array(t) for t in range(4)} | {"zero": np.array([0])}
    constants["W"] = rng.standard_normal((1, HIDDEN, SIZE)).astype(np.float32)
    constants["R"] = rng.standard_normal((1, HIDDEN, HIDDEN)).astype(np.float32)
    kinds: dict[str, Any] = {"x": ("float32", [4, "B", SIZE]), "start": ("float32", [1, "B", HIDDEN])}
    proto = model(nodes, kinds, ["h3"], constants)
    network = rnnc.from_onnx(proto)
    assert "not rolled, its steps are compiled one by one: " in network.explain()
    agree(network, proto, {"x": x(4, 3, SIZE).numpy(), "start": x(1, 3, HIDDEN).numpy()})
