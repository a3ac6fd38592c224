"""The workloads as ONNX files, in ONNX Runtime and in OpenVINO, with one session or request per contestant."""

from __future__ import annotations

import logging
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.workloads import GATES, Data, NamedArrays, Workload, named


class OrtPeer:
    """ONNX's own recurrent operators, one node per layer, all graph optimisations, weights packed by the session."""

    def __init__(self, model: bytes, data: Data, threads: int) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3
        self.session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.feeds = feeds(data)
        self.binding = self.session.io_binding()
        for name, value in self.feeds.items():
            self.binding.bind_cpu_input(name, value)
        self.bound_outputs = [ort.OrtValue.ortvalue_from_numpy(np.zeros_like(v)) for v in self.call()]
        for output, value in zip(self.session.get_outputs(), self.bound_outputs, strict=True):
            self.binding.bind_ortvalue_output(output.name, value)

    def call(self) -> Any:
        return self.session.run(None, self.feeds)

    def call_bound(self) -> None:
        """Inputs and outputs bound beforehand, the form with the least work per call."""
        self.session.run_with_iobinding(self.binding)

    def result(self) -> NamedArrays:
        return named(*self.call())

    def bound_result(self) -> NamedArrays:
        self.call_bound()
        return named(*(value.numpy() for value in self.bound_outputs))


class OpenVinoPeer:
    """The same file in float32, reshaped to the sizes of the call; the request reads the caller's arrays in place."""

    def __init__(self, model: bytes, data: Data, threads: int) -> None:
        import openvino

        core, given = openvino.Core(), feeds(data)
        network = core.read_model(model)
        network.reshape({name: openvino.PartialShape(list(value.shape)) for name, value in given.items()})
        settings = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1", "INFERENCE_NUM_THREADS": threads}
        compiled = core.compile_model(network, "CPU", settings | {"INFERENCE_PRECISION_HINT": "f32"})
        self.request, self.outputs = compiled.create_infer_request(), len(compiled.outputs)
        for name, value in given.items():
            self.request.set_tensor(name, openvino.Tensor(value, shared_memory=True))

    def call(self) -> None:
        self.request.infer()

    def result(self) -> NamedArrays:
        self.call()
        return named(*(self.request.get_output_tensor(i).data.copy() for i in range(self.outputs)))


def feeds(data: Data) -> NamedArrays:
    return {"x": data.x} | {f"state_{i}": state for i, state in enumerate(data.states)}


