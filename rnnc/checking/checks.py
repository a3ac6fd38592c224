"""Checks of plain arguments.

Each takes the argument's name and value. It returns the value in its normal form, or raises an error of rnnc.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable

import numpy as np

from rnnc.ir.errors import ArgumentError, ArgumentTypeError, DtypeError

DTYPES = ("float32", "float64")
MAX_SIZE = 2**31 - 1


def came(value: object) -> str:
    """The text with which a message shows a wrong argument: the value, cut short, and its type."""
    return f"{shown(value)} ({type(value).__name__})"


def shown(value: object) -> str:
    """The repr of a value, cut short, for a message. A value without a repr is shown as its type."""
    try:
        text = repr(value)
    except Exception:  # an int of thousands of digits, a deeply nested list, a faulty class of the user's
        return f"<{type(value).__name__}>"
    return text if len(text) <= 60 else text[:57] + "..."


def integer(name: str, value: object, minimum: int, maximum: int = MAX_SIZE) -> int:
    """The value as an int within both bounds. NumPy's integers are accepted; bool is not."""
    if isinstance(value, (bool, np.bool_)) or not hasattr(type(value), "__index__"):
        raise ArgumentTypeError(f"{name}: expected an integer >= {minimum}, got {came(value)}")
    try:
        found = operator.index(value)  # type: ignore[arg-type]
    except Exception:  # arrays of several numbers have __index__ too, and a user's class may raise anything
        raise ArgumentTypeError(f"{name}: expected one integer, got {came(value)}") from None
    if not minimum <= found <= maximum:
        bound = f">= {minimum}" if found < minimum else f"<= {maximum}"
        raise ArgumentError(f"{name}: expected an integer {bound}, got {shown(found)}")
    return found


def flag(name: str, value: object) -> bool:
    """True or False. Other truthy values are refused, because a number here is mostly an argument in a wrong place."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    raise ArgumentTypeError(f"{name}: expected True or False, got {came(value)}; check the order of the arguments")


def probability(name: str, value: object) -> float:
    """The value as a float in [0, 1)."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise ArgumentTypeError(f"{name}: expected a number in [0, 1), got {came(value)}")
    if not 0 <= value < 1:  # NaN fails too
        raise ArgumentError(f"{name}: expected a number in [0, 1), got {shown(value)}")
    return float(value)


def number(name: str, value: object, minimum: float = 0.0, *, above: bool = False) -> float:
    """The value as a finite float >= minimum, or > minimum with `above`. NumPy's numbers are accepted; bool is not."""
    expected = f"expected a number {'>' if above else '>='} {minimum:g}"
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise ArgumentTypeError(f"{name}: {expected}, got {came(value)}")
    if not minimum <= value < float("inf") or (above and value == minimum):
        raise ArgumentError(f"{name}: {expected}, got {shown(value)}")
    try:
        return float(value)
    except OverflowError:
        raise ArgumentError(f"{name}: {expected}, got {shown(value)}") from None


def choice(name: str, value: object, options: Iterable[str]) -> str:
    """The value, which must be one of a few strings."""
    if isinstance(value, str) and value in options:
        return str(value)
    expected = " or ".join(repr(option) for option in options)
    kind = ArgumentError if isinstance(value, str) else ArgumentTypeError
    raise kind(f"{name}: expected {expected}, got {came(value)}")


def dtype(name: str, value: object) -> str:
    """ "float32" or "float64", from that string or from a NumPy dtype or scalar type."""
    if isinstance(value, type) and issubclass(value, np.generic):
        value = np.dtype(value)
    found = value.name if isinstance(value, np.dtype) and value.isnative else value
    if isinstance(found, str) and found in DTYPES:
        return str(found)
    plain = shown(value).removeprefix("torch.")
    hint = f"; write {plain!r}" if plain in DTYPES else ""
    raise DtypeError(f"{name}: expected 'float32', 'float64' or such a NumPy dtype, got {came(value)}{hint}")


def suggestion(name: str, options: Iterable[str]) -> str:
    """ " (did you mean 'x'?)" for the closest option; an empty text if none is close."""
    import difflib

    known = list(options)
    close = [o for o in known if o.lower() == name.lower()] or difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
