"""The parts of the benchmark by name, in the order of its tables. A new part is a module of jobs, and a line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from benchmarks.parts import calls, latency, races, startup
from benchmarks.parts.jobs import Job

PARTS: Mapping[str, Callable[[int], list[Job]]] = {
    "inference": lambda threads: races.jobs("inference", threads),
    "training": lambda threads: races.jobs("training", threads),
    "small": lambda threads: races.jobs("small", threads) + (calls.jobs() if threads == 1 else []),
    "narrow": lambda threads: races.jobs("narrow", threads),
    "startup": lambda threads: startup.jobs() if threads == 1 else [],
    "latency": lambda threads: latency.jobs() if threads == 1 else [],
}
"""Name -> the jobs for a number of threads. What has one thread only gives none for more."""
