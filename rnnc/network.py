"""Network: a `rnnc.Graph` or `rnnc.Sequential` compiled for inference, with its parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from rnnc.backends.arrays import NUMPY
from rnnc.backends.base import PlainCall, StateArray
from rnnc.checking.calls import check_lengths
from rnnc.checking.network_calls import NetworkSignature, parts
from rnnc.checking.parameters import bind_parameters, read_parameters
from rnnc.compiled import Compiled, CompileOptions
from rnnc.computations import forward
from rnnc.copies import Unchanging, on_host
from rnnc.ir.errors import ArgumentError
from rnnc.quick import quick_first, way_in

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from rnnc.backends.arrays import Array, ArrayLibrary
    from rnnc.layered import Layered

    State = Mapping[str, Array]
    Arrays = Array | Mapping[str, Array]

__all__ = ["Network"]


class Network(Compiled, Unchanging):
    """What `Graph.compile` and `Sequential.compile` return. It copies the parameters; threads may share it.

    A pickle of it holds the model, the parameters, as NumPy arrays, and the options; it is compiled where it is read.
    """

    def __init__(
        self,
        model: Layered,
        params: Mapping[str, Any],
        *,
        backend: str = "llvm",
        threads: int | None = None,
        matmul: str | None = None,
    ) -> None:
        """See `rnnc.layered.Layered.compile`."""
        self.model = model
        self._graph = graph = model.graph()
        options = CompileOptions.of(backend, threads, matmul)
        given = bind_parameters(model, params, options.arrays)  # what is wrong with them is said before it takes long
        super().__init__(forward(model), options)
        self._tables = {rows: given[graph.table_of(name)] for name, (_, rows) in graph.tables.items()}
        read_as_table = set(map(graph.table_of, graph.tables))
        self._params = given
        self._signature = NetworkSignature(model, self._arrays)
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
            for name, (first, last, width) in self._signature.states.items()
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

    @property
    def parameters(self) -> Mapping[str, Array]:
        """The parameters, by name; they are not to be changed."""
        return self._params

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
        return self.run(x, None, lengths)[0]

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
                "bidirectional, looks ahead, or reads a value per sequence at its steps or as its first state"
            )
        return self.run(x, state, lengths)

    def run(self, x: object, state: State | None, lengths: ArrayLike | None) -> tuple[Arrays, dict[str, Array]]:
        """A call with its arguments checked one by one: `advance`, for networks of any directions."""
        signature = self._signature
        given = signature.inputs(x)
        steps, batch = given.steps, given.batch
        counts = None if lengths is None else check_lengths(lengths, steps, batch, True, self._arrays)
        inputs = given.vectors | {rows: self._tables[rows][numbers] for rows, numbers in given.numbers.items()}
        last = signature.new_state(batch)
        outputs, shown = signature.new_outputs(steps, batch, joined=True)
        for name, array in (signature.state("state", state, batch) or {}).items():
            inputs[signature.states[name][0]] = array
        outputs |= {signature.states[name][1]: array for name, array in last.items()}
        if batch:
            self._bound.start(inputs, outputs, steps, batch, counts)
        return shown, last


def _parted(
    quick: Callable[[object, object], Any], columns: Mapping[str, tuple[int, int]], stateful: bool
) -> Callable[[object, object], Any]:
    """A quick call that returns several outputs."""

    def call(x: object, state: object) -> Any:
        found = quick(x, state)
        if found is None:
            return None
        return (parts(found[0], columns), found[1]) if stateful else parts(found, columns)

    return call


def read_all(model: Layered, params: object, arrays: ArrayLibrary = NUMPY) -> dict[str, Array]:
    """The arrays of `params`, as `rnnc.checking.parameters.read_parameters` checks them for a spec."""
    return read_parameters(model, params, arrays)
