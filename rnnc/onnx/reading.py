"""Reading a model: a path, bytes or a ModelProto -> `File`. The package `onnx` parses.

Whatever is wrong with a file is an OnnxError that names the file and, if it is about a node or value, that.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnc.checking import checks
from rnnc.ir.errors import ArgumentTypeError, BackendUnavailable, OnnxError
from rnnc.onnx.file import Attribute, Body, File, Node, ValueType
from rnnc.onnx.order import checked_order
from rnnc.onnx.stored import Folder, array_of

if TYPE_CHECKING:
    from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, ValueInfoProto

__all__ = ["OPSETS", "contents", "parsed", "read"]

OPSETS = (7, 26)
"""Oldest and newest version of ONNX's operators that are read. Version 7 gave RNN, GRU and LSTM their present form."""

STANDARD = ("", "ai.onnx")
"""Domains of ONNX's own operators."""


def read(model: object) -> File:
    """The file. model: a path, bytes, or an onnx.ModelProto."""
    onnx = _onnx()
    if isinstance(model, onnx.ModelProto):
        return _file("the ModelProto", model, model.SerializeToString(), None)
    if isinstance(model, (bytes, bytearray, memoryview)):
        data = bytes(model)
        return _file("the bytes", parsed("the bytes", data), data, None)
    if isinstance(model, (str, os.PathLike)):
        path = Path(model)
        data = contents(path)
        return _file(str(path), parsed(str(path), data), data, path.parent)
    raise ArgumentTypeError(f"model: expected a path, bytes or an onnx.ModelProto, got {checks.came(model)}")


def _onnx() -> Any:
    try:
        import onnx
    except ImportError as error:
        message = "rnnc.from_onnx reads files with the package onnx, which is not installed: pip install 'rnnc[onnx]'"
        raise BackendUnavailable(message) from error
    return onnx


