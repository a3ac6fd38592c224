"""The second half of a call of `rnnc.vjp`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from rnnc.checking.arguments import explained
from rnnc.checking.wrt import EVERY
from rnnc.copies import Unchanging, refusal
from rnnc.ir import names

if TYPE_CHECKING:
    from rnnc.backends.arrays import Array
    from rnnc.backends.base import QuickTape, Tape
    from rnnc.checking.calls import Call
    from rnnc.derivatives import VJP, State

__all__ = ["Pullback", "clear"]


class Pullback(Unchanging):
    """The second half of a call of `vjp`: it maps adjoints of the results to adjoints of the arguments.

    It may be called any number of times. It keeps the values that it needs, so later changes of the parameters or of x
    have no effect on it.
    """

    def __init__(self, owner: VJP, call: Callable[[], Call], tape: Tape | None, quick: QuickTape | None = None) -> None:
        """call: returns the checked arguments. quick: the tape, if it has a quick way in."""
        self._owner = owner
        self._call = call
        self._tape = tape
        self._quick = quick

    def __reduce__(self) -> tuple[Any, ...]:
        instead = "it keeps what one call computed; pickle the function of rnnc.vjp, and call it again"
        raise refusal(self, "cannot be pickled", instead)

    @explained
    def __call__(self, d_output: Array | None = None, d_state: State | None = None) -> tuple[Any, Any, Any]:
        """Returns (d_params, d_x, d_state), the gradients of <d_output, output> + <d_state, state>.

        d_output, d_state: adjoints, shaped like output and state, in the spec's dtype. None stands for zeros.
        The results are new arrays: d_params is name -> array, shaped like the parameters; d_x and d_state are shaped
        like x and state. Past a row's length, d_x is zero, and d_output is not read. What `wrt` leaves out is None.
        Raises ShapeError, DtypeError, ArgumentError or ArgumentTypeError.
        """
        if self._quick is not None:
            try:
                found: tuple[Any, Any, Any] | None = self._quick.quick(d_output, d_state)
            except MemoryError:  # the checked call raises it again, with a message
                found = None
            if found is not None:
                return found
        self._owner._tally.python += 1
        owner, call = self._owner, self._call()
        seeds = owner._seeds("", d_output, d_state, call, names.GRADIENT)
        outputs, gradients = owner._wanted_gradients(call)
        if self._tape is None:
            clear(outputs)
        else:
            self._tape.finish(seeds, owner._computed(outputs))
            owner._gather(call, outputs, gradients, names.GRADIENT)
        result: list[Any] = [found if each in owner.wrt else None for each, found in zip(EVERY, gradients, strict=True)]
        d_params, d_x, d_state = result
        return d_params, d_x, d_state


def clear(arrays: Mapping[str, Array]) -> None:
    """Sets arrays to zeros."""
    for array in arrays.values():
        array[...] = 0
