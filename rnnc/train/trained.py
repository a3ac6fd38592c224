"""Which parameters a training changes, and which of their gradients are sparse."""

from __future__ import annotations

from collections.abc import Collection
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from rnnc.backends.training.protocol import LookUp
from rnnc.checking import checks
from rnnc.ir.errors import ArgumentError, ArgumentTypeError
from rnnc.layers import Embedding

if TYPE_CHECKING:
    from rnnc.graph import Graph
    from rnnc.layered import Layered


def frozen_of(model: Layered, patterns: object) -> frozenset[str]:
    """The names of the parameters that do not change. patterns: names, or patterns of them.

    Raises ArgumentTypeError, or ArgumentError for a pattern that is no parameter's.
    """
    if isinstance(patterns, str) or not isinstance(patterns, Collection):
        raise ArgumentTypeError(f"frozen: expected a list of names of parameters, got {checks.came(patterns)}")
    shapes, found = model.parameter_shapes(), set[str]()
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise ArgumentTypeError(f"frozen: expected names of parameters, got {checks.came(pattern)}")
        matching = {name for name in shapes if fnmatchcase(name, pattern)}
        if not matching:
            hint = checks.suggestion(pattern, shapes)
            raise ArgumentError(f"frozen: {checks.shown(pattern)} is the name of no parameter{hint}")
        found |= matching
    if found == set(shapes):
        raise ArgumentError("frozen: these are all parameters; leave at least one out, or use train.Evaluation")
    return frozenset(found)


def look_ups_of(graph: Graph) -> tuple[LookUp, ...]:
    """The reads of tables."""
    found = []
    for name, (_, rows) in graph.tables.items():
        layer = graph.entries[name].layer
        assert isinstance(layer, Embedding)
        found.append(LookUp(graph.table_of(name), rows, layer.padding_index))
    return tuple(found)


def kept_apart(graph: Graph, gradients: Collection[str], frozen: Collection[str]) -> str:
    """A text about parameters whose gradients are not computed, or are dense where one may expect sparse ones."""
    tables = {graph.table_of(name) for name in graph.tables}
    tied = sorted(tables & set(gradients))
    lines = [f"table {name}: it is read as a matrix, too, so its gradient is dense" for name in tied]
    if frozen:
        lines.append(f"frozen, without gradients: {', '.join(sorted(frozen))}")
    return "".join(f"{line}\n" for line in lines)
