"""The command line, mostly in this process; once as a user starts it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import rnnc
from rnnc.cli import load_model, main
from rnnc.ir.text import parse_graph

SPEC = rnnc.GRU(3, 4, 2, bidirectional=True)
MODULE = """
import rnnc
encoder = rnnc.GRU(3, 4, 2, bidirectional=True)
class Box:
    inner = rnnc.LSTM(2, 3)
number = 3
"""
TOML = """\
type = "GRU"
input_size = 3
hidden_size = 4
num_layers = 2
bidirectional = true
"""
CELL_TOML = """\
type = "Recurrent"
input_size = 3
hidden_size = 4
[cell]
type = "rnnc.cells:ElmanCell"
nonlinearity = "relu"
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with a spec in every form."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "my_models", raising=False)
    (tmp_path / "spec.json").write_text(SPEC.to_json())
    (tmp_path / "spec.toml").write_text(TOML)
    (tmp_path / "cell.toml").write_text(CELL_TOML)
    (tmp_path / "my_models.py").write_text(MODULE)
    return tmp_path


@pytest.mark.parametrize("source", ["spec.json", "./spec.toml", "my_models:encoder"])
def test_a_spec_comes_from_a_file_or_a_module(source: str) -> None:
    assert load_model(source) == SPEC


def test_a_spec_file_may_name_a_cell() -> None:
    assert load_model("cell.toml") == rnnc.Recurrent(rnnc.cells.ElmanCell("relu"), 3, 4)
    assert load_model("my_models:Box.inner") == rnnc.LSTM(2, 3)


@pytest.mark.parametrize("stage", ["lowered", "optimized"])
@pytest.mark.parametrize("steps", [1, 4])
def test_inspect_prints_a_graph_of_so_many_steps(stage: str, steps: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "spec.toml", "--stage", stage, "--steps", str(steps)]) == 0
    text = capsys.readouterr().out
    graph = parse_graph(text)
    assert graph.steps == steps
    assert len(graph.outputs["output"]) == steps  # type: ignore[arg-type]
    assert text.rstrip("\n") == rnnc.compile(SPEC, backend="reference").ir(stage, steps).rstrip("\n")


def test_inspect_prints_the_loops_of_every_direction(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "spec.json"]) == 0
    rolled = capsys.readouterr().out
    assert re.findall(r"loop t = (\S+ \.\. \S+)", rolled).count("T-1 .. 0") == 2
    assert len(re.findall(r"loop t = ", rolled)) == 4


def test_inspect_prints_every_stage_of_a_backend(backend: str, capsys: pytest.CaptureFixture[str]) -> None:
    stages = rnnc.compile(SPEC, backend=backend).stages
    assert stages[:3] == ("lowered", "optimized", "rolled")
    texts = []
    for stage in stages:
        assert main(["inspect", "spec.json", "--stage", stage, "--backend", backend]) == 0
        texts.append(capsys.readouterr().out)
    assert len(set(texts)) == len(stages) and all(len(text) > 100 for text in texts)


NETWORK = rnnc.Sequential(rnnc.Embedding(9, 4), rnnc.GRU(4, 5), rnnc.Linear(5, 3))


