"""Model: a compiled program with its parameters bound, ready to be called."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from rnnc.arguments import misfit
from rnnc.calls import Signature
from rnnc.copies import Unchanging, on_host
from rnnc.ir.errors import ArgumentTypeError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from rnnc.backends.arrays import ArrayLibrary
    from rnnc.backends.base import Runner
    from rnnc.compile import Program
    from rnnc.specs import Spec

    Array = NDArray[Any]
    State = Array | tuple[Array, ...]


F = TypeVar("F", bound=Callable[..., Any])


def _with_quick_way(checked: F) -> F:
    """A model's call by the backend's quick way, if there is one and the arguments are plain; else the `checked` call.

    Arguments that do not exist raise ArgumentTypeError; to take them here costs less than a wrapper that does so
    (`rnnc.arguments.explained`).
    """

    def __call__(
        self: Model,
        x: Any,
        state: Any = None,
        *others: object,
        lengths: Any = None,
        out: Any = None,
        **unknown: object,
    ) -> Any:
        if others or unknown:
            raise ArgumentTypeError(misfit(checked, (self, x, state, *others), unknown))
        if self._plain is not None and lengths is None and out is None:
            try:
                result = self._plain(x, state)
            except MemoryError:  # the checked call says what it is for
                result = None
            if result is not None:
                return result
        return checked(self, x, state, lengths=lengths, out=out)

    return functools.wraps(checked)(__call__)  # type: ignore[return-value]


class Model(Unchanging):
    """What `program.bind(params)` returns: holds its own copy of the parameters, callable from many threads at once.

    A pickle of it holds its program and its parameters, as NumPy arrays, and is bound where it is read.
    """

    def __init__(self, program: Program, params: Mapping[str, Array], runner: Runner, arrays: ArrayLibrary) -> None:
        """params: what the runner was bound to; nobody writes to them."""
        self._program = program
        self._params = params
        self._arrays = arrays
        self._run = runner.run
        self._plain = runner.plain_call(program.spec.batch_first)
        self._signature = Signature.of(program.spec, arrays)

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

    def __reduce__(self) -> tuple[Any, ...]:
        return _bound, (self._program, on_host(self._params, self._arrays))

    @_with_quick_way
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
        if call.x.shape[1]:
            self._run(call.x, call.states, call.lengths, call.output, call.finals)
        return call.result


def _bound(program: Program, params: Mapping[str, Array]) -> Model:
    """What a pickle of a Model calls."""
    return program.bind(params)
