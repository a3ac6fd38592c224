"""benchmarks.exported finds right libraries right, and wrong ones wrong, on the targets that can be run here."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rnnc
from benchmarks.exported import __main__ as command
from benchmarks.exported import matrix, models, runners
from benchmarks.exported.cases import CASES
from benchmarks.exported.nets import amplifier

needs_compiler = pytest.mark.skipif(
    shutil.which("cc") is None or sys.platform != "linux", reason="programs of C are built"
)
CHEAP = "x86-64-v2"


@needs_compiler
@pytest.mark.parametrize("group", ["layers", "ragged"])
def test_a_wrong_result_is_counted_as_wrong(group: str) -> None:
    case = next(case for case in CASES if case.group == group)
    (right,) = matrix.measured([case], [CHEAP]).values()
    if right.reasons:
        pytest.skip(str(right))
    assert (right.right, right.ran) == (1, 1)
    other: Any = replace(case, made=lambda **options: _other(case, options))
    (wrong,) = matrix.measured([other], [CHEAP]).values()
    assert (wrong.right, wrong.ran) == (0, 1)
    assert matrix.table({(CHEAP, group): wrong}).endswith(f"| {CHEAP} | native | {wrong} |")


def _other(case: Any, options: dict[str, Any]) -> Any:
    """The network; but as an oracle, with other weights."""
    model = case.made(**options)
    if not options:
        return model
    return rnnc.compile(model.spec, model.spec.init(seed=2), **options)


def test_poison_is_wrong() -> None:
    assert matrix.largest_error([np.array([0.0, 1.0]), np.array([0.0, np.nan])], np.array([0.0, 1.0])) == np.inf


@needs_compiler
def test_rows_of_a_real_model(tmp_path: Path) -> None:
    try:
        (row,) = models.Racing(amplifier(8), tmp_path, [CHEAP]).rows(1, {})
    except runners.Lacking as lacking:
        pytest.skip(str(lacking))
    assert row.error <= row.tolerance and row.unit == "ns" and row.piece is not None
    assert row.weight.code is not None and row.weight.code > 1000 and row.weight.constants > 4 * 8 * 8 * 4
    assert f"| {row.net} | {CHEAP} | native |" in models.table([row])


def test_targets_that_nothing_runs_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    cells = matrix.measured(CASES[:1], ["aarch64", "wasm32"])
    assert [str(cell) for cell in cells.values()] == [
        "-; aarch64-linux-gnu-gcc is not installed",
        "-; clang is not installed",
    ]


@pytest.mark.parametrize("words", [["matrices"], ["models", "--targets", "pdp-11"]])
def test_unknown_words_are_refused(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["exported", *words])
    with pytest.raises(SystemExit):
        command.main()
    assert "unknown" in capsys.readouterr().err


@pytest.mark.rare
@pytest.mark.parametrize("target", runners.TARGETS)
def test_every_kind_of_network_on_every_target(target: str) -> None:
    cells = matrix.measured(targets=[target])
    for (_, group), cell in cells.items():
        if not cell.ran:
            pytest.skip(str(cell))
        assert cell.right == cell.ran, f"{group}: {cell}"
