"""Attributes of a node, each checked for its type: a wrong one is an OnnxError that names node and attribute."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnc.checking import checks
from rnnc.ir.errors import OnnxError
from rnnc.onnx.file import Node

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Attributes"]


class Attributes:
    """The attributes of a node by name; each method gives the default where there is none."""

    def __init__(self, node: Node) -> None:
        self.label = node.label
        self._given = node.attributes

    def __contains__(self, name: str) -> bool:
        return name in self._given

    def integer(self, name: str, default: int) -> int:
        """An integer."""
        return int(self._of(name, int, default, "an integer"))

    def size(self, name: str) -> int | None:
        """An integer >= 1, or None."""
        if name not in self._given:
            return None
        number = self.integer(name, 0)
        if number < 1:
            raise OnnxError(f"{self.label}: {name}: expected an integer >= 1, got {number}")
        return number

    def choice_of(self, name: str, default: int, options: Collection[int]) -> int:
        """One of a few integers."""
        number = self.integer(name, default)
        if number not in options:
            raise OnnxError(f"{self.label}: {name}: expected {' or '.join(map(str, options))}, got {number}")
        return number

    def number(self, name: str, default: float | None) -> float | None:
        """A float."""
        found: float | None = self._of(name, float, default, "a number")
        return found

    def text(self, name: str, default: str) -> str:
        """A text."""
        return str(self._of(name, str, default, "text"))

    def choice(self, name: str, default: str, options: Collection[str]) -> str:
        """One of a few texts."""
        found = self.text(name, default)
        if found not in options:
            expected = " or ".join(map(repr, options))
            raise OnnxError(f"{self.label}: {name}: expected {expected}, got {checks.shown(found)}")
        return found

    def integers(self, name: str, default: tuple[int, ...] | None = None) -> tuple[int, ...] | None:
        """Some integers."""
        found: tuple[int, ...] | None = self._list(name, int, default, "integers")
        return found

    def floats(self, name: str) -> tuple[float, ...]:
        """Some floats, none by default."""
        return tuple(self._list(name, float, (), "numbers"))

    def texts(self, name: str, default: tuple[str, ...]) -> tuple[str, ...]:
        """Some texts."""
        return tuple(self._list(name, str, default, "texts"))

    def array(self, name: str) -> NDArray[Any] | None:
        """A tensor, or None."""
        found: NDArray[Any] | None = self._of(name, np.ndarray, None, "a tensor")
        return found

    def _of(self, name: str, kind: type, default: Any, expected: str) -> Any:
        value = self._given.get(name, default)
        if value is not default and not isinstance(value, kind):
            raise OnnxError(f"{self.label}: {name}: expected {expected}, got {checks.came(value)}")
        return value

    def _list(self, name: str, kind: type, default: Any, expected: str) -> Any:
        value = self._given.get(name, default)
        if value is default or value == ():
            return value
        if not isinstance(value, tuple) or not all(isinstance(item, kind) for item in value):
            raise OnnxError(f"{self.label}: {name}: expected {expected}, got {checks.came(value)}")
        return value
