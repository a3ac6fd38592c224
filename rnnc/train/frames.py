"""Batches as the lowered graph reads them: arrays by its names, in frames (`rnnc.networks.timing`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rnnc.backends.arrays import NUMPY
from rnnc.backends.training.protocol import Numbers
from rnnc.checking.network_calls import NetworkSignature, Times
from rnnc.train.batch import inside

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from rnnc.layered import Layered
    from rnnc.train.batch import Batch
    from rnnc.train.objective import Objective, Part

    Array = NDArray[Any]
    State = Mapping[str, Array]


class Framed(NamedTuple):
    """A batch in frames.

    inputs: those of the network but rows of tables, first states, targets and weights. numbers: those of the rows, by
    the rows' name. lengths: the frames that each row has, or None: all.
    """

    inputs: dict[str, Array]
    numbers: dict[str, Numbers]
    lengths: Array | None
    times: Times


class Framing:
    """The arrays of batches, for a network and its losses.

    signature: the arrays of the network's calls, time first.
    """

    def __init__(self, model: Layered, objective: Objective) -> None:
        self._graph, self._objective = model.graph(), objective
        self._timing, self._even = self._graph.timing(False), self._graph.even
        self.signature = NetworkSignature(model, NUMPY, spanned=True, time_first=True)
        self._zeros = np.zeros(0, model.dtype)

    def __call__(self, batch: Batch, state: State | None) -> Framed:
        """The arrays of a checked batch. state: the first states, name -> (B, width); None: zeros.

        Raises ShapeError if a layer reads values that have different numbers of steps for these lengths.
        """
        steps, rows = batch.sizes
        times = Times(steps, steps, rows, False) if self._even else self.signature.times(steps, rows, False)
        lengths, spans = self.signature.ends(batch.lengths, times)
        inputs = spans | self._targets(batch, times) | self._states(state, rows)
        size = self._timing.frame
        for name, width in self._graph.inputs.items():
            if width:
                array = batch.inputs[name]
                timed = self._graph.kinds[name].timed
                inputs[self._graph.x_names[name]] = self.signature.framed(array, size, times) if timed else array
        own = batch.lengths
        if own is None and not self._even:
            own = np.full(rows, steps)
        numbers = {
            looked_up: Numbers(self.signature.framed(batch.inputs[source][..., None], size, times), own)
            for source, looked_up in self._graph.tables.values()
        }
        return Framed(inputs, numbers, lengths, times)

    def _targets(self, batch: Batch, times: Times) -> dict[str, Array]:
        found, framed = {}, self.signature.framed
        for output, part in self._objective.parts.items():
            roles, arrays = part.roles, {part.roles.target: batch.targets[output]}
            if roles.weighted:
                arrays[roles.weight] = self._weights(batch, output, part)
            for name, array in arrays.items():
                found[name] = framed(array, roles.positions, times) if part.timed else array
            if roles.inside is not None:
                found[roles.inside] = framed(self._there(batch, output), roles.positions, times)
        return found

    def _weights(self, batch: Batch, output: str, part: Part) -> Array:
        """The weights of an output, (T', B, 1) or (B, 1); 0 past the end of a row."""
        weights = batch.weights.get(output)
        if weights is None:
            weights = np.ones(batch.targets[output].shape[:-1], self._graph.dtype)
        if not part.timed or self._even:
            return weights[..., None]
        there = self._there(batch, output)
        return np.where(there > 0, weights[..., None], there)

    def _there(self, batch: Batch, output: str) -> Array:
        """1 at each step of an output that a row has, else 0, (T', B, 1)."""
        kind, (steps, rows) = self._graph.kinds[self._graph.outputs[output]], batch.sizes
        there = inside(kind.steps(steps), None if batch.lengths is None else kind.steps(batch.lengths))
        if there is None:
            return np.ones((kind.steps(steps), rows, 1), self._graph.dtype)
        return there[..., None].astype(self._graph.dtype)

    def _states(self, state: State | None, rows: int) -> dict[str, Array]:
        states = self.signature.states.items()
        return {
            initial: self._zero_states(rows, width) if state is None else state[name]
            for name, (initial, _, width) in states
        }

    def _zero_states(self, rows: int, width: int) -> Array:
        """Zeros (rows, width), a view of an array that is kept and grows."""
        zeros = self._zeros  # read once: another thread may replace the array
        if zeros.size < rows * width:
            self._zeros = zeros = np.zeros(rows * width, self._graph.dtype)
        return zeros[: rows * width].reshape(rows, width)
