"""States that start at something computed: no cell says so today, but a graph may, and derivatives do."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from rnnc import backends
from rnnc.backends.cuda.emulator import find_compiler
from rnnc.backends.reference.interpreter import run_graph
from rnnc.ir.computation import Computation
from rnnc.ir.graph import Graph, Node
from rnnc.ir.verify import verify

WIDE, H = 6, 3

Start = Callable[[Graph, Node, Node], Node]
"""The rows (B, WIDE) and the matrix (WIDE, WIDE) that are given -> (B, H) that a state starts at."""

STARTS: dict[str, Start] = {
    "a part of an input": lambda g, rows, w: g.slice(rows, -1, 2, 2 + H),
    "a value": lambda g, rows, w: g.add("tanh", (g.slice(rows, -1, 1, 1 + H),)),
    "a part of a value": lambda g, rows, w: g.slice(g.add("mul", (rows, g.add("tanh", (rows,)))), -1, 3, 3 + H),
    "a part of a product": lambda g, rows, w: g.slice(g.add("matmul", (rows, w), transpose_b=True), -1, 2, 2 + H),
    "parts side by side": lambda g, rows, w: g.concat([g.slice(rows, -1, 5, 6), g.slice(rows, -1, 0, 2)], -1),
    "a row for all": lambda g, rows, w: g.spread(g.slice(g.slice(w, 0, 1, 2), -1, 0, H), ("B", H)),
    "a number": lambda g, rows, w: g.spread(g.const(0.5), ("B", H)),
}


def build(start: Start, steps: int) -> Graph:
    graph = Graph("float64", steps)
    rows, w = graph.input("given", ("B", WIDE)), graph.input("w", (WIDE, WIDE))
    value = start(graph, rows, w)
    output = []
    for t in range(steps):
        old = graph.carry(value, "h", 1, t)
        value = graph.add("tanh", (graph.add("add", (graph.input("x", ("B", H), t), old)),))
        output.append(value)
    graph.outputs = {"last": graph.exit(value, "h", 1), "output": tuple(output)}
    return verify(graph)


@pytest.mark.parametrize("start", STARTS)
def test_a_state_starts_at(start: str) -> None:
    names = ("llvm", "cuda-emulated") if find_compiler() and start == "a part of a product" else ("llvm",)
    rng = np.random.default_rng(0)
    feeds = {"given": rng.standard_normal((2, WIDE)), "w": rng.standard_normal((WIDE, WIDE))}
    feeds["x"] = rng.standard_normal((4, 2, H))
    expected = run_graph(build(STARTS[start], 4), feeds)
    for name in names:
        computation = Computation(lambda steps, lengths: build(STARTS[start], steps))
        bound = backends.get(name).compile(computation, threads=1).bind({})
        outputs = {key: np.full(value.shape, np.nan) for key, value in expected.items()}
        bound.start(feeds, outputs, 4, 2, None)
        for key, value in expected.items():
            np.testing.assert_allclose(outputs[key], value, rtol=1e-13, err_msg=name)
