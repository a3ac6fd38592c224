"""The constants of a model file by name: its weights, without its nodes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rnnc.files.narrow import BFLOAT16, Stored
from rnnc.ir.errors import OnnxError
from rnnc.onnx.reading import contents, parsed
from rnnc.onnx.stored import Folder, raw_array

__all__ = ["initializers"]


def initializers(path: Path) -> dict[str, Stored]:
    """The initialisers of the main graph, by name. Raises OnnxError, and BackendUnavailable without onnx."""
    model = parsed(str(path), contents(path))
    if not model.HasField("graph"):
        raise OnnxError(f"{path}: no ONNX model: it has no graph")
    folder, found = Folder(path.parent), {}
    for tensor in model.graph.initializer:
        label = f"{path}: {tensor.name!r}"
        array = raw_array(tensor, label, folder)
        if array.dtype.name == BFLOAT16:  # a dtype of the package ml_dtypes
            found[tensor.name] = Stored(array.view(np.uint16), BFLOAT16)
        elif array.dtype.kind in "biufc":
            found[tensor.name] = Stored.of(array)
        else:
            raise OnnxError(f"{label}: expected numbers, got {array.dtype}")
    return found
