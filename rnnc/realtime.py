"""Real-time steps: pieces of streams, all of one size, in memory that is taken once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from rnnc.backends import fresh
from rnnc.backends.call_forms import BATCH, STEPS, PlainCall
from rnnc.checking import checks
from rnnc.copies import refusal
from rnnc.ir.errors import ArgumentError, ShapeError
from rnnc.quick import Tally, read_arguments

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from rnnc.backends.arrays import Array
    from rnnc.backends.base import Bound
    from rnnc.backends.call_forms import CallArray, CallGroup

    Columns = Mapping[str, tuple[int, int]]


class Streaming(Protocol):
    """A model or a network."""

    _tally: Tally

    @property
    def backend(self) -> str:
        """The name of its backend."""

    def advance(self, x: Any, state: Any = None) -> Any:
        """See `rnnc.Model.advance`."""


class RealTimeStep:
    """The next piece of streams, `step(x)`, as `advance` computes it, for a thread that must never wait.

        step = model.realtime(batch=1)
        for x in pieces:  # (1, 1, I) each
            y = step(x)  # always the same array, step.output, overwritten by the next step

    A step allocates no memory and takes no lock. It holds Python's interpreter lock from beginning to end, so no other
    thread of Python can make it wait, and uses one thread. This is promised for x of NumPy arrays of the right shape
    and dtype; those that are to be copied first, because they are not C-contiguous, have up to 16 KiB. Anything else is
    read as `advance` reads it, or raises what that raises. Threads must not share a step.

    batch, steps: the sizes of x. output: the array of all results, or a dict of several.
    """

    def __init__(
        self,
        owner: Streaming,
        call: PlainCall,
        bound: Bound,
        batch: object,
        steps: object,
        *,
        dtype: DTypeLike,
        columns: Columns | None = None,
    ) -> None:
        """call: that of a piece, (x, state) -> (output, state). columns: see `rnnc.Graph.columns`.

        Two memories of states take turns: a step reads one, and writes to the other.
        """
        self.batch, self.steps = checks.integer("batch", batch, 1), checks.integer("steps", steps, 1)
        self._owner, self._dtype, self._turn = owner, dtype, 0
        (self._x, initial), (output, final) = call.arguments, call.results
        one = PlainCall((self._x,), (output,), (self.steps, self.batch))
        with fresh.enough_memory(f"{self.steps} steps of {self.batch} streams"):
            self._written = self._contained(output)
            self._states = [{array.key: self._zeros(array) for array in group.arrays} for group in (initial, final)]
            self._ways = [self._way(bound, one, initial, final, turn) for turn in (0, 1)]
            for way in self._ways:  # takes its scratch memory
                way(self._contained(self._x), None, self._written)
        self.output: Any = self._written
        if columns is not None:
            from rnnc.checking.network_calls import parts

            self.output = parts(self._written, columns)
        self.reset()

    def __call__(self, x: Array | Mapping[str, Array]) -> Any:
        """The output of the next piece: `output`, whose arrays the next step overwrites.

        x: (steps, batch, I), or (batch, steps, I) with batch_first; of several inputs, a dict of them.
        Raises what `advance` raises, and ShapeError for a piece of another size.
        """
        way = self._ways[self._turn]
        if way(x, None, self._written) is None:
            self._read_first(way, x)
        self._turn ^= 1
        return self.output

    @property
    def state(self) -> dict[str, Array]:
        """The state after the steps so far, as `advance` returns it: name -> (B, width).

        The next step reads these arrays: what is written to them, such as zeros in the row of a stream that starts
        again, is what it starts from. The step after that writes to them.
        """
        return self._states[self._turn]

    def reset(self, state: Mapping[str, Array] | None = None) -> None:
        """Starts all streams again, from a copy of a state of `advance`, or from zeros."""
        if state is not None:
            self._owner.advance(self._contained(self._x), state)  # says what is wrong with it
        for name, array in self.state.items():
            array[...] = 0 if state is None else np.asarray(state[name])

    def __reduce__(self) -> tuple[Any, ...]:
        raise refusal(self, "cannot be copied or pickled", "make another one of its model, and reset it to this state")

    def _read_first(self, way: Callable[..., Any], x: Any) -> None:
        """A step with an x that is no plain array, or that is wrong."""
        read = read_arguments(x, None, None)
        if read is not None and way(read[0], None, self._written) is not None:
            return
        self._owner.advance(x)  # says what is wrong with x itself
        raise ShapeError(
            f"x: expected {self.steps} steps of {self.batch} streams, in arrays that share no memory with the output; "
            f"got {_shapes(x)}; make a step of that size with realtime(batch, steps), or call advance"
        )

    # ---- the memory of a step

    def _shape(self, array: CallArray) -> tuple[int, ...]:
        sizes = {STEPS: self.steps, BATCH: self.batch}
        return tuple(size if isinstance(size, int) else sizes[size] for size in array.shape)

    def _zeros(self, array: CallArray) -> Array:
        dtype = np.int64 if array.tables else self._dtype
        found: Array = np.zeros(self._shape(array), dtype)
        return found

    def _contained(self, group: CallGroup) -> Any:
        """New arrays of zeros, in the container of a group."""
        if group.container == "bare":
            return self._zeros(group.arrays[0])
        return {array.key: self._zeros(array) for array in group.arrays}

    def _way(self, bound: Bound, call: PlainCall, read: CallGroup, written: CallGroup, turn: int) -> Callable[..., Any]:
        """The function of every other step."""
        groups = ((read, self._states[turn]), (written, self._states[1 - turn]))
        fixed = {name: arrays[array.key] for group, arrays in groups for array in group.arrays for name in array.names}
        way = bound.real_time(call, fixed, self._owner._tally.outcomes)
        if way is None:
            raise ArgumentError(f"realtime: backend {self._owner.backend!r} has no real-time steps; call advance")
        return way


def _shapes(x: Any) -> str:
    if isinstance(x, Mapping):
        return ", ".join(f"{name!r}: {np.shape(array)}" for name, array in x.items())
    return f"shape {np.shape(x)}"
