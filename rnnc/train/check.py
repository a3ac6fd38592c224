"""Checks of the networks, batches and states given to training, and the reason for a step without finite results.

Each check returns the argument in the form that a backend reads, or raises an error of rnnc that names the argument.
Batches that `fit` makes of checked data are not checked again (`TrainingStep._take`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.lib.array_utils import byte_bounds

from rnnc.backends.arrays import NUMPY
from rnnc.backends.training.noise import LOW
from rnnc.checking import checks
from rnnc.checking.arrays import as_array, check_dtype, check_shape
from rnnc.checking.calls import check_lengths
from rnnc.ir.errors import ArgumentError, ArgumentTypeError, ParameterError, ShapeError
from rnnc.layered import Layered
from rnnc.layers import Layer
from rnnc.networks.names import state_shapes
from rnnc.train.batch import Batch, inside

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rnnc.checking.networks import Kind
    from rnnc.graph import Graph
    from rnnc.losses import Loss
    from rnnc.train.batch import Rows

    Array = NDArray[Any]
    State = dict[str, Array]


class Rules:
    """The checks of batches and states for one network and the losses of its outputs, by name."""

    def __init__(self, model: Layered, losses: Mapping[str, Loss], weighted: bool = False) -> None:
        """weighted: whether batches may have weights."""
        self._graph, self._losses, self._weighted = model.graph(), losses, weighted
        self._dtype = np.dtype(model.dtype)
        self._states = {name: width for name, (_, _, width) in state_shapes(model).items()}
        self._heights = heights_of(self._graph)

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
        inputs = self._inputs(name, value.inputs)
        steps, rows = value._replace(inputs=inputs).sizes
        row = checks.integer(f"{name}.row", value.row, 0, LOW - rows)
        start = checks.integer(f"{name}.start", value.start, 0, LOW - steps)
        if start % self._graph.frame:
            frame = f"expected a multiple of {self._graph.frame}, as layers make one step of so many"
            raise ArgumentError(f"{name}.start: {frame}; got {start}")
        lengths = None if value.lengths is None else check_lengths(value.lengths, steps, rows, True)
        for source, height in self._heights.items():
            inputs[source] = _numbers(_label(name, "inputs", source, inputs), inputs[source], height, lengths)
        _named(f"{name}.targets", value.targets, self._losses)
        if _named(f"{name}.weights", value.weights, self._losses, some=True) and not self._weighted:
            raise ArgumentError(f"{name}.weights: the losses read none; compile them with weighted=True")
        _named(f"{name}.terms", value.terms, self._losses)
        targets, weights, terms = {}, {}, {}
        for output, loss in self._losses.items():
            there = self._there(output, steps, rows, lengths)
            label = _label(name, "targets", output, self._losses)
            targets[output] = self._target(label, value.targets[output], loss, output, there)
            if output in value.weights:
                label = f"{name}.weights[{output!r}]"
                weights[output] = self._weights(label, value.weights[output], there)
            count = counted(loss, targets[output], weights.get(output), there.inside)
            label = _label(name, "terms", output, self._losses)
            terms[output] = _terms(label, value.terms[output], count, output in weights)
        return Batch(inputs, targets, lengths, terms, weights, row, start)

    def part(self, batch: Batch, rows: slice) -> Batch:
        """Some rows of a batch, side by side, with their own terms."""
        steps, many = batch.sizes
        lengths = None if batch.lengths is None else batch.lengths[rows]
        inputs = {name: _rows(x, rows, self._graph.kinds[name].timed) for name, x in batch.inputs.items()}
        targets, weights, terms = {}, {}, {}
        for output, loss in self._losses.items():
            there = self._there(output, steps, many, lengths)
            timed = len(there.sizes) == 2
            targets[output] = _rows(batch.targets[output], rows, timed)
            if output in batch.weights:
                weights[output] = _rows(batch.weights[output], rows, timed)
            terms[output] = counted(loss, targets[output], weights.get(output), there.inside)
        return batch._replace(
            inputs=inputs, targets=targets, lengths=lengths, terms=terms, weights=weights, row=batch.row + rows.start
        )

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

    def reason(
        self, batches: Sequence[Batch], state: Mapping[str, Array] | None, params: Mapping[str, Array]
    ) -> tuple[str, str]:
        """The reason why a step had no finite result: "data", "state", "parameters" or "overflow", then a sentence."""
        for number, batch in enumerate(batches):
            for name, array in self._floats(batch):
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

    def _floats(self, batch: Batch) -> Iterator[tuple[str, Array]]:
        """The floating-point arrays of a batch by their labels, with zeros in the padding."""
        steps, rows = batch.sizes
        own = inside(steps, batch.lengths)
        there = {name: own if self._graph.kinds[name].timed else None for name in batch.inputs}
        for name, array in batch.inputs.items():
            if array.dtype.kind == "f":
                yield _label("", "inputs", name, batch.inputs)[1:], _zeroed(array, there[name])
        for name, array in batch.targets.items():
            mask = self._there(name, steps, rows, batch.lengths).inside
            yield _label("", "targets", name, batch.targets)[1:], _zeroed(array, mask)

    # ---- inputs

    def _inputs(self, name: str, value: object) -> dict[str, Array]:
        kinds = {source: self._graph.kinds[source] for source in self._graph.inputs}
        given = _named(f"{name}.inputs", value, kinds)
        found = {s: self._input(_label(name, "inputs", s, kinds), given[s], kind) for s, kind in kinds.items()}
        shapes = {s: array.shape[:2] if kinds[s].timed else array.shape[:1] for s, array in found.items()}
        sizes = [shape for source, shape in shapes.items() if kinds[source].timed][0]
        if any([shape != sizes[-len(shape) :] for shape in shapes.values()]):
            came = ", ".join(f"{source!r}: {array.shape}" for source, array in found.items())
            raise ShapeError(f"{name}.inputs: expected arrays of as many steps and rows each, got {came}")
        return found

    def _input(self, label: str, value: object, kind: Kind) -> Array:
        array = as_array(label, value)
        if not kind.width:
            if array.dtype.kind not in "iu":
                raise ArgumentTypeError(f"{label}: an Embedding reads it, which takes integers; got {array.dtype}")
            if array.ndim != 2:
                raise ShapeError(f"{label}: expected integers (T, B), got shape {array.shape}")
        else:
            check_dtype(label, array, self._dtype)
            axes = ("T", "B", kind.width) if kind.timed else ("B", kind.width)
            if array.ndim != len(axes) or array.shape[-1] != kind.width:
                raise ShapeError(f"{label}: expected ({', '.join(map(str, axes))}), got shape {array.shape}")
        if kind.timed and not array.shape[0]:
            raise ShapeError(f"{label}: expected at least one time step, got shape {array.shape}")
        return NUMPY.compact(label, array)

    # ---- targets

    def _there(self, output: str, steps: int, rows: int, lengths: Rows | None) -> _There:
        kind = self._graph.kinds[self._graph.outputs[output]]
        if not kind.timed or self._losses[output].per_row:
            return _There((rows,), None)
        steps = kind.steps(steps)
        return _There((steps, rows), inside(steps, None if lengths is None else kind.steps(lengths)))

    def _target(self, label: str, value: object, loss: Loss, output: str, there: _There) -> Array:
        target = as_array(label, value)
        check_dtype(label, target, self._dtype)
        size = self._graph.kinds[self._graph.outputs[output]].width
        check_shape(label, target, (*there.sizes, loss.target_width(size)), there.meaning)
        loss.check(label, target if there.inside is None else target[there.inside], size)
        return NUMPY.compact(label, target)

    def _weights(self, label: str, value: object, there: _There) -> Array:
        """The weights, one for each target."""
        weights = as_array(label, value)
        check_dtype(label, weights, self._dtype)
        if weights.shape != there.sizes[-1:]:
            check_shape(label, weights, there.sizes, there.meaning.removesuffix(", width)") + ")")
        if there.sizes != weights.shape:
            weights = np.broadcast_to(weights, there.sizes)
        used = weights if there.inside is None else weights[there.inside]
        bad = ~((used >= 0) & np.isfinite(used))
        if bad.any():
            raise ArgumentError(f"{label}: expected finite numbers >= 0, got {used[bad][0]}")
        return NUMPY.compact(label, weights)


class _There(NamedTuple):
    """Where an output has targets. sizes: (T', B), or (B,). inside: which of them are of a row's own steps; None: all.
    """

    sizes: tuple[int, ...]
    inside: Array | None

    @property
    def meaning(self) -> str:
        """The names of a target's axes."""
        return "(T, B, width)" if len(self.sizes) == 2 else "(B, width)"


def counted(loss: Loss, target: Array, weights: Array | None, there: Array | None) -> float:
    """What the summed loss of an output is divided by: its targets that count, each times its weight.

    target: as the loss encodes it, (T, B, W) or (B, W). weights: (T, B) or (B,), or None: all are 1. there: the mask of
    the targets that are not padding, (T, B), or None: all of them.
    """
    terms = loss.counted(target)
    if weights is not None:
        terms = terms * weights.astype(np.float64)
    return float((terms if there is None else terms[there]).sum())


def _terms(label: str, value: object, count: float, weighted: bool) -> float:
    """The terms that a batch gives, if they are those of its targets, up to the rounding of sums."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise ArgumentTypeError(f"{label}: expected a number, got {checks.came(value)}")
    if not abs(value - count) <= (1e-5 if weighted else 1e-12) * count:
        raise ArgumentError(f"{label}: the targets of the batch are {count:.9g} terms of the mean, got {value}")
    return float(value)


def _named(label: str, value: object, names: Collection[str], *, some: bool = False) -> Mapping[str, Any]:
    """A mapping with these names as its keys; some: or with some of them."""
    fits = isinstance(value, Mapping) and (set(value) <= set(names) if some else set(value) == set(names))
    if not fits or not isinstance(value, Mapping):
        came = f"the names {', '.join(map(repr, value))}" if isinstance(value, Mapping) else checks.came(value)
        raise ArgumentTypeError(f"{label}: expected a mapping of {', '.join(map(repr, names))}, got {came}")
    return value


def _label(batch: str, field: str, name: str, names: Collection[str]) -> str:
    """What messages call one array of a batch: batch.x and batch.target, where there is one of a kind."""
    if len(names) > 1:
        return f"{batch}.{field}[{name!r}]"
    return f"{batch}.{ {'inputs': 'x', 'targets': 'target'}.get(field, field)}"


def heights_of(graph: Graph) -> dict[str, int]:
    """Input of integers -> the number of rows of the smallest table that reads it."""
    found: dict[str, int] = {}
    shapes = graph.parameter_shapes()
    for name, (source, _) in graph.tables.items():
        height = shapes[graph.table_of(name)][0]
        found[source] = min(height, found.get(source, height))
    return found


def _numbers(label: str, x: Array, height: int, lengths: Rows | None) -> Array:
    """x as numbers of rows of a table. Numbers in the padding that are out of range become 0."""
    if x.size and not (0 <= int(x.min()) and int(x.max()) < height):
        bad, there = (x < 0) | (x >= height), inside(len(x), lengths)
        if there is None or (bad & there).any():
            raise ArgumentError(f"{label}: expected numbers of rows of the embedding, 0..{height - 1}")
        x = np.where(bad, 0, x)
    return np.ascontiguousarray(x, np.int64)


def check_model(model: object) -> Any:
    """The model. Raises ArgumentTypeError if it is not a network, for example if it is a bare spec.

    Raises ArgumentError for a layer that cannot be trained.
    """
    if not isinstance(model, Layered):
        raise ArgumentTypeError(f"model: expected a rnnc.Sequential or rnnc.Graph, got {checks.came(model)}")
    graph = model.graph()
    for name, entry in graph.entries.items():
        if isinstance(entry.layer, Layer) and entry.layer.untrained:
            raise ArgumentError(f"model: layer {name}, {type(entry.layer).__name__}: {entry.layer.untrained}")
        if isinstance(entry.layer, Layer) and entry.layer.memory is not None:
            raise ArgumentError(f"model: layer {name} reads all states of an encoder, which only rnnc.Decoder gives")
    if not graph.parameter_shapes():
        raise ArgumentError("model: it has no parameters to train")
    return model


def check_carries(model: Layered) -> None:
    """Raises ArgumentError unless sequences may be trained in pieces, each of which goes on from the one before."""
    graph = model.graph()
    if not graph.streams or not all(graph.kinds[source].timed for source in graph.outputs.values()):
        raise ArgumentError("carry: only a network of one direction without a readout goes on from a state")
    if not graph.causal:
        raise ArgumentError("carry: layers read later steps, which are not there at the end of a piece")
    paces = {pace for kind in graph.kinds.values() for pace in kind.paces}
    if any(not 0 <= pace.fewer < pace.stride or pace.more for pace in paces):
        raise ArgumentError("carry: layers make other steps of a whole sequence than of its pieces (padding)")


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
                    f"params: {other!r} and {one!r} share memory, but the network does not tie them: training would "
                    f"change each on its own; pass params[{other!r}].copy() if that is meant, or tie them in the "
                    f"entry of a rnnc.Graph: {{{other.rpartition('.')[2]!r}: {one!r}}}"
                )


def _rows(array: Array, rows: slice, timed: bool) -> Array:
    """Some rows of an array (T, B, ...), or (B, ...)."""
    return np.ascontiguousarray(array[:, rows] if timed else array[rows])


def _zeroed(array: Array, there: Array | None) -> Array:
    """An array (T, B, N) with zeros where a mask (T, B) is False."""
    return array if there is None else np.where(there[..., None], array, 0)


def _first(array: Array) -> tuple[int, ...] | None:
    """The index of the first number that is not finite; None if all are."""
    finite = np.isfinite(array)
    if finite.all():
        return None
    return tuple(int(i) for i in np.unravel_index(int(finite.argmin()), array.shape))
