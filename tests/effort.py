"""Which cases of the tests run: for `make test`, for `make rest`, and without an option.

    all    every case
    fast   of each test, cases that have each value of each of its parameters, but none that is marked rare; of a test
           marked sampled(n), one in n cases is considered
    rest   what fast leaves out, as far as it has a pair of values that no other case has

A parameter is what one `parametrize` varies, so the rows of a table are values of one parameter: none is left out.
`backend` is special. The cases on one backend cover the values of all other parameters, and each other backend has one
case, because most tests hold a backend against the same numbers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, Protocol, TypeVar
from zlib import crc32

CHOICES = ("fast", "rest", "all")
COVERED = "llvm"
"""The backend whose cases cover the other parameters, where a test has it; otherwise its first one."""

Values = dict[str, Hashable]
"""The parameters of a case: the names that one `parametrize` varies -> the value, or whatever tells it from others."""


class Case(Protocol):
    """What is asked of a pytest.Item."""

    nodeid: str

    def get_closest_marker(self, name: str) -> Any:
        """The marker of this name, or None."""

    def iter_markers(self, name: str) -> Iterator[Any]:
        """All markers of this name."""


C = TypeVar("C", bound=Case)


def chosen(cases: Sequence[C], effort: str) -> list[C]:
    """The cases of an effort: "fast", "rest", or "all"."""
    if effort == "all":
        return list(cases)
    groups: dict[str, list[C]] = defaultdict(list)
    for case in cases:
        groups[case.nodeid.partition("[")[0]].append(case)
    taken = {case.nodeid for group in groups.values() for case in _of_one_test(group, effort)}
    return [case for case in cases if case.nodeid in taken]


def _of_one_test(cases: Sequence[C], effort: str) -> list[C]:
    values = {case.nodeid: values_of(case) for case in cases}
    often = [case for case in cases if case.get_closest_marker("rare") is None]
    fast = _covering([case for case in often if _is_sampled(case)] or often[:1], values, 1, ())
    return fast if effort == "fast" else _covering(cases, values, 2, fast)


def _is_sampled(case: Case) -> bool:
    """One of n, by its parameters: tests of one matrix take the same cases, and share compiled code."""
    every = case.get_closest_marker("sampled")
    return every is None or crc32(case.nodeid.partition("[")[2].encode()) % every.args[0] == 0


def values_of(case: Case) -> Values:
    """The parameters of a case. Values are told apart by identity, because the cases of a test share them."""
    callspec = getattr(case, "callspec", None)
    if callspec is None:
        return {}
    left = dict(callspec.params)
    values: Values = {}
    for marker in case.iter_markers("parametrize"):
        names = marker.args[0] if marker.args else marker.kwargs["argnames"]
        together = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
        values[",".join(together)] = tuple(_identity(left.pop(name)) for name in together)
    return values | {name: _identity(value) for name, value in left.items()}


def _identity(value: Any) -> Hashable:
    return value if isinstance(value, str) else id(value)


def _covering(cases: Sequence[C], values: Mapping[str, Values], strength: int, known: Sequence[C]) -> list[C]:
    """Cases that have, with the known ones, every combination that the cases have of `strength` values. Greedy."""
    backends = [values[case.nodeid]["backend"] for case in cases if "backend" in values[case.nodeid]]
    covered = COVERED if COVERED in backends else next(iter(backends), None)
    has = {case.nodeid: _combinations(values[case.nodeid], strength, covered) for case in (*cases, *known)}
    missing = {combination for case in cases for combination in has[case.nodeid]}
    missing.difference_update(*(has[case.nodeid] for case in known))
    found: list[C] = []
    while missing:
        best = max(cases, key=lambda case: len(missing & has[case.nodeid]))
        found.append(best)
        missing -= has[best.nodeid]
        cases = [case for case in cases if not missing.isdisjoint(has[case.nodeid])]
    return found


def _combinations(values: Values, strength: int, covered: Hashable) -> set[Hashable]:
    """The combinations of values that a case has. Alone, a value counts only on the backend that covers the others."""
    if strength == 1 and values.get("backend", covered) != covered:
        return {("backend", values["backend"])}
    return set(combinations(values.items(), min(strength, len(values))))
