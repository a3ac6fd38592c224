"""The arguments of a network's call: every check, with its message, and the arrays the backend reads and fills.

Calls of a `rnnc.Network` and of the derivatives of one take the same arguments. Arrays go by their names in the lowered
graph, time first, or are "shown": in the user's layout.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from rnnc.backends import fresh
from rnnc.checking import checks
from rnnc.checking.arrays import as_array, check_dtype, check_shape
from rnnc.checking.networks import Kind
from rnnc.ir import names
from rnnc.ir.errors import ArgumentError, ArgumentTypeError, ShapeError
from rnnc.network_names import state_shapes

if TYPE_CHECKING:
    from rnnc.backends.arrays import Array, ArrayLibrary
    from rnnc.graph import Graph
    from rnnc.layered import Layered

Named = dict[str, "Array"]


class Inputs(NamedTuple):
    """The inputs of a call. vectors: (T, B, N). numbers: (T, B) integers, by the name of the rows that they look up."""

    vectors: Named
    numbers: Named
    steps: int
    batch: int


class NetworkSignature:
    """The arrays of a network's calls, of one library.

    states: for each state that goes on to the next piece: its initial name, its final name, its width.
    """

    def __init__(self, model: Layered, arrays: ArrayLibrary) -> None:
        self.graph: Graph = model.graph()
        self.arrays = arrays
        self.states = state_shapes(model)

    # ---- arguments

    def inputs(self, x: object) -> Inputs:
        """The inputs, which have as many steps and rows each.

        Raises DtypeError, ShapeError, ArgumentError or ArgumentTypeError.
        """
        graph, given = self.graph, dict(self._each("x", x, self.graph.inputs, complete=True))
        vectors = {
            graph.x_names[name]: self._vectors(self._label("x", name, graph.inputs), given[name], width)
            for name, width in graph.inputs.items()
            if width
        }
        numbers = {}
        for name, (source, rows) in graph.tables.items():
            height = graph.parameter_shapes()[graph.table_of(name)][0]
            numbers[rows] = self._numbers(self._label("x", source, graph.inputs), given[source], height)
        found = vectors | numbers
        sizes = {array.shape[:2] for array in found.values()}
        if len(sizes) > 1:
            arrays = ", ".join(f"{name!r}: {np.shape(cast(Any, given[name]))}" for name in graph.inputs)
            raise ShapeError(f"x: expected inputs with as many steps and rows each, got {arrays}")
        return Inputs(vectors, numbers, *sizes.pop())

    def _vectors(self, label: str, x: object, width: int) -> Array:
        array = self.arrays.aligned(label, as_array(label, x, self.arrays))
        check_dtype(label, array, np.dtype(self.graph.dtype))
        if array.ndim != 3 or array.shape[-1] != width:
            axes = "(B, T, I)" if self.graph.batch_first else "(T, B, I)"
            raise ShapeError(f"{label}: expected {axes} with I = {width}, got {array.shape}")
        return self._steps_first(label, array)

    def _numbers(self, label: str, x: object, height: int) -> Array:
        """Numbers of rows of a table. Those on the host are checked.

        Those on a device are clipped to the table: to look at them would wait for it.
        """
        array = self.arrays.aligned(label, as_array(label, x, self.arrays))
        if array.dtype.kind not in "iu":
            raise ArgumentTypeError(f"{label}: an Embedding reads it, which takes integers; got {array.dtype}")
        if array.ndim != 2:
            axes = "(B, T)" if self.graph.batch_first else "(T, B)"
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

    def outputs_like(self, label: str, value: object, steps: int, batch: int) -> Named:
        """Arrays shaped as the outputs; None, and what a dict leaves out, is zeros."""
        graph, found = self.graph, {}
        for name, array in self._each(label, value, graph.outputs):
            kind = graph.kinds[graph.outputs[name]]
            found[graph.output_names[name]] = self._like(
                self._label(label, name, graph.outputs), array, kind, steps, batch
            )
        return found

    def inputs_like(self, label: str, value: object, steps: int, batch: int) -> Named:
        """Arrays shaped as the inputs of vectors; None, and what a dict leaves out, is zeros. Integers have none."""
        graph, found = self.graph, {}
        for name, array in self._each(label, value, graph.inputs):
            if graph.inputs[name]:
                shown = self._label(label, name, graph.inputs)
                found[graph.x_names[name]] = self._like(shown, array, graph.kinds[name], steps, batch)
            elif array is not None:
                raise ArgumentError(f"{label}: {name!r} holds integers, which have no direction; leave it out")
        return found

    def _like(self, label: str, value: object, kind: Kind, steps: int, batch: int) -> Array:
        return self._turned(self._array(label, value, self._sizes(kind, steps, batch)), kind)

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

    def new_outputs(self, steps: int, batch: int, *, joined: bool = False) -> tuple[Named, Any]:
        """Arrays for the outputs, and as they are shown: a single one, or a dict.

        joined: those of one kind are columns of one array (`rnnc.Graph.columns`).
        """
        graph = self.graph
        kinds = {name: graph.kinds[source] for name, source in graph.outputs.items()}
        if joined and graph.columns is not None:
            timed = next(iter(kinds.values())).timed
            whole, shown = self.new(Kind(sum(kind.width for kind in kinds.values()), timed), steps, batch)
            return {names.OUTPUT: whole}, parts(shown, graph.columns)
        made = {name: self.new(kind, steps, batch) for name, kind in kinds.items()}
        return {graph.output_names[name]: first for name, (first, _) in made.items()}, single(
            {name: shown for name, (_, shown) in made.items()}
        )

    def new_inputs(self, steps: int, batch: int) -> tuple[Named, Any]:
        """Arrays shaped as the inputs of vectors, and as they are shown: None stands for integers."""
        graph = self.graph
        made = {name: self.new(graph.kinds[name], steps, batch) for name, width in graph.inputs.items() if width}
        shown = {name: made[name][1] if name in made else None for name in graph.inputs}
        return {graph.x_names[name]: first for name, (first, _) in made.items()}, single(shown)

    def new(self, kind: Kind, steps: int, batch: int) -> tuple[Array, Array]:
        """A new array, time first, and as it is shown."""
        shown = self.empty(self._sizes(kind, steps, batch))
        return self._turned(shown, kind), shown

    def empty(self, shape: tuple[int, ...]) -> Array:
        """A new array of the network's dtype."""
        made: Array = fresh.empty(shape, self.graph.dtype, self.arrays.xp)
        return made

    def _sizes(self, kind: Kind, steps: int, batch: int) -> tuple[int, ...]:
        """The shown shape of a value."""
        lead = (batch, steps) if self.graph.batch_first else (steps, batch)
        return (*lead, kind.width) if kind.timed else (batch, kind.width)

    def _turned(self, array: Array, kind: Kind | None = None) -> Array:
        """Time first of what is shown, and back."""
        timed = kind is None or kind.timed
        return array.swapaxes(0, 1) if timed and self.graph.batch_first else array


def parts(whole: Array, columns: Mapping[str, tuple[int, int]]) -> dict[str, Array]:
    """Outputs by name: views of the columns of one array."""
    return {name: whole[..., start:stop] for name, (start, stop) in columns.items()}


def single(shown: Mapping[str, Any]) -> Any:
    """The only one, or a dict of several."""
    return next(iter(shown.values())) if len(shown) == 1 else dict(shown)
