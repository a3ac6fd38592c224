"""Network: a `rnnc.Graph` or `rnnc.Sequential` compiled for inference, with its parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from rnnc.backends.arrays import NUMPY
from rnnc.backends.base import Bound
from rnnc.checking import checks
from rnnc.checking.arguments import explained
from rnnc.checking.network_calls import Inputs, NetworkSignature
from rnnc.checking.parameters import bind_parameters, read_parameters
from rnnc.checking.renaming import Names
from rnnc.compiled import Compiled, CompileOptions
from rnnc.computations import forward
from rnnc.copies import Unchanging, on_host
from rnnc.ir.errors import ArgumentError, ArgumentTypeError
from rnnc.networks.names import layer_names
from rnnc.networks.quick import fits_in_frames, in_frames, parted
from rnnc.networks.tables import tables_of
from rnnc.networks.timing import WHOLE, Form
from rnnc.plain_calls import plain_network_call
from rnnc.quick import Calls, Tally, quick_first, way_in
from rnnc.realtime import RealTimeStep
from rnnc.streams import PieceArrays

if TYPE_CHECKING:
    from os import PathLike

    from numpy.typing import ArrayLike

    from rnnc.backends.arrays import Array, ArrayLibrary
    from rnnc.backends.call_forms import PlainCall
    from rnnc.backends.tables import NarrowTable
    from rnnc.layered import Layered

    State = Mapping[str, Array]
    Arrays = Array | Mapping[str, Array]

__all__ = ["Network"]

T = TypeVar("T")


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
        weights: str | None = None,
        activations: str | None = None,
        names: Names | None = None,
    ) -> None:
        """See `rnnc.layered.Layered.compile`."""
        self.model = model
        self._graph = graph = model.graph()
        options = CompileOptions.of(backend, threads, matmul, weights, activations)
        # What is wrong with the parameters is said before it takes long.
        given = bind_parameters(model, params, options.arrays, names)
        super().__init__(forward(model), options)
        self._tables = tables_of(graph, given, options.product)
        self._params = given
        self._signature = NetworkSignature(model, self._arrays)
        self._fixed = {name: array for name, array in given.items() if name in graph.read_whole}
        self._bound = self._code.bind(self._fixed)
        self._forms = {WHOLE: self._bound}  # and those that a call needs, compiled by the first one
        self._tally = Tally()
        self._quick_call = self._quick(self._bound, self._signature, stateful=False)

    @cached_property
    def _quick_advance(self) -> Any:
        """The way of plain pieces of streams into machine code, made by the first of them."""
        if not self._graph.streams:
            return None
        return self._quick(self._form(Form(streamed=True)), self._streamed_signature, stateful=True)

    def _quick(self, bound: Bound, signature: NetworkSignature, *, stateful: bool) -> Any:
        """The way of plain calls into machine code, if there is one."""
        graph, columns = self._graph, self._graph.columns
        if not graph.even and not fits_in_frames(graph, pieces=stateful):
            return None
        call = plain_network_call(graph, signature.states, self._tables, stateful=stateful)
        quick = bound.quick(call._replace(lengths=not signature.timing.spanned), self._tally.outcomes)
        if quick is not None and not graph.even:
            quick = in_frames(quick, graph, stateful)
        return quick if quick is None or columns is None else parted(quick, columns, stateful)

    def direct(self, call: PlainCall) -> Callable[..., Any] | None:
        """A function of whole calls with other arguments and results, if the backend has one (`Bound.quick`).

        The arrays are those of `rnnc.networks.names`, in frames.
        """
        return self._bound.quick(call, self._tally.outcomes)

    def __repr__(self) -> str:
        return f"Network({self.model!r}, backend={self.backend!r})"

    @property
    def parameters(self) -> Mapping[str, Array]:
        """The parameters, by name; they are not to be changed."""
        return self._params

    @property
    def params(self) -> Mapping[str, Array]:
        """The same, as what is trained calls them."""
        return self._params

    @explained
    def to_torch_state_dict(self, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The parameters as tensors, for load_state_dict of a module whose attributes are called as the layers.

        params: others of the same names, such as a trainer returns; default: its own. A network of `rnnc.from_torch`
        writes what its module takes: see `rnnc.torch.network.TorchNetwork.to_torch_state_dict`.
        Raises BackendUnavailable without PyTorch, and what `rnnc.Program.bind` raises.
        """
        from rnnc.torch.state_dict import plain_state_dict

        return plain_state_dict(self.model, on_host(self._params, self._arrays) if params is None else params)

    def explain(self) -> str:
        """Which paths the backend took, and how plain calls and pieces of streams get there."""
        found = super().explain() + self._explained_weights(self._params)
        found += way_in(self._quick_call, f"plain calls{self._framed(self._quick_call)}")
        if not self._graph.streams:
            return found
        return found + way_in(self._quick_advance, f"plain pieces{self._framed(self._quick_advance)}")

    def _narrow_tables(self) -> dict[str, NarrowTable]:
        if self._options.weights is None:
            return {}
        tables = cast("dict[str, NarrowTable]", self._tables)
        return {self._graph.table_of(name): tables[rows] for name, (_, rows) in self._graph.tables.items()}

    def _numbers(self, sample: object, lengths: ArrayLike | None) -> dict[str, Array]:
        """The rows of its tables that a call looks up, by the names of their parameters."""
        numbers = self._signature.inputs(sample, lengths).numbers
        found: dict[str, list[Array]] = {}
        for name, (_, rows) in self._graph.tables.items():
            found.setdefault(self._graph.table_of(name), []).append(numbers[rows].ravel())
        return {parameter: np.concatenate(each) for parameter, each in found.items()}

    @property
    def calls(self) -> Calls:
        """How many calls went which way, as `rnnc.Model.calls` has it."""
        return self._tally.calls()

    def _framed(self, quick: object) -> str:
        """Which of the plain calls a quick call takes, if it views x in frames."""
        if quick is None or self._graph.even:
            return ""
        rows = "" if self._graph.batch_first else " of one row"
        return f" of whole frames{rows}, without lengths,"

    def save(self, path: str | PathLike[str]) -> None:
        """Writes model and parameters to one file, of which `rnnc.load` makes it again. Raises as `rnnc.save`."""
        from rnnc.files.models import save

        save(path, self.model, on_host(self._params, self._arrays))

    def _layer_names(self) -> tuple[str, ...]:
        return layer_names(self._graph)

    def _profiled_call(self) -> Callable[[], Callable[..., Any]]:
        return lambda: type(self)(self.model, self._params, **self._options.arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        params = on_host(self._params, self._arrays)
        return partial(Network, **self._options.arguments), (self.model, params)

    @quick_first("_quick_call")
    def __call__(self, x: Arrays, *, lengths: ArrayLike | None = None) -> Arrays:
        """The network's output for whole sequences.

        x: (T, B, N), or integers (T, B) for an embedding; with batch_first (B, T, N) or (B, T). Of several inputs, a
            dict of them by name.
        lengths: B integers in 0..T; row b ends after lengths[b] steps; what comes out later is 0. Default: all T. Where
            layers change the number of steps, `rnnc.Graph.output_lengths` says which steps that leaves.
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

        x, lengths: see `__call__`; the steps of x are a multiple of `frame`. state: what the call before returned; None
            starts sequences.
        The output is `latency` steps late: where layers read later steps, its first steps are zeros, and `finish` gives
        the last ones. A readout gives its value so far: the mean of all steps since the start, say.
        Raises ArgumentError for a network in which a step waits for the end of the sequence.
        """
        self._check_streams("advance")
        return self.run(x, state, lengths, piece=True)

    @explained
    def finish(self, state: State) -> Arrays:
        """What is left of an output when a stream ends: its last steps, which waited for later ones.

        state: what the last `advance` returned; every row ends there. The pieces of a stream and this, one behind the
        other, are what a call of the whole gives, `latency` steps late.
        Returns as `advance` does, a number of steps that depends on the network alone; 0 of one without a latency. A
        state without arrays tells no number of rows: of it the result has one row.
        Raises ArgumentError for a network that cannot take pieces, ArgumentTypeError or ShapeError.
        """
        self._check_streams("finish")
        if self._graph.static:
            raise ArgumentError("finish: nothing is late in a network of inputs per sequence; advance gave all")
        signature = self._streamed_signature
        if not isinstance(state, Mapping):
            raise ArgumentTypeError(f"state: expected what advance returned, got {checks.came(state)}")
        rows = {len(array) for array in state.values() if np.ndim(array)}
        given = signature.nothing(rows.pop() if rows else 1)
        _, shown = self._start(signature, given, state)
        left: Arrays = signature.rest(shown)
        return left

    @explained
    def realtime(self, batch: int = 1, steps: int = 1) -> RealTimeStep:
        """A step of `batch` streams, of `steps` steps of x each, that allocates no memory and takes no lock.

        See `rnnc.realtime.RealTimeStep`. Raises ArgumentError for a network that cannot take pieces,
        one whose layers make one step of several, or on another backend.
        """
        self._check_streams("realtime")
        if not self._graph.even:
            raise ArgumentError("realtime: layers of this network make one step of several; call advance")
        call = plain_network_call(self._graph, self._streamed_signature.states, self._tables, stateful=True)
        bound, graph = self._form(Form(streamed=True)), self._graph
        return RealTimeStep(self, call, bound, batch, steps, dtype=graph.dtype, columns=graph.columns)

    def pieces(self) -> PieceArrays:
        """The arrays of pieces of streams. Raises ArgumentError for a network that cannot take pieces."""
        self._check_streams("pieces")
        graph, timing = self._graph, self._graph.timing(False)
        states = {name: width for name, (_, _, width) in self._streamed_signature.states.items()}
        inputs = {name: 2 if width else 1 for name, width in graph.inputs.items() if name not in graph.static}
        outputs = {
            name: graph.frame == timing.positions(source) == 1
            for name, source in graph.outputs.items()
            if graph.kinds[source].timed
        }
        return PieceArrays(
            states,
            _unnamed(inputs, graph.inputs),
            _unnamed(outputs, graph.outputs),
            np.dtype(graph.dtype),
            graph.batch_first,
            self._arrays,
        )

    @property
    def latency(self) -> int:
        """By how many steps of x what `advance` gives is late, because its layers wait for later steps."""
        return self._graph.latency

    @property
    def frame(self) -> int:
        """The steps of a piece that `advance` takes are a multiple of this: layers make one step of so many."""
        return self._graph.frame

    def _check_streams(self, method: str) -> None:
        if not self._graph.streams:
            raise ArgumentError(
                f"{method}: only a network of one direction can take sequences in pieces: none of its layers is "
                "bidirectional, or reads a value per sequence at its steps or as its first state"
            )

    def run(
        self, x: object, state: State | None, lengths: ArrayLike | None, *, piece: bool = False
    ) -> tuple[Arrays, dict[str, Array]]:
        """A call with its arguments checked one by one: of whole sequences, or of pieces of them."""
        signature = self._streamed_signature if piece else self._signature
        last, shown = self._start(signature, signature.inputs(x, lengths, piece=piece), state)
        return shown, last

    def _start(
        self, signature: NetworkSignature, given: Inputs, state: State | None
    ) -> tuple[dict[str, Array], Arrays]:
        times = given.times
        looked_up = {rows: signature.rows(self._tables[rows], n) for rows, n in given.numbers.items()}
        inputs = given.vectors | looked_up
        last = signature.new_state(times.batch)
        outputs, shown = signature.new_outputs(times, joined=True)
        for name, array in (signature.state("state", state, times.batch) or {}).items():
            inputs[signature.states[name][0]] = array
        outputs |= {signature.states[name][1]: array for name, array in last.items()}
        if times.batch:
            bound = self._form(Form(given.spanned, signature.timing.streamed))
            bound.start(inputs, outputs, times.frames, times.batch, given.counts)
        return last, shown

    def _form(self, form: Form) -> Bound:
        """The code of a call. The networks in which all forms are the same have one."""
        timing = self._graph.timing(form.streamed)
        form = Form(form.spanned and timing.spanned, form.streamed and any(timing.delays.values()))
        if form not in self._forms:
            self._forms[form] = self._options.compile(forward(self.model, form)).bind(self._fixed)
        return self._forms[form]

    @cached_property
    def _streamed_signature(self) -> NetworkSignature:
        return NetworkSignature(self.model, self._arrays, streamed=True)


def read_all(model: Layered, params: object, arrays: ArrayLibrary = NUMPY) -> dict[str, Array]:
    """The arrays of `params`, as `rnnc.checking.parameters.read_parameters` checks them for a spec."""
    return read_parameters(model, params, arrays)


def _unnamed(found: dict[str, T], among: Mapping[str, object]) -> dict[str, T]:
    """Values by name, or by "" if there is a single name."""
    return found if len(among) > 1 else dict.fromkeys([""], *found.values()) if found else {}
