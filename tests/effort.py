"""Which cases `make test` runs: all but those marked rare, and one in n of those marked sampled(n)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any, Protocol, TypeVar
from zlib import crc32

CHOICES = ("fast", "rest", "all")


class Case(Protocol):
    """What is asked of a pytest.Item."""

    nodeid: str

    def get_closest_marker(self, name: str) -> Any:
        """The marker of this name, or None."""


C = TypeVar("C", bound=Case)


def chosen(cases: Sequence[C], effort: str) -> list[C]:
    """The cases of an effort: "fast", "rest" (what fast leaves out), or "all"."""
    if effort == "all":
        return list(cases)
    fast = {case.nodeid for case in cases if _is_fast(case)}
    for _, group in groupby(cases, key=lambda case: case.nodeid.partition("[")[0]):
        members = [case for case in group if case.get_closest_marker("rare") is None]
        if members and fast.isdisjoint(case.nodeid for case in members):
            fast.add(members[0].nodeid)  # at least one
    return [case for case in cases if (case.nodeid in fast) == (effort == "fast")]


def _is_fast(case: Case) -> bool:
    """Not rare, and one of n, by its parameters: tests of one matrix take the same cases, and share compiled code."""
    every = case.get_closest_marker("sampled")
    parameters = case.nodeid.partition("[")[2]
    sampled = every is None or crc32(parameters.encode()) % every.args[0] == 0
    return sampled and case.get_closest_marker("rare") is None
