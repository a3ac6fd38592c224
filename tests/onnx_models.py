"""ONNX models for tests, made of nodes, and ONNX Runtime as their oracle. Needs the packages onnx and onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="the package onnx reads model files: pip install 'rnnc[onnx]'")
helper, numpy_helper = onnx.helper, onnx.numpy_helper

Array = np.ndarray[Any, np.dtype[Any]]
Shape = Sequence[int | str | None] | None


def model(
    nodes: Sequence[Any],
    inputs: Mapping[str, tuple[str, Shape]],
    outputs: Sequence[str],
    constants: Mapping[str, Any] | None = None,
    opset: int = 17,
    domains: Mapping[str, int] | None = None,
) -> Any:
    """A ModelProto. inputs: name -> (dtype, shape). outputs: names."""
    made = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info(name, _dtype(dtype), shape) for name, (dtype, shape) in inputs.items()],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in (constants or {}).items()],
    )
    versions = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, v) for d, v in (domains or {}).items())]
    return helper.make_model(made, opset_imports=versions, ir_version=8)


def _dtype(name: str) -> int:
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(name)))


def node(op: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> Any:
    """A node. inputs, outputs: names, "" for what is left out."""
    return helper.make_node(op, list(inputs), list(outputs), **attributes)


def onnxruntime_gives(proto: Any, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The outputs of ONNX Runtime, by name."""
    runtime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is the oracle here: pip install onnxruntime")
    runtime.set_default_logger_severity(4)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))
