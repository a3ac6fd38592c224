"""Topological orders and strongly connected components of small dependence graphs.

networkx has all of this, but importing it (130 ms) takes longer than compiling a network may take (100 ms; the figures
are those of docs/design-notes.md). So these short functions replace it. `rnnc.ir.draw.to_networkx` is for drawing and
export.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

T = TypeVar("T", bound=Hashable)

Reads = Mapping[T, Sequence[T]]
"""Each value -> the values that it reads. Values that are no keys are ignored."""


def readers(reads: Reads[T]) -> dict[T, list[T]]:
    """The reverse relation: each value -> the values that read it."""
    result: dict[T, list[T]] = {value: [] for value in reads}
    for value, operands in reads.items():
        for operand in operands:
            if operand in result:
                result[operand].append(value)
    return result


def topological(reads: Reads[T], key: Callable[[T], int | tuple[int, ...]]) -> list[T]:
    """All values, operands before readers. Among the values that are ready, the one with the smallest key comes first.

    Raises ValueError if there is a cycle.
    """
    import heapq

    following = readers(reads)
    missing = {value: sum(o in following for o in operands) for value, operands in reads.items()}
    order = {value: number for number, value in enumerate(reads)}
    ready = [(key(value), order[value], value) for value, count in missing.items() if not count]
    heapq.heapify(ready)
    result = []
    while ready:
        value = heapq.heappop(ready)[2]
        result.append(value)
        for reader in following[value]:
            missing[reader] -= 1
            if not missing[reader]:
                heapq.heappush(ready, (key(reader), order[reader], reader))
    if len(result) < len(reads):
        raise ValueError("the graph has a cycle")
    return result


def descendants(following: Mapping[T, Iterable[T]], starts: Iterable[T]) -> set[T]:
    """All values that read one of `starts`, directly or indirectly."""
    seen: set[T] = set()
    todo = list(starts)
    while todo:
        for reader in following[todo.pop()]:
            if reader not in seen:
                seen.add(reader)
                todo.append(reader)
    return seen


def strongly_connected(reads: Reads[T]) -> list[list[T]]:
    """Strongly connected components, by Tarjan's algorithm (1972) with an explicit stack."""
    index: dict[T, int] = {}
    low: dict[T, int] = {}
    open_: list[T] = []
    is_open: set[T] = set()
    components: list[list[T]] = []
    for root in reads:
        if root in index:
            continue
        work = [(root, iter(reads[root]))]
        while work:
            value, operands = work[-1]
            if value not in index:
                index[value] = low[value] = len(index)
                open_.append(value)
                is_open.add(value)
            for operand in operands:
                if operand not in reads:
                    continue
                if operand not in index:
                    work.append((operand, iter(reads[operand])))
                    break
                if operand in is_open:
                    low[value] = min(low[value], index[operand])
            else:
                work.pop()
                if work:
                    parent = work[-1][0]
                    low[parent] = min(low[parent], low[value])
                if low[value] == index[value]:
                    components.append(_close(value, open_, is_open))
    return components


def _close(value: T, open_: list[T], is_open: set[T]) -> list[T]:
    """Takes a finished component off the stack."""
    start = open_.index(value)
    component = open_[start:]
    del open_[start:]
    is_open.difference_update(component)
    return component
