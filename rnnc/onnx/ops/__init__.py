"""The operators that rnnc knows, by domain and name."""

from __future__ import annotations

from typing import Any

import numpy as np

from rnnc.onnx.ops.cutting import CUTTING_OPS
from rnnc.onnx.ops.elementwise import ELEMENTWISE_OPS
from rnnc.onnx.ops.movement import MOVEMENT_OPS
from rnnc.onnx.ops.products import PRODUCT_OPS
from rnnc.onnx.ops.recurrence import RECURRENCE_OPS
from rnnc.onnx.ops.reductions import REDUCTION_OPS
from rnnc.onnx.ops.reversal import REVERSAL_OPS
from rnnc.onnx.ops.scan import SCAN_OPS
from rnnc.onnx.ops.sliding import SLIDING_OPS
from rnnc.onnx.ops.table import Op, check_bytes

__all__ = ["OPS"]


def _range(start: Any, stop: Any, step: Any) -> Any:
    numbers = range(int(start), int(stop), int(step))
    check_bytes(8 * max(0, -(-(numbers.stop - numbers.start) // numbers.step)))
    return np.arange(numbers.start, numbers.stop, numbers.step)


FOLDED_OPS = {
    ("", "Shape"): Op(),
    ("", "Size"): Op(),
    ("", "ConstantOfShape"): Op(),
    ("", "Range"): Op(lambda given: _range),
}
"""Operators that only constants and shapes go into: `rnnc.onnx.trace` knows the first three."""

OPS: dict[tuple[str, str], Op] = {
    **ELEMENTWISE_OPS,
    **FOLDED_OPS,
    **MOVEMENT_OPS,
    **CUTTING_OPS,
    **PRODUCT_OPS,
    **RECURRENCE_OPS,
    **REDUCTION_OPS,
    **REVERSAL_OPS,
    **SCAN_OPS,
    **SLIDING_OPS,
}
