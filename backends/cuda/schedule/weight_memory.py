"""The memory that holds a block's weights from step to step."""

from __future__ import annotations

from enum import Enum


class WeightMemory(Enum):
    """The memory that holds a block's weights from step to step.

    CACHE: a kernel that runs all steps reads them in every step, through the second-level cache. MEMORY: one launch per
    phase reads them.
    """

    REGISTERS = "registers"
    SHARED = "shared memory"
    CACHE = "cache"
    MEMORY = "memory"
