"""What this machine can do at most: arithmetic per second, and bytes per second from each cache, on one core.

Tiny loops in machine code measure it once; the result is kept in the cache on disk. `explain` and reports hold the
phases of a model against it.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rnnc.backends import cache as disk
from rnnc.backends import stamps
from rnnc.backends.llvm.asm import cpuid

CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
MEMORY = "memory"
MEMORY_BYTES = 128 << 20
TRIES = 7


class Level(NamedTuple):
    """A cache, or memory. bytes: its size; 0 for memory. rate: bytes per second that one core reads from it."""

    name: str
    bytes: int
    rate: float


@dataclass(frozen=True)
class Limits:
    """flops: float32 multiplications and additions per second of one core. levels: the nearest first."""

    flops: float
    levels: tuple[Level, ...]

    def level(self, size: int) -> Level:
        """The nearest cache that holds so many bytes, or memory."""
        return next((level for level in self.levels if size <= level.bytes), self.levels[-1])

    def seconds(self, flops: float, weight_bytes: int, runs: float = 1.0) -> float:
        """The least time of work that reads weights so many times."""
        return max(flops / self.flops, runs * weight_bytes / self.level(weight_bytes).rate)


@cache
def limits() -> Limits:
    """Those of this machine: measured in half a second the first time, read from the disk after that."""
    identity = cpuid.identity()
    if identity is None:
        return _measured()
    name = disk.key("limits", identity, stamps.of_package("llvmlite"), str(_caches()))
    return disk.remembered(name, _measured)


def _measured() -> Limits:
    from rnnc.backends.llvm.asm.jit import compile_assembly
    from rnnc.backends.llvm.asm.target import host
    from rnnc.backends.llvm.kernels.machine_loops import CHAINS, READS, emit_loops

    target = host()
    lanes = target.lanes("float32")
    code = compile_assembly(emit_loops(lanes).text(), target)
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
    multiply, read = (call(code.address(name)) for name in ("rnnc_multiply", "rnnc_read"))
    values = np.full(16 * lanes, 0.5, np.float32)
    rounds = 400_000
    seconds = _best(lambda: multiply(values.ctypes.data, rounds, 1))
    levels = []
    for name, size in (*_caches().items(), (MEMORY, 0)):
        chunk = 4 * lanes * READS
        chunks = max(1, (size * 3 // 4 if size else MEMORY_BYTES) // chunk)
        array = np.zeros(chunks * chunk // 4 + 16, np.float32)
        start = array.ctypes.data + (-array.ctypes.data) % 64
        passes = max(1, 16_000_000 // (chunks * chunk))
        took = _best(lambda start=start, chunks=chunks, passes=passes: read(start, chunks, passes))  # type: ignore[misc]
        levels.append(Level(name, size, passes * chunks * chunk / took))
    return Limits(2 * lanes * CHAINS * rounds / seconds, tuple(levels))


def _best(call: Callable[[], object]) -> float:
    """The seconds of the fastest of several calls: the others were held up."""
    found = []
    for _ in range(TRIES):
        begin = time.perf_counter()
        call()
        found.append(time.perf_counter() - begin)
    return min(found)


def _caches() -> dict[str, int]:
    """The bytes of each data cache of a core, the nearest first, where the system says so; otherwise usual ones."""
    found = {}
    for folder in sorted(CACHES.glob("index*")):
        kind, size, level = (folder.joinpath(name).read_text().strip() for name in ("type", "size", "level"))
        if kind != "Instruction" and size.endswith("K"):
            found[f"L{level}"] = int(size.removesuffix("K")) * 1024
    return found or {"L1": 32 << 10, "L2": 1 << 20, "L3": 16 << 20}
