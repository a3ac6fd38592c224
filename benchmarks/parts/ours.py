"""The workloads in rnnc, called as anyone calls it; and the exact results, by its reference backend in float64."""

from __future__ import annotations

from typing import Any

import numpy as np

import rnnc
from benchmarks.workloads import Data, NamedArrays, TrainingData, Workload, named

SPECS: dict[str, Any] = {"rnn": rnnc.RNN, "gru": rnnc.GRU, "lstm": rnnc.LSTM}
EXACT = "float64"


def spec_of(workload: Workload, dtype: str = "float32") -> rnnc.Spec:
    made: rnnc.Spec = SPECS[workload.cell](workload.input_size, workload.hidden_size, **workload.options, dtype=dtype)
    return made


class Inference:
    """A bound model and its arguments. options: of `rnnc.compile`."""

    def __init__(self, workload: Workload, data: Data, threads: int, **options: Any) -> None:
        dtype = str(data.x.dtype)
        self.model: Any = rnnc.compile(spec_of(workload, dtype), data.params, threads=threads, **options)
        self.x = data.x
        self.state: Any = data.states if len(data.states) > 1 else data.states[0] if data.states else None

    def call(self) -> Any:
        return self.model(self.x, self.state)

    def result(self) -> NamedArrays:
        output, state = self.call()
        return named(output, *(state if isinstance(state, tuple) else (state,)))


class Training:
    """A step as a user of `rnnc.vjp` takes it."""

    def __init__(self, workload: Workload, data: TrainingData, threads: int, **options: Any) -> None:
        self.function = rnnc.vjp(spec_of(workload, str(data.x.dtype)), threads=threads, **options)
        self.data = data
        self.state: Any = data.states if len(data.states) > 1 else data.states[0]

    def call(self) -> Any:
        (output, _), pullback = self.function(self.data.params, self.data.x, self.state)
        return output, pullback(self.data.d_output)

    def result(self) -> NamedArrays:
        output, (d_params, d_x, d_state) = self.call()
        states = d_state if isinstance(d_state, tuple) else (d_state,)
        found = {"output": output, "d_x": d_x} | {f"d_state_{i}": v for i, v in enumerate(states)}
        return found | {f"d_{name}": value for name, value in d_params.items()}


def exact_inference(workload: Workload, data: Data) -> NamedArrays:
    wide = Data({k: v.astype(EXACT) for k, v in data.params.items()}, data.x.astype(EXACT), _wide(data))
    return Inference(workload, wide, 1, backend="reference").result()


def exact_training(workload: Workload, data: TrainingData) -> NamedArrays:
    params = {name: value.astype(EXACT) for name, value in data.params.items()}
    wide = TrainingData(params, data.x.astype(EXACT), _wide(data), data.d_output.astype(EXACT))
    return Training(workload, wide, 1, backend="reference").result()


def _wide(data: Data) -> Any:
    return tuple(np.asarray(state, EXACT) for state in data.states)
