"""The passes, in the order in which they run. Each is a function Graph -> Graph, and keeps a valid graph valid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rnnc.ir.graph import Graph
from rnnc.ir.passes.common_subexpressions import common_subexpressions
from rnnc.ir.passes.dead_code import dead_code
from rnnc.ir.passes.flatten_sums import flatten_sums
from rnnc.ir.passes.fold_constants import fold_constants
from rnnc.ir.passes.gate_fusion import gate_fusion
from rnnc.ir.passes.hoist_invariants import hoist_invariants
from rnnc.ir.passes.join_parts import join_parts
from rnnc.ir.passes.sink_slices import sink_slices

Pass = Callable[[Graph], Graph]

PASSES: tuple[Pass, ...] = (
    dead_code,
    common_subexpressions,
    fold_constants,
    join_parts,
    sink_slices,
    flatten_sums,
    hoist_invariants,
    gate_fusion,
    dead_code,
)


def _numbered(names: list[str]) -> tuple[str, ...]:
    """The names, with a number from the second time on."""
    return tuple(f"{n}_{names[: i + 1].count(n)}" if n in names[:i] else n for i, n in enumerate(names))


PASS_NAMES = _numbered([run.__name__ for run in PASSES])
"""The name of each pass, by which `rnnc inspect --after NAME` shows the graph behind it: a pass that runs twice has a
number the second time."""


@dataclass(frozen=True)
class PassRecord:
    """What one pass did: the number of nodes, and of matmuls, before and after it."""

    name: str
    nodes: tuple[int, int]
    matmuls: tuple[int, int]

    def __str__(self) -> str:
        nodes, matmuls = (f"{a} -> {b}" for a, b in (self.nodes, self.matmuls))
        return f"{self.name:<24} nodes {nodes:<14} matmuls {matmuls}"


def optimize(graph: Graph, check: Callable[[Graph], object] | None = None) -> tuple[Graph, list[PassRecord]]:
    """Runs all passes. Returns the optimised graph, and one record per pass.

    check: called with the graph before the first pass and after each pass; the verifier, for example.
    """
    records = []
    if check:
        check(graph)
    for run in PASSES:
        before = graph
        graph = run(graph)
        nodes = len(before.nodes), len(graph.nodes)
        records.append(PassRecord(run.__name__, nodes, (_matmuls(before), _matmuls(graph))))
        if check:
            check(graph)
    return graph, records


def resume(graph: Graph, name: str) -> Graph:
    """The optimised graph, made from the graph after the pass of this name (PASS_NAMES)."""
    for run in PASSES[PASS_NAMES.index(name) + 1 :]:
        graph = run(graph)
    return graph


def _matmuls(graph: Graph) -> int:
    return [node.op for node in graph.nodes].count("matmul")