def contents(path: Path) -> bytes:
    """The bytes of a file. Raises OnnxError if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise OnnxError(f"{path}: cannot be read: {error.strerror or error}") from None


def parsed(source: str, data: bytes) -> ModelProto:
    """The model in these bytes, as protobuf holds it. Raises OnnxError for others, BackendUnavailable without onnx."""
    onnx = _onnx()
    model: ModelProto = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except Exception as error:  # protobuf's DecodeError, whose place differs from version to version
        raise OnnxError(f"{source}: no ONNX model, or a damaged one: {error}") from None
    return model


def _file(source: str, model: ModelProto, data: bytes, folder: Path | None) -> File:
    if not model.ir_version or not model.HasField("graph") or not model.graph.output:
        raise OnnxError(f"{source}: no ONNX model: expected a version, a graph and its outputs, found none")
    opset = _opset(source, model)
    try:
        body = _Reader(source, Folder(folder)).body(model.graph, frozenset())
    except RecursionError:
        raise OnnxError(f"{source}: its graphs are nested too deeply") from None
    return File(source, opset, body, data, cache(lambda: _inferred(model)))


def _inferred(model: ModelProto) -> dict[str, ValueType]:
    """What onnx.shape_inference finds out, which never fails: of what it does not know it says nothing."""
    from onnx import shape_inference

    try:
        graph = shape_inference.infer_shapes(model, strict_mode=False).graph
    except Exception:  # onnx's own errors, of files that are wrong elsewhere, too
        return {}
    return {value.name: _type_of(value) for value in (*graph.value_info, *graph.output)}


def _opset(source: str, model: ModelProto) -> int:
    versions = [entry.version for entry in model.opset_import if entry.domain in STANDARD]
    first, last = OPSETS
    if len(versions) != 1:
        raise OnnxError(f"{source}: expected one version of ONNX's operators, found {versions or 'none'}")
    if not first <= versions[0] <= last:
        hint = "convert it with onnx.version_converter"
        raise OnnxError(f"{source}: its operators are of version {versions[0]}, rnnc reads {first} to {last}; {hint}")
    if model.functions:
        names = ", ".join(function.name for function in model.functions[:3])
        raise OnnxError(f"{source}: it defines functions of its own ({names}); inline them with onnx.inliner first")
    return int(versions[0])


class _Reader:
    """Protobuf -> plain data, with the file's name for messages."""

    def __init__(self, source: str, folder: Folder) -> None:
        self.source = source
        self.folder = folder

    def body(self, graph: GraphProto, outer: frozenset[str]) -> Body:
        """outer: names of the graphs around it, which its nodes may read."""
        if graph.sparse_initializer:
            raise OnnxError(f"{self.source}: sparse constants, such as {graph.sparse_initializer[0].values.name!r}")
        constants = {
            tensor.name: array_of(tensor, f"{self.source}: constant {tensor.name!r}", self.folder)
            for tensor in graph.initializer
        }
        self._once("constant", [tensor.name for tensor in graph.initializer])
        self._once("input", [value.name for value in graph.input])
        inputs = {value.name: _type_of(value) for value in graph.input if value.name not in constants}
        self._once("value", [*inputs, *constants, *(o for node in graph.node for o in node.output if o)])
        known = outer | {*inputs, *constants}
        made = known | {output for node in graph.node for output in node.output}
        nodes = checked_order(self.source, [self.node(node, made) for node in graph.node], known)
        outputs = {value.name: _type_of(value) for value in graph.output}
        for name in outputs:
            if not name or name not in made:
                raise OnnxError(f"{self.source}: its output {name!r} is no input, no constant, and of no node")
        return Body(inputs, outputs, constants, nodes)

    def _once(self, what: str, names: Iterable[str]) -> None:
        seen: set[str] = set()
        for name in names:
            if name in seen:
                raise OnnxError(f"{self.source}: two {what}s are called {name!r}; expected a name each")
            seen.add(name)

    def node(self, node: NodeProto, known: frozenset[str] | set[str]) -> Node:
        name = node.name or next((output for output in node.output if output), node.op_type)
        who = f"{self.source}: node {name!r} ({node.op_type})"
        self._once("attribute", [f"{attribute.name} of {name}" for attribute in node.attribute])
        attributes = {a.name: self._attribute(who, a, frozenset(known)) for a in node.attribute}
        domain = "" if node.domain in STANDARD else node.domain
        return Node(name, node.op_type, domain, tuple(node.input), tuple(node.output), attributes)

    def _attribute(self, who: str, attribute: AttributeProto, known: frozenset[str]) -> Attribute:
        kind = attribute.AttributeType.Name(attribute.type)
        label = f"{who}: attribute {attribute.name!r}"
        if kind == "INT":
            return int(attribute.i)
        if kind == "FLOAT":
            return float(attribute.f)
        if kind == "STRING":
            return _text(label, attribute.s)
        if kind == "INTS":
            return tuple(int(i) for i in attribute.ints)
        if kind == "FLOATS":
            return tuple(float(f) for f in attribute.floats)
        if kind == "STRINGS":
            return tuple(_text(label, s) for s in attribute.strings)
        if kind == "TENSOR":
            return array_of(attribute.t, label, self.folder)
        if kind == "GRAPH":
            return self.body(attribute.g, known)
        raise OnnxError(f"{label}: expected numbers, text, a tensor or a graph, got {kind}")


def _text(label: str, raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise OnnxError(f"{label}: expected text in UTF-8, got {checks.shown(raw)}") from None


def _type_of(value: ValueInfoProto) -> ValueType:
    """What is said of a value. One that is no tensor (a sequence, a map) has neither dtype nor shape."""
    if not value.type.HasField("tensor_type"):
        return ValueType()
    tensor = value.type.tensor_type
    shape = None
    if tensor.HasField("shape"):
        sizes = tensor.shape.dim
        shape = tuple(d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else d.dim_param for d in sizes)
    return ValueType(dtype_name(tensor.elem_type), shape)


def dtype_name(number: int) -> str:
    """NumPy's name of a dtype of ONNX: "float32" for 1; "" if it is not said or unknown."""
    from onnx import helper

    try:
        return np.dtype(helper.tensor_dtype_to_np_dtype(number)).name if number else ""
    except (KeyError, TypeError, ValueError):
        return ""
