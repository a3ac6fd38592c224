"""Quick calls: methods that first try the backend's quick call, and otherwise check their arguments one by one.

Arguments that a method does not have raise ArgumentTypeError. The quick call handles them itself, because that costs
less than the wrapper `rnnc.checking.arguments.explained`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from rnnc.checking.arguments import misfit
from rnnc.ir.errors import ArgumentTypeError


def way_in(quick: object, calls: str = "plain calls") -> str:
    """A line for `explain` that says how plain calls are made. quick: the value of the attribute of `quick_first`."""
    entered = "enter machine code directly" if quick is not None else "are checked in Python first, as all others"
    return f"{calls}, without lengths and other options, {entered}\n"


MISSING = object()

F = TypeVar("F", bound=Callable[..., Any])


def quick_first(slot: str) -> Callable[[F], F]:
    """A decorator of a checked method: plain arguments go to the quick call first, if there is one.

    slot: the attribute that holds the quick call, the result of `rnnc.backends.base.Bound.quick`. The checked method
    takes x, possibly state, and by name lengths and possibly out.
    """

    def quick(checked: F) -> F:
        code = checked.__code__
        known = frozenset(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount])
        has_state, has_out = "state" in known, "out" in known

        def __call__(
            self: Any,
            x: Any = MISSING,
            state: Any = None,
            *others: Any,
            lengths: Any = None,
            out: Any = None,
            **unknown: Any,
        ) -> Any:
            plain = lengths is None and out is None and not others and not unknown and (has_state or state is None)
            way = getattr(self, slot) if plain else None
            if way is not None:
                try:
                    result = way(x, state)
                except MemoryError:  # the checked call raises it again, with a message
                    result = None
                if result is not None:
                    return result
            placed = [] if x is MISSING else [x]
            if has_state or state is not None:
                placed.append(state)
            named = {"lengths": lengths} | ({"out": out} if has_out or out is not None else {}) | unknown
            if x is MISSING or others or unknown or not named.keys() <= known or len(placed) > 1 + has_state:
                raise ArgumentTypeError(misfit(checked, (self, *placed, *others), named))
            return checked(self, *placed, **named)

        return functools.wraps(checked)(__call__)  # type: ignore[return-value]

    return quick
