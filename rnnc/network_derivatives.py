"""Derivatives of a network (`rnnc.Graph`, `rnnc.Sequential`): those of a spec, with a network's arrays.

    f = rnnc.vjp(network)
    (output, state), pullback = f(params, x, state, lengths=None)
    d_params, d_x, d_state = pullback(d_output, d_state)

x, output and their adjoints are arrays, or dicts where the network has several inputs or outputs; a state is a dict, as
`rnnc.Network.advance` takes and returns it. Integers have no gradient: in d_x they are None. The gradient of a table of
an `Embedding` is dense.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rnnc.backends import fresh
from rnnc.checking import checks
from rnnc.checking.arrays import as_array, check_dtype, check_shape
from rnnc.checking.calls import check_lengths
from rnnc.checking.parameters import read_parameters
from rnnc.derivatives import HVP, JVP, VJP, Derivative, parts
from rnnc.ir import names
from rnnc.ir.errors import ArgumentError, ArgumentTypeError
from rnnc.network import embedded, inputs_of, vectors
from rnnc.network_graph import state_shapes
from rnnc.segments import Remat

if TYPE_CHECKING:
    from rnnc.backends.arrays import Array
    from rnnc.checking.networks import Kind
    from rnnc.compiled import CompileOptions
    from rnnc.graph import Graph
    from rnnc.sequential import Sequential

Named = dict[str, "Array"]


class NetworkCall(NamedTuple):
    """One call, checked: arrays by their names in the lowered graph, time first; `result` is what the user gets.

    x: any one of the inputs, which tells T and B. numbers: integers, by the name of the rows that they look up.
    """

    x: Array
    inputs: Named
    numbers: Named
    lengths: Array | None
    outputs: Named
    result: tuple[Any, Named]


class _OfNetwork(Derivative):
    """The arrays of a network in the place of a spec's."""

    def __init__(self, model: Graph | Sequential, options: CompileOptions) -> None:
        self._graph = model.graph()
        self._states = state_shapes(model)
        Derivative.__init__(self, model, options)
        entries, tables = self._graph.entries, self._graph.tables
        self._tables = {rows: names.in_layer(entries[name].shares, "weight") for name, (_, rows) in tables.items()}

    # ---- arguments

    def _call(self, params: object, x: object, state: object, lengths: object) -> Any:
        if isinstance(x, Mapping) and not isinstance(params, Mapping):
            raise ArgumentTypeError("params, x: they are in each other's place; parameters come first, then x")
        graph, arrays = self._graph, self._arrays
        given = inputs_of(graph, x)
        found, numbers = {}, {}
        for name, width in graph.inputs.items():
            if width:
                found[graph.x_names[name]] = vectors(self._label(name), given[name], width, graph, arrays)
        for name, (source, rows) in graph.tables.items():
            count = graph.entries[name].layer.num_embeddings  # type: ignore[union-attr]
            index = np.arange(count) if arrays.on_host else arrays.xp.arange(count)
            numbers[rows] = embedded(self._label(source), given[source], index, graph.batch_first, arrays)
        first = next(iter((found | numbers).values()))
        steps, batch = first.shape[:2]
        counts = None if lengths is None else check_lengths(lengths, steps, batch, True, arrays)
        found |= self._initial("state", state, batch)
        outputs, result = self._new_named(steps, batch)
        return NetworkCall(first, found, numbers, counts, outputs, result)

    def _label(self, name: str) -> str:
        return name if len(self._graph.inputs) > 1 else names.X

    def _primal(self, params: object, call: Any) -> Named:
        given = read_parameters(self.spec, params, self._arrays, shapes=self._shapes)
        named = {name: array for name, array in given.items() if name not in self._tables.values()}
        named |= {rows: given[self._tables[rows]][numbers] for rows, numbers in call.numbers.items()}
        return named | dict(call.inputs)

    def _initial(self, label: str, state: object, batch: int, prefix: str = "") -> Named:
        """A state, or a direction of one, by name; None is zeros."""
        if state is not None and (not isinstance(state, Mapping) or set(state) != set(self._states)):
            expected = ", ".join(self._states) or "none"
            raise ArgumentTypeError(f"{label}: expected None or a dict of {expected}, got {checks.came(state)}")
        return {
            prefix + first: self._array(f"{label}[{name!r}]", state and state[name], (batch, width))
            for name, (first, _, width) in self._states.items()
        }

    def _array(self, label: str, value: object, shape: tuple[int, ...]) -> Array:
        if value is None:
            zeros: Array = self._arrays.xp.zeros(shape, self._graph.dtype)
            return zeros
        array = as_array(label, value, self._arrays)
        check_dtype(label, array, np.dtype(self._graph.dtype))
        check_shape(label, array, shape)
        compact: Array = self._arrays.compact(label, array)
        return compact

    # ---- results

    def _new_named(self, steps: int, batch: int, prefix: str = "") -> tuple[Named, tuple[Any, Named]]:
        graph, named, shown = self._graph, {}, {}
        for name, source in graph.outputs.items():
            named[prefix + graph.output_names[name]], shown[name] = self._new(graph.kinds[source], steps, batch)
        last = {name: self._empty((batch, width)) for name, (_, _, width) in self._states.items()}
        named |= {prefix + self._states[name][1]: array for name, array in last.items()}
        return named, (_single(shown), last)

    def _new(self, kind: Kind, steps: int, batch: int) -> tuple[Array, Array]:
        """A new array, time first, and as the user sees it."""
        if not kind.timed:
            shown = self._empty((batch, kind.width))
            return shown, shown
        lead = (batch, steps) if self._graph.batch_first else (steps, batch)
        shown = self._empty((*lead, kind.width))
        return (shown.swapaxes(0, 1) if self._graph.batch_first else shown), shown

    def _empty(self, shape: tuple[int, ...]) -> Array:
        made: Array = fresh.empty(shape, self._graph.dtype, self._arrays.xp)
        return made

    def _results(self, call: Any, prefix: str = "") -> Any:
        steps, batch = call.x.shape[:2]
        return self._new_named(steps, batch, prefix)

    def _primal_results(self, call: Any) -> Named:
        return dict(call.outputs)

    def _gradients(self, call: Any, prefix: str) -> Any:
        graph, (steps, batch) = self._graph, call.x.shape[:2]
        tables = self._tables.values()
        params = {
            name: self._arrays.xp.zeros(shape, graph.dtype) if name in tables else self._empty(shape)
            for name, shape in self._shapes.items()
        }
        named = {prefix + name: array for name, array in params.items() if name not in tables}
        d_x: dict[str, Array | None] = dict.fromkeys(graph.inputs)
        for name, width in graph.inputs.items():
            if width:
                named[prefix + graph.x_names[name]], d_x[name] = self._new(graph.kinds[name], steps, batch)
        for rows, table in self._tables.items():
            named[prefix + rows] = self._empty((steps, batch, self._shapes[table][1]))
        state = {name: self._empty((batch, width)) for name, (_, _, width) in self._states.items()}
        named |= {prefix + self._states[name][0]: array for name, array in state.items()}
        return named, (params, _single(d_x), state)

    def _gather(self, call: Any, outputs: Named, gradients: Any, prefix: str) -> None:
        """The gradients of tables: the sums of those of the rows that were looked up."""
        for rows, numbers in call.numbers.items():
            self._arrays.xp.add.at(gradients[0][self._tables[rows]], numbers, outputs[prefix + rows])

    # ---- adjoints and directions

    def _seeds(self, what: str, d_output: object, d_state: object, call: Any, prefix: str) -> Named:
        labels = (f"{what}[0]", f"{what}[1]") if what else ("d_output", "d_state")
        steps, batch = call.x.shape[:2]
        named = {}
        for name, value in self._each(labels[0], d_output, self._graph.outputs):
            label = labels[0] if len(self._graph.outputs) == 1 else f"{labels[0]}[{name!r}]"
            kind = self._graph.kinds[self._graph.outputs[name]]
            named[prefix + self._graph.output_names[name]] = self._like(label, value, kind, steps, batch)
        last = self._initial(labels[1], d_state, batch)
        return named | {prefix + end: last[first] for first, end, _ in self._states.values()}

    def _like(self, label: str, value: object, kind: Kind, steps: int, batch: int) -> Array:
        """An array of the user's, shaped as a value of the network, time first."""
        if not kind.timed:
            return self._array(label, value, (batch, kind.width))
        lead = (batch, steps) if self._graph.batch_first else (steps, batch)
        array = self._array(label, value, (*lead, kind.width))
        turned: Array = array.swapaxes(0, 1) if self._graph.batch_first else array
        return turned

    def _each(self, label: str, value: object, wanted: Mapping[str, object]) -> Iterator[tuple[str, object]]:
        """The parts of an argument by name: of a dict, or of a single array."""
        if value is None or (len(wanted) == 1 and not isinstance(value, Mapping)):
            yield from ((name, value) for name in wanted)
            return
        if not isinstance(value, Mapping) or not set(value) <= set(wanted):
            raise ArgumentTypeError(f"{label}: expected a dict of {', '.join(wanted)}, got {checks.came(value)}")
        yield from ((name, value.get(name)) for name in wanted)

    def _tangents(self, tangents: object, call: Any, prefix: str) -> Named:
        t_params, t_x, t_state = parts("tangents", tangents, ("params", "x", "state"))
        zeros = self._arrays.xp.zeros
        if t_params is None:
            given = {name: zeros(shape, self._graph.dtype) for name, shape in self._shapes.items()}
        else:
            given = read_parameters(self.spec, t_params, self._arrays, "tangents[0]", self._shapes)
        graph, (steps, batch) = self._graph, call.x.shape[:2]
        named = {prefix + k: v for k, v in given.items() if k not in self._tables.values()}
        for rows, numbers in call.numbers.items():
            named[prefix + rows] = given[self._tables[rows]][numbers]
        for name, value in self._each("tangents[1]", t_x, graph.inputs):
            if graph.inputs[name]:
                kind = graph.kinds[name]
                named[prefix + graph.x_names[name]] = self._like("tangents[1]", value, kind, steps, batch)
            elif value is not None:
                raise ArgumentError(f"tangents[1]: {name!r} holds integers, which have no direction; leave it out")
        return named | self._initial("tangents[2]", t_state, batch, prefix)


class NetworkVJP(_OfNetwork, VJP):
    """What `rnnc.vjp` returns for a network."""

    remat: Remat = None


class NetworkJVP(_OfNetwork, JVP):
    """What `rnnc.jvp` returns for a network."""


class NetworkHVP(_OfNetwork, HVP):
    """What `rnnc.hvp` returns for a network."""


def _single(shown: Mapping[str, Any]) -> Any:
    """The only array, or a dict of several."""
    return next(iter(shown.values())) if len(shown) == 1 else dict(shown)

