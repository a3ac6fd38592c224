"""JSON for objects with a form as plain data: specs and networks."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Self

from rnnc.checking import checks
from rnnc.ir.errors import ArgumentError, ArgumentTypeError
from rnnc.references import warn_if_main

MOST_CHARACTERS = 1 << 24
"""The largest length of a text. The largest networks need about 1 % of it."""


class PlainData:
    """Base of specs and networks: `to_dict` turns them into plain data, and `from_dict` turns that back."""

    def to_dict(self) -> dict[str, Any]:
        """Every argument as plain data: a dict of numbers, strings, booleans, None, lists and dicts."""
        raise NotImplementedError

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, trusted: Collection[str] = ()) -> Self:
        """The object that `to_dict` described. trusted: modules, besides rnnc's, that may be imported for its cells.

        Raises ArgumentError or ArgumentTypeError.
        """
        raise NotImplementedError

    def to_json(self) -> str:
        """`to_dict` as JSON text.

        Warns (RnncWarning) if a cell is defined in the main script, which no other program can import.
        Raises ArgumentError for a cell that cannot be imported by name, and for a number that is not finite, as JSON
        has no form for it.
        """
        data = self.to_dict()
        for name in _named(data):
            warn_if_main(name)
        try:
            import json

            return json.dumps(data, indent=2, allow_nan=False)
        except ValueError as error:
            raise ArgumentError(f"{type(self).__name__} has no form as JSON: {error}") from error

    @classmethod
    def from_json(cls, text: str, *, trusted: Collection[str] = ()) -> Self:
        """The object that `to_json` described.

        trusted: names of modules that may be imported for a user's cell. Importing a module runs it, so by default a
            cell must be in rnnc, or in a module that the program has already imported.
        Raises ArgumentError or ArgumentTypeError, also if the text is not JSON.
        """
        return cls.from_dict(read_json("text", text), trusted=trusted)


def read_json(name: str, text: object) -> Any:
    """The data in a JSON text. Raises ArgumentError, which names the text `name`, if it is not JSON.

    Also refused, though Python's parser accepts most of it: a repeated name in one object, NaN, Infinity, numbers that
    overflow or have thousands of digits, nesting of a thousand levels, and texts longer than MOST_CHARACTERS.
    """
    if not isinstance(text, (str, bytes, bytearray)):
        raise ArgumentTypeError(f"{name}: expected JSON text, got {checks.came(text)}")
    if len(text) > MOST_CHARACTERS:
        raise ArgumentError(f"{name}: expected at most {MOST_CHARACTERS} characters of JSON, got {len(text)}")
    try:
        import json

        return json.loads(text, object_pairs_hook=_object, parse_constant=_constant, parse_float=_float)
    except ValueError as error:  # raised by the parser, the decoder of bytes, int() and the functions below
        raise ArgumentError(f"{name}: not JSON: {error}") from error
    except RecursionError:
        raise ArgumentError(f"{name}: not JSON of a spec: nested too deeply") from None


def _named(data: object) -> Iterator[str]:
    """Every value of "type" in plain data, at any depth."""
    if isinstance(data, Mapping):
        if isinstance(data.get("type"), str):
            yield data["type"]
        data = list(data.values())
    if isinstance(data, list):
        for item in data:
            yield from _named(item)


def _object(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the name {checks.shown(name)} is given twice")
        found[name] = value
    return found


def _constant(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is too large a number")
    return value
