"""The same workloads in PyTorch and ONNX Runtime, set up as their documentation advises for one call at a time.

Training steps in PyTorch are here too; those in JAX are in jax_peer.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.workloads import GATES, Data, TrainingData, Workload

Arrays = tuple[NDArray[Any], ...]
"""Output (T, B, D * H), then each last state (L * D, B, H)."""
NamedArrays = dict[str, NDArray[Any]]
"""A training step's results: output, d_x, d_state_0 and on, and d_ before each parameter's name, shaped as these."""


class TorchPeer:
    """torch.nn's module in inference mode. oneDNN wins on some workloads and loses on others: both are tried."""

    def __init__(self, workload: Workload, data: Data, dtype: str = "float32") -> None:
        import torch

        self.torch = torch
        kind = {"rnn": torch.nn.RNN, "gru": torch.nn.GRU, "lstm": torch.nn.LSTM}[workload.cell]
        target = getattr(torch, dtype)
        self.module = kind(workload.input_size, workload.hidden_size, **workload.options, dtype=target).eval()
        self.module.load_state_dict({k: torch.from_numpy(v).to(target) for k, v in data.params.items()})
        states = tuple(torch.from_numpy(s).to(target) for s in data.states)
        self.x = torch.from_numpy(data.x).to(target)
        self.state = states if len(states) > 1 else states[0] if states else None

    def call(self) -> Any:
        return self.module(self.x, self.state)

    def around(self, onednn: bool) -> Callable[[], AbstractContextManager[None]]:
        @contextmanager
        def entered() -> Iterator[None]:
            with ExitStack() as stack:
                stack.enter_context(self.torch.inference_mode())
                stack.enter_context(self.torch.backends.mkldnn.flags(enabled=onednn))
                yield

        return entered

    def result(self, onednn: bool = True) -> Arrays:
        with self.around(onednn)():
            output, state = self.call()
        states = state if isinstance(state, tuple) else (state,)
        return tuple(v.numpy() for v in (output, *states))


class TorchTrainer:
    """A training step of torch.nn's module, gradients by torch.autograd.grad, which adds nothing to what was there."""

    def __init__(self, workload: Workload, data: TrainingData, dtype: str = "float32") -> None:
        peer = TorchPeer(workload, data, dtype)
        self.torch, self.module = peer.torch, peer.module.train()  # oneDNN keeps nothing for a gradient in eval mode
        states: tuple[Any, ...] = peer.state if isinstance(peer.state, tuple) else (peer.state,)
        self.x, self.states = peer.x.requires_grad_(), tuple(s.requires_grad_() for s in states)
        self.state = self.states if len(self.states) > 1 else self.states[0]
        self.d_output = self.torch.from_numpy(data.d_output).to(self.x.dtype)
        self.params = dict(self.module.named_parameters())
        self.wrt = (*self.params.values(), self.x, *self.states)

    def call(self) -> Any:
        output, _ = self.module(self.x, self.state)
        return output, self.torch.autograd.grad(output, self.wrt, self.d_output)

    def around(self, onednn: bool) -> Callable[[], AbstractContextManager[Any]]:
        return lambda: self.torch.backends.mkldnn.flags(enabled=onednn)

    def result(self, onednn: bool = True) -> NamedArrays:
        with self.around(onednn)():
            output, gradients = self.call()
        names = [*(f"d_{name}" for name in self.params), "d_x", *(f"d_state_{i}" for i in range(len(self.states)))]
        named = {"output": output.detach()} | dict(zip(names, gradients, strict=True))
        return {name: value.numpy() for name, value in named.items()}


class OrtPeer:
    """ONNX's own recurrent operators, one node a layer, all graph optimisations, weights packed by the session."""

    def __init__(self, workload: Workload, data: Data, threads: int) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3
        model = onnx_model(workload, data).SerializeToString()
        self.session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.feeds = {"x": data.x} | {f"state_{i}": s for i, s in enumerate(data.states)}
        self.binding = self.session.io_binding()
        for name, value in self.feeds.items():
            self.binding.bind_cpu_input(name, value)
        self.bound_outputs = [ort.OrtValue.ortvalue_from_numpy(np.zeros_like(v)) for v in self.call()]
        for output, value in zip(self.session.get_outputs(), self.bound_outputs, strict=True):
            self.binding.bind_ortvalue_output(output.name, value)

    def call(self) -> Any:
        return self.session.run(None, self.feeds)

    def call_bound(self) -> None:
        """Inputs and outputs bound beforehand, the form with the least work a call."""
        self.session.run_with_iobinding(self.binding)

    def result(self) -> Arrays:
        return tuple(self.call())

    def bound_result(self) -> Arrays:
        self.call_bound()
        return tuple(value.numpy() for value in self.bound_outputs)


# ---------------------------------------------------------------------------------------------- ONNX

ONNX_GATES = {"rnn": (0,), "gru": (1, 0, 2), "lstm": (0, 3, 1, 2)}
"""ONNX's order as places in PyTorch's: z r h of r z n; i o f c of i f g o."""


def onnx_model(workload: Workload, data: Data) -> Any:
    """x (T, B, I) and states -> output (T, B, D * H), last states. Layers are stacked nodes."""
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
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


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


def _onnx_weights(workload: Workload, data: Data, layer: int) -> Arrays:
    """W (D, gates * H, I), R (D, gates * H, H), B (D, 2 * gates * H)."""
    suffixes = (f"_l{layer}", f"_l{layer}_reverse")[: workload.directions]

    def reordered(name: str) -> NDArray[np.float32]:
        gates = np.split(data.params[name], GATES[workload.cell])
        return np.concatenate([gates[i] for i in ONNX_GATES[workload.cell]])

    w = np.stack([reordered("weight_ih" + s) for s in suffixes])
    r = np.stack([reordered("weight_hh" + s) for s in suffixes])
    b = np.stack([np.concatenate([reordered("bias_ih" + s), reordered("bias_hh" + s)]) for s in suffixes])
    return w, r, b
