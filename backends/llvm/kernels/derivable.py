"""Which values computed from parameters alone generated code can compute (`rnnc.backends.llvm.kernels.derived`)."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

from rnnc.ir.families import Family, operands_first


def is_derivable(family: Family) -> bool:
    """True if a value without a batch axis is elementwise in inputs, numbers, and slices of vectors of such values."""
    return all(map(_is_simple, operands_first([family])))


def _is_simple(family: Family) -> bool:
    from rnnc.ir.ops import Kind  # not for stored code, which knows what is derived

    if family.op == "slice":
        return len(family.shape) == 1
    fits = all(operand.shape == family.shape or elements(operand) == 1 for operand in family.inputs)
    return family.spec.kind is Kind.LEAF or family.spec.kind is Kind.ELEMENTWISE and fits


def leaves(values: Sequence[Family]) -> list[Family]:
    """The inputs that values are computed from, each once."""
    found: dict[Family, None] = {}
    todo = deque(dict.fromkeys(values))
    seen = set(todo)
    while todo:
        family = todo.popleft()
        if family.op == "input":
            found[family] = None
        new = [operand for operand in dict.fromkeys(family.inputs) if operand not in seen]
        todo += new
        seen.update(new)
    return list(found)


def elements(family: Family) -> int:
    """The number of elements of a value without a batch axis."""
    return math.prod(int(size) for size in family.shape)
