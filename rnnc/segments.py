"""Rematerialisation over time: keep the states between segments of a sequence, and recompute the rest.

A pullback needs values of every step. With segments of S steps, a call keeps only the T / S states between them. The
pullback runs each segment forward again, from its first state, and keeps the values of that segment alone (Chen et al.
2016, "Training deep nets with sublinear memory cost"). With S = sqrt(T), the memory for kept values grows like sqrt(T),
at the cost of one more forward pass. x, the output and their gradients are kept in full.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rnnc.backends import fresh
from rnnc.checking import checks
from rnnc.ir.errors import ArgumentError, ArgumentTypeError
from rnnc.ir.names import OUTPUT, X, gradient

if TYPE_CHECKING:
    from rnnc.backends.arrays import Array
    from rnnc.backends.base import Bound
    from rnnc.specs import Spec

    Arrays = Mapping[str, Array]

Remat = int | str | None

D_X, D_OUTPUT = gradient(X), gradient(OUTPUT)


def check_remat(spec: Spec, remat: object) -> Remat:
    """The argument `remat`: None, "sqrt", or a number of steps. Raises ArgumentError or ArgumentTypeError.

    A network with a reverse direction is refused, because its sequences cannot be cut in time.
    """
    if remat is None:
        return None
    if spec.reads_ahead:
        raise ArgumentError(
            "remat: a network with a reverse direction starts at the end of its sequence and cannot be cut in time; "
            "leave remat=None, or use the forward direction alone"
        )
    if isinstance(remat, str):
        return checks.choice("remat", remat, ("sqrt",))
    if isinstance(remat, (bool, float)) or not hasattr(remat, "__index__"):
        raise ArgumentTypeError(f"remat: expected None, 'sqrt' or a number of steps, got {checks.came(remat)}")
    return checks.integer("remat", remat, 1)


def segment_size(remat: Remat, steps: int) -> int:
    """The number of steps per segment."""
    return steps if remat is None else math.isqrt(steps - 1) + 1 if remat == "sqrt" else min(int(remat), steps)


class SegmentedTape:
    """The tape of a call of a `vjp` computation that runs segment by segment; see `rnnc.backends.base.Tape`."""

    def __init__(
        self,
        bound: Bound,
        xp: Any,
        links: Mapping[str, str],
        parameters: Sequence[str],
        inputs: Arrays,
        outputs: Arrays,
        steps: int,
        batch: int,
        lengths: Array | None,
        size: int,
    ) -> None:
        """Runs the call, and keeps the states between segments.

        xp: the module of the arrays. links: name of a final state -> name of the initial state that it becomes in the
        next segment. parameters: their names. size: steps per segment.
        """
        self._bound = bound
        self._xp = xp
        self._links = links
        self._parameters = parameters
        self._inputs = {name: array.copy() for name, array in inputs.items()}
        self._steps, self._batch, self._lengths, self._size = steps, batch, lengths, size
        self._states: list[dict[str, Array]] = []
        state = {first: self._inputs[first] for first in links.values()}
        for start, stop in self._segments():
            self._states.append(state)
            last = self._run(start, stop, outputs[OUTPUT][start:stop])[1]
            state = {links[name]: array for name, array in last.items()}
        for name, first in links.items():
            outputs[name][...] = state[first]

    def finish(self, inputs: Arrays, outputs: Arrays) -> None:
        """See `rnnc.backends.base.Tape.finish`. Gradients that are not among the outputs count as zeros."""
        adjoint = {name: inputs[gradient(name)] for name in self._links}
        sums = {name: outputs[name] for name in map(gradient, self._parameters) if name in outputs}
        for array in sums.values():
            array[...] = 0
        links = {final: gradient(name) for final, name in self._links.items() if gradient(name) in outputs}
        for start, stop in reversed(list(self._segments())):
            tape, last = self._run(start, stop, fresh.empty_like(inputs[D_OUTPUT][start:stop], self._xp))
            part = {name: fresh.empty_like(array, self._xp) for name, array in sums.items()}
            first = {name: fresh.empty_like(last[final], self._xp) for final, name in links.items()}
            x = {D_X: outputs[D_X][start:stop]} if D_X in outputs else {}
            seeds = {D_OUTPUT: inputs[D_OUTPUT][start:stop]} | {gradient(n): a for n, a in adjoint.items()}
            tape.finish(seeds, part | first | x)
            for name, array in part.items():
                sums[name] += array
            adjoint = {n: first[links[n]] if n in links else self._xp.zeros_like(a) for n, a in adjoint.items()}
        for final, name in links.items():
            outputs[name][...] = adjoint[final]

    def _segments(self) -> Iterator[tuple[int, int]]:
        return ((a, min(a + self._size, self._steps)) for a in range(0, self._steps, self._size))

    def _run(self, start: int, stop: int, output: Array) -> tuple[Any, dict[str, Array]]:
        """Runs one segment forward, and returns its tape and its final states."""
        state = self._states[start // self._size]
        inputs = self._inputs | state | {X: self._inputs[X][start:stop]}
        last = {name: fresh.empty_like(state[first], self._xp) for name, first in self._links.items()}
        lengths = None if self._lengths is None else self._xp.clip(self._lengths - start, 0, stop - start)
        tape = self._bound.start(inputs, {OUTPUT: output} | last, stop - start, self._batch, lengths)
        return tape, last
