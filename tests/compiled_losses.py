"""Losses without a network: of an output that is an input, with its gradient, compiled on any backend."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnnc import losses
from rnnc.compiled import CompileOptions
from rnnc.ir.autodiff import vjp
from rnnc.ir.computation import Computation
from rnnc.ir.graph import Graph
from rnnc.ir.names import VALID
from rnnc.ir.shape_rules import BATCH

Array = NDArray[Any]


def graph_of(loss: losses.Loss, size: int, dtype: str, steps: int, lengths: bool, weighted: bool) -> Graph:
    """The loss of an input "z", and its gradient."""
    graph = Graph(dtype, steps, share=False)
    z = [graph.input("z", (BATCH, size), t) for t in range(steps)]
    if lengths:
        valid = [graph.input(VALID, (BATCH, 1), t, dtype="bool") for t in range(steps)]
        z = [graph.add("select", (v, n, graph.const(0.0))) for v, n in zip(valid, z, strict=True)]
    graph.outputs["output"] = tuple(z)
    losses.add_loss(graph, loss, losses.Roles(weighted=weighted))
    graph = vjp(graph, ["z"], {"loss": "d:loss"})
    graph.outputs.pop("output")
    return graph


@cache
def _code(loss: losses.Loss, size: int, dtype: str, backend: str, weighted: bool) -> Any:
    computation = Computation(lambda steps, lengths: graph_of(loss, size, dtype, steps, lengths, weighted))
    return CompileOptions(backend).compile(computation)


def evaluate(
    loss: losses.Loss,
    z: Array,
    targets: Any,
    lengths: Any = None,
    *,
    backend: str = "reference",
    weights: Any = None,
) -> tuple[float, Array]:
    """The mean loss and its gradient. z: (T, B, N). weights: a factor per target."""
    (steps, rows, size), dtype = z.shape, str(z.dtype)
    target, counts = loss.encode(targets, size, dtype)
    if weights is not None:
        counts = counts * weights
    there = np.ones((steps, rows), bool) if lengths is None else np.arange(steps)[:, None] < np.array(lengths)
    count = counts.sum() if loss.per_row else counts[there].sum()
    feeds = {"z": z, "target": target, "d:loss": np.full(1, 1 / count, dtype)} | loss.constants(size, dtype)
    if weights is not None:
        feeds["weight"] = np.asarray(weights, dtype)[..., None]
    found = {"loss": np.zeros(1, dtype), "d:z": np.zeros_like(z)}
    read = None if lengths is None else np.array(lengths, np.int64)
    code = _code(loss, size, dtype, backend, weights is not None)
    code.bind({}).start(feeds, found, steps, rows, read)
    return float(found["loss"][0] / count), found["d:z"]
