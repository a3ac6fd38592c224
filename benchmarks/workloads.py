"""The ten inference workloads every table of this repository quotes, from one streamed step to long batches.

Names are stable: W5 is W5 in every table, past and future.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

GATES = {"rnn": 1, "gru": 3, "lstm": 4}
FLOAT_BYTES = 4


@dataclass(frozen=True)
class Workload:
    """`streamed`: the call takes the state of the call before, as one step of a stream does."""

    name: str
    cell: str
    batch: int
    steps: int
    input_size: int
    hidden_size: int
    num_layers: int = 1
    bidirectional: bool = False
    streamed: bool = False

    @property
    def directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def title(self) -> str:
        layers = f" L{self.num_layers}" if self.num_layers > 1 else ""
        both = " bi" if self.bidirectional else ""
        sizes = f"{self.input_size}/{self.hidden_size}"
        return f"{self.name} {self.cell} B{self.batch} T{self.steps} {sizes}{layers}{both}"

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments that rnnc and PyTorch share."""
        return {"num_layers": self.num_layers, "bidirectional": self.bidirectional}

    def shrunk(self, divisor: int) -> Workload:
        """Every size divided, but at least 2: to try a program out."""
        sizes = ("batch", "steps", "input_size", "hidden_size")
        return replace(self, **{name: max(2, getattr(self, name) // divisor) for name in sizes})

    def input_width(self, layer: int) -> int:
        return self.input_size if layer == 0 else self.directions * self.hidden_size

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Parameters in PyTorch's names and layout."""
        rows = GATES[self.cell] * self.hidden_size
        shapes: dict[str, tuple[int, ...]] = {}
        for layer in range(self.num_layers):
            for suffix in (f"_l{layer}", f"_l{layer}_reverse")[: self.directions]:
                shapes["weight_ih" + suffix] = (rows, self.input_width(layer))
                shapes["weight_hh" + suffix] = (rows, self.hidden_size)
                shapes["bias_ih" + suffix] = (rows,)
                shapes["bias_hh" + suffix] = (rows,)
        return shapes

    # ------------------------------------------------------------------------------------------ work

    @property
    def input_flops(self) -> int:
        """Of the input projections, which wait for nothing. Matmuls only: 2 m n k."""
        return 2 * self.steps * self.batch * sum(self._sizes("weight_ih"))

    @property
    def recurrent_flops(self) -> int:
        return 2 * self.steps * self.batch * sum(self._sizes("weight_hh"))

    @property
    def flops(self) -> int:
        return self.input_flops + self.recurrent_flops

    @property
    def training_flops(self) -> int:
        """Of a training step: each matmul once more for its input's gradient, and once more for its weight's."""
        return 3 * self.flops

    @property
    def recurrent_bytes(self) -> list[int]:
        """Of each layer and direction's recurrent weights, all of which every step reads."""
        return [FLOAT_BYTES * size for size in self._sizes("weight_hh")]

    @property
    def weight_bytes(self) -> int:
        return FLOAT_BYTES * (sum(self._sizes("weight_ih")) + sum(self._sizes("weight_hh")))

    def _sizes(self, base: str) -> list[int]:
        return [shape[0] * shape[1] for name, shape in self.shapes().items() if name.startswith(base)]


@dataclass(frozen=True)
class Data:
    """One call's float32 arrays: parameters by name, x (T, B, I), and states (L * D, B, H) or none (zeros)."""

    params: dict[str, NDArray[np.float32]]
    x: NDArray[np.float32]
    states: tuple[NDArray[np.float32], ...]


def make_data(workload: Workload, seed: int = 0) -> Data:
    rng = np.random.default_rng(seed)
    bound = workload.hidden_size**-0.5
    params = {k: rng.uniform(-bound, bound, s).astype(np.float32) for k, s in workload.shapes().items()}
    x = rng.standard_normal((workload.steps, workload.batch, workload.input_size)).astype(np.float32)
    count = (2 if workload.cell == "lstm" else 1) if workload.streamed else 0
    shape = (workload.num_layers * workload.directions, workload.batch, workload.hidden_size)
    states = tuple(rng.uniform(-1, 1, shape).astype(np.float32) for _ in range(count))
    return Data(params, x, states)


@dataclass(frozen=True)
class TrainingData(Data):
    """Arrays of a training step: the states are never left out. d_output: the loss's gradient, shaped as the output."""

    d_output: NDArray[np.float32]


def make_training_data(workload: Workload, seed: int = 0) -> TrainingData:
    data = make_data(replace(workload, streamed=True), seed)
    shape = (workload.steps, workload.batch, workload.directions * workload.hidden_size)
    d_output = np.random.default_rng(seed + 1).standard_normal(shape).astype(np.float32)
    return TrainingData(data.params, data.x, data.states, d_output)


WORKLOADS = {
    w.name: w
    for w in (
        Workload("W1", "lstm", 1, 1, 128, 128, streamed=True),
        Workload("W2", "lstm", 1, 100, 64, 64),
        Workload("W3", "lstm", 1, 128, 512, 512),
        Workload("W4", "rnn", 32, 25, 128, 128, num_layers=2, bidirectional=True),
        Workload("W5", "lstm", 32, 50, 128, 256, num_layers=2, bidirectional=True),
        Workload("W6", "lstm", 16, 25, 512, 512),
        Workload("W7", "gru", 64, 50, 1024, 1024),
        Workload("W8", "gru", 1, 375, 256, 256, num_layers=3),
        Workload("W9", "lstm", 4, 150, 256, 256),
        Workload("W10", "gru", 32, 25, 128, 128, num_layers=2, bidirectional=True),
    )
}

TRAINING = ("W4", "W5", "W6", "W7", "W10")
"""The workloads a training step is timed on: those with a batch worth training on."""


def chosen(names: str | None) -> list[Workload]:
    """The workloads of a comma-separated list; all of them for None."""
    if names is None:
        return list(WORKLOADS.values())
    unknown = [name for name in names.split(",") if name not in WORKLOADS]
    if unknown:
        raise SystemExit(f"--only: no workload {', '.join(unknown)}; there are {', '.join(WORKLOADS)}")
    return [WORKLOADS[name] for name in names.split(",")]
