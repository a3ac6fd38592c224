"""Model: a compiled program with its parameters, ready to be called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rnnc.array_names import ArrayNames, by_name
from rnnc.checking.calls import Signature
from rnnc.compiled import Compiled
from rnnc.copies import Unchanging, on_host
from rnnc.ir.names import OUTPUT, X
from rnnc.plain_calls import plain_call
from rnnc.quick import quick_first, way_in

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from rnnc.compile import Program
    from rnnc.specs import Spec

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
        self._quick = self._bound.quick(plain_call(program.spec))
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
        """A text that says which paths the backend took, and how a plain call reaches them."""
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
        call = self._signature.check(x, state, lengths, out)
        steps, batch = call.x.shape[:2]
        if batch:
            inputs = {X: call.x} | ({} if call.states is None else by_name(self._names.initial, call.states))
            outputs = {OUTPUT: call.output} | by_name(self._names.final, call.finals)
            self._bound.start(inputs, outputs, steps, batch, call.lengths)
        return call.result


def _bound(program: Program, params: Mapping[str, Array]) -> Model:
    """The function that loading a pickle of a Model calls."""
    return program.bind(params)
