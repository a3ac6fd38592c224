"""Quick calls: a method that tries the backend's quick way first, and else checks its arguments one by one.

Arguments that do not exist raise ArgumentTypeError; to take them here costs less than a wrapper that does so
(`rnnc.checking.arguments.explained`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from rnnc.checking.arguments import misfit
from rnnc.ir.errors import ArgumentTypeError


def way_in(quick: object) -> str:
    """How plain calls are carried out, a line for a reader. quick: what an attribute of `quick_first` holds."""
    entered = "enter machine code directly" if quick is not None else "are checked in Python first, as all others"
    return f"plain calls, of nothing but x and state, {entered}\n"


MISSING = object()

F = TypeVar("F", bound=Callable[..., Any])


def quick_first(slot: str) -> Callable[[F], F]:
    """A call by the function in an attribute, if there is one and the arguments are plain; else the checked call.

    slot: the attribute; it holds what `rnnc.backends.base.Bound.quick` gives. The checked method takes x, perhaps
    state, and by name lengths and perhaps out.
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
                except MemoryError:  # the checked call says what it is for
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
