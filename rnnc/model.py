"""Model: a compiled program with its parameters, ready to be called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnc.array_names import ArrayNames, by_name, state_names
from rnnc.checking import checks
from rnnc.checking.arguments import explained
from rnnc.checking.arrays import as_array, check_dtype, check_shape
from rnnc.checking.calls import Signature
from rnnc.compiled import Compiled
from rnnc.copies import Unchanging, on_host
from rnnc.ir.errors import ArgumentError, ArgumentTypeError, ShapeError
from rnnc.ir.names import OUTPUT, X
from rnnc.plain_calls import plain_call, plain_piece
from rnnc.quick import Calls, Tally, quick_first, way_in

if TYPE_CHECKING:
    from os import PathLike

    from numpy.typing import ArrayLike, NDArray

    from rnnc.programs import Program
    from rnnc.realtime import RealTimeStep
    from rnnc.specs import Spec
    from rnnc.streams import PieceArrays

    Array = NDArray[Any]
    State = Array | tuple[Array, ...]


class Model(Compiled, Unchanging):
    """A compiled network with its own copy of the parameters: the result of `program.bind(params)`.

    Threads may call it at the same time. A pickle holds the program and the parameters, as NumPy arrays; it is compiled
    and bound again when it is loaded.
    """

    def __init__(self, program: Program, params: Mapping[str, Array]) -> None:
        """params: checked arrays that nobody else writes to."""
        super().__init__(program._computation, program._options, program._code)
        self._program = program
        self._params = params
        self._bound = self._code.bind(params)
        self._tally = Tally()
        self._quick = self._bound.quick(plain_call(program.spec), self._tally.outcomes)
        self._names = ArrayNames.of(program.spec)
        self._signature = Signature.of(program.spec, self._arrays)

    @property
    def spec(self) -> Spec:
        """The spec that this model was compiled from."""
        return self._program.spec

    @property
    def program(self) -> Program:
        """The program that this model belongs to."""
        return self._program

    def __repr__(self) -> str:
        return f"Model({self.spec!r}, backend={self.backend!r})"

    def explain(self) -> str:
        """A text that says which paths the backend took, and how plain calls and pieces of streams reach them."""
        found = super().explain() + self._explained_weights(self._params) + way_in(self._quick)
        return found if self.spec.reads_ahead else found + way_in(self._quick_advance, "plain pieces")

    @cached_property
    def _quick_advance(self) -> Any:
        """The way of plain pieces of streams into machine code, made by the first of them."""
        return None if self.spec.reads_ahead else self._bound.quick(plain_piece(self.spec), self._tally.outcomes)

    @property
    def calls(self) -> Calls:
        """How many calls, and pieces of streams, machine code has taken as they were, and how many Python has checked.

        Threads that call at the same time may lose a count of Python's.
        """
        return self._tally.calls()

    def save(self, path: str | PathLike[str]) -> None:
        """Writes spec and parameters to one file, of which `rnnc.load` makes the model again. Raises as `rnnc.save`."""
        from rnnc.files.models import save

        save(path, self.spec, on_host(self._params, self._arrays))

    def _profiled_call(self) -> Callable[[], Callable[..., Any]]:
        return lambda: type(self.program)(self.spec, self._options).bind(self._params)

    def __reduce__(self) -> tuple[Any, ...]:
        return _bound, (self._program, on_host(self._params, self._arrays))

    @quick_first("_quick")
    def __call__(
        self,
        x: Array,
        state: State | None = None,
        *,
        lengths: ArrayLike | None = None,
        out: Array | tuple[Array, State] | None = None,
    ) -> tuple[Array, State]:
        """Runs the network over whole sequences, or over the next piece of them, and returns (output, state).

        output: (T, B, D * O), in the layout of x. state: the final state, shaped like the argument `state`. To go on
        with the next piece of the sequences, pass it as `state`.

        T = steps, B = batch size, I = input_size, D = directions, O = output width of one direction. All arrays have
        the spec's dtype. They are NumPy's. With backend "cuda" they are CuPy's, on the current GPU: the work is queued
        on CuPy's current stream, and the call returns before it is done. Tensors of torch, and other objects with
        DLPack, are read without a copy if they are on the right device.

        x: (T, B, I), or (B, T, I) with batch_first, or unbatched (T, I). Any strides; T >= 1, B >= 0.
        state: (num_layers * D, B, width) for each state of the cell: bare for one state (h_0), a tuple for several
            (LSTM: (h_0, c_0)). Without the B axis if x is unbatched. Default: zeros.
        lengths: B integers in 0..T. Row b ends after lengths[b] steps: later outputs are 0, the final state is that of
            the row's last step (for length 0 the initial state), and a backward direction starts at the row's end.
            Default: all T. Lengths on the host are checked; lengths on the GPU are clipped to 0..T.
        out: arrays to write into: the output, or (output, state), shaped like the result. They must overlap no other
            array, and the states must be C-contiguous.

        Raises ShapeError, DtypeError, LengthError, ArgumentError or ArgumentTypeError before anything is computed.
        """
        return self._checked(x, state, lengths, out)

    def _checked(self, x: object, state: object, lengths: object, out: object = None) -> tuple[Array, State]:
        """A call with its arguments checked one by one."""
        call = self._signature.check(x, state, lengths, out)
        steps, batch = call.x.shape[:2]
        if batch:
            inputs = {X: call.x} | ({} if call.states is None else by_name(self._names.initial, call.states))
            outputs = {OUTPUT: call.output} | by_name(self._names.final, call.finals)
            self._bound.start(inputs, outputs, steps, batch, call.lengths)
        return call.result

    @quick_first("_quick_advance")
    def advance(
        self, x: Array, state: Mapping[str, Array] | None = None, *, lengths: ArrayLike | None = None
    ) -> tuple[Array, dict[str, Array]]:
        """(output, state) of the next piece of sequences, with a state as `rnnc.Network.advance` has it.

        output, x, lengths: see `__call__`; x has a batch axis. state: name -> (B, width) for each layer, "h_l0",
            "h_l1", ... (LSTM: "c_l0", ..., too): what the call before returned; None starts sequences at zeros.
        Raises what `__call__` raises, and ArgumentError for a spec that reads later steps.
        """
        self._check_streams("advance")
        if len(shape := np.shape(x)) != 3:
            layout = "(B, T, I)" if self.spec.batch_first else "(T, B, I)"
            raise ShapeError(f"x: pieces of streams have a batch axis, {layout}; got shape {shape}")
        output, final = self._checked(x, self._slabs(state, shape[not self.spec.batch_first]), lengths)
        finals = final if isinstance(final, tuple) else (final,)
        return output, by_name(state_names(self.spec), finals)

    @explained
    def realtime(self, batch: int = 1, steps: int = 1) -> RealTimeStep:
        """A step of `batch` streams, of `steps` steps of x each, that allocates no memory and takes no lock.

        See `rnnc.realtime.RealTimeStep`. Raises ArgumentError for a spec that reads later steps, or on another backend.
        """
        self._check_streams("realtime")
        from rnnc.realtime import RealTimeStep

        return RealTimeStep(self, plain_piece(self.spec), self._bound, batch, steps, dtype=self._signature.dtype)

    def pieces(self) -> PieceArrays:
        """The arrays of pieces of streams. Raises ArgumentError for a spec that reads later steps."""
        self._check_streams("pieces")
        from rnnc.streams import PieceArrays

        widths = zip(state_names(self.spec), self.spec.states.values(), strict=True)
        states = {key: width for keys, width in widths for key in keys}
        dtype = self._signature.dtype
        return PieceArrays(states, {"": 2}, {"": True}, dtype, self.spec.batch_first, self._arrays)

    def _check_streams(self, method: str) -> None:
        if self.spec.reads_ahead:
            raise ArgumentError(f"{method}: a bidirectional network reads a sequence from its end; call the model")

    def _slabs(self, state: object, batch: int) -> State | None:
        """The states in the form of `__call__`."""
        if state is None:
            return None
        keys = state_names(self.spec)
        expected = [key for names in keys for key in names]
        if not isinstance(state, Mapping) or set(state) != set(expected):
            came = f"a dict of {', '.join(map(repr, state))}" if isinstance(state, Mapping) else checks.came(state)
            what = f"what an earlier call returned, a dict of {', '.join(map(repr, expected))}"
            raise ArgumentTypeError(f"state: expected None or {what}; got {came}")
        slabs = []
        for names, width in zip(keys, self.spec.states.values(), strict=True):
            each = {f"state[{key!r}]": as_array(f"state[{key!r}]", state[key], self._arrays) for key in names}
            for label, array in each.items():
                check_dtype(label, array, self._signature.dtype)
                check_shape(label, array, (batch, width), "(B, width)")
            slabs.append(self._arrays.xp.stack(list(each.values())))
        return tuple(slabs) if len(slabs) > 1 else slabs[0]


def _bound(program: Program, params: Mapping[str, Array]) -> Model:
    """The function that loading a pickle of a Model calls."""
    return program.bind(params)