def narrowed(model: bytes) -> bytes:
    """The file with weights in int8, per row, and activations quantised at run time: ONNX Runtime's own tool."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with TemporaryDirectory() as folder:
        whole, narrow = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
        whole.write_bytes(model)
        logging.disable(logging.WARNING)  # of models that have not been through its own pre-processing
        try:
            quantize_dynamic(whole, narrow, weight_type=QuantType.QInt8, per_channel=True)
        finally:
            logging.disable(logging.NOTSET)
        return narrow.read_bytes()


# ---------------------------------------------------------------------------------------------- ONNX

ONNX_GATES = {"rnn": (0,), "gru": (1, 0, 2), "lstm": (0, 3, 1, 2)}
"""ONNX's order as places in PyTorch's: z r h of r z n; i o f c of i f g o."""


def onnx_model(workload: Workload, data: Data) -> bytes:
    """The file: x (T, B, I) and states -> output (T, B, D * H), last states. Layers are stacked nodes."""
    from onnx import TensorProto, helper, numpy_helper

    builder = _OnnxBuilder(workload, data)
    current = "x"
    for layer in range(workload.num_layers):
        current = builder.layer(layer, current, "output" if layer + 1 == workload.num_layers else f"x{layer + 1}")
    builder.join_last_states()

    def values(names: list[str]) -> list[Any]:
        return [helper.make_tensor_value_info(n, TensorProto.FLOAT, (None, None, None)) for n in names]

    inputs = ["x", *(f"state_{i}" for i in range(len(data.states)))]
    outputs = ["output", *(f"last_{i}" for i in range(builder.states))]
    constants = [numpy_helper.from_array(value, name) for name, value in builder.constants.items()]
    graph = helper.make_graph(builder.nodes, workload.name, values(inputs), values(outputs), constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


class _OnnxBuilder:
    """Nodes and constants of a stack. Nothing is sliced, transposed or joined where there is only one of it."""

    def __init__(self, workload: Workload, data: Data) -> None:
        self.workload, self.data = workload, data
        self.states = 2 if workload.cell == "lstm" else 1
        self.nodes: list[Any] = []
        self.constants: dict[str, NDArray[Any]] = {}

    def node(self, kind: str, inputs: list[str], outputs: list[str], **attributes: Any) -> None:
        from onnx import helper

        self.nodes.append(helper.make_node(kind, inputs, outputs, **attributes))

    def constant(self, name: str, *values: int) -> str:
        self.constants[name] = np.array(values, np.int64)
        return name

    def layer(self, layer: int, x: str, output: str) -> str:
        workload = self.workload
        weights = [f"w{layer}", f"r{layer}", f"b{layer}"]
        self.constants |= dict(zip(weights, _onnx_weights(workload, self.data, layer), strict=True))
        attributes: dict[str, Any] = {
            "hidden_size": workload.hidden_size,
            "direction": "bidirectional" if workload.bidirectional else "forward",
        }
        if workload.cell == "gru":
            attributes["linear_before_reset"] = 1
        given = ["", *(self.initial(i, layer) for i in range(self.states))] if self.data.states else []
        lasts = [self.last(i, layer) for i in range(self.states)]
        self.node(workload.cell.upper(), [x, *weights, *given], [f"y{layer}", *lasts], **attributes)
        if workload.directions == 1:
            self.node("Squeeze", [f"y{layer}", self.constant("direction", 1)], [output])
        else:
            self.node("Transpose", [f"y{layer}"], [f"turned{layer}"], perm=[0, 2, 1, 3])
            self.node("Reshape", [f"turned{layer}", self.constant("joined", 0, 0, -1)], [output])
        return output

    def initial(self, i: int, layer: int) -> str:
        if self.workload.num_layers == 1:
            return f"state_{i}"
        first, after = layer * self.workload.directions, (layer + 1) * self.workload.directions
        bounds = [self.constant(f"first{layer}", first), self.constant(f"after{layer}", after)]
        self.node("Slice", [f"state_{i}", *bounds, self.constant("layers", 0)], [f"state_{i}_{layer}"])
        return f"state_{i}_{layer}"

    def last(self, i: int, layer: int) -> str:
        return f"last_{i}" if self.workload.num_layers == 1 else f"last_{i}_{layer}"

    def join_last_states(self) -> None:
        if self.workload.num_layers > 1:
            for i in range(self.states):
                lasts = [self.last(i, layer) for layer in range(self.workload.num_layers)]
                self.node("Concat", lasts, [f"last_{i}"], axis=0)


def _onnx_weights(workload: Workload, data: Data, layer: int) -> tuple[NDArray[np.float32], ...]:
    """W (D, gates * H, I), R (D, gates * H, H), B (D, 2 * gates * H)."""
    suffixes = (f"_l{layer}", f"_l{layer}_reverse")[: workload.directions]

    def reordered(name: str) -> NDArray[np.float32]:
        gates = np.split(data.params[name], GATES[workload.cell])
        return np.concatenate([gates[i] for i in ONNX_GATES[workload.cell]])

    w = np.stack([reordered("weight_ih" + s) for s in suffixes])
    r = np.stack([reordered("weight_hh" + s) for s in suffixes])
    b = np.stack([np.concatenate([reordered("bias_ih" + s), reordered("bias_hh" + s)]) for s in suffixes])
    return w, r, b
