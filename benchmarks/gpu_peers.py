"""PyTorch on a GPU: its modules (cuDNN), torch.compile, and cells of one's own as a loop over steps.

Input projections of a cell of one's own are one product of all steps, as a person who cares would write it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray

NamedArrays = dict[str, NDArray[Any]]
MODULES = {"rnn": "RNN", "gru": "GRU", "lstm": "LSTM"}
DTYPES = {None: "float32", "tf32": "float32", "float16": "float16", "bfloat16": "bfloat16", "float64": "float64"}
"""What tensor cores take -> the dtype of PyTorch's arrays: there is no float32 with operands of 16 bits there."""


class TorchPeer:
    """One network and its data. compiled: by torch.compile; a cell of one's own step by step."""

    def __init__(
        self,
        cell: str,
        params: Mapping[str, NDArray[Any]],
        arrays: Mapping[str, NDArray[Any]],
        operands: str | None,
        *,
        training: bool,
        compiled: bool = False,
        device: str = "cuda",
        stream: Any = None,
    ) -> None:
        """arrays: "x" (T, B, I), each state (1, B, H), and "d_output" of a training step. stream: CuPy's."""
        import torch

        self.torch, self.training, self.operands, self.device = torch, training, operands, device
        self._stream = stream
        self.dtype = getattr(torch, DTYPES[operands])
        self.params = {name: self._tensor(array, training) for name, array in params.items()}
        self.x = self._tensor(arrays["x"], training)
        names = [name for name in arrays if name not in ("x", "d_output")]
        self.states = [self._tensor(arrays[name], training) for name in names]
        self.d_output = self._tensor(arrays["d_output"]) if training else None
        self._network = self._module(cell, compiled) if cell in MODULES else self._loop(cell, compiled)
        if device == "cuda":
            torch.cuda.synchronize()  # what was copied on this stream is read on another

    def _tensor(self, array: NDArray[Any], varies: bool = False) -> Any:
        tensor = self.torch.from_numpy(np.ascontiguousarray(array)).to(self.device, self.dtype)
        return tensor.requires_grad_(varies)

    def _module(self, cell: str, compiled: bool) -> Callable[[], Any]:
        rows, width = self.params["weight_hh_l0"].shape
        module = getattr(self.torch.nn, MODULES[cell])(self.x.shape[2], width)
        module = module.to(self.device, self.dtype).train(self.training)
        with self.torch.no_grad():
            for name, parameter in module.named_parameters():
                parameter.copy_(self.params[name])
        self.params = dict(module.named_parameters())
        state = tuple(self.states) if len(self.states) > 1 else self.states[0]
        call = self.torch.compile(module) if compiled else module
        return lambda: call(self.x, state)

    def _loop(self, cell: str, compiled: bool) -> Callable[[], Any]:
        hoist, step = LOOPS[cell](self.torch)
        step = self.torch.compile(step) if compiled else step

        def call() -> Any:
            ready, state, outputs = hoist(self.x, self.params), self.states[0][0], []
            for t in range(len(self.x)):
                state = step(ready[t], state, self.params)
                outputs.append(state)
            return self.torch.stack(outputs), state[None]

        return call

    # ---- calls

    def call(self) -> Any:
        """The results; of a training step, the output and all gradients."""
        output, state = self._network()
        if not self.training:
            return output, state
        wrt = [*self.params.values(), self.x, *self.states]
        return output, self.torch.autograd.grad(output, wrt, self.d_output)

    def graph(self) -> Callable[[], object]:
        """The call as a CUDA graph; made within `around`, and launched there."""
        cuda = self.torch.cuda
        for _ in range(2):
            self.call()
        cuda.synchronize()
        graph = cuda.CUDAGraph()
        with cuda.graph(graph, stream=cuda.current_stream()):
            self.call()
        found: Callable[[], object] = graph.replay
        return found

    @contextmanager
    def around(self) -> Iterator[None]:
        """On CuPy's stream, with TF32 where it is asked for and nowhere else."""
        tf32, matmul = self.operands == "tf32", self.torch.backends.cuda.matmul
        before, matmul.allow_tf32 = matmul.allow_tf32, tf32
        try:
            with ExitStack() as stack:
                stack.enter_context(self.torch.backends.cudnn.flags(enabled=True, allow_tf32=tf32))
                stack.enter_context(nullcontext() if self.training else self.torch.inference_mode())
                stack.enter_context(self._on_stream())
                yield
        finally:
            matmul.allow_tf32 = before

    def _on_stream(self) -> AbstractContextManager[Any]:
        if self._stream is None:
            return nullcontext()
        external = self.torch.cuda.ExternalStream(self._stream.ptr)
        found: AbstractContextManager[Any] = self.torch.cuda.stream(external)
        return found

    def result(self) -> NamedArrays:
        """In float64, by name: output, state_0 and on; of a training step output, and d_ before the names of inputs."""
        with self.around():
            output, others = self.call()
        if self.training:
            names = [f"d_{name}" for name in (*self.params, "x", *(f"state_{i}" for i in range(len(self.states))))]
        else:
            others = others if isinstance(others, tuple) else (others,)
            names = [f"state_{i}" for i in range(len(others))]
        named = {"output": output} | dict(zip(names, others, strict=True))
        return {name: value.detach().double().cpu().numpy() for name, value in named.items()}


# ------------------------------------------------------------------------------------------ cells of one's own


Loop = tuple[Callable[..., Any], Callable[..., Any]]
"""What is computed for all steps at once, of x and the parameters; and one step, of that, the state and those."""


def _minimal_gated_unit(torch: Any) -> Loop:
    """Zhou et al. (2016), as in tests/user_cells.py."""
    linear = torch.nn.functional.linear

    def hoist(x: Any, p: Mapping[str, Any]) -> Any:
        return linear(x, p["weight_ih_l0"], p["bias_l0"])

    def step(x: Any, h: Any, p: Mapping[str, Any]) -> Any:
        x_forget, x_new = x.chunk(2, -1)
        w_forget, w_new = p["weight_hh_l0"].chunk(2, 0)
        f = torch.sigmoid(x_forget + linear(h, w_forget))
        n = torch.tanh(x_new + linear(f * h, w_new))
        return (1 - f) * h + f * n

    return hoist, step


LOOPS: dict[str, Callable[[Any], Loop]] = {"minimal_gated_unit": _minimal_gated_unit}
"""Cells that PyTorch has no module for."""
