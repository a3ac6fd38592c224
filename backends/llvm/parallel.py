"""Threads for large calls: sequences of a batch are independent, so each thread runs its own rows from start to end.

Nothing is shared but the weights, and threads meet once a call. The pool is made on first use, and again after a fork.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

MOST_WORKERS = 256

_pool: list[ThreadPoolExecutor] = []


def run_all(jobs: Sequence[Callable[[], object]]) -> None:
    """Runs all jobs at once, the first on the calling thread; returns when all are done, raising the first error."""
    futures = [_workers().submit(job) for job in jobs[1:]]
    try:
        jobs[0]()
    finally:
        for future in futures:
            future.exception()
    for future in futures:
        future.result()


def _workers() -> ThreadPoolExecutor:
    if not _pool:
        _pool.append(ThreadPoolExecutor(MOST_WORKERS, thread_name_prefix="rnnc"))
    return _pool[0]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.clear)
