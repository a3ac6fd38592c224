"""Where a block's weights are, from step to step."""

from __future__ import annotations

from enum import Enum


class Home(Enum):
    """Where a block's weights are, from step to step."""

    REGISTERS = "registers"
    SHARED = "shared memory"
    MEMORY = "memory"
