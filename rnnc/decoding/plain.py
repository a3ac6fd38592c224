"""A decoder from plain data."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from rnnc.checking import checks
from rnnc.decoding.choices import Beam, Choice, Greedy, Sample
from rnnc.graph import Graph
from rnnc.ir.errors import ArgumentError, ArgumentTypeError

CHOICES: dict[str, type[Choice]] = {choice.__name__: choice for choice in (Beam, Greedy, Sample)}
NAMES = ("step", "encoder", "states", "memory", "choice", "start", "end", "steps")


def decoder_arguments(data: object, trusted: Collection[str]) -> dict[str, Any]:
    """The arguments of `rnnc.Decoder` that its `to_dict` described. Raises ArgumentError or ArgumentTypeError."""
    if not isinstance(data, Mapping) or data.get("type") != "Decoder":
        raise ArgumentTypeError(f"data: expected a dict such as Decoder.to_dict() gives, got {checks.came(data)}")
    for name in set(data) ^ {*NAMES, "type"}:
        raise ArgumentError(f"data: {checks.shown(name)} is {'missing' if name in NAMES else 'no argument of Decoder'}")
    found = {name: data[name] for name in NAMES}
    found["step"] = Graph.from_dict(found["step"], trusted=trusted)
    if found["encoder"] is not None:
        found["encoder"] = Graph.from_dict(found["encoder"], trusted=trusted)
    return found | {"choice": _choice(found["choice"])}


def _choice(data: object) -> Choice:
    if not isinstance(data, Mapping):
        raise ArgumentTypeError(f"choice: expected a dict, got {checks.came(data)}")
    kind = CHOICES[checks.choice("choice: type", data.get("type"), CHOICES)]
    return kind(**{name: value for name, value in data.items() if name != "type"})
