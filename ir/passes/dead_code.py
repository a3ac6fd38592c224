"""Dead code elimination: nodes that no output depends on are removed.

    %3 = tanh(%2)          (nothing reads %3)
->
    (gone)
"""

from __future__ import annotations

from rnnc.ir.graph import Graph
from rnnc.ir.passes.rebuild import rebuild


def dead_code(graph: Graph) -> Graph:
    """Returns the graph with live nodes only: those that the outputs, and the exits of live carries, depend on."""
    return rebuild(graph, lambda *_: None, share=False)