@pytest.mark.parametrize("stage", ("lowered", "rolled", "plan"))
def test_inspect_takes_a_whole_network(stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("network.json").write_text(NETWORK.to_json())
    assert main(["inspect", "network.json", "--stage", stage]) == 0
    assert capsys.readouterr().out.rstrip("\n") == NETWORK.compile(NETWORK.init()).ir(stage).rstrip("\n")


@pytest.mark.parametrize("stage", ("optimized", "plan"))
@pytest.mark.parametrize("derivative", ("vjp", "jvp", "hvp"))
def test_inspect_shows_a_derivative(derivative: str, stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("small.json").write_text(rnnc.RNN(2, 3).to_json())
    assert main(["inspect", "small.json", "--derivative", derivative, "--stage", stage]) == 0
    assert capsys.readouterr().out.rstrip("\n") == getattr(rnnc, derivative)(rnnc.RNN(2, 3)).ir(stage).rstrip("\n")


def test_only_a_recurrent_spec_has_a_derivative_and_edited_texts(capsys: pytest.CaptureFixture[str]) -> None:
    Path("network.json").write_text(NETWORK.to_json())
    for arguments, message in (
        (["inspect", "network.json", "--derivative", "vjp"], "--derivative: only a recurrent spec has one"),
        (["compile", "network.json", "--from", "rolled", "x"], "--from: goes with a recurrent spec"),
        (["bench", "network.json"], "call its own compile(params)"),
    ):
        assert main(arguments) == 2
        assert message in capsys.readouterr().err


def test_compile_prints_the_time_of_every_part(backend: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--backend", backend, "--time-steps", "5", "--batch", "2", "--repeat", "3"]
    assert main(["compile", "spec.json", *arguments]) == 0
    head, _, *rows = capsys.readouterr().out.splitlines()
    assert head == f"{SPEC}, backend {backend}"
    durations = {row[:18].strip(): re.match(r" *([\d.]+ (s|ms|us|ns))\b", row[18:]) for row in rows}
    compiling = ["import rnnc", "load backend", "lower", "optimize", "roll", "codegen", "compile()"]
    assert list(durations) == [*compiling, "bind", "first call", "a call"]
    assert all(durations.values())
    assert "median of 3" in rows[-1]
    assert "T = 5, B = 2" in rows[-2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspect", "spec"], "'spec' is neither a .json or .toml file, nor a model file, nor module:object"),
        (["inspect", "none.json"], "cannot read none.json: No such file"),
        (["inspect", "list.json"], "list.json: expected a table of arguments, got [1, 2] (list)"),
        (["inspect", "broken.json"], "broken.json: "),
        (["inspect", "broken.toml"], "broken.toml: "),
        (["inspect", "binary.toml"], "binary.toml: "),
        (["inspect", "wrong.json"], "'hiden_size' is not an argument of LSTM (did you mean 'hidden_size'?)"),
        (["inspect", "nothing:encoder"], "there is no module 'nothing'"),
        (["inspect", "my_models:decoder"], "my_models has no 'decoder'"),
        (
            ["inspect", "my_models:number"],
            "is not a spec (RNN, GRU, LSTM, Recurrent, Sequential, Graph, Decoder, TorchGraph) but 3 (int)",
        ),
        (["inspect", "my_models:"], "expected 'module:object'"),
        (["inspect", "broken_module:x"], "importing broken_module failed: ZeroDivisionError: division by zero"),
        (["inspect", "spec.json", "--steps", "0"], "--steps: expected an integer >= 1, got 0"),
        (["inspect", "spec.json", "--stage", "rolle", "--backend", "reference"], "(did you mean 'rolled'?)"),
        (
            ["inspect", "spec.json", "--stage", "asm", "--backend", "ll"],
            "backend: expected 'reference', 'llvm', 'cuda' or 'cuda-emulated', got 'll'",
        ),
        (["inspect", "spec.json", "--backend", "nope"], "backend: expected 'reference', 'llvm', 'cuda'"),
        (["inspect", "spec.json", "--threads", "0"], "threads: expected an integer >= 1, got 0"),
        (["compile", "spec.json", "--batch", "0"], "--batch: expected an integer >= 1, got 0"),
        (["compile", "spec.json", "--time-steps", "-1"], "--time-steps: expected an integer >= 1, got -1"),
    ],
)
def test_an_error_is_one_line_and_status_2(
    arguments: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "list.json").write_text("[1, 2]")
    (folder / "broken.json").write_text("{")
    (folder / "broken.toml").write_text("a = = 3")
    (folder / "binary.toml").write_bytes(b"\xff\xfe")
    (folder / "wrong.json").write_text(json.dumps({"type": "LSTM", "hiden_size": 4}))
    (folder / "broken_module.py").write_text("1 / 0")
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.startswith(f"rnnc {arguments[0]}: ")
    assert captured.err.count("\n") == 1


def test_a_user_starts_it_and_reads_only_the_head() -> None:
    """As a process: the current folder is on the path, and a reader that closes the pipe early is no error."""
    command = [sys.executable, "-m", "rnnc", "inspect", "my_models:encoder", "--stage", "lowered", "--steps", "200"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "graph float32 steps=200\n"
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait() == 0
