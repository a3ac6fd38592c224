"""Which cases `make test` and `make rest` run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations, product
from types import SimpleNamespace
from typing import Any, NamedTuple

from tests.effort import chosen


class Marked(NamedTuple):
    """A case with at most one marker. values: (the names that one parametrize varies, their values in this case)."""

    nodeid: str
    marker: str = ""
    n: int = 1
    values: tuple[tuple[str, tuple[object, ...]], ...] = ()

    def get_closest_marker(self, name: str) -> Any:
        return SimpleNamespace(args=(self.n,)) if name == self.marker else None

    def iter_markers(self, name: str) -> Iterator[Any]:
        assert name == "parametrize"
        return iter([SimpleNamespace(args=(names,)) for names, _ in self.values if names != "backend"])

    @property
    def callspec(self) -> Any:
        return SimpleNamespace(
            params={n: v for names, row in self.values for n, v in zip(names.split(","), row, strict=True)}
        )


def cases_of(test: str, options: dict[str, Sequence[tuple[object, ...]]], marker: str = "", n: int = 1) -> list[Marked]:
    """All combinations of the rows of some parameters."""
    rows = [tuple(zip(options, row, strict=True)) for row in product(*options.values())]
    return [Marked(f"a.py::{test}[{number}]", marker, n, row) for number, row in enumerate(rows)]


def alone(test: str, count: int, marker: str = "", n: int = 1) -> list[Marked]:
    """Cases with one parameter."""
    return cases_of(test, {"case": [(number,) for number in range(count)]}, marker, n)


def test_cases_of_one_parameter_are_run_by_make_test_or_by_the_rest() -> None:
    plain, rare = alone("test_plain", 5), alone("test_rare", 5, "rare")
    sampled, few = alone("test_sampled", 100, "sampled", 4), alone("test_few", 3, "sampled", 1000)
    cases = [*plain, *rare, *sampled, *few, Marked("a.py::test_without")]
    fast, rest = chosen(cases, "fast"), chosen(cases, "rest")
    assert sorted([*fast, *rest]) == sorted(cases) == sorted(chosen(cases, "all"))
    assert {*plain, cases[-1]} <= set(fast) and set(rare) <= set(rest)
    assert 10 <= len(set(sampled) & set(fast)) <= 40 and len(set(few) & set(fast)) == 1


OPTIONS: dict[str, Sequence[tuple[object, ...]]] = {
    "backend": [("reference",), ("llvm",)],
    "cell": [(cell,) for cell in "abcdef"],
    "dtype": [("float32",), ("float64",)],
    "flag": [(True,), (False,)],
}


def test_make_test_has_each_value_and_the_rest_each_pair_of_values() -> None:
    cases = cases_of("test_it", OPTIONS)
    fast, rest = chosen(cases, "fast"), chosen(cases, "rest")
    on = {name: [dict(case.values) for case in fast if case.values[0][1] == (name,)] for name in ("reference", "llvm")}
    assert len(on["reference"]) == 1 and len(on["llvm"]) == 6
    for name in ("cell", "dtype", "flag"):
        assert {choice[name] for choice in on["llvm"]} == set(OPTIONS[name])
    both = [dict(case.values) for case in (*fast, *rest)]
    for a, b in combinations(OPTIONS, 2):
        assert {(choice[a], choice[b]) for choice in both} == set(product(OPTIONS[a], OPTIONS[b]))
    assert len(both) < len(cases) and not set(fast) & set(rest)


def test_the_rows_of_a_table_are_values_of_one_parameter() -> None:
    cases = cases_of("test_it", {"cell,size": [("a", 4), ("b", 4), ("a", 8)], "dtype": OPTIONS["dtype"]})
    assert len(chosen(cases, "fast")) == 3
