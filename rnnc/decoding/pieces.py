"""A call of a decoder: some steps at a time, so that it ends soon after its last row has.

Rows that have ended are left out of the next piece. Rows are independent, so this changes no result but for rounding:
sums of blocks of one or two rows may differ in their last bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rnnc.backends import fresh
from rnnc.decoding import feedback as lowered
from rnnc.decoding.gumbel import gumbel
from rnnc.networks.names import state_shapes

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from rnnc.backends.arrays import Array, ArrayLibrary
    from rnnc.backends.base import Bound
    from rnnc.decoding.decoder import Decoder

LEAST_MEMORY = 8
"""The fewest states that code is compiled for; it is compiled for this number times a power of two."""
PIECE = 6
"""How many steps run before the call looks which rows have ended; a fourth of the steps so far, if that is more.

In the demo, whose rows end after 7 steps on average, 4 to 8 make no difference of more than 5 %.
"""


class Decoded(NamedTuple):
    """What a call returns, for each row.

    numbers: (N, B) integers, or (B, N) with batch_first, N = `Decoder.steps`; past the end of a row, the end symbol.
    lengths: (B,) how many of them stand before the end symbol.
    scores: (B,) the sums of their log-probabilities, that of the end symbol included.
    """

    numbers: Array
    lengths: Array
    scores: Array


class States:
    """The arrays that go from piece to piece, (B, width) for each row.

    first: for each state of the step, its initial names, one per hypothesis, and its width. finals: the name of the
    final value of each initial one.
    """

    def __init__(self, decoder: Decoder) -> None:
        each = range(decoder.choice.hypotheses)
        shapes = state_shapes(decoder.step)
        self.first = {
            name: ([lowered.of_hypothesis(initial, k) for k in each], width)
            for name, (initial, _, width) in shapes.items()
        }
        self.finals = {
            lowered.of_hypothesis(initial, k): lowered.of_hypothesis(final, k)
            for initial, final, _ in shapes.values()
            for k in each
        }
        self.finals |= {lowered.initial(name, k): lowered.final(name, k) for name in lowered.FIELDS for k in each}


class Start(NamedTuple):
    """What the rows of a call start from.

    last: (B,) the numbers that the first step reads. states: (B, N) by the states' names; others are zeros. held:
    inputs that stay the same from piece to piece. memory: the number of states of the encoder that they have room for.
    """

    last: Array
    states: Mapping[str, Array]
    held: dict[str, Array] = {}
    memory: int = 0


class Pieces:
    """One call: the rows that go on, and what has been decoded so far."""

    def __init__(
        self,
        decoder: Decoder,
        states: States,
        bound: Bound,
        arrays: ArrayLibrary,
        start: Start,
        seed: int,
    ) -> None:
        self.decoder, self.states, self.bound, self.arrays, self.seed = decoder, states, bound, arrays, seed
        self.held, rows = start.held, len(start.last)
        self.xp, self.dtype = arrays.xp, decoder.dtype
        self.count, self.steps = decoder.choice.hypotheses, decoder.steps
        self.going = self.xp.arange(rows)
        self.state = self._first(start)
        end = 0 if decoder.end is None else decoder.end
        self.numbers = self.xp.full((self.steps, rows, self.count), end, self.dtype)
        own = self.xp.arange(self.count).astype(self.dtype)
        self.parents = self.xp.broadcast_to(own, self.numbers.shape).copy() if self.count > 1 else None
        self.scores, self.lengths = (self.xp.zeros((rows, 1), self.dtype) for _ in range(2))

    # ---- the states of the rows that go on

    def _first(self, start: Start) -> dict[str, Array]:
        rows = len(start.last)
        found: dict[str, Array] = {}
        for name, (initials, width) in self.states.first.items():
            given = start.states.get(name)
            array = self.xp.zeros((rows, width), self.dtype) if given is None else self.arrays.compact(name, given)
            found |= dict.fromkeys(initials, array)
        last = start.last.astype(self.dtype).reshape(rows, 1)
        for k in range(self.count):  # all hypotheses but the first have no number yet, and a probability of 0
            values = {"ended": k > 0, "score": -np.inf if k else 0.0, "length": 0}
            found |= {lowered.initial(n, k): self.xp.full((rows, 1), v, self.dtype) for n, v in values.items()}
            found[lowered.initial("last", k)] = last
        return found

    # ---- the pieces

    def run(self) -> Decoded:
        """What is decoded in all steps."""
        first = 0
        while first < self.steps and len(self.going):
            count = min(max(PIECE, first // 4), self.steps - first)
            self._piece(first, count)
            first += count
        return self._decoded()

    def _piece(self, first: int, count: int) -> None:
        rows = len(self.going)
        outputs = {final: self._empty(self.state[initial].shape) for initial, final in self.states.finals.items()}
        outputs[lowered.NUMBERS] = self._empty((count, rows, self.count))
        if self.parents is not None:
            outputs[lowered.PARENTS] = self._empty((count, rows, self.count))
        self.bound.start(self.state | self.held | self._noise(first, count), outputs, count, rows, None)
        self.state = {initial: outputs[final] for initial, final in self.states.finals.items()}
        self.numbers[first : first + count, self.going] = outputs[lowered.NUMBERS]
        if self.parents is not None:
            self.parents[first : first + count, self.going] = outputs[lowered.PARENTS]
        self.scores[self.going] = outputs[lowered.final("score", 0)]
        self.lengths[self.going] = outputs[lowered.final("length", 0)]
        self._leave_out()

    def _leave_out(self) -> None:
        """Leaves out the rows all of whose hypotheses have ended."""
        ended = sum(self.state[lowered.initial("ended", k)] for k in range(self.count))
        kept = np.flatnonzero(self.arrays.to_host(ended)[:, 0] < self.count)  # type: ignore[arg-type]
        if len(kept) < len(self.going):
            kept = self.xp.asarray(kept)
            self.going = self.going[kept]
            self.state = {name: array[kept] for name, array in self.state.items()}
            self.held = {name: array[kept] for name, array in self.held.items()}

    def _empty(self, shape: tuple[int, ...]) -> Array:
        made: Array = fresh.empty(shape, self.dtype, self.xp)
        return made

    def _noise(self, first: int, count: int) -> dict[str, Array]:
        """The random numbers of some steps, if the choice reads any."""
        if not self.decoder.choice.random:
            return {}
        rows = self.arrays.to_host(self.going)
        width = self.decoder.feedback.width
        return {lowered.NOISE: self.arrays.from_host(gumbel(self.seed, first, count, rows, width, self.dtype))}

    # ---- the results

    def _decoded(self) -> Decoded:
        numbers = self._best().astype(np.int64)
        if self.decoder.step.batch_first:
            numbers = numbers.swapaxes(0, 1)
        return Decoded(numbers, self.lengths[:, 0].astype(np.int64), self.scores[:, 0])

    def _best(self) -> Array:
        """The numbers (N, B) of the first hypothesis of the last step, back to the first step."""
        if self.parents is None:
            best: Array = self.numbers[..., 0]
            return best
        found: Array = self.xp.empty(self.numbers.shape[:2], self.dtype)
        place = self.xp.zeros((self.numbers.shape[1], 1), np.int64)
        for t in reversed(range(self.steps)):
            found[t] = self.xp.take_along_axis(self.numbers[t], place, 1)[:, 0]
            place = self.xp.take_along_axis(self.parents[t], place, 1).astype(np.int64)
        return found


def memory_size(steps: int) -> int:
    """The number of states that code is compiled for, for at most so many."""
    size = LEAST_MEMORY
    while size < steps:
        size *= 2
    return size


def memory_of(states: Array, lengths: ArrayLike | None, size: int, arrays: ArrayLibrary) -> Array:
    """The states (T, B, M) of an encoder as `rnnc.networks.lowering.lower_network` reads them, with room for `size`."""
    xp, (steps, rows, width) = arrays.xp, states.shape
    found: Array = xp.zeros((rows, size * (width + 1)), states.dtype)
    found[:, : steps * width] = states.swapaxes(0, 1).reshape(rows, -1)
    counts = xp.full((1, 1), steps) if lengths is None else xp.asarray(lengths)[:, None]
    found[:, size * width :] = xp.arange(size) < counts
    return found
