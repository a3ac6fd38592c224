"""Threads for large calls: sequences of a batch are independent, so each thread runs its own rows from start to end.

Nothing is shared but the weights, and threads meet once a call. The pool is made on first use, and again after a fork.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

MOST_WORKERS = 256

_pool: list[ThreadPoolExecutor] = []


def run_all(jobs: Sequence[Callable[[], object]], give_up: Callable[[], object] | None = None) -> None:
    """Runs all jobs at once, the first on the calling thread; returns when all are done, raising the first error.

    give_up: called if a job cannot be started or the first one fails, so that others need not wait for it.
    """
    futures: list[Future[object]] = []
    try:
        futures.extend(_workers().submit(job) for job in jobs[1:])
        jobs[0]()
    except BaseException:
        if give_up is not None:
            give_up()
        raise
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
