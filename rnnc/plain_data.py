"""JSON for what has a form as plain data: specs and networks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Self

from rnnc.ir.errors import ArgumentError


class PlainData:
    """Base of what `to_dict` and `from_dict` turn into plain data and back."""

    def to_dict(self) -> dict[str, Any]:
        """Every argument as plain data."""
        raise NotImplementedError

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """What `to_dict` described."""
        raise NotImplementedError

    def to_json(self) -> str:
        """`to_dict` as JSON text."""
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What `to_json` described. Raises ArgumentError if the text is not JSON."""
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise ArgumentError(f"text: not JSON: {error}") from error
        return cls.from_dict(data)
