"""The arguments of a network's call: every check, with its message, and the arrays the backend reads and fills.

Calls of a `rnnc.Network` and of the derivatives of one take the same arguments. Arrays go by their names in the lowered
graph, in frames (`rnnc.networks.timing`), (frames, B, positions * N); or they are "shown": in the user's layout.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from rnnc.backends import fresh
from rnnc.checking import checks
from rnnc.checking.arrays import as_array, check_dtype, check_shape
from rnnc.checking.calls import check_lengths
from rnnc.checking.networks import Kind
from rnnc.ir import names
from rnnc.ir.errors import ArgumentError, ArgumentTypeError, ShapeError
from rnnc.networks.names import state_shapes
from rnnc.networks.timing import AFTER, DURING, LONG

if TYPE_CHECKING:
    from rnnc.backends.arrays import Array, ArrayLibrary
    from rnnc.backends.tables import NarrowTable
    from rnnc.graph import Graph
    from rnnc.layered import Layered

Named = dict[str, "Array"]


class Times(NamedTuple):
    """The sizes of a call. steps: of the inputs. piece: whether it is a piece of a stream; its frames are full."""

    steps: int
    frames: int
    batch: int
    piece: bool


class Inputs(NamedTuple):
    """The inputs of a call.

    vectors: (frames, B, positions * N). numbers: (frames, B, positions) integers, by the name of the rows that they
    look up. counts: for each row the frames that it has, (B,); None: all.
    """

    vectors: Named
    numbers: Named
    counts: Array | None
    times: Times

    @property
    def spanned(self) -> bool:
        """Whether they say where the steps of each frame lie."""
        return names.SPAN in self.vectors


class NetworkSignature:
    """The arrays of a network's calls, of one library.

    states: for each state that goes on to the next piece: its initial name, its final name, its width.
    """

    def __init__(
        self,
        model: Layered,
        arrays: ArrayLibrary,
        *,
        streamed: bool = False,
        spanned: bool = False,
        time_first: bool = False,
    ) -> None:
        """
        spanned: all calls say where the steps of each frame lie, also those for which it is plain. time_first: arrays
        are (T, B, ...), whatever the network's layout.
        """
        self.graph: Graph = model.graph()
        self.batch_first = self.graph.batch_first and not time_first
        self.timing = self.graph.timing(streamed)
        self.always = spanned
        self.arrays = arrays
        self.states = state_shapes(model, streamed=streamed)

    # ---- arguments

    def inputs(self, x: object, lengths: object = None, *, piece: bool = False) -> Inputs:
        """The inputs, which have as many steps and rows each.

        piece: whether they are a piece of a stream. Raises DtypeError, ShapeError, LengthError, ArgumentError or
        ArgumentTypeError.
        """
        graph, given = self.graph, dict(self._each("x", x, self.graph.inputs, complete=True))
        vectors, static, numbers = {}, {}, {}
        for name, width in graph.inputs.items():
            label = self._label("x", name, graph.inputs)
            if name in graph.static:
                static[graph.x_names[name]] = self._vector(label, given[name], width)
            elif width:
                vectors[graph.x_names[name]] = self._vectors(label, given[name], width)
        for name, (source, rows) in graph.tables.items():
            height = graph.parameter_shapes()[graph.table_of(name)][0]
            numbers[rows] = self._numbers(self._label("x", source, graph.inputs), given[source], height)
        found = vectors | numbers
        sizes = {array.shape[:2] for array in found.values()}
        if len(sizes) > 1 or any(array.shape[0] != next(iter(sizes))[1] for array in static.values()):
            arrays = ", ".join(f"{name!r}: {np.shape(cast(Any, given[name]))}" for name in graph.inputs)
            raise ShapeError(f"x: expected inputs with as many steps and rows each, got {arrays}")
        steps, batch = sizes.pop()
        times = self.times(steps, batch, piece)
        own = None if lengths is None else check_lengths(lengths, times.steps, times.batch, True, self.arrays)
        counts, spans = self.ends(own, times)
        size = self.timing.frame
        framed = {name: self.framed(array, size, times) for name, array in vectors.items()}
        numbered = {name: self.framed(array[..., None], size, times) for name, array in numbers.items()}
        return Inputs(framed | spans | static, numbered, counts, times)

    def times(self, steps: int, batch: int, piece: bool) -> Times:
        """The sizes of a call. Raises ShapeError for a piece that is not of whole frames."""
        size = self.timing.frame
        if piece and steps % size:
            raise ShapeError(
                f"x: expected a multiple of {size} steps, as layers make one step of so many; got {steps}. Fill up "
                "the last piece, and say with lengths where it ends"
            )
        return Times(steps, steps // size if piece else self.timing.frames(steps), batch, piece)

    def ends(self, own: Array | None, times: Times) -> tuple[Array | None, Named]:
        """The frames that each row has, and where its steps lie, if that is not the same for all values.

        own: the steps of the inputs that each row has, (B,), or None: all.
        """
        if times.piece:  # what its values' steps add up to, not those of the piece
            self._check_joins(LONG * self.timing.frame)
        else:
            self._check_joins(times.steps if own is None else own)
        if not self.timing.spanned:
            return own, {}
        if own is None and not self.always and (times.piece or self._fills(times)):
            return None, {}
        xp, size = self.arrays.xp, self.timing.frame
        if own is None:
            own = xp.full(times.batch, times.steps, "int64")
        places = xp.arange(times.frames * size).reshape(times.frames, 1, size)
        spans = xp.where(places < own[None, :, None], DURING, AFTER).astype(self.graph.dtype)
        counts = -(-own // size)
        if not times.piece:
            for name, kind in self.graph.kinds.items():
                if kind.paces:
                    counts = xp.maximum(counts, -(-kind.steps(own) // self.timing.positions(name)))
        return counts, {names.SPAN: spans}

    def _fills(self, times: Times) -> bool:
        return times.steps % self.timing.frame == 0 and self.timing.fills(times.steps)

    def _check_joins(self, own: Array | int) -> None:
        """Raises ShapeError unless all that a layer reads has as many steps. own: of the inputs, one number or (B,)."""
        for name, sources in self._joins.items():
            found = {source: self.graph.kinds[source].steps(own) for source in sources}
            first = next(iter(found.values()))
            if any(np.any(steps != first) for steps in found.values()):
                what = ", ".join(f"{source!r} has {steps}" for source, steps in found.items())
                raise ShapeError(f"layer {name!r}: expected values with as many steps each; of {own} of x, {what}")

    @cached_property
    def _joins(self) -> dict[str, tuple[str, ...]]:
        """The layers that read values whose numbers of steps follow from x's in different ways."""
        kinds, found = self.graph.kinds, {}
        for name, entry in self.graph.entries.items():
            timed = tuple(source for source in entry.inputs if kinds[source].timed)
            if len({kinds[source].paces for source in timed}) > 1:
                found[name] = timed
        return found

    # ---- the end of a stream

    def nothing(self, batch: int) -> Inputs:
        """The inputs behind a stream's end: as many frames as what is late needs to come out."""
        xp, graph, size = self.arrays.xp, self.graph, self.timing.frame
        left = self.timing.frames_left
        frames = max(left, 1)  # of none, all rows have ended: values per sequence come out alone
        vectors = {
            graph.x_names[name]: xp.zeros((frames, batch, size * width), graph.dtype)
            for name, width in graph.inputs.items()
            if width
        }
        numbers = {rows: xp.zeros((frames, batch, size), "int64") for _, rows in graph.tables.values()}
        if self.timing.spanned:
            vectors[names.SPAN] = xp.full((frames, batch, size), AFTER, graph.dtype)
        counts = xp.full(batch, left, "int64")
        return Inputs(vectors, numbers, counts, Times(frames * size, frames, batch, True))

    def rest(self, shown: Any) -> Any:
        """Of outputs behind a stream's end, the steps that were late."""
        graph = self.graph
        if isinstance(shown, Mapping):
            return {name: self._rest(graph.outputs[name], array) for name, array in shown.items()}
        (source,) = graph.outputs.values()
        return self._rest(source, shown)

    def _rest(self, source: str, array: Array) -> Array:
        if not self.graph.kinds[source].timed:
            return array
        left = self.timing.steps_left(source)
        return array[:, :left] if self.batch_first else array[:left]

    # ---- frames

    def rows(self, table: Array | NarrowTable, numbers: Array) -> Array:
        """The rows of a table at each position of each frame, side by side."""
        found: Array = table[numbers]
        return found.reshape(*numbers.shape[:2], numbers.shape[2] * table.shape[1])

    def framed(self, array: Array, positions: int, times: Times) -> Array:
        """An array (steps, B, N) in frames, (frames, B, positions * N), with zeros behind its last step."""
        steps, batch, width = array.shape
        if positions == 1 and steps == times.frames:
            return array
        rows = array.swapaxes(0, 1)
        if steps != times.frames * positions:
            filled = self.arrays.xp.zeros((batch, times.frames * positions, width), array.dtype)
            filled[:, :steps] = rows
            rows = filled
        return rows.reshape(batch, times.frames, positions * width).swapaxes(0, 1)

    def _vectors(self, label: str, x: object, width: int) -> Array:
        array = self.arrays.aligned(label, as_array(label, x, self.arrays))
        check_dtype(label, array, np.dtype(self.graph.dtype))
        if array.ndim != 3 or array.shape[-1] != width:
            axes = "(B, T, I)" if self.batch_first else "(T, B, I)"
            raise ShapeError(f"{label}: expected {axes} with I = {width}, got {array.shape}")
        return self._steps_first(label, array)

    def _vector(self, label: str, x: object, width: int) -> Array:
        """An input that is one vector per sequence."""
        array = self.arrays.aligned(label, as_array(label, x, self.arrays))
        check_dtype(label, array, np.dtype(self.graph.dtype))
        if array.ndim != 2 or array.shape[-1] != width:
            raise ShapeError(f"{label}: expected one vector per sequence, (B, {width}), got {array.shape}")
        return self.arrays.compact(label, array)

    def _numbers(self, label: str, x: object, height: int) -> Array:
        """Numbers of rows of a table. Those on the host are checked.

        Those on a device are clipped to the table: to look at them would wait for it.
        """
        array = self.arrays.aligned(label, as_array(label, x, self.arrays))
        if array.dtype.kind not in "iu":
            raise ArgumentTypeError(f"{label}: an Embedding reads it, which takes integers; got {array.dtype}")
        if array.ndim != 2:
            axes = "(B, T)" if self.batch_first else "(T, B)"
            raise ShapeError(f"{label}: expected integers {axes}, got shape {array.shape}")
        last = height - 1
        if not self.arrays.on_host:
            array = array.clip(0, min(last, int(np.iinfo(array.dtype).max)))
        elif array.size and not (0 <= int(array.min()) and int(array.max()) <= last):
            raise ArgumentError(f"{label}: expected numbers of rows of the embedding, 0..{last}")
        return self._steps_first(label, array)

    def _steps_first(self, label: str, array: Array) -> Array:
        first = self._turned(array)
        if first.shape[0] == 0:
            raise ShapeError(f"{label}: expected at least one time step, got shape {array.shape}")
        return first

    def state(self, label: str, state: object, batch: int) -> dict[str, Array] | None:
        """The arrays of a state, or of something shaped as one, by the state's names; None if it is left out."""
        if state is None:
            return None
        if not isinstance(state, Mapping) or set(state) != set(self.states):
            expected = f"a dict of {', '.join(map(repr, self.states))}" if self.states else "an empty dict"
            raise ArgumentTypeError(
                f"{label}: expected None or what an earlier call returned, {expected}; got {checks.came(state)}"
            )
        return {
            name: self._array(f"{label}[{name!r}]", state[name], (batch, width))
            for name, (_, _, width) in self.states.items()
        }

    def outputs_like(self, label: str, value: object, times: Times) -> Named:
        """Arrays shaped as the outputs; None, and what a dict leaves out, is zeros."""
        graph, found = self.graph, {}
        for name, array in self._each(label, value, graph.outputs):
            found[graph.output_names[name]] = self._like(
                self._label(label, name, graph.outputs), array, graph.outputs[name], times
            )
        return found

    def inputs_like(self, label: str, value: object, times: Times) -> Named:
        """Arrays shaped as the inputs of vectors; None, and what a dict leaves out, is zeros. Integers have none."""
        graph, found = self.graph, {}
        for name, array in self._each(label, value, graph.inputs):
            if graph.inputs[name]:
                shown = self._label(label, name, graph.inputs)
                found[graph.x_names[name]] = self._like(shown, array, name, times)
            elif array is not None:
                raise ArgumentError(f"{label}: {name!r} holds integers, which have no direction; leave it out")
        return found

    def _like(self, label: str, value: object, source: str, times: Times) -> Array:
        kind = self.graph.kinds[source]
        array = self._array(label, value, self._sizes(kind, self._steps(kind, times), times.batch))
        if not kind.timed:
            return array
        return self.framed(self._turned(array), self.timing.positions(source), times)

    def _array(self, label: str, value: object, shape: tuple[int, ...]) -> Array:
        if value is None:
            zeros: Array = self.arrays.xp.zeros(shape, self.graph.dtype)
            return zeros
        array = as_array(label, value, self.arrays)
        check_dtype(label, array, np.dtype(self.graph.dtype))
        check_shape(label, array, shape)
        compact: Array = self.arrays.compact(label, array)
        return compact

    def _each(
        self, label: str, value: object, wanted: Mapping[str, object], *, complete: bool = False
    ) -> Iterator[tuple[str, object]]:
        """The parts of an argument by name: of a dict, or of a single array."""
        if not isinstance(value, Mapping) and (len(wanted) == 1 or (value is None and not complete)):
            yield from ((name, value) for name in wanted)
            return
        fits = isinstance(value, Mapping) and (set(value) == set(wanted) if complete else set(value) <= set(wanted))
        if not fits or not isinstance(value, Mapping):
            came = f"the names {', '.join(map(repr, value))}" if isinstance(value, Mapping) else checks.came(value)
            raise ArgumentTypeError(f"{label}: expected a dict of {', '.join(map(repr, wanted))}, got {came}")
        yield from ((name, value.get(name)) for name in wanted)

    def _label(self, label: str, name: str, wanted: Mapping[str, object]) -> str:
        return label if len(wanted) == 1 else f"{label}[{name!r}]"

    # ---- new arrays

    def new_state(self, batch: int) -> dict[str, Array]:
        """Arrays for a state, by the state's names."""
        return {name: self.empty((batch, width)) for name, (_, _, width) in self.states.items()}

    def new_outputs(self, times: Times, *, joined: bool = False) -> tuple[Named, Any]:
        """Arrays for the outputs, and as they are shown: a single one, or a dict.

        joined: those of one kind are columns of one array (`rnnc.Graph.columns`).
        """
        graph = self.graph
        if joined and graph.columns is not None:
            source = next(iter(graph.outputs.values()))
            width = sum(graph.kinds[source].width for source in graph.outputs.values())
            whole, shown = self._new(source, width, times)
            return {names.OUTPUT: whole}, parts(shown, graph.columns)
        made = {name: self._new(source, graph.kinds[source].width, times) for name, source in graph.outputs.items()}
        return {graph.output_names[name]: first for name, (first, _) in made.items()}, single(
            {name: shown for name, (_, shown) in made.items()}
        )

    def new_inputs(self, times: Times) -> tuple[Named, Any]:
        """Arrays shaped as the inputs of vectors, and as they are shown: None stands for integers."""
        graph = self.graph
        made = {name: self._new(name, width, times) for name, width in graph.inputs.items() if width}
        shown = {name: made[name][1] if name in made else None for name in graph.inputs}
        return {graph.x_names[name]: first for name, (first, _) in made.items()}, single(shown)

    def _new(self, source: str, width: int, times: Times) -> tuple[Array, Array]:
        """A new array, in frames, and as it is shown."""
        kind = self.graph.kinds[source]
        if not kind.timed:
            made = self.empty((times.batch, width))
            return made, made
        steps, positions = self._steps(kind, times), self.timing.positions(source)
        room = times.frames * positions
        if positions == 1:
            shown = self.empty(self._sizes(Kind(width, True), room, times.batch))
            first = self._turned(shown)
            return first, self._turned(first[:steps])
        rows = self.empty((times.batch, room, width))
        framed = rows.reshape(times.batch, times.frames, positions * width).swapaxes(0, 1)
        return framed, rows[:, :steps] if self.batch_first else rows[:, :steps].swapaxes(0, 1)

    def _steps(self, kind: Kind, times: Times) -> int:
        """The number of steps that a value has."""
        return int(kind.rate * times.steps) if times.piece else int(kind.steps(times.steps))

    def empty(self, shape: tuple[int, ...]) -> Array:
        """A new array of the network's dtype."""
        made: Array = fresh.empty(shape, self.graph.dtype, self.arrays.xp)
        return made

    def _sizes(self, kind: Kind, steps: int, batch: int) -> tuple[int, ...]:
        """The shown shape of a value."""
        lead = (batch, steps) if self.batch_first else (steps, batch)
        return (*lead, kind.width) if kind.timed else (batch, kind.width)

    def _turned(self, array: Array) -> Array:
        """Time first of what is shown, and back."""
        return array.swapaxes(0, 1) if self.batch_first else array


def parts(whole: Array, columns: Mapping[str, tuple[int, int]]) -> dict[str, Array]:
    """Outputs by name: views of the columns of one array."""
    return {name: whole[..., start:stop] for name, (start, stop) in columns.items()}


def single(shown: Mapping[str, Any]) -> Any:
    """The only one, or a dict of several."""
    return next(iter(shown.values())) if len(shown) == 1 else dict(shown)
