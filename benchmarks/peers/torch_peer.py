"""The workloads and their training steps in PyTorch, set up as its documentation advises."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from benchmarks.workloads import Data, NamedArrays, TrainingData, Workload, named


class TorchPeer:
    """torch.nn's module in inference mode. oneDNN wins on some workloads and loses on others: both are tried."""

    def __init__(self, workload: Workload, data: Data, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.torch = torch
        kind = {"rnn": torch.nn.RNN, "gru": torch.nn.GRU, "lstm": torch.nn.LSTM}[workload.cell]
        self.module = kind(workload.input_size, workload.hidden_size, **workload.options).eval()
        self.module.load_state_dict({name: torch.from_numpy(value) for name, value in data.params.items()})
        states = tuple(torch.from_numpy(state) for state in data.states)
        self.x = torch.from_numpy(data.x)
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

    def result(self, onednn: bool = True) -> NamedArrays:
        with self.around(onednn)():
            output, state = self.call()
        return named(output.numpy(), *(v.numpy() for v in (state if isinstance(state, tuple) else (state,))))


class TorchTrainer:
    """A training step of torch.nn's module, gradients by torch.autograd.grad, which adds nothing to what was there."""

    def __init__(self, workload: Workload, data: TrainingData, threads: int) -> None:
        peer = TorchPeer(workload, data, threads)
        self.torch, self.module = peer.torch, peer.module.train()  # oneDNN keeps nothing for a gradient in eval mode
        states: tuple[Any, ...] = peer.state if isinstance(peer.state, tuple) else (peer.state,)
        self.x, self.states = peer.x.requires_grad_(), tuple(s.requires_grad_() for s in states)
        self.state = self.states if len(self.states) > 1 else self.states[0]
        self.d_output = self.torch.from_numpy(data.d_output)
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
        found = {"output": output.detach()} | dict(zip(names, gradients, strict=True))
        return {name: value.numpy() for name, value in found.items()}
