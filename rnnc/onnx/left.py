"""Left: what says that a node cannot be compiled."""

from __future__ import annotations

__all__ = ["Left"]


class Left(Exception):
    """A node cannot be compiled. Its text says why. later: only not in the network of what it reads."""

    def __init__(self, why: str, later: bool = False) -> None:
        super().__init__(why)
        self.later = later
