"""Nodes that rnnc cannot compile, run by ONNX Runtime. The one file that uses it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnc.ir.errors import BackendUnavailable, OnnxError
from rnnc.onnx.file import File, Node
from rnnc.onnx.sizes import Size
from rnnc.onnx.values import Filled, Known, Step, Tensor, Value

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

    Array = NDArray[Any]

__all__ = ["Foreign", "foreign_of"]


def foreign_of(file: File, threads: int | None) -> Callable[[Sequence[Step], Sequence[Tensor]], Foreign]:
    """What makes runners for steps of a file. Raises BackendUnavailable without ONNX Runtime."""
    try:
        import onnxruntime  # noqa: F401
    except ImportError as error:
        message = "fallback='onnxruntime' needs the package onnxruntime, which is not installed"
        raise BackendUnavailable(message) from error
    from onnx import ModelProto

    model = ModelProto.FromString(file.data)
    nodes = _nodes(model.graph)
    return lambda steps, wanted: Foreign(model, [_proto(step.node, nodes) for step in steps], steps, wanted, threads)


def _nodes(graph: GraphProto) -> dict[tuple[str, ...], NodeProto]:
    """All nodes, in branches too, by their outputs."""
    found: dict[tuple[str, ...], NodeProto] = {}
    for node in graph.node:
        found[tuple(node.output)] = node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                found |= {key: inner for key, inner in _nodes(attribute.g).items() if key not in found}
    return found


def _proto(node: Node, nodes: Mapping[tuple[str, ...], NodeProto]) -> NodeProto:
    """The node as the file has it, or, of one that rnnc wrote in the place of others, as it would have it."""
    from onnx import helper

    found = nodes.get(node.outputs)
    if found is not None and tuple(found.input) == node.inputs:
        return found
    attributes: dict[str, Any] = dict(node.attributes)
    return helper.make_node(node.op, node.inputs, node.outputs, node.name, domain=node.domain, **attributes)


class Foreign:
    """Some nodes as a model of their own, in a session of ONNX Runtime."""

    def __init__(
        self,
        model: ModelProto,
        nodes: Sequence[NodeProto],
        steps: Sequence[Step],
        wanted: Sequence[Tensor],
        threads: int | None,
    ) -> None:
        inputs, constants = _outside(steps)
        self._inputs = {name: tensor.name for name, tensor in inputs.items()}
        made = {
            t.name: name for s in steps for t, name in zip(s.outputs, s.node.outputs, strict=False) if t is not None
        }
        self._outputs = {made[tensor.name]: tensor.name for tensor in wanted}
        bodies = _constants_of_bodies(model, nodes, {*inputs, *constants, *made.values()})
        self._session = _session(model, nodes, inputs, constants, bodies, list(self._outputs), threads)

    def run(self, values: dict[str, Array]) -> None:
        """Reads its inputs from the values and adds its outputs."""
        given = {name: np.asarray(values[tensor], order="C") for name, tensor in self._inputs.items()}
        made = self._session.run(list(self._outputs), given)
        values |= dict(zip(self._outputs.values(), made, strict=True))


def _outside(steps: Sequence[Step]) -> tuple[dict[str, Tensor], dict[str, Array]]:
    """What the nodes read that none of them gives, by the file's names: tensors of the call, and constants."""
    own = {tensor for step in steps for tensor in step.made}
    inputs: dict[str, Tensor] = {}
    constants: dict[str, Array] = {}
    for step in steps:
        named: list[tuple[str, Value | None]] = list(zip(step.node.inputs, step.inputs, strict=True))
        for name, value in [*named, *((tensor.name, tensor) for tensor in step.captured)]:
            if isinstance(value, Tensor):
                inputs |= {name: value} if value not in own else {}
            elif value is not None:
                constants[name] = _numbers(step, value)
    return inputs, constants


def _constants_of_bodies(model: ModelProto, nodes: Sequence[NodeProto], known: AbstractSet[str]) -> list[TensorProto]:
    """The file's constants that the bodies of nodes read. known: names that are given anyway."""
    from onnx import TensorProto

    read = {name for node in nodes for graph in _bodies(node) for name in _read_in(graph)} - known
    constants = [tensor for tensor in model.graph.initializer if tensor.name in read]
    for node in model.graph.node:
        if node.op_type == "Constant" and node.output[0] in read and node.attribute[0].name == "value":
            constants.append(TensorProto())
            constants[-1].CopyFrom(node.attribute[0].t)
            constants[-1].name = node.output[0]
    return constants


def _bodies(node: NodeProto) -> list[GraphProto]:
    return [attribute.g for attribute in node.attribute if attribute.HasField("g")]


def _read_in(graph: GraphProto) -> Iterator[str]:
    """All names that the nodes of a graph read, in graphs within it, too, and those that it gives."""
    yield from (output.name for output in graph.output)
    for node in graph.node:
        yield from node.input
        for inner in _bodies(node):
            yield from _read_in(inner)


def _numbers(step: Step, value: Known | Filled) -> Array:
    sizes = value.array.ravel() if isinstance(value, Known) else np.array(value.shape, object)
    if any(isinstance(size, Size) and not size.known for size in sizes):
        raise OnnxError(f"{step.node.label}: it is left to ONNX Runtime, and reads a size that is not known")
    if isinstance(value, Known):
        return value.array.astype(np.int64) if value.array.dtype == np.object_ else value.array
    return np.full([int(size) for size in value.shape], value.number)


def _session(
    model: ModelProto,
    nodes: Sequence[NodeProto],
    inputs: dict[str, Tensor],
    constants: dict[str, Array],
    bodies: Sequence[TensorProto],
    outputs: Sequence[str],
    threads: int | None,
) -> Any:
    import onnxruntime
    from onnx import helper, numpy_helper

    graph = helper.make_graph(
        list(nodes),
        "left",
        [_declared(name, tensor) for name, tensor in inputs.items()],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [numpy_helper.from_array(np.asarray(array, order="C"), name) for name, array in constants.items()] + [*bodies],
    )
    own = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(own.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own exceptions, of which it has many
        names = ", ".join(node.op_type for node in nodes)
        raise OnnxError(f"ONNX Runtime cannot run what is left to it ({names}): {error}") from error


def _declared(name: str, tensor: Tensor) -> Any:
    """An input of the model: its dtype and number of axes."""
    from onnx import helper

    shape = None if tensor.dims is None else [None] * len(tensor.dims)
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype)), shape)
