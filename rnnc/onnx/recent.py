"""A mapping of bounded size that forgets what was used longest ago."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from contextlib import suppress
from typing import Generic, TypeVar

__all__ = ["Recent"]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Recent(Generic[K, V]):
    """At most `most` values by key. A value that is put into a full one replaces the least recently used.

    Threads may share it: each change is one operation of an OrderedDict.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._values: OrderedDict[K, V] = OrderedDict()  # the least recently used first

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: K) -> V | None:
        """The value of a key, which counts as a use; None if there is none."""
        value = self._values.get(key)
        if value is not None:
            with suppress(KeyError):  # another thread has just dropped it
                self._values.move_to_end(key)
        return value

    def put(self, key: K, value: V) -> V:
        """Keeps a value, and returns it."""
        self._values[key] = value
        with suppress(KeyError):
            self._values.move_to_end(key)
            while len(self._values) > self.most:
                self._values.popitem(last=False)
        return value

    def items(self) -> list[tuple[K, V]]:
        """All keys and values, the least recently used first."""
        return list(self._values.items())

    def clear(self) -> None:
        """Forgets all."""
        self._values.clear()
