"""Where a block's weights are, from step to step."""

from __future__ import annotations

from enum import Enum


class WeightMemory(Enum):
    """Where a block's weights are, from step to step.

    CACHE: in memory, read in every step through the second-level cache by a kernel that runs all steps. MEMORY: the
    same, by a launch for each phase.
    """

    REGISTERS = "registers"
    SHARED = "shared memory"
    CACHE = "cache"
    MEMORY = "memory"
