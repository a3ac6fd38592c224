"""Orders and cycles against networkx, on random graphs with self-loops, repeated edges and values from outside."""

from __future__ import annotations

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnnc.ir.ordering import descendants, readers, strongly_connected, topological

Reads = dict[int, list[int]]
OUTSIDE = 100
"""Values from here on are read, but are no keys: leaves that a caller left out."""


@st.composite
def dependences(draw: st.DrawFn, most: int = 12) -> Reads:
    """Any graph of up to `most` values."""
    size = draw(st.integers(0, most))
    operand = st.integers(0, max(size - 1, 0)) | st.integers(OUTSIDE, OUTSIDE + 2)
    keys = draw(st.permutations(range(size)))
    return {value: draw(st.lists(operand, max_size=4)) for value in keys}


@st.composite
def acyclic(draw: st.DrawFn) -> Reads:
    """A graph without cycles, whose values are not numbered in their order."""
    reads = draw(dependences())
    rank = {value: number for number, value in enumerate(draw(st.permutations(sorted(reads))))}
    return {v: [o for o in operands if o not in rank or rank[o] < rank[v]] for v, operands in reads.items()}


def known_edges(reads: Reads) -> nx.MultiDiGraph:
    """Operand -> reader, of the values that are keys."""
    graph = nx.MultiDiGraph()
    graph.add_nodes_from(reads)
    graph.add_edges_from((o, v) for v, operands in reads.items() for o in operands if o in reads)
    return graph


@given(dependences())
def test_readers(reads: Reads) -> None:
    expected = known_edges(reads)
    found = readers(reads)
    assert set(found) == set(reads)
    for value, following in found.items():
        assert sorted(following) == sorted(reader for _, reader in expected.out_edges(value))


@given(dependences())
def test_strongly_connected(reads: Reads) -> None:
    found = strongly_connected(reads)
    assert {frozenset(c) for c in found} == {frozenset(c) for c in nx.strongly_connected_components(known_edges(reads))}
    assert sorted(value for component in found for value in component) == sorted(reads)  # each value once


@given(dependences())
def test_components_come_operands_first(reads: Reads) -> None:
    """Tarjan's order: a component before all that read it."""
    number = {value: n for n, component in enumerate(strongly_connected(reads)) for value in component}
    assert all(number[o] <= number[v] for v, operands in reads.items() for o in operands if o in reads)


@given(acyclic(), st.lists(st.integers(0, 3), min_size=20, max_size=20))
def test_topological(reads: Reads, keys: list[int]) -> None:
    """The smallest key among those that are ready, and among equal keys the one that was given first."""
    position = {value: number for number, value in enumerate(reads)}
    expected = nx.lexicographical_topological_sort(known_edges(reads), key=lambda v: (keys[v], position[v]))
    assert topological(reads, keys.__getitem__) == list(expected)


@given(acyclic())
def test_topological_takes_tuples_as_keys(reads: Reads) -> None:
    expected = nx.lexicographical_topological_sort(known_edges(reads), key=lambda v: (v % 2, -v))
    assert topological(reads, lambda v: (v % 2, -v)) == list(expected)


@given(dependences())
def test_topological_refuses_exactly_the_cycles(reads: Reads) -> None:
    if nx.is_directed_acyclic_graph(known_edges(reads)):
        assert sorted(topological(reads, lambda v: v)) == sorted(reads)
    else:
        with pytest.raises(ValueError, match="cycle"):
            topological(reads, lambda v: v)


@given(dependences(), st.data())
def test_descendants(reads: Reads, data: st.DataObject) -> None:
    """A start is its own descendant only on a cycle, or after another start."""
    starts = data.draw(st.lists(st.sampled_from(sorted(reads)), max_size=4)) if reads else []
    graph = known_edges(reads)
    direct = {reader for start in starts for reader in graph.successors(start)}
    expected = direct.union(*(nx.descendants(graph, reader) for reader in direct))
    assert descendants(readers(reads), starts) == expected


def test_a_long_chain_needs_no_recursion() -> None:
    size = 50_000
    chain = {v: [v - 1] if v else [] for v in range(size)}
    assert topological(chain, lambda v: -v) == list(range(size))
    assert len(strongly_connected(chain)) == size
    assert len(descendants(readers(chain), [0])) == size - 1
    ring = chain | {0: [size - 1]}
    assert [len(component) for component in strongly_connected(ring)] == [size]
