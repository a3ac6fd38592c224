"""Recurrent nodes between two reversals of time, alone and beside a forward one, against ONNX Runtime."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rnnc
from tests.onnx_models import helper, model, node, numpy_helper, onnxruntime_gives

Array = np.ndarray[Any, np.dtype[Any]]
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
SIZE, HIDDEN = 3, 4
BACK = ("minus", "far", "axis", "minus")


@dataclass(frozen=True)
class Case:
    """A backward node of an op between reversals. beside: a forward one reads the same sequence.

    ragged: reversals by sequence_lens, which the nodes have as well. moved: an exporter's Squeeze lies between node and
    second reversal. states: the backward node has an initial state, a constant. bias: of each node.
    """

    op: str
    beside: bool
    ragged: bool
    moved: bool
    states: bool
    bias: tuple[bool, bool]
    seed: int

    def model(self) -> Any:
        lens = "int32s" if self.ragged else ""
        nodes = [node("Cast", ["lengths"], ["int32s"], to=6)] if self.ragged else []
        nodes.append(self.reversal("x", "xr", "b0"))
        nodes.append(self.recurrent("b", "xr", lens))
        if self.moved or self.ragged:  # a ReverseSequence has the batch in its first two axes
            nodes += [node("Squeeze", ["bY"], ["bS"], axes=[1]), self.reversal("bS", "backward", "b1")]
        else:
            nodes += [self.reversal("bY", "bV", "b1"), node("Squeeze", ["bV"], ["backward"], axes=[1])]
        outputs = ["backward", *self.ends("b")]
        if self.beside:
            nodes += [self.recurrent("f", "x", lens), node("Squeeze", ["fY"], ["forward"], axes=[1])]
            nodes += [node("Concat", ["forward", "backward"], ["both"], axis=2), node("Neg", ["both"], ["y"])]
            outputs = ["y", "backward", *self.ends("b"), *self.ends("f")]
        kinds: dict[str, Any] = {"x": ("float32", ["T", "B", SIZE])}
        kinds |= {"lengths": ("int64", ["B"])} if self.ragged else {}
        return model(nodes, kinds, outputs, self.constants(), opset=12)

    def ends(self, which: str) -> list[str]:
        return [f"{which}h", f"{which}c"] if self.op == "LSTM" else [f"{which}h"]

    def reversal(self, x: str, y: str, name: str) -> Any:
        if self.ragged:
            return node("ReverseSequence", [x, "lengths"], [y], name=name, time_axis=0, batch_axis=1)
        return node("Slice", [x, *BACK], [y], name=name)

    def recurrent(self, which: str, x: str, lens: str) -> Any:
        bias = f"B{which}" if self.bias["bf".index(which)] else ""
        state = "h0" if self.states and which == "b" else ""
        inputs = [x, f"W{which}", f"R{which}", bias, lens, state]
        while not inputs[-1]:
            inputs.pop()
        return node(self.op, inputs, [f"{which}Y", *self.ends(which)], name=which, hidden_size=HIDDEN)

    def constants(self) -> dict[str, Any]:
        rng, rows = np.random.default_rng(self.seed), GATES[self.op] * HIDDEN
        shapes = {"W": (1, rows, SIZE), "R": (1, rows, HIDDEN), "B": (1, 2 * rows)}
        found: dict[str, Any] = {
            f"{name}{which}": (0.5 * rng.standard_normal(shape)).astype(np.float32)
            for which in "fb"
            for name, shape in shapes.items()
        }
        found["h0"] = np.full((1, 2, HIDDEN), 0.3, np.float32)
        return found | {"minus": np.array([-1]), "far": np.array([-(2**63) + 1]), "axis": np.array([0])}


CASES = st.builds(
    Case,
    op=st.sampled_from(sorted(GATES)),
    beside=st.booleans(),
    ragged=st.booleans(),
    moved=st.booleans(),
    states=st.booleans(),
    bias=st.tuples(st.booleans(), st.booleans()),
    seed=st.integers(0, 2**32),
)


def checked(case: Case) -> rnnc.OnnxNetwork:
    """The network of a case, which gives what ONNX Runtime gives."""
    proto, rng = case.model(), np.random.default_rng(case.seed)
    network = rnnc.from_onnx(proto)
    for steps in (1, 5):
        given: dict[str, Array] = {"x": rng.standard_normal((steps, 2, SIZE)).astype(np.float32)}
        if case.ragged:
            given["lengths"] = rng.integers(0, steps + 1, 2)
        made, expected = network.run(given), onnxruntime_gives(proto, given)
        for name, array in expected.items():
            assert made[name].shape == array.shape
            np.testing.assert_allclose(made[name], array, rtol=0, atol=1e-6, err_msg=f"{case} {name}")
    return network


@settings(max_examples=12)
@given(case=CASES)
def test_reversals_cancel(case: Case) -> None:
    network = checked(case)
    shown = network.explain()
    assert "b0' (" in shown and "the recurrent node behind it runs in the other direction" in shown
    layers = [line for line in shown.splitlines() if f"({case.op}): compiled" in line]
    assert len(layers) == 1 and ("'f, b'" in layers[0]) == case.beside


@pytest.mark.parametrize("ragged", (False, True))
def test_one_bidirectional_layer(ragged: bool) -> None:
    """It gives both directions side by side: nothing is cut and joined again."""
    network = checked(Case("LSTM", True, ragged, False, False, (True, False), 0))
    assert "'f, b' (LSTM): compiled: network 1" in network.explain()
    layers = network._plans.items()[0][1].segments[0].building.entries
    kinds = [type(entry[0]).__name__ for entry in layers.values()]
    assert kinds.count("LSTM") == 1 and "Concat" not in kinds


@pytest.mark.parametrize("layout", (0, 1))
def test_the_batch_first(layout: int) -> None:
    """Time is axis `layout`. ONNX Runtime refuses layout 1: the other one gives what is expected."""
    case = Case("GRU", True, False, False, False, (True, True), 3)
    found = []
    for first in (0, layout):
        proto = case.model()
        turned = [n for n in proto.graph.node if n.op_type in ("GRU", "Slice", "Squeeze")]
        for one in turned if first else []:
            if one.op_type == "GRU":
                one.attribute.append(helper.make_attribute("layout", 1))
            elif one.op_type == "Squeeze":
                one.attribute[0].ints[0] = 2
        if first:
            axis = next(tensor for tensor in proto.graph.initializer if tensor.name == "axis")
            axis.CopyFrom(numpy_helper.from_array(np.array([1]), "axis"))
        x = np.random.default_rng(0).standard_normal((5, 2, SIZE)).astype(np.float32)
        network = rnnc.from_onnx(proto)
        assert "'f, b' (GRU): compiled" in network.explain()
        made = network.run({"x": x.swapaxes(0, 1).copy() if first else x})
        found.append({name: array.swapaxes(0, 1) if first else array for name, array in made.items()})
    for name, array in found[0].items():
        np.testing.assert_allclose(found[1][name], array, rtol=0, atol=1e-6, err_msg=name)
