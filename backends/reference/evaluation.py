"""Operations on NumPy arrays, and values that are computed once per call or once per model, such as sums of biases."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from rnnc.ir.errors import IRError
from rnnc.ir.ops import Kind
from rnnc.ir.shape_rules import BATCH

if TYPE_CHECKING:
    from rnnc.ir.families import Family
    from rnnc.ir.graph import Node
    from rnnc.ir.ops import Array


def evaluate(made: Iterable[Family], values: dict[Family, Array], dtype: str) -> None:
    """Adds to the known values those of `made`, which have no batch axis and come operands first."""
    with np.errstate(all="ignore"):
        for family in made:
            if family.spec.kind is Kind.LEAF:
                values[family] = number(family, dtype, 0)
            else:
                operands = [values[i] if i in values else number(i, dtype, 0) for i in family.inputs]
                values[family] = result(family, operands)


def number(leaf: Node | Family, dtype: str, batch: int) -> Array:
    """The value of a `const` or `zeros` leaf."""
    if leaf.op == "const":
        return np.asarray(leaf.attr("value"), dtype)
    if leaf.op != "zeros":
        raise IRError(f"{leaf!r} is read before it is computed")
    return np.zeros([batch if size == BATCH else int(size) for size in leaf.shape], dtype)


def meaning(node: Node | Family, operands: Sequence[Array]) -> Array:
    """The meaning of an op, applied to operands, without warnings of NumPy."""
    with np.errstate(all="ignore"):
        return result(node, operands)


def result(node: Node | Family, operands: Sequence[Array]) -> Array:
    """The meaning of an op, applied to operands. NumPy may warn."""
    meaning = node.spec.meaning
    if meaning is None:
        raise IRError(f"{node!r} has no meaning of its own")
    return np.asarray(meaning(*operands, **({} if node.op == "carry" else dict(node.attrs))))
