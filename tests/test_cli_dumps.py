"""`rnnc inspect` and `rnnc diff`: passes, formats, colours, exit codes."""

from __future__ import annotations

import json
import re
import sys
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest

import rnnc
from rnnc.cli import main
from rnnc.ir.draw import to_dot, to_mermaid
from rnnc.ir.passes import PASS_NAMES
from rnnc.ir.text import parse_graph

SPEC = rnnc.GRU(3, 4, bidirectional=True)
PROGRAM = rnnc.compile(SPEC, backend="reference")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "spec.json").write_text(SPEC.to_json())
    (tmp_path / "other.json").write_text(rnnc.LSTM(3, 4).to_json())
    return tmp_path


def printed(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    assert main(arguments) == code
    captured = capsys.readouterr()
    return captured.err if code == 2 else captured.out


def test_the_graph_after_and_before_each_pass(capsys: pytest.CaptureFixture[str]) -> None:
    before = PROGRAM.ir("lowered", 2)
    for name in PASS_NAMES:
        after = printed(capsys, "inspect", "spec.json", "--after", name, "--steps", "2")
        assert after == PROGRAM.ir(name, 2) == printed(capsys, "inspect", "spec.json", "--stage", name, "--steps", "2")
        assert before == printed(capsys, "inspect", "spec.json", "--before", name, "--steps", "2")
        before = after
    assert parse_graph(before) == parse_graph(PROGRAM.ir("optimized", 2))


def test_formats_of_graphs(capsys: pytest.CaptureFixture[str]) -> None:
    graph = parse_graph(PROGRAM.ir("gate_fusion"))
    for name, text in (("dot", to_dot(graph)), ("mermaid", to_mermaid(graph))):
        assert printed(capsys, "inspect", "spec.json", "--after", "gate_fusion", "--format", name) == text
    data = json.loads(printed(capsys, "inspect", "spec.json", "--stage", "optimized", "--format", "json"))
    made = parse_graph(PROGRAM.ir("optimized"))
    assert [(n["op"], n["inputs"], n["attrs"], n["step"]) for n in data["nodes"]] == [
        (n.op, [i.index for i in n.inputs], dict(n.attrs), n.step) for n in made.nodes
    ]
    rolled = json.loads(printed(capsys, "inspect", "spec.json", "--format", "json"))
    assert [s["loop"] for s in rolled["run"] if "loop" in s] == [1, -1]
    assert set(rolled["outputs"]) == {"output", "h.n_l0", "h.n_l0_reverse"}


def test_a_picture_of_the_network(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "inspect", "spec.json", "--format", "svg", "--steps", "2")
    assert text == rnnc.draw(SPEC, 2) and ElementTree.fromstring(text).tag.endswith("svg")
    page = printed(capsys, "inspect", "spec.json", "--format", "html", "--steps", "2")
    assert page.startswith("<!DOCTYPE html>") and 'data-site="l0.fwd"' in page and repr(SPEC) in page


def test_what_limits_a_spec(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = json.loads(printed(capsys, "explain", "spec.json", "--json"))
    assert [phase["kind"] for phase in data["phases"]][:2] == ["hoisted", "step"]
    assert "GFLOP/s" in printed(capsys, "explain", "spec.json", "--limits")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--after", "gate_fusin"], "--after: expected a pass (dead_code, "),
        (["--after", "gate_fusin"], "(did you mean 'gate_fusion'?)"),
        (["--stage", "gate_fusin"], "(did you mean 'gate_fusion'?)"),
        (["--after", "dead_code", "--stage", "rolled"], "--stage, --after: expected one of them"),
        (["--stage", "llvm", "--format", "json"], "expected --stage with a graph (lowered, optimized, rolled, a pass)"),
        (["--format", "dot"], "--format dot: expected --stage with a graph (lowered, optimized, a pass), got 'rolled'"),
        (["--format", "svg", "--stage", "asm"], "shows the whole network; leave out --stage"),
        (["--format", "sgv"], "(did you mean 'svg'?)"),
        (["--format", "html", "--backend", "reference"], "report: backend 'reference' has none"),
    ],
)
def test_wrong_stages_and_formats(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in printed(capsys, "inspect", "spec.json", *arguments, code=2)


ESCAPES = re.compile(r"\x1b\[[\d;]*m")


@pytest.mark.parametrize("stage", ["lowered", "rolled", "plan", "llvm", "asm"])
def test_colours_change_no_character(stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    plain = printed(capsys, "inspect", "spec.json", "--stage", stage)
    painted = printed(capsys, "inspect", "spec.json", "--stage", stage, "--color", "always")
    assert "\x1b[" not in plain and len(ESCAPES.findall(painted)) > 20
    assert ESCAPES.sub("", painted) == plain


def test_colours_are_for_terminals(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert "\x1b[" in printed(capsys, "inspect", "spec.json")
    assert "\x1b[" not in printed(capsys, "inspect", "spec.json", "--color", "never")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in printed(capsys, "inspect", "spec.json")


def test_diff_shows_what_a_pass_did(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "diff", "spec.json", "--pass", "gate_fusion", "--steps", "1", code=1)
    gone = [line for line in text.splitlines() if line[0] == "-" and "matmul(" in line]
    made = [line for line in text.splitlines() if line[0] == "+" and "matmul(" in line]
    assert (len(gone), len(made)) == (12, 3), "both directions read x in one product"
    assert not [line for line in text.splitlines() if line[0] in "+-" and "sigmoid(" in line]
    idle = next(b for a, b in pairwise(PASS_NAMES) if PROGRAM.ir(a, 1) == PROGRAM.ir(b, 1))
    assert printed(capsys, "diff", "spec.json", "--pass", idle, "--steps", "1") == "no difference\n"


def test_diff_of_specs_and_of_files(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    assert printed(capsys, "diff", "spec.json", "spec.json", "--stage", "asm") == "no difference\n"
    text = printed(capsys, "diff", "spec.json", "other.json", code=1)
    (folder / "old.ir").write_text(PROGRAM.ir("rolled"))
    (folder / "new.ir").write_text(rnnc.compile(rnnc.LSTM(3, 4), backend="reference").ir("rolled"))
    assert printed(capsys, "diff", "old.ir", "new.ir", code=1) == text
    assert printed(capsys, "diff", "old.ir", "spec.json") == "no difference\n"
    assert "\x1b[31m-" in printed(capsys, "diff", "old.ir", "new.ir", "--color", "always", code=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["spec.json"], "expected a second spec or dump, or --pass"),
        (["spec.json", "spec.json", "--pass", "dead_code"], "leave out B and --stage"),
        (["spec.json", "--pass", "dead"], "--pass: expected a pass"),
        (["none.ir", "spec.json"], "none.ir: cannot be read as text"),
        (["spec.json", "spec.json", "--context", "-1"], "--context: expected an integer >= 0"),
    ],
)
def test_wrong_diffs(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in printed(capsys, "diff", *arguments, code=2)
