"""The tables of a network's embeddings, as a compiled network reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rnnc.backends.arrays import Array
    from rnnc.backends.products import ProductFormat
    from rnnc.backends.tables import NarrowTable
    from rnnc.graph import Graph

__all__ = ["tables_of"]


def tables_of(graph: Graph, params: Mapping[str, Array], form: ProductFormat) -> dict[str, Array | NarrowTable]:
    """The tables by the name of the rows that are looked up, rounded if weights are narrow.

    Embeddings of one parameter share one table.
    """
    read = {rows: graph.table_of(name) for name, (_, rows) in graph.tables.items()}
    if form.weights is None:
        return {rows: params[parameter] for rows, parameter in read.items()}
    from rnnc.backends.tables import NarrowTable

    made = {parameter: NarrowTable(params[parameter], form) for parameter in dict.fromkeys(read.values())}
    return {rows: made[parameter] for rows, parameter in read.items()}
