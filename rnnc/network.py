"""Network: a `rnnc.Sequential` compiled for inference, with its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnc import checks
from rnnc.arguments import explained
from rnnc.arrays import as_array, check_dtype, check_shape
from rnnc.backends import fresh
from rnnc.backends.arrays import NUMPY
from rnnc.calls import check_lengths
from rnnc.copies import Unchanging, on_host
from rnnc.ir import names
from rnnc.ir.computation import Computation
from rnnc.ir.errors import ArgumentError, ArgumentTypeError, ShapeError
from rnnc.lowering import lower_network, state_shapes
from rnnc.parameters import bind_parameters, read_parameters

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from rnnc.backends.arrays import Array, ArrayLibrary
    from rnnc.ir.graph import Graph
    from rnnc.sequential import Sequential

    State = Mapping[str, Array]

__all__ = ["Network"]


class Network(Unchanging):
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
        from rnnc import backends

        threads = None if threads is None else checks.integer("threads", threads, 1)
        self.model = model
        self.backend = backend
        self._target: dict[str, Any] = {"backend": backend, "threads": threads, "matmul": matmul}
        self._arrays = backends.arrays_of(backend)
        given = bind_parameters(model, params, self._arrays)
        self._table = None if model.table is None else given.pop(model.table)
        self._params = given
        self._states = state_shapes(model)
        options = backends.options(backend, matmul)
        compile_function = backends.get(backend).compile_function
        self._function = compile_function(Computation(self._build), threads=threads, **options)

    def __repr__(self) -> str:
        return f"Network({self.model!r}, backend={self.backend!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        table = {} if self._table is None else {"0.weight": self._table}
        return _compiled, (self.model, on_host(table | self._params, self._arrays), self._target)

    def _build(self, steps: int, lengths: bool) -> Graph:
        return lower_network(self.model, steps, lengths=lengths)

    def explain(self) -> str:
        """Which paths the backend took, and why."""
        return self._function.explain()

    @explained
    def __call__(self, x: Array, *, lengths: ArrayLike | None = None) -> Array:
        """The network's output for whole sequences.

        x: integers (T, B) for an embedding, else (T, B, I); with batch_first (B, T) or (B, T, I).
        lengths: B integers in 0..T; row b ends after lengths[b] steps; what comes out later is 0. Default: all T.
        With backend "cuda" arrays are CuPy's, as in `rnnc.Model.__call__`; integers there are clipped to their range.
        Returns (T, B, N), or (B, T, N) with batch_first; (B, N) with readout "last" or "mean".
        Raises ShapeError, DtypeError, LengthError, ArgumentError or ArgumentTypeError.
        """
        return self._run(x, None, lengths)[0]

    @explained
    def advance(
        self, x: Array, state: State | None = None, *, lengths: ArrayLike | None = None
    ) -> tuple[Array, dict[str, Array]]:
        """(output, state) of the next piece of sequences: the state, name -> (B, width), goes into the next call.

        x, lengths: see `__call__`. state: what the call before returned; None starts sequences.
        Raises ArgumentError for a bidirectional network, and for the mean over a sequence.
        """
        if self.model.readout == "mean" or any(spec.bidirectional for spec in self.model.specs.values()):
            raise ArgumentError(
                "advance: only a network of one direction, without a mean, can take sequences in pieces"
            )
        return self._run(x, state, lengths)

    def _run(self, x: object, state: State | None, lengths: ArrayLike | None) -> tuple[Array, dict[str, Array]]:
        rows = embedded(self.model, self._table, x, self._arrays)
        steps, batch = rows.shape[:2]
        counts = None if lengths is None else check_lengths(lengths, steps, batch, True, self._arrays)
        inputs = self._params | {names.X: rows} | self._initial(state, batch)
        if self.model.readout == "mean":
            inputs[names.SCALE] = mean_scale(counts, steps, batch, self.model.dtype, self._arrays)
        last = {name: self._zeros(batch, width) for name, (_, _, width) in self._states.items()}
        shown, output = self._output(steps, batch)
        outputs = {names.OUTPUT: output} | {self._states[name][1]: array for name, array in last.items()}
        if batch:
            self._function.start(inputs, outputs, steps, batch, counts)
        return shown, last

    def _initial(self, state: State | None, batch: int) -> dict[str, Array]:
        if state is None:
            return {first: self._zeros(batch, width) for first, _, width in self._states.values()}
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

    def _zeros(self, *shape: int) -> Array:
        zeros: Array = self._arrays.xp.zeros(shape, self.model.dtype)
        return zeros

    def _output(self, steps: int, batch: int) -> tuple[Array, Array]:
        """The array the user sees, and the same one time first."""
        size = self.model.output_size
        empty = partial(fresh.empty, dtype=self.model.dtype, xp=self._arrays.xp)
        if self.model.readout != "every":
            shown = empty((batch, size))
            return shown, shown
        if self.model.batch_first:
            shown = empty((batch, steps, size))
            return shown, shown.swapaxes(0, 1)
        shown = empty((steps, batch, size))
        return shown, shown


def _compiled(model: Sequential, params: Mapping[str, Any], target: Mapping[str, Any]) -> Network:
    """What a pickle of a Network calls."""
    return Network(model, params, **target)


def read_all(model: Sequential, params: object, arrays: ArrayLibrary = NUMPY) -> dict[str, Array]:
    """The arrays of `params`, as `rnnc.parameters.read_parameters` checks them for a spec."""
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
