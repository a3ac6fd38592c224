"""Quick calls: methods that first try the backend's quick call, and otherwise check their arguments one by one.

Arguments that a method does not have raise ArgumentTypeError. The quick call handles them itself, because that costs
less than the wrapper `rnnc.checking.arguments.explained`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import numpy as np

from rnnc.backends.call_forms import OUTCOMES
from rnnc.checking.arguments import misfit
from rnnc.checking.arrays import as_array
from rnnc.ir.errors import ArgumentTypeError


class Calls(NamedTuple):
    """How many calls were made in which way.

    native: by machine code, which checked the arguments. python: Python checked the arguments, or refused them.
    declined: reason -> the number of calls that machine code left to Python for it (`call_forms.OUTCOMES` says
        what the reasons mean). Such a call is native after all if its arguments are plain when Python has read them, as
        tensors of torch are.
    """

    native: int = 0
    python: int = 0
    declined: Mapping[str, int] = MappingProxyType({})


class Tally:
    """The counts behind `Calls`. outcomes: what quick calls count."""

    def __init__(self) -> None:
        self.outcomes = np.zeros(len(OUTCOMES), np.int64)
        self.python = 0

    def calls(self) -> Calls:
        """The counts until now."""
        named = dict(zip(OUTCOMES, self.outcomes.tolist(), strict=True))
        native = named.pop("native")
        return Calls(native, self.python, {reason: count for reason, count in named.items() if count})


def way_in(quick: object, calls: str = "plain calls") -> str:
    """A line for `explain` that says how plain calls are made. quick: the value of the attribute of `quick_first`."""
    entered = "enter machine code directly" if quick is not None else "are checked in Python first, as all others"
    return f"{calls} {entered}\n"


MISSING = object()

F = TypeVar("F", bound=Callable[..., Any])


def quick_first(slot: str) -> Callable[[F], F]:
    """A decorator of a checked method: arguments that it has go to the quick call first, if there is one.

    slot: the attribute that holds the quick call, the result of `rnnc.backends.base.Bound.quick`. The checked method
    takes x, possibly state, and by name lengths and possibly out. Its object has a `_tally`.
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
            fits = not others and not unknown and (has_state or state is None) and (has_out or out is None)
            way = getattr(self, slot) if fits else None
            if way is not None:
                try:
                    result = way(x, state) if lengths is None and out is None else way(x, state, lengths, out)
                    if result is None and (read := read_arguments(x, state, lengths)) is not None:
                        result = way(*read, out)
                except MemoryError:  # the checked call raises it again, with a message
                    result = None
                if result is not None:
                    return result
            self._tally.python += 1
            placed = [] if x is MISSING else [x]
            if has_state or state is not None:
                placed.append(state)
            named = {"lengths": lengths} | ({"out": out} if has_out or out is not None else {}) | unknown
            if x is MISSING or others or unknown or not named.keys() <= known or len(placed) > 1 + has_state:
                raise ArgumentTypeError(misfit(checked, (self, *placed, *others), named))
            return checked(self, *placed, **named)

        return functools.wraps(checked)(__call__)  # type: ignore[return-value]

    return quick


def read_arguments(x: Any, state: Any, lengths: Any) -> tuple[Any, Any, Any] | None:
    """The arguments as NumPy arrays, in tuples and dicts; None if they are such already, or cannot be read."""
    try:
        read = _arrays(x), _arrays(state), _lengths(lengths)
    except Exception:  # whatever is wrong with an object, the checked call says it
        return None
    changed = read[0] is not x or read[1] is not state or read[2] is not lengths
    return read if changed else None


def _arrays(value: Any) -> Any:
    """An array, or a container of arrays; the object itself if that is what it is."""
    if isinstance(value, (tuple, list)):
        items = tuple(map(_array, value))
        same = type(value) is tuple and all(a is b for a, b in zip(items, value, strict=True))
        return value if same else items
    if isinstance(value, Mapping):
        named = {key: _array(item) for key, item in value.items()}
        return value if type(value) is dict and all(named[key] is value[key] for key in value) else named
    return _array(value)


def _array(value: Any) -> Any:
    return value if value is None or type(value) is np.ndarray else as_array("", value)


def _lengths(value: Any) -> Any:
    if not isinstance(value, (tuple, list)):
        return _array(value)
    found = np.asarray(value)
    return found if found.dtype == np.int64 else value


def plain_lengths(value: Any) -> Any:
    """Lengths as a quick call takes them, if they can be read: an array for a list, or for a tensor of torch."""
    try:
        return _lengths(value)
    except Exception:  # whatever is wrong with an object, the checked call says it
        return value
