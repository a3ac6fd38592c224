"""Network: a `rnnc.Graph` or `rnnc.Sequential` compiled for inference, with its parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnc.backends import fresh
from rnnc.backends.arrays import NUMPY
from rnnc.backends.base import PlainCall, StateArray
from rnnc.checking import checks
from rnnc.checking.arrays import as_array, check_dtype, check_shape
from rnnc.checking.calls import check_lengths
from rnnc.checking.networks import Kind
from rnnc.checking.parameters import bind_parameters, read_parameters
from rnnc.compiled import Compiled, CompileOptions
from rnnc.computations import forward
from rnnc.copies import Unchanging, on_host
from rnnc.ir import names
from rnnc.ir.errors import ArgumentError, ArgumentTypeError, ShapeError
from rnnc.network_graph import state_shapes
from rnnc.quick import quick_first, way_in

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from rnnc.backends.arrays import Array, ArrayLibrary
    from rnnc.graph import Graph
    from rnnc.sequential import Sequential

    State = Mapping[str, Array]
    Arrays = Array | Mapping[str, Array]

__all__ = ["Network"]


class Network(Compiled, Unchanging):
    """What `Graph.compile` and `Sequential.compile` return. It copies the parameters; threads may share it.

    A pickle of it holds the model, the parameters, as NumPy arrays, and the options; it is compiled where it is read.
    """

    def __init__(
        self,
        model: Graph | Sequential,
        params: Mapping[str, Any],
        *,
        backend: str = "llvm",
        threads: int | None = None,
        matmul: str | None = None,
    ) -> None:
        """See `Graph.compile`."""
        self.model = model
        self._graph = graph = model.graph()
        options = CompileOptions.of(backend, threads, matmul)
        given = bind_parameters(model, params, options.arrays)  # what is wrong with them is said before it takes long
        super().__init__(forward(model), options)
        shared = {name: names.in_layer(graph.entries[name].shares, "weight") for name in graph.tables}
        self._tables = {name: given[weight] for name, weight in shared.items()}
        read_as_table = set(shared.values())
        self._params = given
        self._states = state_shapes(model)
        self._bound = self._code.bind({name: array for name, array in given.items() if name not in read_as_table})
        self._quick_call = self._quick(stateful=False)
        self._quick_advance = self._quick(stateful=True) if graph.causal else None

    def _quick(self, *, stateful: bool) -> Any:
        """The way of plain calls into machine code, for one input, and outputs of one kind."""
        graph, columns = self._graph, self._graph.columns
        if len(graph.inputs) > 1 or (len(graph.outputs) > 1 and columns is None) or len(graph.tables) > 1:
            return None
        states = tuple(
            StateArray((first,), (last,), width, stacked=False, key=name)
            for name, (first, last, width) in self._states.items()
        )
        kinds = [graph.kinds[source] for source in graph.outputs.values()]
        table = next(iter(self._tables.values()), None)
        (width,) = graph.inputs.values()
        call = PlainCall(
            width if table is None else table.shape[1],
            sum(kind.width for kind in kinds),
            graph.batch_first,
            states if stateful else (),
            container="dict" if stateful else None,
            returns_state=stateful,
            timed_output=kinds[0].timed,
            table=table,
        )
        quick = self._bound.quick(call)
        return quick if quick is None or columns is None else _parted(quick, columns, stateful)

    def __repr__(self) -> str:
        return f"Network({self.model!r}, backend={self.backend!r})"

    def explain(self) -> str:
        """Which paths the backend took, and how a plain call gets there."""
        return super().explain() + way_in(self._quick_call)

    def __reduce__(self) -> tuple[Any, ...]:
        params = on_host(self._params, self._arrays)
        return partial(Network, **self._options.arguments), (self.model, params)

    @quick_first("_quick_call")
    def __call__(self, x: Arrays, *, lengths: ArrayLike | None = None) -> Arrays:
        """The network's output for whole sequences.

        x: (T, B, N), or integers (T, B) for an embedding; with batch_first (B, T, N) or (B, T). Of several inputs, a
            dict of them by name.
        lengths: B integers in 0..T; row b ends after lengths[b] steps; what comes out later is 0. Default: all T.
        With backend "cuda" arrays are CuPy's, as in `rnnc.Model.__call__`; integers there are clipped to their range.
        Returns (T, B, N), or (B, T, N) with batch_first; (B, N) behind a readout. Of several outputs, a dict of them;
        if all are per step, or all per sequence, they are columns of one array.
        Raises ShapeError, DtypeError, LengthError, ArgumentError or ArgumentTypeError.
        """
        return self._run(x, None, lengths)[0]

    @quick_first("_quick_advance")
    def advance(
        self, x: Arrays, state: State | None = None, *, lengths: ArrayLike | None = None
    ) -> tuple[Arrays, dict[str, Array]]:
        """(output, state) of the next piece of sequences: the state, name -> (B, width), goes into the next call.

        x, lengths: see `__call__`. state: what the call before returned; None starts sequences. A readout gives its
        value so far: the mean of all steps since the start, say.
        Raises ArgumentError for a network in which a step reads later ones.
        """
        if not self._graph.causal:
            raise ArgumentError(
                "advance: only a network of one direction can take sequences in pieces: none of its layers is "
                "bidirectional, looks ahead, or has a state that starts at a value of the network"
            )
        return self._run(x, state, lengths)

    def _run(self, x: object, state: State | None, lengths: ArrayLike | None) -> tuple[Arrays, dict[str, Array]]:
        inputs = self._inputs(x)
        steps, batch = next(iter(inputs.values())).shape[:2]
        counts = None if lengths is None else check_lengths(lengths, steps, batch, True, self._arrays)
        inputs |= self._initial(state, batch)
        last = {name: self._empty((batch, width)) for name, (_, _, width) in self._states.items()}
        shown, outputs = self._outputs(steps, batch)
        outputs |= {self._states[name][1]: array for name, array in last.items()}
        if batch:
            self._bound.start(inputs, outputs, steps, batch, counts)
        only = len(self._graph.outputs) == 1
        return (next(iter(shown.values())) if only else shown), last

    def _inputs(self, x: object) -> dict[str, Array]:
        """Every input of the lowered graph, (T, B, N)."""
        graph, given = self._graph, inputs_of(self._graph, x)
        found: dict[str, Array] = {}
        for name, width in graph.inputs.items():
            if width:
                label = name if len(graph.inputs) > 1 else names.X
                found[graph.x_names[name]] = vectors(label, given[name], width, graph, self._arrays)
        for name, (source, rows) in graph.tables.items():
            found[rows] = embedded(source, given[source], self._tables[name], graph.batch_first, self._arrays)
        sizes = {array.shape[:2] for array in found.values()}
        if len(sizes) > 1:
            came = ", ".join(f"{name!r}: {array.shape[:2]}" for name, array in found.items())
            raise ShapeError(f"x: expected inputs with as many steps and rows each, got (T, B) of {came}")
        return found

    def _initial(self, state: State | None, batch: int) -> dict[str, Array]:
        if state is None:
            return {}
        if not isinstance(state, Mapping) or set(state) != set(self._states):
            raise ArgumentTypeError("state: expected None or what an earlier call of advance returned")
        initial = {}
        for name, (first, _, width) in self._states.items():
            label = f"state[{name!r}]"
            array = as_array(label, state[name], self._arrays)
            check_dtype(label, array, np.dtype(self._graph.dtype))
            check_shape(label, array, (batch, width))
            initial[first] = self._arrays.compact(label, array)
        return initial

    def _empty(self, shape: tuple[int, ...]) -> Array:
        made: Array = fresh.empty(shape, self._graph.dtype, self._arrays.xp)
        return made

    def _outputs(self, steps: int, batch: int) -> tuple[dict[str, Array], dict[str, Array]]:
        """The arrays that the user sees, and the same ones, time first, by their names in the lowered graph."""
        shown, first = {}, {}
        if columns := self._graph.columns:
            kinds = [self._graph.kinds[source] for source in self._graph.outputs.values()]
            whole, turned = self._new(Kind(sum(kind.width for kind in kinds), kinds[0].timed), steps, batch)
            return _parts(whole, columns), {names.OUTPUT: turned}
        for name, source in self._graph.outputs.items():
            shown[name], first[self._graph.output_names[name]] = self._new(self._graph.kinds[source], steps, batch)
        return shown, first

    def _new(self, kind: Kind, steps: int, batch: int) -> tuple[Array, Array]:
        """An array as the user sees it, and the same one, time first."""
        if not kind.timed:
            array = self._empty((batch, kind.width))
            return array, array
        array = self._empty((batch, steps, kind.width) if self._graph.batch_first else (steps, batch, kind.width))
        return array, array.swapaxes(0, 1) if self._graph.batch_first else array


def _parts(whole: Array, columns: Mapping[str, tuple[int, int]]) -> dict[str, Array]:
    """Outputs by name: views of the columns of one array."""
    return {name: whole[..., start:stop] for name, (start, stop) in columns.items()}


def _parted(
    quick: Callable[[object, object], Any], columns: Mapping[str, tuple[int, int]], stateful: bool
) -> Callable[[object, object], Any]:
    """A quick call that returns several outputs."""

    def call(x: object, state: object) -> Any:
        found = quick(x, state)
        if found is None:
            return None
        return (_parts(found[0], columns), found[1]) if stateful else _parts(found, columns)

    return call


def read_all(model: Sequential, params: object, arrays: ArrayLibrary = NUMPY) -> dict[str, Array]:
    """The arrays of `params`, as `rnnc.checking.parameters.read_parameters` checks them for a spec."""
    return read_parameters(model, params, arrays)


def inputs_of(graph: Graph, x: object) -> Mapping[str, object]:
    """The inputs of a call by name: of a dict, or of a single array. Raises ArgumentTypeError."""
    wanted = graph.inputs
    if len(wanted) == 1 and not isinstance(x, Mapping):
        return dict.fromkeys(wanted, x)
    if not isinstance(x, Mapping) or set(x) != set(wanted):
        came = f"the names {', '.join(map(repr, x))}" if isinstance(x, Mapping) else checks.came(x)
        raise ArgumentTypeError(f"x: expected a dict of the inputs {', '.join(map(repr, wanted))}, got {came}")
    return x


def vectors(label: str, x: object, width: int, graph: Graph, arrays: ArrayLibrary) -> Array:
    """An input of vectors, (T, B, width). Raises DtypeError, ShapeError or ArgumentTypeError."""
    array = arrays.aligned(label, as_array(label, x, arrays))
    check_dtype(label, array, np.dtype(graph.dtype))
    if array.ndim != 3 or array.shape[-1] != width:
        axes = "(B, T, I)" if graph.batch_first else "(T, B, I)"
        raise ShapeError(f"{label}: expected {axes} with I = {width}, got {array.shape}")
    return _time_first(label, array, graph.batch_first)


def embedded(label: str, x: object, table: Array, batch_first: bool, arrays: ArrayLibrary = NUMPY) -> Array:
    """Rows of a table for numbers, (T, B, I).

    Numbers on the host are checked. Those on a device are clipped to the table: to look at them would wait for it.
    """
    array = arrays.aligned(label, as_array(label, x, arrays))
    if array.dtype.kind not in "iu":
        raise ArgumentTypeError(f"{label}: an Embedding reads it, which takes integers; got {array.dtype}")
    if array.ndim != 2:
        axes = "(B, T)" if batch_first else "(T, B)"
        raise ShapeError(f"{label}: expected integers {axes}, got shape {array.shape}")
    return table[_time_first(label, _rows_of(label, table, array, arrays), batch_first)]


def _time_first(label: str, array: Array, batch_first: bool) -> Array:
    first = array.swapaxes(0, 1) if batch_first else array
    if first.shape[0] == 0:
        raise ShapeError(f"{label}: expected at least one time step, got shape {array.shape}")
    return first


def _rows_of(label: str, table: Array, numbers: Array, arrays: ArrayLibrary) -> Array:
    """Numbers of rows that the table has."""
    last = len(table) - 1
    if not arrays.on_host:
        return numbers.clip(0, min(last, int(np.iinfo(numbers.dtype).max)))
    if numbers.size and not (0 <= int(numbers.min()) and int(numbers.max()) <= last):
        raise ArgumentError(f"{label}: expected numbers of rows of the embedding, 0..{last}")
    return numbers
