"""Listings of machine code: notes tie each loop to its phase and equation, and change no instruction."""

from __future__ import annotations

import re
from typing import Any

import pytest

import rnnc
from rnnc.backends.llvm.listing import phase_of_listing, phase_of_plan, phases_in
from rnnc.cli import main
from tests.matrix_cells import DeltaRule

MADE: dict[str, Any] = {
    "gru": lambda: rnnc.compile(rnnc.GRU(3, 40)),
    "two directions": lambda: rnnc.compile(rnnc.LSTM(3, 9, 2, bidirectional=True)),
    "gradients": lambda: rnnc.vjp(rnnc.GRU(3, 9)),
    "matrix states": lambda: rnnc.compile(rnnc.Recurrent(DeltaRule(), 3, 8)),
    "int8": lambda: rnnc.compile(rnnc.GRU(8, 16), weights="int8"),
}


def instructions(text: str) -> list[str]:
    lines = (re.sub(r"\s*(#|//) .*$", "", line).strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith(("#", "//"))]


@pytest.mark.parametrize("name", MADE)
def test_a_listing_has_every_phase_and_no_other_instruction(name: str) -> None:
    made = MADE[name]()
    listing, plan = made.ir("asm"), made.ir("plan")
    assert instructions(listing) == instructions(made._code._artefacts["asm"].assembly())
    phases = phases_in(plan)
    assert phases and set(phases) == set(phases_in(listing))
    for phase in phases:
        function, planned = phase_of_listing(listing, phase), phase_of_plan(plan, phase)
        for line in planned.splitlines()[1:]:
            assert f"#   {line[4:]}" in function, "the equations stand above the function"
        # A phase that shares its function has the loops of the phase that was first.
        owner = re.findall(r"(?m)^# phase (\S+):", function)[0]
        for loop in re.findall(r"(?m)^    (for k < .*)$", phase_of_plan(plan, owner)):
            notes = re.findall(rf"(?m)^# {re.escape(loop)}   \(innermost loop, depth \d.*\)\n(.*)$", function)
            assert notes, f"no loop of {owner} is {loop}"
        assert "# epilogue: " in function or ", 1 units" in planned or not re.search(r"(?m)^# .*loop, depth", function)
    assert "Loop Header" not in listing and "%bb." not in listing


def test_inspect_shows_one_phase(
    tmp_path: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spec.json").write_text(rnnc.GRU(3, 40).to_json())
    for stage, first in (
        ("asm", "# phase loop0_step0: 40 units, each step, l0.fwd"),
        ("plan", "  phase loop0_step0: "),
    ):
        assert main(["inspect", "spec.json", "--stage", stage, "--phase", "loop0_step0"]) == 0
        text = capsys.readouterr().out
        assert text.startswith(first) and "batched" not in text
    for arguments, message in (
        (["--stage", "asm", "--phase", "loop0_stp0"], "(did you mean 'loop0_step0'?)"),
        (["--stage", "llvm", "--phase", "loop0_step0"], "--phase: goes with --stage plan or asm"),
        (["--stage", "lowered", "--format", "dot", "--phase", "x"], "leave out --format"),
    ):
        assert main(["inspect", "spec.json", *arguments]) == 2
        assert message in capsys.readouterr().err
