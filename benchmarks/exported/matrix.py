"""The matrix: every kind of network on every target, against the reference backend."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

import rnnc
from benchmarks.exported import runners
from benchmarks.exported.cases import CASES, Case, expected, given_to
from benchmarks.exported.programs import Given, at_once, results, write_given
from rnnc.backends.llvm.portable.interface import CInterface

WORST = {"float32": 5e-6, "float64": 1e-12}
WORST_NARROW = 3e-2
"""A sum that is rounded another way may round to the next number of eight bits."""

NOT_FOR = {("cortex-m4f", "float64"): "no FPU for doubles"}
"""A target and a dtype that it has no code for."""


@dataclass
class Cell:
    """Of one group on one target: how many networks are right, how many ran, the largest error, and why others did
    not run."""

    right: int = 0
    ran: int = 0
    error: float = 0.0
    reasons: set[str] = field(default_factory=set)

    def __str__(self) -> str:
        ran = f"{self.right}/{self.ran}, {self.error:.0e}" if self.ran else "-"
        return "; ".join([ran, *sorted(self.reasons)])


def measured(cases: Sequence[Case] = CASES, targets: Sequence[str] = runners.TARGETS) -> dict[tuple[str, str], Cell]:
    """(target, group) -> what came of it."""
    cells: dict[tuple[str, str], Cell] = defaultdict(Cell)
    for case in cases:
        model, oracle = case.made(), case.oracle
        for target in targets:
            cell = cells[target, case.group]
            try:
                error, tolerance = error_of(case, model, oracle, target)
            except runners.Lacking as lacking:
                cell.reasons.add(str(lacking))
                continue
            cell.ran += 1
            cell.right += error <= tolerance
            cell.error = max(cell.error, error)
    return cells


def error_of(case: Case, model: Any, oracle: Any, target: str) -> tuple[float, float]:
    """The largest error of an exported network, by steps and at once, and what is tolerated. Raises Lacking."""
    with TemporaryDirectory() as folder:
        api = _interface(model, Path(folder), target)
        given = given_to(case, api)
        want = expected(oracle, api, given)
        write_given(Path(folder), api, given)
        found = runners.run(Path(folder), target, want.size * api.item)
    worst = largest_error(shown(found, api, given, want.shape), want)
    return worst, WORST_NARROW if case.narrow else WORST[api.dtype]


def largest_error(found: Sequence[Any], want: Any) -> float:
    """Of several results. A NaN, with which outputs are poisoned, is infinitely wrong."""
    return float(np.nan_to_num(np.abs(np.stack(found) - want), nan=np.inf).max())


def _interface(model: Any, folder: Path, target: str) -> CInterface:
    dtype = str(model.spec.dtype) if isinstance(model, rnnc.Model) else "float32"
    if reason := NOT_FOR.get((target, dtype)):
        raise runners.Lacking(reason)
    return rnnc.export(model, folder, "net", targets=target).interface


def shown(found: runners.Results, api: CInterface, given: Given, shape: tuple[int, ...]) -> list[Any]:
    """The results that the program has: by steps, if it is a stream, and at once, if that gives the same."""
    ways = [result for result, has in zip(found, (api.streams, at_once(api)), strict=True) if has]
    return [results(way, api, given).reshape(shape) for way in ways]


def table(cells: dict[tuple[str, str], Cell]) -> str:
    """Markdown: targets down, groups across."""
    groups = list(dict.fromkeys(group for _, group in cells))
    lines = [f"| target | run by | {' | '.join(groups)} |", "|---" * (len(groups) + 2) + "|"]
    for target in dict.fromkeys(target for target, _ in cells):
        row = " | ".join(str(cells[target, group]) for group in groups)
        lines.append(f"| {target} | {runners.how(target)} | {row} |")
    return "\n".join(lines)
