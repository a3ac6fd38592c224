"""What from_onnx keeps of a graph that is compiled for each value of something: a bounded number of forms."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import rnnc
from rnnc.onnx import late, network
from rnnc.onnx.recent import Recent
from tests.onnx_models import model, node


def test_the_least_recently_used_goes_first() -> None:
    recent: Recent[str, int] = Recent(2)
    for key, value in (("a", 1), ("b", 2)):
        assert recent.put(key, value) == value
    assert recent.get("a") == 1
    recent.put("c", 3)
    assert recent.items() == [("a", 1), ("c", 3)] and recent.get("b") is None
    recent.put("a", 4)
    assert recent.items() == [("c", 3), ("a", 4)]


def by_number() -> Any:
    """y = x + the first `count` rows of a table: its graph depends on the numbers in count."""
    nodes = [node("Slice", ["table", "zero", "count", "zero"], ["rows"]), node("ReduceSum", ["rows"], ["sum"])]
    nodes += [node("Add", ["x", "sum"], ["y"]), node("Tanh", ["y"], ["z"])]
    kinds: dict[str, Any] = {"x": ("float32", ["B", 3]), "count": ("int64", [1])}
    return model(nodes, kinds, ["z"], {"table": np.ones((9, 3), np.float32), "zero": np.array([0])})


def test_forms_of_a_graph_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "MOST_PLANS", 2)
    made = rnnc.from_onnx(by_number())
    x = np.full((2, 3), -3, np.float32)
    for count in (1, 2, 3, 1, 2, 1):
        found = made.run({"x": x, "count": np.array([count])})["z"]
        np.testing.assert_allclose(found, np.tanh(x + np.float32(3 * count)), atol=1e-6)
    assert "the numbers in 'count' (2 kept, at most 2)" in made.explain()
    assert len(re.findall("^for ", made.explain(), re.MULTILINE)) == 2


def test_programs_of_weights_that_come_with_the_call_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(late, "MOST_PROGRAMS", 2)
    compiled: list[rnnc.Spec] = []
    compile = late.compile
    monkeypatch.setattr(late, "compile", lambda spec, **options: compiled.append(spec) or compile(spec, **options))
    kinds: dict[str, Any] = {name: ("float32", [None, None, None]) for name in ("X", "W", "R")}
    made = rnnc.from_onnx(model([node("RNN", ["X", "W", "R"], ["Y"])], kinds, ["Y"]))
    for size in (1, 2, 3, 3, 2, 1):
        given = {"X": np.ones((2, 1, size)), "W": np.ones((1, 4, size)), "R": np.zeros((1, 4, 4))}
        y = made.run({name: array.astype(np.float32) for name, array in given.items()})["Y"]
        np.testing.assert_allclose(y, np.tanh(size), atol=1e-6)
    assert [spec.input_size for spec in compiled] == [1, 2, 3, 1]
