"""The arguments of a model that a pullback computes the gradients of."""

from __future__ import annotations

from collections.abc import Collection

from rnnc.checking import checks
from rnnc.ir.errors import ArgumentError, ArgumentTypeError

__all__ = ["EVERY", "check_wrt"]

EVERY = ("params", "x", "state")
"""The arguments of a model."""


def check_wrt(value: object) -> tuple[str, ...]:
    """The argument `wrt`, in the order of `EVERY`. Raises ArgumentError or ArgumentTypeError."""
    if isinstance(value, str) or not isinstance(value, Collection):
        raise ArgumentTypeError(f"wrt: expected a collection of some of {EVERY}, got {checks.came(value)}")
    chosen = {checks.choice("wrt", each, EVERY) for each in value}
    if not chosen:
        raise ArgumentError(f"wrt: expected at least one of {EVERY}, got {checks.came(value)}")
    return tuple(each for each in EVERY if each in chosen)
