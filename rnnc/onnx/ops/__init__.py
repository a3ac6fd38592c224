"""The operators that rnnc knows, by domain and name."""

from __future__ import annotations

import numpy as np

from rnnc.onnx.ops.cutting import CUTTING_OPS
from rnnc.onnx.ops.elementwise import ELEMENTWISE_OPS
from rnnc.onnx.ops.movement import MOVEMENT_OPS
from rnnc.onnx.ops.products import PRODUCT_OPS
from rnnc.onnx.ops.recurrence import RECURRENCE_OPS
from rnnc.onnx.ops.reductions import REDUCTION_OPS
from rnnc.onnx.ops.table import Op

__all__ = ["OPS"]

FOLDED_OPS = {
    ("", "Shape"): Op(),
    ("", "Size"): Op(),
    ("", "ConstantOfShape"): Op(),
    ("", "Range"): Op(lambda given: lambda start, stop, step: np.arange(int(start), int(stop), int(step))),
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
}
