"""Checks of the networks, batches and states given to training, and the reason for a step without finite results.

Each check returns the argument in the form that a backend reads, or raises an error of rnnc that names the argument.
Batches that `fit` makes of checked data are not checked again (`TrainingStep._take`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.array_utils import byte_bounds

from rnnc.backends.arrays import NUMPY
from rnnc.backends.training.noise import LOW
from rnnc.checking import checks
from rnnc.checking.arrays import as_array, check_dtype, check_shape
from rnnc.checking.calls import check_lengths
from rnnc.ir.errors import ArgumentError, ArgumentTypeError, ParameterError, ShapeError
from rnnc.layers import Layer
from rnnc.networks.names import state_shapes
from rnnc.sequential import Sequential
from rnnc.train.batch import Batch, inside

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rnnc.losses import Loss

    Array = NDArray[Any]
    State = dict[str, Array]


class Rules:
    """The checks of batches and states for one network and loss."""

    def __init__(self, model: Sequential, loss: Loss) -> None:
        self._model, self._loss = model, loss
        self._dtype = np.dtype(model.dtype)
        self._states = {name: width for name, (_, _, width) in state_shapes(model).items()}
        self._width = loss.target_width(model.output_size)

    def batches(self, value: object) -> list[Batch]:
        """The batches of one update. value: a Batch, or a sequence of several."""
        if isinstance(value, Batch):
            return [self.batch("batch", value)]
        if not isinstance(value, Sequence) or isinstance(value, str) or not value:
            raise ArgumentTypeError(f"batch: expected a rnnc.train.Batch or several, got {checks.came(value)}")
        return [self.batch(f"batch[{number}]", part) for number, part in enumerate(value)]

    def batch(self, name: str, value: object) -> Batch:
        """The batch, with aligned and contiguous arrays that fit the network and each other."""
        if not isinstance(value, Batch):
            raise ArgumentTypeError(
                f"{name}: expected a rnnc.train.Batch, such as Sequences.batch(rows) makes, got {checks.came(value)}"
            )
        x = self._x(f"{name}.x", value.x)
        steps, rows = x.shape[:2]
        lengths = None
        if value.lengths is not None:
            lengths = check_lengths(value.lengths, steps, rows, True)
        there = inside(steps, lengths)
        if self._model.embedding is not None:
            x = self._numbers(f"{name}.x", x, there)
        target = self._target(f"{name}.target", value.target, (steps, rows), there)
        timed = self._model.timed
        counted = self._loss.counted(target)
        count = int((counted if there is None or not timed else counted[there]).sum())
        terms = checks.integer(f"{name}.terms", value.terms, 0, 2**63 - 1)
        if terms != count:
            raise ArgumentError(f"{name}.terms: the targets of the batch are {count} terms of the mean, got {terms}")
        row = checks.integer(f"{name}.row", value.row, 0, LOW - rows)
        start = checks.integer(f"{name}.start", value.start, 0, LOW - steps)
        return Batch(x, target, lengths, terms, row, start)

    def state(self, value: object, rows: int) -> State | None:
        """The states to start from, name -> (rows, width). None stays None: the states start at zero."""
        if value is None:
            return None
        names = ", ".join(self._states)
        if not isinstance(value, Mapping):
            raise ArgumentTypeError(f"state: expected None or a mapping of {names} to arrays, got {checks.came(value)}")
        if set(value) != set(self._states):
            hint = "" if value else "; a step returns states if it is made with carry=True"
            raise ArgumentError(f"state: expected arrays of {names}, got {', '.join(map(str, value)) or 'none'}{hint}")
        found = {}
        for name, width in self._states.items():
            label = f"state[{name!r}]"
            array = as_array(label, value[name])
            check_dtype(label, array, self._dtype)
            check_shape(label, array, (rows, width), "(rows of the batch, width)")
            found[name] = NUMPY.compact(label, array)
        return found

    def _x(self, name: str, value: object) -> Array:
        x = as_array(name, value)
        if self._model.embedding is not None:
            if x.dtype.kind not in "iu":
                raise ArgumentTypeError(f"{name}: the first layer is an Embedding, which takes integers; got {x.dtype}")
            if x.ndim != 2:
                raise ShapeError(f"{name}: expected integers (T, B), got shape {x.shape}")
        else:
            check_dtype(name, x, self._dtype)
            if x.ndim != 3 or x.shape[-1] != self._model.input_size:
                raise ShapeError(f"{name}: expected (T, B, {self._model.input_size}), got shape {x.shape}")
        if not x.shape[0]:
            raise ShapeError(f"{name}: expected at least one time step, got shape {x.shape}")
        return NUMPY.compact(name, x)

    def _numbers(self, name: str, x: Array, there: Array | None) -> Array:
        """x as numbers of rows of the table. Numbers in the padding that are out of range become 0."""
        embedding = self._model.embedding
        assert embedding is not None
        last = embedding.num_embeddings - 1
        if x.size and not (0 <= int(x.min()) and int(x.max()) <= last):
            bad = (x < 0) | (x > last)
            if there is None or (bad & there).any():
                raise ArgumentError(f"{name}: expected numbers of rows of the embedding, 0..{last}")
            x = np.where(bad, 0, x)
        return np.ascontiguousarray(x, np.int64)

    def _target(self, name: str, value: object, sizes: tuple[int, int], there: Array | None) -> Array:
        target = as_array(name, value)
        check_dtype(name, target, self._dtype)
        if self._model.timed:
            check_shape(name, target, (*sizes, self._width), "(T, B, width)")
        else:
            check_shape(name, target, (sizes[1], self._width), "(B, width)")
            there = None
        self._loss.check(name, target if there is None else target[there], self._model.output_size)
        return NUMPY.compact(name, target)


def check_model(model: object) -> Sequential:
    """The model. Raises ArgumentTypeError if it is not a network, for example if it is a bare spec.

    Raises ArgumentError for a layer that gradients cannot train.
    """
    if not isinstance(model, Sequential):
        raise ArgumentTypeError(f"model: expected a rnnc.Sequential, got {checks.came(model)}")
    for number, layer in enumerate(model.layers):
        if isinstance(layer, Layer) and not layer.trains:
            who = f"layer {number}, {type(layer).__name__}"
            raise ArgumentError(f"model: {who}, has no training mode yet: gradients would change its statistics")
    if not model.graph().even:
        what = "it has layers whose steps are not those of x (strides, padding)"
        raise ArgumentError(f"model: {what}, for which fit has no targets yet; take gradients with rnnc.vjp")
    return model


def check_untied(params: Mapping[str, Any]) -> None:
    """Raises ParameterError if two parameters share memory, because training changes each by its own gradient.

    params: arrays that `rnnc.checking.parameters.read_parameters` has accepted.
    """
    arrays = {name: as_array(name, value) for name, value in params.items()}
    spans = sorted((*byte_bounds(array), name) for name, array in arrays.items() if array.size)
    for number, (_, end, one) in enumerate(spans):
        for _, _, other in takewhile(lambda span, end=end: span[0] < end, spans[number + 1 :]):  # type: ignore[misc]
            if NUMPY.share_memory(arrays[one], arrays[other]):
                raise ParameterError(
                    f"params: {other!r} and {one!r} share memory, but a network has no tied parameters: training "
                    f"would change each on its own; pass params[{other!r}].copy() if that is meant"
                )


def reason(batches: Sequence[Batch], state: Mapping[str, Array] | None, params: Mapping[str, Array]) -> tuple[str, str]:
    """The reason why a step had no finite result: "data", "state", "parameters" or "overflow", then a sentence."""
    for number, batch in enumerate(batches):
        for name, array in _floats(batch):
            if (where := _first(array)) is not None:
                label = f"batch[{number}].{name}" if len(batches) > 1 else f"batch.{name}"
                return "data", f"{label} holds {array[where]} at {list(where)}: the data is not finite"
    for name, array in (state or {}).items():
        if (where := _first(array)) is not None:
            return "state", f"state[{name!r}] holds {array[where]} at {list(where)}"
    for name, array in params.items():
        if (where := _first(array)) is not None:
            return "parameters", f"the parameter {name!r} holds {array[where]} at {list(where)}"
    return "overflow", "data and parameters are finite, so a number overflowed; try a lower learning rate, or clip="


def _floats(batch: Batch) -> Iterator[tuple[str, Array]]:
    """The floating-point arrays of a batch by name, with zeros in the padding."""
    steps, _ = batch.sizes
    there = inside(steps, batch.lengths)
    for name, array in (("x", batch.x), ("target", batch.target)):
        if array.dtype.kind == "f":
            timed = array.ndim == 3 and there is not None
            yield name, np.where(there[..., None], array, 0) if timed and there is not None else array


def _first(array: Array) -> tuple[int, ...] | None:
    """The index of the first number that is not finite; None if all are."""
    finite = np.isfinite(array)
    if finite.all():
        return None
    return tuple(int(i) for i in np.unravel_index(int(finite.argmin()), array.shape))
