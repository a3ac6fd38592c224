"""Model: a compiled program with its parameters bound, ready to be called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rnnc.array_names import ArrayNames, by_name, plain_call
from rnnc.checking.calls import Signature
from rnnc.compiled import Compiled
from rnnc.copies import Unchanging, on_host
from rnnc.ir.names import OUTPUT, X
from rnnc.quick import quick_first, way_in

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from rnnc.compile import Program
    from rnnc.specs import Spec

    Array = NDArray[Any]
    State = Array | tuple[Array, ...]


class Model(Compiled, Unchanging):
    """What `program.bind(params)` returns: holds its own copy of the parameters, callable from many threads at once.

    A pickle of it holds its program and its parameters, as NumPy arrays, and is bound where it is read.
    """

    def __init__(self, program: Program, params: Mapping[str, Array]) -> None:
        """params: checked, and nobody writes to them."""
        super().__init__(program._computation, program._options, program._code)
        self._program = program
        self._params = params
        self._bound = self._code.bind(params)
        self._quick = self._bound.quick(plain_call(program.spec))
        self._names = ArrayNames.of(program.spec)
        self._signature = Signature.of(program.spec, self._arrays)

    @property
    def spec(self) -> Spec:
        """The spec this model was compiled from."""
        return self._program.spec

    @property
    def program(self) -> Program:
        """The program this model belongs to."""
        return self._program

    def __repr__(self) -> str:
        return f"Model({self.spec!r}, backend={self.backend!r})"

    def explain(self) -> str:
        """Which paths the backend took, and how a plain call gets there."""
        return super().explain() + way_in(self._quick)

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
        """Runs the network over whole sequences, or over their next piece: what comes out as state may go in again.

        T = steps, B = batch, I = input_size, D = directions, O = output width of one direction; the dtype of all
        arrays is the spec's. They are NumPy's; with backend "cuda" they are CuPy's, on the current GPU, and the work
        is queued on CuPy's current stream: nothing waits for it. Tensors of torch and others with DLPack are read
        without a copy, if they are there.

        x: (T, B, I), or (B, T, I) with batch_first, or unbatched (T, I); any strides; T >= 1, B >= 0.
        state: (num_layers * D, B, width) for each state of the cell: bare if there is one (h_0), else a tuple
            (LSTM: (h_0, c_0)); without the B axis if x is unbatched. Default: zeros.
        lengths: B integers in 0..T; row b ends after lengths[b] steps. Later outputs are 0, the final state is the
            row's own last one (for length 0 its initial one), a backward direction starts at the row's own end.
            Default: all T. An integer array on the GPU is clipped to 0..T, where one on the host is checked.
        out: arrays to write into, the output or (output, state), shaped as the result; they must overlap nothing, the
            states must be C-contiguous.

        Returns (output, state): output (T, B, D * O), laid out as x, and the final state, shaped as `state`.
        Raises ShapeError, DtypeError, LengthError, ArgumentError or ArgumentTypeError before anything is computed.
        """
        call = self._signature.check(x, state, lengths, out)
        steps, batch = call.x.shape[:2]
        if batch:
            inputs = {X: call.x} | ({} if call.states is None else by_name(self._names.initial, call.states))
            outputs = {OUTPUT: call.output} | by_name(self._names.final, call.finals)
            self._bound.start(inputs, outputs, steps, batch, call.lengths)
        return call.result


def _bound(program: Program, params: Mapping[str, Array]) -> Model:
    """What a pickle of a Model calls."""
    return program.bind(params)
