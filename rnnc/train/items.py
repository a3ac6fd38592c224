"""The data of users, item by item: checked against a network, encoded for its losses, and laid end to end.

An item is (x, target) or (x, target, weight), each an array, or a mapping of names to arrays if the network has several
inputs or outputs. What can be checked of many items at once is: a batch that is made of items on the way costs a few
microseconds per item. Only if something is wrong, the item at fault is searched for, so that the message names it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rnnc.checking import checks
from rnnc.checking.arrays import as_array, check_dtype
from rnnc.ir.errors import ArgumentError, ArgumentTypeError, RnncError, ShapeError
from rnnc.train.check import heights_of
from rnnc.train.columns import Columns, Track, with_padding

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rnnc.checking.networks import Kind
    from rnnc.layered import Layered
    from rnnc.losses import Loss

    Array = NDArray[Any]
    Rows = NDArray[np.int64]

INTEGERS = np.dtype(np.int64)
X, TARGET, WEIGHT = 0, 1, 2
"""The places in an item."""


class Port(NamedTuple):
    """An input or an output of a network.

    timed: whether an item has a value per step; else it has one. height: of the smallest table that reads an input of
    integers.
    """

    name: str
    kind: Kind
    timed: bool
    height: int = 0


class ItemReader:
    """Reads items for one network and its losses.

    losses: output -> loss. name: what error messages call the data.
    """

    def __init__(self, model: Layered, losses: Mapping[str, Loss], name: str = "data") -> None:
        self._graph = graph = model.graph()
        self.losses, self.name = losses, name
        self.dtype = np.dtype(graph.dtype)
        self._dtype_name = graph.dtype
        heights = heights_of(graph)
        kinds = {source: graph.kinds[source] for source in graph.inputs}
        self.inputs = [Port(source, kind, kind.timed, heights.get(source, 0)) for source, kind in kinds.items()]
        kinds = {output: graph.kinds[graph.outputs[output]] for output in losses}
        self.outputs = [Port(name, kind, kind.timed and not losses[name].per_row) for name, kind in kinds.items()]
        self._clock = next(port for port in self.inputs if port.timed)

    # ---- items

    def steps(self, number: int, item: object) -> int:
        """The number of steps of an item, which is checked when it is read."""
        part = self._by_name(number, self._parts(number, item)[X], self.inputs)[self._clock.name]
        shape = getattr(part, "shape", ())
        return int(shape[0]) if shape else len(self._input(number, self._clock, part))

    @property
    def clock(self) -> str:
        """The input whose steps are those of an item."""
        return self._clock.name

    def weighted(self, number: int, item: object) -> bool:
        """Whether an item has a weight."""
        return len(self._parts(number, item)) == 3

    def is_batch(self, element: object) -> bool:
        """Whether an element of streamed data is several items: a list of them, or arrays with one more axis."""
        if isinstance(element, list) and element and isinstance(element[0], (tuple, list)):
            return True
        if not isinstance(element, (tuple, list)) or len(element) not in (2, 3):
            return False
        x = element[X][self._clock.name] if _has(element[X], self._clock.name) else element[X]
        return bool(getattr(x, "ndim", 0) == (3 if self._clock.kind.width else 2))

    def split(self, number: int, element: Any) -> list[Any]:
        """The items of an element that is several."""
        if isinstance(element, list) and isinstance(element[0], (tuple, list)):
            return element
        parts = [self._rows(number, place, part) for place, part in enumerate(element)]
        if len({len(part) for part in parts}) > 1:
            came = ", ".join(str(len(part)) for part in parts)
            raise ShapeError(f"{self._item(number)}: expected arrays of as many sequences each, got {came}")
        return list(zip(*parts, strict=True))

    def columns(self, items: Sequence[object], numbers: Sequence[int]) -> Columns:
        """The items, checked, and encoded. numbers: what messages call each.

        Raises ShapeError, DtypeError, ArgumentError or ArgumentTypeError, with the number of the item.
        """
        parts = self._all_parts(items, numbers)
        inputs = self._each(X, self.inputs, parts, numbers, self._inputs)
        targets = self._each(TARGET, self.outputs, parts, numbers, self._targets)
        lengths = np.fromiter((len(x) for x in inputs[self._clock.name]), np.int64, len(parts))
        found = Columns({}, {}, {}, {}, lengths, *self._tracks(inputs, targets, lengths, numbers))
        for port in self.inputs:
            track = found.input_tracks.get(port.name)
            found.inputs[port.name] = self._joined_input(port, inputs[port.name], track, numbers)
        for port in self.outputs:
            name, track = port.name, found.output_tracks.get(port.name)
            found.targets[name], found.terms[name] = self._joined_target(port, targets[name], track, numbers)
        if len(parts[0]) == 3:
            weights = [self._weights(number, part[WEIGHT]) for number, part in zip(numbers, parts, strict=True)]
            for port in self.outputs:
                self._weigh(port, [given[port.name] for given in weights], found, numbers)
        return found

    def _all_parts(self, items: Sequence[Any], numbers: Sequence[int]) -> Sequence[Any]:
        """The items, which all are pairs, or all have weights."""
        sizes = {len(item) if type(item) is tuple else 0 for item in items}
        if sizes == {2} or sizes == {3}:
            return items
        parts = [self._parts(number, item) for number, item in zip(numbers, items, strict=True)]
        if len({len(part) for part in parts}) > 1:
            odd = next(i for i, part in enumerate(parts) if len(part) != len(parts[0]))
            raise ArgumentTypeError(f"{self._item(numbers[odd])}: expected a weight in all items, or in none")
        return parts

    def _parts(self, number: int, item: object) -> tuple[Any, ...] | list[Any]:
        if not isinstance(item, (tuple, list)) or len(item) not in (2, 3):
            hint = ""
            if hasattr(item, "shape"):
                hint = "; for arrays with one sequence per row, pass the tuple (X, Y)"
            raise ArgumentTypeError(
                f"{self._item(number)}: expected a pair (x, target), or (x, target, weight), "
                f"got {checks.came(item)}{hint}"
            )
        return item

    def _each(
        self, place: int, ports: list[Port], parts: Sequence[Any], numbers: Sequence[int], read: Any
    ) -> dict[str, list[Array]]:
        """Name -> the array of each item."""
        values = [part[place] for part in parts]
        if len(ports) == 1 and {type(value) for value in values} == {np.ndarray}:
            return {ports[0].name: read(ports[0], values, numbers)}
        given = [self._by_name(n, value, ports, place) for n, value in zip(numbers, values, strict=True)]
        return {port.name: read(port, [named[port.name] for named in given], numbers) for port in ports}

    def _by_name(self, number: int, part: object, ports: list[Port], place: int = X) -> Mapping[str, Any]:
        names = [port.name for port in ports]
        if isinstance(part, Mapping):
            if set(part) != set(names):
                came = ", ".join(map(repr, part)) or "none"
                raise ArgumentError(f"{self._label(number, place)}: expected the names {', '.join(names)}, got {came}")
            return part
        if len(names) > 1:
            kind = ("inputs", "outputs", "outputs")[place]
            raise ArgumentTypeError(
                f"{self._label(number, place)}: the network has the {kind} {', '.join(map(repr, names))}; expected a "
                f"dict of these names, got {checks.came(part)}"
            )
        return {names[0]: part}

    def _inputs(self, port: Port, values: list[Any], numbers: Sequence[int]) -> list[Array]:
        """The arrays of an input, each checked by itself only if something is not as it usually is."""
        if {type(value) for value in values} == {np.ndarray}:
            dtype, shape = (self.dtype, (port.kind.width,)) if port.kind.width else (INTEGERS, ())
            if all(v.dtype == dtype and v.shape[port.timed :] == shape and len(v) for v in values):
                return values
        return [self._input(number, port, value) for number, value in zip(numbers, values, strict=True)]

    def _input(self, number: int, port: Port, value: object) -> Array:
        kind, label = port.kind, self._label(number, X, port)
        x = _array(label, value)
        if not kind.width:
            if x.ndim != kind.timed or x.dtype.kind not in "iu":
                raise ArgumentTypeError(f"{label}: an Embedding reads it: expected integers (T,), got {_is(x)}")
        else:
            check_dtype(label, x, self.dtype)
            if x.shape[kind.timed :] != (kind.width,) or x.ndim != kind.timed + 1:
                expected = f"(T, {kind.width})" if kind.timed else f"({kind.width},)"
                raise ShapeError(f"{label}: expected {expected}, got {_is(x)}")
        if not x.shape[:1] or not len(x):
            raise ShapeError(f"{label}: a sequence has at least one step")
        return x

    def _targets(self, port: Port, values: list[Any], numbers: Sequence[int]) -> list[Array]:
        labelled = zip(numbers, values, strict=True)
        return [v if type(v) is np.ndarray else _array(self._label(n, TARGET, port), v) for n, v in labelled]

    def _weights(self, number: int, value: object) -> Mapping[str, Array]:
        if isinstance(value, Mapping):
            given = self._by_name(number, value, self.outputs, WEIGHT)
        else:
            given = {port.name: value for port in self.outputs}
        return {name: _array(self._label(number, WEIGHT), weight) for name, weight in given.items()}

    # ---- items end to end

    def _tracks(
        self, inputs: Any, targets: Any, lengths: Rows, numbers: Sequence[int]
    ) -> tuple[dict[str, Track], dict[str, Track]]:
        """The tracks of what is per step. Raises ShapeError for an input or a target with another number of steps."""
        alike = Track(lengths)
        read = {port.name: alike for port in self.inputs if port.timed}
        for port in self.inputs:
            if port.timed and port is not self._clock:
                self._check_steps(X, port, inputs[port.name], lengths, numbers)
        written = {port.name: self._track(port, alike) for port in self.outputs if port.timed}
        for port in self.outputs:
            if port.timed:
                self._check_steps(TARGET, port, targets[port.name], written[port.name].lengths, numbers)
        return read, written

    def _track(self, port: Port, inputs: Track) -> Track:
        """That of an output; that of the inputs if it has as many steps."""
        return Track(port.kind.steps(inputs.lengths)) if port.kind.paces else inputs

    def _check_steps(self, place: int, port: Port, arrays: list[Array], steps: Rows, numbers: Sequence[int]) -> None:
        expected = steps.tolist()
        if [array.shape[0] if array.ndim else None for array in arrays] == expected:
            return
        for number, array, n in zip(numbers, arrays, expected, strict=True):
            if array.shape[:1] != (n,):
                what = "target" if place == TARGET else f"the input {port.name!r}"
                raise ShapeError(
                    f"{self._label(number, place, port)}: expected {n} steps, got the shape {array.shape}; give one "
                    f"{what} per step"
                )

    def _joined_input(self, port: Port, arrays: list[Array], track: Track | None, numbers: Sequence[int]) -> Array:
        if not port.kind.width:
            arrays = [x if x.dtype == INTEGERS else x.astype(INTEGERS) for x in arrays]
        dtype = self.dtype if port.kind.width else INTEGERS
        found: Array = (
            np.concatenate([*arrays, np.zeros((1, *arrays[0].shape[1:]), dtype)]) if port.timed else np.stack(arrays)
        )
        if not port.kind.width:
            if not (0 <= int(found.min()) and int(found.max()) < port.height):
                bad = int(((found < 0) | (found >= port.height)).argmax())
                item = bad if track is None else track.owner(bad)[0]
                raise ArgumentError(
                    f"{self._label(numbers[item], X, port)}: expected numbers 0..{port.height - 1}, rows of the table, "
                    f"got {found[bad]}"
                )
        else:
            self._check_finite(X, port, found, track, numbers)
        return found

    def _joined_target(
        self, port: Port, arrays: list[Array], track: Track | None, numbers: Sequence[int]
    ) -> tuple[Array, Array]:
        loss = self.losses[port.name]
        shapes = [array.shape[port.timed :] for array in arrays]
        if shapes.count(shapes[0]) != len(shapes) and not loss.per_row:
            odd = next(i for i, shape in enumerate(shapes) if shape != shapes[0])
            label = self._label(numbers[odd], TARGET, port)
            raise ShapeError(f"{label}: a target of shape {shapes[odd]}, those before have {shapes[0]}")
        try:
            encoded, counts = self._encoded(loss, port, arrays)
        except RnncError:
            self._find(port, arrays, numbers)
            raise
        self._check_width(port, arrays[0], encoded, numbers[0])
        self._check_finite(TARGET, port, encoded, track, numbers)
        if port.timed:
            return with_padding(encoded), with_padding(counts)
        return np.ascontiguousarray(encoded), counts

    def _encoded(self, loss: Loss, port: Port, arrays: list[Array]) -> tuple[Array, Array]:
        joined: Any = np.concatenate(arrays) if port.timed else arrays if loss.per_row else np.stack(arrays)
        with np.errstate(over="ignore"):  # a number too large for float32 becomes infinite, and is refused
            return loss.encode(joined, port.kind.width, self._dtype_name)

    def _find(self, port: Port, arrays: list[Array], numbers: Sequence[int]) -> None:
        """Raises the error of the first item whose target the loss refuses."""
        for number, array in zip(numbers, arrays, strict=True):
            try:
                self._encoded(self.losses[port.name], port, [array])
            except RnncError as error:
                raise type(error)(f"{self._label(number, TARGET, port)}: {error}") from None

    def _check_width(self, port: Port, target: Array, encoded: Array, number: int) -> None:
        """Raises ShapeError unless there is one target per step or sequence, of the width that the loss reads."""
        loss, size = self.losses[port.name], port.kind.width
        width, one = loss.target_width(size), target.shape[port.timed :]
        if encoded.ndim == 2 and encoded.shape[1] == width:
            return
        hint = ""
        if width == 1 and one == (1,):
            hint = "; pass target[..., 0]"
        elif width == 1 and one == (size,):
            hint = "; if it is one-hot, pass the number of the class, target.argmax(-1)"
        raise ShapeError(
            f"{self._label(number, TARGET, port)}: {loss.name} takes {width} number{'s' * (width > 1)} per "
            f"{'step' if port.timed else 'sequence'}, got an array of shape {one}{hint}"
        )

    def _weigh(self, port: Port, arrays: list[Array], columns: Columns, numbers: Sequence[int]) -> None:
        """Adds the weights of an output to the columns. A single number holds for all steps of a sequence."""
        track = columns.output_tracks.get(port.name)
        steps = [None] * len(arrays) if track is None else track.lengths.tolist()
        spread = []
        for number, weight, n in zip(numbers, arrays, steps, strict=True):
            if weight.dtype.kind not in "iuf" or weight.shape not in ((), () if n is None else (n,)):
                expected = "a number" if n is None else f"a number, or one per step, ({n},)"
                raise ShapeError(f"{self._label(number, WEIGHT, port)}: expected {expected}, got {_is(weight)}")
            spread.append(weight if n is None else np.broadcast_to(weight, (n,)))
        found: Array = (np.stack if track is None else np.concatenate)(spread).astype(self.dtype)
        bad = ~((found >= 0) & np.isfinite(found))
        if bad.any():
            row = int(bad.argmax())
            item = row if track is None else track.owner(row)[0]
            raise ArgumentError(
                f"{self._label(numbers[item], WEIGHT, port)}: expected finite numbers >= 0, got {found[row]}"
            )
        columns.weights[port.name] = found = found if track is None else with_padding(found)
        columns.terms[port.name] = columns.terms[port.name] * found.astype(np.float64)

    def _check_finite(self, place: int, port: Port, values: Array, track: Track | None, numbers: Sequence[int]) -> None:
        """Raises ArgumentError if a value is not finite. values: of all items end to end, or one row per item."""
        finite = np.isfinite(values)
        if finite.all():
            return
        at = np.unravel_index(int(finite.argmin()), values.shape)
        item, step = (int(at[0]), None) if track is None else track.owner(int(at[0]))
        where = "" if step is None else f" at step {step}"
        hint = "; missing='skip' of a loss leaves NaN out" if place == TARGET and np.isnan(values[at]) else ""
        raise ArgumentError(
            f"{self._label(numbers[item], place, port)}: expected finite numbers, got {values[at]}{where}{hint}"
        )

    # ---- the texts of messages

    def _rows(self, number: int, place: int, part: Any) -> list[Any]:
        """The rows of one part of an element that is several sequences."""
        if isinstance(part, Mapping):
            arrays = {name: _array(self._label(number, place), value) for name, value in part.items()}
            return [dict(zip(arrays, rows, strict=True)) for rows in zip(*arrays.values(), strict=False)]
        return list(_array(self._label(number, place), part))

    def _item(self, number: int) -> str:
        return f"item {number} of {self.name}: {self.name}[{number}]"

    def _label(self, number: int, place: int, port: Port | None = None) -> str:
        """What messages call a part of an item."""
        named = port is not None and len(self.inputs if place == X else self.outputs) > 1
        name = f"[{port.name!r}]" if port is not None and named else ""
        return f"{self._item(number)}[{place}]{name}"


def fitted(model: Layered, losses: Mapping[str, Loss], items: Iterable[object]) -> dict[str, Loss]:
    """The losses, which have seen the shapes of the targets of some items. What is no item is passed over."""
    graph = model.graph()
    seen: dict[str, list[Any]] = {output: [] for output in losses}
    for item in items:
        if isinstance(item, (tuple, list)) and len(item) in (2, 3):
            given = item[TARGET] if isinstance(item[TARGET], Mapping) else dict.fromkeys(losses, item[TARGET])
            for output in losses.keys() & given.keys():
                seen[output].append(given[output])
    found = {}
    for output, loss in losses.items():
        kind, targets = graph.kinds[graph.outputs[output]], seen[output]
        if kind.timed and not loss.per_row:
            targets = [target[0] for target in targets if np.ndim(target) and len(target)]
        found[output] = loss.fitted(targets, kind.width) if targets else loss
    return found


def _has(part: object, name: str) -> bool:
    return isinstance(part, Mapping) and name in part


def _array(name: str, value: Any) -> Array:
    if not isinstance(value, (list, tuple, int, float)):
        return as_array(name, value)
    try:
        return np.asarray(value)
    except (ValueError, TypeError, OverflowError) as error:
        raise ArgumentError(f"{name}: not an array: {error}") from error


def _is(array: Array) -> str:
    return f"{array.dtype} of shape {array.shape}"
