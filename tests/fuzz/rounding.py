"""How far right results may be apart: the reference evaluation with every intermediate value moved by a rounding error.

Monte Carlo arithmetic (Parker 1997): if a result moves much more than the rounding errors that were put in, then the
result hangs on how they fall, and two right evaluations in another order need not agree.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np

from rnnc.backends.reference import interpreter

MOVES = ("carry", "slice", "concat", "expand", "transpose", "permute", "reshape")
"""Ops whose results are numbers they have read."""

SUMS = ("matmul", "outer", "reduce_sum", "reduce_mean", "reduce_rows", "group_sum")
"""Ops whose terms may cancel: their operands are moved, too."""


@contextmanager
def rounded(relative: float, seed: int) -> Iterator[None]:
    """The reference backend rounds like arithmetic whose numbers are `relative` apart, up or down at random."""
    exact = interpreter._meaning
    rng = np.random.default_rng(seed)

    def moved(value: Any) -> Any:
        if value.dtype.kind != "f":
            return value
        return value * (1 + relative * rng.choice((-1.0, 1.0), value.shape))

    def meaning(node: Any, operands: Sequence[Any]) -> Any:
        if node.op in SUMS:
            operands = [moved(operand) for operand in operands]
        value = exact(node, operands)
        return value if node.op in MOVES else moved(value)

    with patch.object(interpreter, "_meaning", meaning), np.errstate(all="ignore"):
        yield
