"""Model: a compiled program with its parameters bound, ready to be called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from numpy import empty, ndarray

from rnnc.calls import Signature

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from rnnc.backends.base import Runner
    from rnnc.compile import Program
    from rnnc.specs import Spec

    Array = NDArray[Any]
    State = Array | tuple[Array, ...]


class Model:
    """What `program.bind(params)` returns: holds its own copy of the parameters, callable from many threads at once."""

    def __init__(self, program: Program, runner: Runner) -> None:
        self._program = program
        self._run = runner.run
        signature = Signature.of(program.spec)
        self._signature = signature
        self._dtype, self._batch_first, self._rows = signature.dtype, signature.batch_first, signature.rows
        self._input_size, self._output_size = signature.input_size, signature.output_size
        self._widths = tuple(signature.widths.values())

    @property
    def spec(self) -> Spec:
        """The spec this model was compiled from."""
        return self._program.spec

    @property
    def program(self) -> Program:
        """The program this model belongs to."""
        return self._program

    def __repr__(self) -> str:
        return f"Model({self.spec!r}, backend={self._program.backend!r})"

    def __call__(
        self,
        x: Array,
        state: State | None = None,
        *,
        lengths: ArrayLike | None = None,
        out: Array | tuple[Array, State] | None = None,
    ) -> tuple[Array, State]:
        """Runs the network over whole sequences, or over their next piece: what comes out as state may go in again.

        T = steps, B = batch, I = input_size, D = directions, O = output width of one direction; the dtype of all
        arrays is the spec's.

        x: (T, B, I), or (B, T, I) with batch_first, or unbatched (T, I); any strides; T >= 1, B >= 0.
        state: (num_layers * D, B, width) for each state of the cell: bare if there is one (h_0), else a tuple
            (LSTM: (h_0, c_0)); without the B axis if x is unbatched. Default: zeros.
        lengths: B integers in 0..T; row b ends after lengths[b] steps. Later outputs are 0, the final state is the
            row's own last one (for length 0 its initial one), a backward direction starts at the row's own end.
            Default: all T.
        out: arrays to write into, the output or (output, state), shaped as the result; they must overlap nothing, the
            states must be C-contiguous.

        Returns (output, state): output (T, B, D * O), laid out as x, and the final state, shaped as `state`.
        Raises ShapeError, DtypeError, LengthError, ArgumentError or ArgumentTypeError before anything is computed.
        """
        sizes = self._plain_sizes(x, state) if lengths is None and out is None else None
        if sizes is None:
            call = self._signature.check(x, state, lengths, out)
            if call.x.shape[1]:
                self._run(call.x, call.states, call.lengths, call.output, call.finals)
            return call.result
        steps, batch = sizes
        finals = tuple([empty((self._rows, batch, width), self._dtype) for width in self._widths])
        states = (state,) if isinstance(state, ndarray) else state
        if self._batch_first:
            output = empty((batch, steps, self._output_size), self._dtype)
            self._run(x.swapaxes(0, 1), states, None, output.swapaxes(0, 1), finals)
        else:
            output = empty((steps, batch, self._output_size), self._dtype)
            self._run(x, states, None, output, finals)
        return output, finals if len(finals) > 1 else finals[0]

    def _plain_sizes(self, x: object, state: object) -> tuple[int, int] | None:
        """(T, B) of the common call, whose x and state are just what the backend takes; None to look closer."""
        if type(x) is not ndarray or x.dtype is not self._dtype or x.ndim != 3 or not x.flags.aligned:
            return None
        steps, batch, width = x.shape
        if self._batch_first:
            steps, batch = batch, steps
        if width != self._input_size or not steps or not batch:
            return None
        if state is not None and not self._is_plain_state(state, batch):
            return None
        return steps, batch

    def _is_plain_state(self, state: object, batch: int) -> bool:
        states = state if type(state) is tuple else (state,)
        if len(states) != len(self._widths):
            return False
        for array, width in zip(states, self._widths, strict=True):
            if type(array) is not ndarray or array.dtype is not self._dtype:
                return False
            if array.shape != (self._rows, batch, width) or not (array.flags.c_contiguous and array.flags.aligned):
                return False
        return True
