"""Streams: the states of many streams of one model, of which each step advances those that have something new."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from rnnc.backends import fresh
from rnnc.checking import checks
from rnnc.checking.arguments import explained
from rnnc.checking.arrays import as_array, check_dtype, check_shape
from rnnc.ir.errors import ArgumentError, ArgumentTypeError, ShapeError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from rnnc.backends.arrays import Array, ArrayLibrary

    Arrays = Array | Mapping[str, Array]
    Ids = ArrayLike

__all__ = ["PieceArrays", "TakesPieces", "Streams"]


@dataclass(frozen=True)
class PieceArrays:
    """The arrays of the pieces of streams that a model takes.

    states: name -> width. inputs: name -> the number of axes of one step of a batch, for inputs that have steps.
    outputs: name -> whether one step of x gives one step of it. A single input or output has the name "".
    own_axes: the model has other axes than (T, B, ...) or (B, T, ...), so that a step without T cannot be told.
    """

    states: Mapping[str, int]
    inputs: Mapping[str, int]
    outputs: Mapping[str, bool]
    dtype: np.dtype[Any]
    batch_first: bool
    arrays: ArrayLibrary
    own_axes: bool = False


class TakesPieces(Protocol):
    """A model or network that takes sequences in pieces."""

    def pieces(self) -> PieceArrays:
        """The arrays of its pieces. Raises ArgumentError if it takes none."""

    def advance(self, x: Any, state: Any = None, *, lengths: Any = None) -> Any:
        """See `rnnc.Model.advance`."""


class Streams:
    """The states of up to `capacity` streams of one model, each with a number in 0..capacity - 1.

        streams = rnnc.Streams(model, capacity=4096)
        y = streams.step([7, 3], x)  # x: (2, I), one step of stream 7 and one of stream 3; y: (2, O)
        streams.reset([7])  # stream 7 starts again

    A step reads and writes the states of its own streams alone, so its cost does not depend on the capacity. Threads
    may call it at the same time for different streams. An error, or an interrupt, leaves all states as they were.
    A pickle or copy holds the model and all states.

    The states take `capacity` times the bytes of one stream, from the start.
    """

    @explained
    def __init__(self, model: TakesPieces, capacity: int) -> None:
        """model: of `rnnc.compile`, of a network's `compile`, of `rnnc.from_onnx` or of `rnnc.from_torch`.

        Raises ArgumentError for a model that cannot take sequences in pieces, ArgumentTypeError or SizeError.
        """
        if not callable(getattr(model, "pieces", None)):
            raise ArgumentTypeError(f"model: expected a compiled model or network, got {checks.came(model)}")
        self._model = model
        self._pieces = model.pieces()
        size = checks.integer("capacity", capacity, 1)
        with fresh.enough_memory(f"the states of {size} streams"):
            self._memory = self._pieces.arrays.xp.zeros((size, sum(self._pieces.states.values())), self._pieces.dtype)

    @property
    def model(self) -> TakesPieces:
        """The model whose streams these are."""
        return self._model

    @property
    def capacity(self) -> int:
        """The number of streams."""
        return len(self._memory)

    def __repr__(self) -> str:
        return f"Streams({self._model!r}, capacity={self.capacity})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _copied, (self._model, np.asarray(self._pieces.arrays.to_host(self._memory)))

    @explained
    def step(self, ids: Ids, x: Arrays, *, lengths: ArrayLike | None = None) -> Arrays:
        """The output of the next step, or of the next piece, of some streams.

        ids: n different integers in 0..capacity - 1, or one integer, with which x and the output have no axis B.
        x: one step, (n, I); or a piece as the model's `advance` takes it, (T, n, I), or (n, T, I) with batch_first. For
            an embedding (n,), (T, n) or (n, T) integers. Of several inputs, a dict of them.
        lengths: n integers in 0..T: how many steps of the piece each stream has. Default: all.
        Returns what `advance` returns, without T if x is one step: (n, O), or (T, n, O).
        Raises ArgumentError or ArgumentTypeError for wrong ids, ShapeError, and what `advance` raises.
        """
        rows, alone = self._rows(ids)
        given = self._read(x)
        form = self._form(given, alone)
        given = {name: form.inward(array, name in self._pieces.inputs) for name, array in given.items()}
        self._check_batch(given, len(rows))
        if alone and lengths is not None:
            lengths = np.reshape(np.asarray(lengths), (1,))
        output, after = self._model.advance(
            given if isinstance(x, Mapping) else given[""], self._states(rows), lengths=lengths
        )
        self._write(rows, after)
        if not isinstance(output, Mapping):
            return form.outward(output, self._pieces.outputs.get(""))
        return {name: form.outward(array, self._pieces.outputs.get(name)) for name, array in output.items()}

    @explained
    def reset(self, ids: Ids | None = None) -> None:
        """Streams start again. ids: as in `step`; default: all streams."""
        if ids is None:
            self._memory[...] = 0
        else:
            self._memory[self._index(self._rows(ids)[0])] = 0

    @explained
    def save(self, ids: Ids | None = None) -> dict[str, Array]:
        """A copy of the states of streams: name -> (n, width), as `advance` takes them; (width,) for one integer.

        ids: as in `step`; default: all streams. The dict is what `np.savez` takes.
        """
        rows, alone = (np.arange(self.capacity), False) if ids is None else self._rows(ids)
        found = {name: array.copy() for name, array in self._states(rows).items()}
        return {name: array[0] for name, array in found.items()} if alone else found

    @explained
    def restore(self, ids: Ids, saved: Mapping[str, Array]) -> None:
        """Streams go on from states that `save` returned, or the model's `advance`.

        ids: as in `step`; they may be others than those that were saved. saved: name -> (n, width), or (width,) for
        one integer. Raises ArgumentTypeError, DtypeError or ShapeError.
        """
        rows, alone = self._rows(ids)
        states = self._pieces.states
        if not isinstance(saved, Mapping) or set(saved) != set(states):
            came = f"a dict of {', '.join(map(repr, saved))}" if isinstance(saved, Mapping) else checks.came(saved)
            what = f"a dict of {', '.join(map(repr, states))}" if states else "an empty dict"
            raise ArgumentTypeError(f"saved: expected what save returned, {what}; got {came}")
        read = {}
        for name, width in states.items():
            label = f"saved[{name!r}]"
            array = as_array(label, saved[name], self._pieces.arrays)
            check_dtype(label, array, self._pieces.dtype)
            check_shape(label, array, (width,) if alone else (len(rows), width), "(width,)" if alone else "(n, width)")
            read[name] = array[None] if alone else array
        self._write(rows, read)

    # ---- states

    def _rows(self, ids: object) -> tuple[NDArray[np.int64], bool]:
        """The ids as integers (n,), and whether it is one id without an axis."""
        found = np.asarray(ids) if not isinstance(ids, Mapping) else np.asarray(None)
        if found.ndim > 1 or found.size and found.dtype.kind not in "iu":
            came = f"an array of {found.dtype} {found.shape}" if found.ndim else checks.came(ids)
            raise ArgumentTypeError(f"ids: expected integers (n,), or one integer; got {came}")
        rows = found.reshape(-1)
        if rows.size and not (0 <= int(rows.min()) and int(rows.max()) < self.capacity):
            wrong = next(int(row) for row in rows if not 0 <= row < self.capacity)
            raise ArgumentError(f"ids: expected numbers of streams, 0..{self.capacity - 1}; got {wrong}")
        rows = rows.astype(np.int64)
        if len(rows) > 1 and not (rows[1:] > rows[:-1]).all():
            first, counts = np.unique(rows, return_counts=True)
            if len(first) < len(rows):
                raise ArgumentError(f"ids: expected each stream once; got {int(first[counts > 1][0])} more than once")
        return rows, found.ndim == 0

    def _index(self, rows: NDArray[np.int64]) -> Any:
        return rows if self._pieces.arrays.on_host else self._pieces.arrays.xp.asarray(rows)

    def _states(self, rows: NDArray[np.int64]) -> dict[str, Array]:
        """A copy of the states of streams, in the form of `advance`."""
        gathered, found, start = self._memory[self._index(rows)], {}, 0
        for name, width in self._pieces.states.items():
            found[name] = gathered[:, start : start + width]
            start += width
        return found

    def _write(self, rows: NDArray[np.int64], states: Mapping[str, Array]) -> None:
        """Stores the states of streams, all at once: an interrupt comes before it or after it."""
        if states:
            parts = [states[name] for name in self._pieces.states]
            xp = self._pieces.arrays.xp
            self._memory[self._index(rows)] = parts[0] if len(parts) == 1 else xp.concatenate(parts, axis=1)

    # ---- axes

    def _read(self, x: object) -> dict[str, Array]:
        """The inputs as arrays, by name."""
        given = x if isinstance(x, Mapping) else {"": x}
        labels = {name: f"x[{name!r}]" if name else "x" for name in given}
        return {name: as_array(labels[name], array, self._pieces.arrays) for name, array in given.items()}

    def _form(self, given: Mapping[str, Array], alone: bool) -> _Form:
        """The axes that x lacks."""
        pieces = self._pieces
        if pieces.own_axes:
            if alone:
                raise ArgumentTypeError("ids: a module with axes of its own takes a list, and x with all its axes")
            return _Form(False, False, False)
        timed = {name: given[name].ndim + alone for name in pieces.inputs if name in given}
        one = bool(timed) and all(axes == pieces.inputs[name] for name, axes in timed.items())
        return _Form(one, alone, pieces.batch_first)

    def _check_batch(self, given: Mapping[str, Array], batch: int) -> None:
        """Raises ShapeError unless x has as many rows as there are ids."""
        for name, array in {} if self._pieces.own_axes else given.items():
            axis = 1 if name in self._pieces.inputs and not self._pieces.batch_first else 0
            if array.ndim > axis and array.shape[axis] != batch:
                label = f"x[{name!r}]" if name else "x"
                raise ShapeError(f"{label}: expected a row for each of {batch} ids; got {array.shape[axis]} rows")


@dataclass(frozen=True)
class _Form:
    """one: x is one step, without T. alone: it is of one stream, without B."""

    one: bool
    alone: bool
    batch_first: bool

    def inward(self, array: Array, timed: bool) -> Array:
        """An array of x with all axes. timed: it has steps."""
        if self.alone:
            array = np.expand_dims(array, 1 if timed and not (self.one or self.batch_first) else 0)
        return np.expand_dims(array, int(self.batch_first)) if self.one and timed else array

    def outward(self, array: Array, single: bool | None) -> Array:
        """An output without the axes that x lacks.

        single: one step of x gives one step of it; None: it has no steps.
        """
        if self.alone:
            array = array.squeeze(0 if single is None or self.batch_first else 1)
        return array.squeeze(int(self.batch_first and not self.alone)) if self.one and single else array


def _copied(model: TakesPieces, memory: NDArray[Any]) -> Streams:
    """The function that loading a pickle of Streams calls."""
    made = Streams(model, len(memory))
    made._memory[...] = made._pieces.arrays.xp.asarray(memory)
    return made
