"""Network: a `rnnc.Sequential` compiled for inference, with its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnc.backends import fresh
from rnnc.backends.arrays import NUMPY
from rnnc.backends.base import PlainCall, StateArray
from rnnc.checking.arrays import as_array, check_dtype, check_shape
from rnnc.checking.calls import check_lengths
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
    from rnnc.sequential import Sequential

    State = Mapping[str, Array]

__all__ = ["Network"]


class Network(Compiled, Unchanging):
    """What `Sequential.compile(params)` returns. It copies the parameters; call it from as many threads as you like.

    A pickle of it holds the model, the parameters, as NumPy arrays, and the options; it is compiled where it is read.
    """

    def __init__(
        self,
        model: Sequential,
        params: Mapping[str, Any],
        *,
        backend: str = "llvm",
        threads: int | None = None,
        matmul: str | None = None,
    ) -> None:
        """See `Sequential.compile`."""
        self.model = model
        options = CompileOptions.of(backend, threads, matmul)
        given = bind_parameters(model, params, options.arrays)  # what is wrong with them is said before it takes long
        super().__init__(forward(model), options)
        self._table = None if model.table is None else given.pop(model.table)
        self._params = given
        self._states = state_shapes(model)
        self._bound = self._code.bind(given)
        self._quick_call = self._bound.quick(self._plain_call(stateful=False))
        self._quick_advance = self._bound.quick(self._plain_call(stateful=True)) if self._goes_on else None

    def _plain_call(self, *, stateful: bool) -> PlainCall:
        model = self.model
        states = tuple(
            StateArray((first,), (last,), width, stacked=False, key=name)
            for name, (first, last, width) in self._states.items()
        )
        return PlainCall(
            model.input_size,
            model.output_size,
            model.batch_first,
            states if stateful else (),
            container="dict" if stateful else None,
            returns_state=stateful,
            timed_output=model.readout == "every",
            table=self._table,
            scale=model.readout == "mean",
        )

    def __repr__(self) -> str:
        return f"Network({self.model!r}, backend={self.backend!r})"

    def explain(self) -> str:
        """Which paths the backend took, and how a plain call gets there."""
        return super().explain() + way_in(self._quick_call)

    def __reduce__(self) -> tuple[Any, ...]:
        table = {} if self._table is None else {str(self.model.table): self._table}
        params = on_host(table | self._params, self._arrays)
        return partial(Network, **self._options.arguments), (self.model, params)

    @quick_first("_quick_call")
    def __call__(self, x: Array, *, lengths: ArrayLike | None = None) -> Array:
        """The network's output for whole sequences.

        x: integers (T, B) for an embedding, else (T, B, I); with batch_first (B, T) or (B, T, I).
        lengths: B integers in 0..T; row b ends after lengths[b] steps; what comes out later is 0. Default: all T.
        With backend "cuda" arrays are CuPy's, as in `rnnc.Model.__call__`; integers there are clipped to their range.
        Returns (T, B, N), or (B, T, N) with batch_first; (B, N) with readout "last" or "mean".
        Raises ShapeError, DtypeError, LengthError, ArgumentError or ArgumentTypeError.
        """
        return self._run(x, None, lengths)[0]

    @quick_first("_quick_advance")
    def advance(
        self, x: Array, state: State | None = None, *, lengths: ArrayLike | None = None
    ) -> tuple[Array, dict[str, Array]]:
        """(output, state) of the next piece of sequences: the state, name -> (B, width), goes into the next call.

        x, lengths: see `__call__`. state: what the call before returned; None starts sequences.
        Raises ArgumentError for a bidirectional network, and for the mean over a sequence.
        """
        if not self._goes_on:
            raise ArgumentError(
                "advance: only a network of one direction, without a mean, can take sequences in pieces"
            )
        return self._run(x, state, lengths)

    @property
    def _goes_on(self) -> bool:
        """Whether sequences may come in pieces."""
        return self.model.readout != "mean" and not any(spec.bidirectional for spec in self.model.specs.values())

    def _run(self, x: object, state: State | None, lengths: ArrayLike | None) -> tuple[Array, dict[str, Array]]:
        rows = embedded(self.model, self._table, x, self._arrays)
        steps, batch = rows.shape[:2]
        counts = None if lengths is None else check_lengths(lengths, steps, batch, True, self._arrays)
        inputs = {names.X: rows} | self._initial(state, batch)
        if self.model.readout == "mean":
            inputs[names.SCALE] = mean_scale(counts, steps, batch, self.model.dtype, self._arrays)
        last = {name: self._empty((batch, width)) for name, (_, _, width) in self._states.items()}
        shown, output = self._output(steps, batch)
        outputs = {names.OUTPUT: output} | {self._states[name][1]: array for name, array in last.items()}
        if batch:
            self._bound.start(inputs, outputs, steps, batch, counts)
        return shown, last

    def _initial(self, state: State | None, batch: int) -> dict[str, Array]:
        if state is None:
            return {}
        if not isinstance(state, Mapping) or set(state) != set(self._states):
            raise ArgumentTypeError("state: expected None or what an earlier call of advance returned")
        initial = {}
        for name, (first, _, width) in self._states.items():
            label = f"state[{name!r}]"
            array = as_array(label, state[name], self._arrays)
            check_dtype(label, array, np.dtype(self.model.dtype))
            check_shape(label, array, (batch, width))
            initial[first] = self._arrays.compact(label, array)
        return initial

    def _empty(self, shape: tuple[int, ...]) -> Array:
        made: Array = fresh.empty(shape, self.model.dtype, self._arrays.xp)
        return made

    def _output(self, steps: int, batch: int) -> tuple[Array, Array]:
        """The array the user sees, and the same one time first."""
        size = self.model.output_size
        if self.model.readout != "every":
            shown = self._empty((batch, size))
            return shown, shown
        if self.model.batch_first:
            shown = self._empty((batch, steps, size))
            return shown, shown.swapaxes(0, 1)
        shown = self._empty((steps, batch, size))
        return shown, shown


def read_all(model: Sequential, params: object, arrays: ArrayLibrary = NUMPY) -> dict[str, Array]:
    """The arrays of `params`, as `rnnc.checking.parameters.read_parameters` checks them for a spec."""
    return read_parameters(model, params, arrays)


def embedded(model: Sequential, table: Array | None, x: object, arrays: ArrayLibrary = NUMPY) -> Array:
    """x as the network reads it, (T, B, I): rows of the table for numbers, or the vectors themselves.

    Numbers on the host are checked. Those on a device are clipped to the table: to look at them would wait for it.
    """
    array = arrays.aligned("x", as_array("x", x, arrays))
    axes = "(B, T{})" if model.batch_first else "(T, B{})"
    if table is None:
        check_dtype("x", array, np.dtype(model.dtype))
        if array.ndim != 3 or array.shape[-1] != model.input_size:
            raise ShapeError(f"x: expected {axes.format(', I')} with I = {model.input_size}, got {array.shape}")
    else:
        if array.dtype.kind not in "iu":
            raise ArgumentTypeError(f"x: the first layer is an Embedding, which takes integers; got {array.dtype}")
        if array.ndim != 2:
            raise ShapeError(f"x: expected integers {axes.format('')}, got shape {array.shape}")
        array = _rows_of(table, array, arrays)
    first = array.swapaxes(0, 1) if model.batch_first else array
    if first.shape[0] == 0:
        raise ShapeError(f"x: expected at least one time step, got shape {array.shape}")
    return first if table is None else table[first]


def _rows_of(table: Array, numbers: Array, arrays: ArrayLibrary) -> Array:
    """Numbers of rows that the table has."""
    last = len(table) - 1
    if not arrays.on_host:
        return numbers.clip(0, min(last, int(np.iinfo(numbers.dtype).max)))
    if numbers.size and not (0 <= int(numbers.min()) and int(numbers.max()) <= last):
        raise ArgumentError(f"x: expected numbers of rows of the embedding, 0..{last}")
    return numbers


def mean_scale(lengths: Array | None, steps: int, batch: int, dtype: str, arrays: ArrayLibrary = NUMPY) -> Array:
    """One over the number of steps of each row, (B, 1); 0 for a row without steps."""
    xp = arrays.xp
    counts = xp.full(batch, steps) if lengths is None else lengths
    scale: Array = xp.where(counts > 0, 1 / xp.maximum(counts, 1), 0).astype(dtype)[:, None]
    return scale
