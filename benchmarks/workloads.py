"""The workloads of every table in this repository, declared once, and the arrays of their calls.

Names are stable: W5 is W5 in every table, past and future.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

GATES = {"rnn": 1, "gru": 3, "lstm": 4}
FLOAT_BYTES = 4

NamedArrays = dict[str, NDArray[Any]]
"""The results of a call: output (T, B, D * H) and last_0, last_1 (L * D, B, H). Of a training step: output, d_x,
d_state_0, d_state_1, and d_ before the name of each parameter, shaped as these."""


def named(output: NDArray[Any], *lasts: NDArray[Any]) -> NamedArrays:
    return {"output": output} | {f"last_{i}": last for i, last in enumerate(lasts)}


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

    @property
    def states(self) -> int:
        """Arrays that a step hands to the next one."""
        return 2 if self.cell == "lstm" else 1

    @property
    def state_shape(self) -> tuple[int, int, int]:
        return self.num_layers * self.directions, self.batch, self.hidden_size

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
    def flops(self) -> int:
        """Of a call. Matmuls only: 2 m n k."""
        return 2 * self.steps * self.batch * (sum(self.sizes("weight_ih")) + sum(self.sizes("weight_hh")))

    @property
    def training_flops(self) -> int:
        """Of a training step: each matmul once more for its input's gradient, and once more for its weight's."""
        return 3 * self.flops

    @property
    def weight_bytes(self) -> int:
        """Of the matrices, in float32."""
        return FLOAT_BYTES * (sum(self.sizes("weight_ih")) + sum(self.sizes("weight_hh")))

    def sizes(self, base: str) -> list[int]:
        """The number of elements of each layer and direction's matrix: base "weight_ih" or "weight_hh"."""
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
    count = workload.states if workload.streamed else 0
    states = tuple(rng.uniform(-1, 1, workload.state_shape).astype(np.float32) for _ in range(count))
    return Data(params, x, states)


@dataclass(frozen=True)
class TrainingData(Data):
    """Arrays of a training step: the states are never left out. d_output: the loss's gradient, shaped as the output."""

    d_output: NDArray[np.float32]

    @property
    def forward(self) -> Data:
        """The arrays of the call alone."""
        return Data(self.params, self.x, self.states)


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
        Workload("W11", "lstm", 1, 50, 40, 96),
        Workload("W12", "rnn", 3, 33, 17, 50),
        Workload("W13", "lstm", 7, 80, 13, 300, num_layers=2),
        Workload("W14", "lstm", 48, 40, 300, 320),
        Workload("W15", "gru", 1, 1, 80, 192, num_layers=2),
        Workload("S1", "lstm", 1, 1, 8, 8, streamed=True),
        Workload("S2", "lstm", 1, 1, 16, 16, streamed=True),
        Workload("S3", "lstm", 1, 1, 25, 25, streamed=True),
        Workload("S4", "gru", 1, 1, 40, 64, streamed=True),
        Workload("S5", "lstm", 1, 100, 8, 8),
        Workload("S6", "lstm", 1, 100, 16, 16),
        Workload("S7", "lstm", 1, 100, 25, 25),
        Workload("S8", "gru", 1, 100, 24, 24),
        Workload("N1", "lstm", 1, 50, 512, 512),
        Workload("N2", "lstm", 1, 50, 384, 384, bidirectional=True),
        Workload("N3", "lstm", 32, 20, 384, 384, bidirectional=True),
        Workload("N4", "gru", 4, 50, 256, 256),
        Workload("N5", "lstm", 1, 100, 64, 64),
    )
}

TABLES = {
    "inference": ("W1", "W2", "W3", "W4", "W5", "W6", "W7", "W8", "W9", "W10"),
    "training": ("W4", "W5", "W6", "W7", "W10", "W11", "W12", "W13", "W14", "W15"),
    "small": ("S1", "S2", "S3", "S4", "S5", "S6", "S7", "S8"),
    "narrow": ("N1", "N2", "N3", "N4", "N5"),
    "startup": ("W2", "W5"),
}
"""The workloads of each part of `python -m benchmarks`."""


def of_part(part: str) -> list[Workload]:
    return [WORKLOADS[name] for name in TABLES[part]]


def first_call(workload: Workload) -> Workload:
    """The same network, called with one sequence of ten steps."""
    return replace(workload, steps=10, batch=1)
