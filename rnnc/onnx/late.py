"""Recurrent nodes whose weights come with the call: compiled once per spec, bound at each call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnc.ir.errors import ArgumentError
from rnnc.onnx.building import zeros
from rnnc.onnx.ops.recurrence import C0, H0, LENGTHS, B, P, R, W, X, recurrence_of
from rnnc.onnx.ops.table import Given
from rnnc.onnx.readers import InputAxes, Reader, reader
from rnnc.onnx.recent import Recent
from rnnc.onnx.recurrent import Weights, parameters_of, spec_of
from rnnc.onnx.values import Filled, Step, Tensor, Value
from rnnc.programs import Program, compile
from rnnc.specs import Spec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

__all__ = ["LateRecurrence", "is_late"]

MOST_PROGRAMS = 32
"""Programs that are kept of a node: one per spec, for the shapes of weights may differ from call to call."""


def is_late(step: Step) -> bool:
    """Whether it is a recurrent node some of whose weights come with the call."""
    weights = [step.inputs[number] for number in (W, R, B, P) if number < len(step.inputs)]
    return step.node.op in ("RNN", "GRU", "LSTM") and any(isinstance(value, Tensor) for value in weights)


class LateRecurrence:
    """What runs such a node."""

    def __init__(self, step: Step, opset: int, options: Mapping[str, Any], axes: InputAxes) -> None:
        self._step = step
        self._reads = [_reader(value, axes) for value in step.inputs]
        self._node = recurrence_of(Given(step.node, step.inputs, opset, lambda tensor: None))
        self._options = options
        self._programs: Recent[Spec, Program] = Recent(MOST_PROGRAMS)

    def run(self, values: dict[str, Array]) -> None:
        """Reads its inputs from the values and adds its outputs."""
        inputs = [read(values) for read in self._reads] + [None] * 8
        w, r = inputs[W], inputs[R]
        assert w is not None and r is not None
        weights = Weights(w, r, inputs[B], inputs[P])
        spec = spec_of(self._node, weights)
        program = self._programs.get(spec) or self._programs.put(spec, compile(spec, **self._options))
        model = program.bind(parameters_of(self._node, spec, weights))
        made = self._outputs(model, spec, inputs)
        values |= {t.name: array for t, array in zip(self._step.outputs, made, strict=False) if t is not None}

    def _outputs(self, model: Any, spec: Spec, inputs: Sequence[Array | None]) -> list[Array]:
        x = inputs[X]
        assert x is not None
        x = x.swapaxes(0, 1) if self._node.batch_first else x
        if x.ndim != 3 or x.shape[-1] != spec.input_size:
            raise ArgumentError(f"{self._node.label}: X: expected (T, B, {spec.input_size}), got {x.shape}")
        steps, batch, _ = x.shape
        lengths = inputs[LENGTHS]
        ends = [np.zeros((len(spec.ways), batch, spec.hidden_size), x.dtype) for _ in self._node.states]
        y = np.zeros((0, batch, spec.output_size), x.dtype)
        if steps:
            y, state = model(x, self._state(inputs, ends), lengths=lengths)
            ends = list(state) if isinstance(state, tuple) else [state]
        for end in ends if lengths is not None else ():
            end[:, lengths == 0] = 0  # as ONNX Runtime
        return self._as_onnx(y.reshape(steps, batch, len(spec.ways), spec.hidden_size), ends)

    def _state(self, inputs: Sequence[Array | None], zeros: Sequence[Array]) -> Any:
        given = [inputs[number] for number in (H0, C0)[: len(zeros)]]
        turned = [s.swapaxes(0, 1) if s is not None and self._node.batch_first else s for s in given]
        found = tuple(zero if s is None else np.ascontiguousarray(s) for s, zero in zip(turned, zeros, strict=True))
        return found if len(found) > 1 else found[0]

    def _as_onnx(self, y: Array, ends: Sequence[Array]) -> list[Array]:
        if self._node.batch_first:
            return [y.swapaxes(0, 1), *(end.swapaxes(0, 1) for end in ends)]
        return [y.swapaxes(1, 2), *ends]


def _reader(value: Value | None, axes: InputAxes) -> Reader:
    """Reads an input; one that is 0 throughout as if it were left out, for its size may not be known."""
    return reader(None if isinstance(value, Filled) and zeros(value) else value, axes)
