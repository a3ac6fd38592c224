"""The commands that do work: `rnnc compile` with weights, edited texts and networks, `bench`, `train`, `doctor`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest

import rnnc
from rnnc.cli import bench, doctor, main

SPEC = rnnc.GRU(3, 4)
TAGGER = rnnc.Sequential(rnnc.Embedding(9, 4), rnnc.GRU(4, 5), rnnc.Linear(5, 3))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("spec.json").write_text(SPEC.to_json())
    Path("network.json").write_text(TAGGER.to_json())
    return tmp_path


def printed(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    assert main(arguments) == code, capsys.readouterr().err
    captured = capsys.readouterr()
    return captured.err if code == 2 else captured.out


# ---- compile


def test_weights_and_a_spec_become_a_model_file(capsys: pytest.CaptureFixture[str]) -> None:
    params = SPEC.init(3)
    np.savez("weights.npz", **params)
    text = printed(capsys, "compile", "spec.json", "--weights", "weights.npz", "--output", "m.rnnc", "--repeat", "1")
    assert re.search(r"write .* m\.rnnc, [\d,]+ bytes", text)
    x = np.random.default_rng(0).standard_normal((5, 2, 3), dtype=np.float32)
    np.testing.assert_array_equal(rnnc.load("m.rnnc")(x)[0], rnnc.compile(SPEC, params)(x)[0])
    np.savez("net.npz", **TAGGER.init(1))
    text = printed(capsys, "compile", "network.json", "--weights", "net.npz", "--output", "n.rnnc")
    assert "with parameters" in text and rnnc.load("n.rnnc")(np.zeros((2, 1), np.int64)).shape == (2, 1, 3)
    arguments = ["--weights", "net.npz", "--prefix", "1.", "--repeat", "1"]
    Path("part.json").write_text(rnnc.GRU(4, 5).to_json())
    assert "median of 1" in printed(capsys, "compile", "part.json", *arguments)
    assert "without parameters" in printed(capsys, "compile", "network.json")


def test_an_edited_text_is_compiled(capsys: pytest.CaptureFixture[str]) -> None:
    for stage in ("lowered", "gate_fusion", "rolled"):
        Path("edited.txt").write_text(printed(capsys, "inspect", "spec.json", "--stage", stage))
        text = printed(capsys, "compile", "spec.json", "--from", stage, "edited.txt", "--repeat", "1")
        assert f"from {stage} of edited.txt" in text and "median of 1" in text
        assert "a text alone has no parameters" in printed(capsys, "compile", "--from", stage, "edited.txt")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "SPEC: expected a spec, a network or a model file"),
        (["spec.json", "--output", "m.rnnc"], "--output: goes with --weights FILE"),
        (["spec.json", "--weights", "none.npz"], "none.npz"),
        (["spec.json", "--weights", "net.npz"], "rnnc.take(params, '1.')"),
        (["spec.json", "--weights", "net.npz", "--prefix", "2."], "weight_ih_l0"),
        (["spec.json", "--from", "rolled", "none.txt"], "none.txt: cannot be read as text"),
        (["spec.json", "--from", "roled", "bad.txt"], "(did you mean 'rolled'?)"),
        (["spec.json", "--from", "rolled", "bad.txt"], "line 1: expected 'program', found 'x'"),
        (["--from", "lowered", "bad.txt"], "line 1: expected 'graph', found 'x'"),
        (["model.onnx", "--weights", "net.npz"], "an .onnx file has its own weights"),
    ],
)
def test_wrong_compiles(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez("net.npz", **TAGGER.init(1))
    Path("bad.txt").write_text("x")
    assert message in printed(capsys, "compile", *arguments, code=2)


# ---- bench


def test_bench_times_peers_that_agree(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(
        capsys,
        "bench",
        "spec.json",
        "--time-steps",
        "1,3",
        "--batch",
        "2",
        "--against",
        "reference",
        "--seconds",
        "0.01",
    )
    rows = [line.split() for line in text.splitlines()[3:]]
    assert [row[:2] for row in rows] == [["1", "2"], ["3", "2"]] and all("x)" in row[-1] for row in rows)


def test_bench_says_no_if_a_peer_differs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    honest = bench.PEERS["reference"]

    def wrong(*arguments: object) -> bench.Call:
        call = honest(*arguments)  # type: ignore[arg-type]
        return lambda x: (call(x)[0] + 1,)

    monkeypatch.setitem(bench.PEERS, "reference", wrong)
    arguments = ["--time-steps", "1", "--batch", "1", "--against", "reference", "--seconds", "0.01"]
    assert "differs by 1.0e+00" in printed(capsys, "bench", "spec.json", *arguments, code=1)


def test_bench_against_pytorch(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    arguments = ["--time-steps", "2", "--batch", "1", "--against", "torch", "--seconds", "0.01"]
    for spec in (rnnc.LSTM(3, 4, 2, bidirectional=True, batch_first=True), rnnc.RNN(3, 4, dtype="float64"), SPEC):
        Path("spec.json").write_text(spec.to_json())
        printed(capsys, "bench", "spec.json", *arguments)
    Path("spec.json").write_text(rnnc.GRU(3, 4, reset_after=False).to_json())
    assert "PyTorch has no module" in printed(capsys, "bench", "spec.json", *arguments, code=2)


@pytest.mark.parametrize(("name", "value"), [("--time-steps", "1,x"), ("--batch", "0"), ("--seconds", "-1")])
def test_wrong_benches(name: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"{name}: expected" in printed(capsys, "bench", "spec.json", name, value, code=2)


# ---- train

TRAIN = """
output = "trained.rnnc"
[model]
file = "network.json"
[data]
x = "x.npy"
target = "y.npy"
lengths = "lengths.npy"
[optimizer]
type = "AdamW"
learning_rate = 1e-2
[fit]
epochs = 2
batch_size = 4
seed = 3
progress = false
checkpoint = "state.rnnc"
"""


@pytest.fixture
def data(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    arrays = rng.integers(0, 9, (12, 7)), rng.integers(0, 3, (12, 7)), rng.integers(1, 8, 12)
    for name, array in zip(("x", "y", "lengths"), arrays, strict=True):
        np.save(f"{name}.npy", array)
    return arrays


def test_train_is_fit(data: tuple[np.ndarray, ...], capsys: pytest.CaptureFixture[str]) -> None:
    Path("train.toml").write_text(TRAIN)
    assert "2 epochs, 6 updates" in printed(capsys, "train", "train.toml")
    x, y, lengths = data
    items = [(x[i, :n], y[i, :n]) for i, n in enumerate(lengths)]
    optimizer = rnnc.optimizers.AdamW(1e-2)
    again = rnnc.train.fit(TAGGER, items, epochs=2, batch_size=4, seed=3, progress=False, optimizer=optimizer)
    np.testing.assert_array_equal(rnnc.load("trained.rnnc")(x.T), TAGGER.compile(again.params)(x.T))
    Path("train.toml").write_text(TRAIN.replace("epochs = 2", "epochs = 3"))
    assert "checkpoint" in printed(capsys, "train", "train.toml", code=2)
    assert "3 epochs, 9 updates" in printed(capsys, "train", "train.toml", "--resume")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[data]", "[dat]", "there is no [dat] (did you mean 'data'?)"),
        ('output = "trained.rnnc"', "", "output: expected the name of a model file"),
        ('x = "x.npy"', 'y = "x.npy"', "[data]: there is no 'y'"),
        ('x = "x.npy"', 'x = "none.npy"', "[data] x"),
        ('x = "x.npy"', 'x = "lengths.npy"', "[data] x: expected (N, T, ...)"),
        ('lengths = "lengths.npy"', 'lengths = "y.npy"', "[data] lengths: expected integers from 1 to 7"),
        ('type = "AdamW"', 'type = "Adamw"', "(did you mean 'AdamW'?)"),
        ("epochs = 2", "epoch = 2", "fit takes no argument 'epoch'; did you mean 'epochs'?"),
        ('file = "network.json"', 'type = "Sequentail"', "Sequentail"),
        ("[fit]", "fit", "train.toml: "),
        ("learning_rate", "lr", "did you mean 'learning_rate'?"),
    ],
)
def test_wrong_trainings(
    old: str, new: str, message: str, data: tuple[np.ndarray, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert old in TRAIN
    Path("train.toml").write_text(TRAIN.replace(old, new, 1))
    assert message in printed(capsys, "train", "train.toml", code=2)


# ---- doctor


def test_doctor_shows_the_machine(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "doctor")
    for title in ("versions", "processor", "cache", "backends", "extras", "settings"):
        assert f"\n{title}\n" in f"\n{text}"
    assert re.search(r"llvm +works: differs from NumPy by \d", text)
    assert "num_threads" in text and rnnc.__version__ in text


def test_doctor_says_how_to_get_what_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setenv("RNNC_CACHE_DIR", "off")
    text = printed(capsys, "doctor")
    assert len(re.findall(r"pip install 'rnnc\[\w+\]'", text)) >= len(doctor.EXTRAS)
    assert "apt install g++" in text and "RNNC_CACHE_DIR=FOLDER" in text


def test_doctor_says_1_if_compiled_code_is_wrong(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object, **named: object) -> None:
        raise RuntimeError("no such instruction")

    monkeypatch.setattr("rnnc.programs.compile", broken)
    assert "broken: RuntimeError: no such instruction" in printed(capsys, "doctor", code=1)
