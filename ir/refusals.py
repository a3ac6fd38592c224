"""Python syntax without a meaning on symbolic values: it raises errors that say what to write instead."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NoReturn

from rnnc.ir.errors import ArgumentTypeError, IRError, MissingNameError


class NoConcreteValue:
    """The base of symbolic values, which are known only when the network runs."""

    @property
    def shape(self) -> tuple[int | str, ...]:
        """The sizes of the value's axes."""
        raise NotImplementedError

    def __bool__(self) -> bool:
        raise IRError(
            "a symbolic value has no truth value: write where(condition, a, b) (or select) instead of `if`, &, | and ~ "
            "instead of `and`, `or`, `not` and 0 < v < 1, maximum(v, w) instead of max(v, w)"
        )

    def __len__(self) -> int:
        raise IRError(f"a symbolic value has no length; its shape is v.shape, here {self.shape}")

    def __iter__(self) -> Iterator[NoReturn]:
        raise IRError("a symbolic value cannot be iterated over; v.split(n) gives its parts")

    def __contains__(self, item: object) -> bool:
        raise IRError("`in` on a symbolic value has no answer before the network runs; compare: v == w gives a mask")

    def __setitem__(self, index: object, value: object) -> None:
        raise IRError("a symbolic value never changes: join new parts with concat, or choose with where")

    def __float__(self) -> float:
        raise ArgumentTypeError(
            "a symbolic value is no number before the network runs; in place of math.tanh(v) write tanh(v), with the "
            "functions of rnnc.ir.equations"
        )

    def __int__(self) -> int:
        raise ArgumentTypeError("a symbolic value is no number before the network runs: floor(v), rint(v) round it")

    def __complex__(self) -> complex:
        raise ArgumentTypeError("a symbolic value is no number before the network runs, and never complex")

    def __index__(self) -> int:
        raise ArgumentTypeError("a symbolic value is no index: sizes and indices are Python integers")

    def __getattr__(self, name: str) -> NoReturn:
        hint = f"write {name}(v), from rnnc.ir.equations" if is_function(name) else "its shape is v.shape"
        raise MissingNameError(f"a symbolic value has no attribute {name!r}; {hint}")


def is_function(name: str) -> bool:
    """True if `rnnc.ir.equations` has a function of this name."""
    from rnnc.ir import equations

    return name in equations.__all__
