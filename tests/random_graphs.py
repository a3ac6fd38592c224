"""Random well-formed graphs for hypothesis, built through the builder: every op, loops in both directions, any site."""

from __future__ import annotations

import math
from collections.abc import Callable

from hypothesis import strategies as st

from rnnc.ir.graph import Graph, Node, Site
from rnnc.ir.ops import OPS, Kind

WIDTH = 3
NAMES = st.text(max_size=5)
FLOATS = st.floats(width=64) | st.sampled_from([math.inf, -math.inf, math.nan, -0.0, 0.0, 5e-324, 1e300, 0.1])
MARKS = st.lists(st.sampled_from(["grad", "tangent"]), max_size=3).map(tuple)
SITES = st.none() | st.builds(Site, st.integers(0, 3), st.sampled_from([None, 0, 1]), MARKS)
ELEMENTWISE = sorted(op.name for op in OPS.values() if op.kind is Kind.ELEMENTWISE)
VIEWS = ["slice", "concat", "transpose"]
OTHERS = [*VIEWS, "matmul", "reduce_sum", "reduce_max", "reduce_rows", "outer", "zeros", "const"]

Recipe = tuple[str, int, int, int, float, Site | None]
RECIPES = st.tuples(st.sampled_from(ELEMENTWISE + OTHERS), *[st.integers(0, 1000)] * 3, FLOATS, SITES)


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """A graph of 1-3 states, each carried through all steps; the same random recipes run at every step."""
    steps = draw(st.integers(1, 4))
    graph = Graph(draw(st.sampled_from(["float32", "float64"])), steps, share=draw(st.booleans()))
    name = draw(NAMES)
    xs = [graph.input(name, ("B", WIDTH), t) for t in range(steps)]
    mask = [graph.input(name + "?", ("B", 1), t, dtype="bool") for t in range(steps)]
    weight = graph.input(name + "!", (WIDTH, WIDTH))
    for number, recipes in enumerate(draw(st.lists(st.lists(RECIPES, max_size=8), min_size=1, max_size=3))):
        delta = draw(st.sampled_from([1, -1]))
        start = graph.tsum(xs) if draw(st.booleans()) else graph.input(f"{name}{number}.0", ("B", WIDTH))
        xs = _loop(graph, f"{name}{number}", delta, start, xs, mask, weight, recipes)
    graph.outputs[draw(NAMES)] = tuple(xs)
    graph.outputs["products"] = graph.tsum([graph.add("outer", (x, x)) for x in xs])
    return graph


def _loop(
    graph: Graph,
    state: str,
    delta: int,
    value: Node,
    xs: list[Node],
    mask: list[Node],
    weight: Node,
    recipes: list[Recipe],
) -> list[Node]:
    """One state, carried from `value` through all steps: its new value is the last one the recipes make."""
    outputs = dict[int, Node]()
    for t in range(graph.steps)[::delta]:
        carried = graph.carry(value, state, delta, t)
        pool = [graph.sum([xs[t], carried])]
        for recipe in recipes:
            pool.append(_cook(graph, pool, mask[t], weight, recipe))
        value = outputs[t] = graph.add("select", (mask[t], pool[-1], carried))
    graph.outputs[f"{state}.n"] = graph.exit(value, state, delta)
    return [outputs[t] for t in range(graph.steps)]


def _cook(graph: Graph, pool: list[Node], mask: Node, weight: Node, recipe: Recipe) -> Node:
    """A (B, WIDTH) value of the step, made with the op the recipe names."""
    op, i, j, k, number, graph.site = recipe
    a, b = pool[i % len(pool)], pool[j % len(pool)]
    special: dict[str, Callable[[], Node]] = {
        "matmul": lambda: graph.add("matmul", (a, weight), transpose_b=k % 2 == 0),
        "slice": lambda: graph.concat([graph.slice(a, -1, k % WIDTH, k % WIDTH + 1)] * WIDTH, -1),
        "concat": lambda: graph.slice(graph.concat([a, b], -1), -1, k % WIDTH, k % WIDTH + WIDTH),
        "reduce_sum": lambda: graph.add("add", (graph.add("reduce_sum", (a,)), b)),
        "reduce_max": lambda: graph.add("add", (graph.add("reduce_max", (a,)), b)),
        "reduce_rows": lambda: graph.add("mul", (graph.add("reduce_rows", (a,), keep=k % 2 == 0), b)),
        "outer": lambda: graph.add("matmul", (a, graph.add("outer", (a, b))), transpose_b=k % 2 == 0),
        "transpose": lambda: graph.add("matmul", (a, graph.add("transpose", (weight,))), transpose_b=k % 2 == 0),
        "zeros": lambda: graph.sum([a, graph.zeros(("B", WIDTH), a.step if k % 2 else None)]),
        "const": lambda: graph.add("mul", (a, graph.const(number))),
        "greater": lambda: graph.add("select", (graph.add("greater", (a, b)), b, a)),
        "greater_equal": lambda: graph.add("select", (graph.add("greater_equal", (a, b)), b, a)),
        "select": lambda: graph.add("select", (mask, a, b)),
        "add": lambda: graph.sum([a, b, pool[k % len(pool)]]),
    }
    if op in special:
        return special[op]()
    return graph.add(op, (a, b)[: OPS[op].arity])
