"""The examples at a small size: they run, learn, and agree with PyTorch."""

from __future__ import annotations

import importlib
import re
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rnnc

EXAMPLES = Path(__file__).parents[1] / "examples"
SMALL = {
    "forecasting": "--sites 3 --weeks 8 --hidden 8 --window 168 --batch 4 --epochs 2 --quiet --threads 1".split(),
    "language_model": "--characters 12000 --hidden 16 --embedding 12 --batch 8 --epochs 2 --quiet --threads 1".split(),
}


@pytest.fixture(scope="module", params=SMALL)
def example(request: pytest.FixtureRequest) -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        yield importlib.import_module(request.param)


def run(example: Any, *arguments: str) -> int:
    return int(example.main([*SMALL[example.__name__], *arguments]))


def test_it_runs_and_its_model_file_is_the_model(
    example: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    picture, saved = tmp_path / "picture.png", tmp_path / "model.rnnc"
    assert run(example, "--picture", str(picture), "--save", str(saved)) == 0
    assert picture.stat().st_size > 5_000
    said = capsys.readouterr().out
    network = rnnc.load(saved)
    if example.__name__ == "forecasting":
        assert float(re.findall(r"differs by (\S+)", said)[0]) < 1e-5
        shapes = {"past": (3, 1, 2), "ahead": (3, 1, 144), "site": (1, 4)}
        found = network({name: np.zeros(shape, "f4") for name, shape in shapes.items()})
        assert found.shape == (3, 1, 72)
    else:
        bits = float(re.findall(r"([\d.]+) bits per character", said)[0])
        assert 1 < bits < 5  # a character of the text alone has about 4.8
        assert network(np.zeros((3, 1), "i8")).ndim == 3


def test_updates_are_those_of_pytorch(example: Any, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    assert run(example, "--compare-torch", *(["--updates", "6"] if example.__name__ == "language_model" else [])) == 0
    losses = re.findall(r"loss ([\d.]+), torch ([\d.]+)", capsys.readouterr().out)
    assert len(losses) == 3
    for ours, theirs in losses:
        assert float(ours) == pytest.approx(float(theirs), abs=2e-4)


def test_an_accelerated_program_has_the_losses_of_before(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(EXAMPLES)
    program = importlib.import_module("accelerated_torch")
    assert program.main("--sites 3 --hidden 6 --epochs 2 --threads 1".split()) == 0
    said = capsys.readouterr().out
    assert "GRU: runs in rnnc" in said
    losses = re.findall(r"^ +\d +(0\.\d+) +(0\.\d+) ", said, re.MULTILINE)
    assert len(losses) == 2
    for before, after in losses:
        assert float(before) == pytest.approx(float(after), abs=2e-5)


def test_what_is_wrong_is_said(example: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    if example.__name__ == "language_model":
        assert example.main([str(tmp_path / "none.txt")]) == 2
        assert "none.txt" in capsys.readouterr().err
    else:
        with pytest.raises(SystemExit):
            example.main(["--weeks", "2"])
        assert "at least 8" in capsys.readouterr().err


def test_a_server_of_streams(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        streams = importlib.import_module("streams")
        assert streams.main(["--streams", "50", "--seconds", "0.1", "--threads", "1"]) == 0
    assert "such streams in real time" in capsys.readouterr().out


def test_a_voice_gate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        voice = importlib.import_module("voice")
        options = ["--recordings", "16", "--epochs", "6", "--noise", "0.5", "--quiet", "--threads", "1"]
        assert voice.main([*options, "--folder", str(tmp_path)]) == 0
    assert re.search(r"[89]\d\.\d% of the frames", capsys.readouterr().out)
    with wave.open(str(tmp_path / "gated.wav")) as file:
        gated = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        assert (file.getframerate(), file.getnchannels(), len(gated)) == (16_000, 1, 128_000)
    assert (gated == 0).mean() > 0.2 and np.abs(gated).max() > 3_000
