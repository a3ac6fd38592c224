"""One file that is a model: what comes back is what was saved, bit for bit, and a file that has changed is refused."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rnnc
from rnnc import train
from rnnc.cli import main
from rnnc.files import models, sealed
from rnnc.files.named import NamedFile
from rnnc.files.unread import Unread
from tests.refusals import raises_saying
from tests.training_data import tagged, tagger
from tests.user_cells import MinimalGatedUnit

RNG = np.random.default_rng(7)
X = RNG.standard_normal((5, 2, 3), dtype=np.float32)

GRAPH = rnnc.Graph(
    inputs={"x": 3, "y": 2},
    layers={
        "dense": (rnnc.Linear(3, 4), "x"),
        "both": (rnnc.Concat(), "dense", "y"),
        "gru": (rnnc.GRU(6, 4), "both"),
        "optimizer": (rnnc.Linear(4, 2), "gru"),  # a name that checkpoints use for other arrays
        "mean": (rnnc.Mean(), "gru"),
    },
    outputs=("optimizer", "mean"),
)
DECODER = rnnc.Decoder(
    step=rnnc.Sequential(rnnc.Embedding(6, 4), rnnc.GRU(4, 4), rnnc.Linear(4, 6)),
    encoder=rnnc.Graph({"x": 3}, {"gru": (rnnc.GRU(3, 4), "x")}, {"h": "gru.h"}),
    states={"1.h": "h"},
    start=0,
    end=None,
    steps=4,
)
MODELS: dict[str, tuple[Any, Any]] = {
    "lstm": (rnnc.LSTM(3, 4, 2, bidirectional=True, batch_first=True), X),
    "float64": (rnnc.RNN(3, 4, dtype="float64"), X.astype(np.float64)),
    "own cell": (rnnc.Recurrent(MinimalGatedUnit(), 3, 4), X),
    "sequential": (
        rnnc.Sequential(rnnc.Embedding(9, 4), rnnc.GRU(4, 5), rnnc.Linear(5, 3)),
        np.array([[1, 2], [8, 0]]),
    ),
    "graph": (GRAPH, {"x": X, "y": X[..., :2].copy()}),
    "decoder": (DECODER, X),
}


def bound(model: Any, params: Any, **options: Any) -> Any:
    return rnnc.compile(model, params, **options) if isinstance(model, rnnc.Spec) else model.compile(params, **options)


def leaves(result: Any) -> list[Any]:
    """The arrays of what a call returns."""
    if isinstance(result, dict):
        result = tuple(result.values())
    return [leaf for part in result for leaf in leaves(part)] if isinstance(result, tuple) else [result]


def assert_same(one: Any, other: Any) -> None:
    for a, b in zip(leaves(one), leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "m.rnnc"
    spec = rnnc.GRU(3, 4)
    rnnc.save(path, spec, spec.init(seed=3))
    return path


@pytest.mark.parametrize("name", MODELS)
def test_what_is_loaded_gives_what_was_saved_bit_for_bit(name: str, tmp_path: Path) -> None:
    model, x = MODELS[name]
    path, again = tmp_path / "folder" / "m.rnnc", tmp_path / "again.rnnc"
    params = model.init(seed=1)
    original = bound(model, params, threads=1)
    original.save(path)
    loaded = rnnc.load(path, threads=1)
    assert isinstance(loaded, Unread) and isinstance(loaded, type(original))
    assert repr(loaded) == repr(original) and loaded.backend == "llvm" and isinstance(loaded, Unread)
    assert_same(loaded(x), original(x))
    assert type(loaded) is type(original)
    loaded.save(again)
    assert again.read_bytes() == path.read_bytes() and os.listdir(path.parent) == ["m.rnnc"]
    found = train.load_parameters(path)
    assert list(found) == list(params) and all(np.array_equal(found[n], params[n]) for n in params)


@pytest.mark.rare
@pytest.mark.parametrize("name", MODELS)
def test_other_backends_load_the_same_file(name: str, tmp_path: Path) -> None:
    model, x = MODELS[name]
    rnnc.save(tmp_path / "m", model, model.init())
    assert_same(rnnc.load(tmp_path / "m", backend="reference")(x), bound(model, model.init(), backend="reference")(x))


def test_a_training_is_saved_as_a_network(tmp_path: Path) -> None:
    numpy = pytest.importorskip("safetensors.numpy")
    path = tmp_path / "tagger.rnnc"
    run = tmp_path / "run.ck"
    trained = train.fit(tagger(), tagged(), epochs=1, progress=False, backend="reference", checkpoint=run)
    assert rnnc.load(run).keys() == trained.params.keys()  # without what the optimiser keeps
    trained.save(path)
    x = tagged()[0][0][:, None]
    assert_same(rnnc.load(path, backend="reference")(x), trained.compile()(x))
    for found in (train.load_parameters(path), numpy.load_file(path)):
        assert found.keys() == trained.params.keys()
        assert all(np.array_equal(found[name], trained.params[name]) for name in found)
    train.save_parameters(path, trained.params)
    assert isinstance(rnnc.load(path), dict)
    with raises_saying(rnnc.FileError, "tagger.rnnc", "holds no model", "rnnc.load(path) gives its parameters"):
        models.load_model(path)


def test_an_unread_model_streams_pickles_and_is_read_once_by_many_threads(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, reads = rnnc.load(saved), []
    checked = sealed.Sealed.check
    monkeypatch.setattr(sealed.Sealed, "check", lambda self: (reads.append(self), checked(self)))
    assert copy.deepcopy(loaded) is loaded and not hasattr(loaded, "__array__") and not reads
    outputs: list[Any] = [None] * 6
    gate = threading.Barrier(6)

    def call(number: int) -> None:
        gate.wait()
        outputs[number] = loaded(X)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reads) == 1
    for found in (*outputs, pickle.loads(pickle.dumps(rnnc.load(saved)))(X)):
        assert_same(found, outputs[0])
    output, state = rnnc.load(saved).advance(X[:2])
    assert_same(loaded.advance(X[2:], state)[0], outputs[0][0][2:])


def test_a_file_that_is_replaced_does_not_change_what_was_opened(saved: Path) -> None:
    spec = rnnc.GRU(3, 4)
    loaded = rnnc.load(saved)
    rnnc.save(saved, spec, spec.init(seed=9))
    assert_same(loaded(X), rnnc.compile(spec, spec.init(seed=3))(X))


def test_a_file_that_is_cut_short_under_an_unread_model_is_refused(saved: Path) -> None:
    """To read mapped memory beyond the end of a file would end the process."""
    loaded = rnnc.load(saved)
    os.truncate(saved, 100)
    with raises_saying(rnnc.FileError, "m.rnnc", "cut short"):
        loaded(X)


# ---- damage


def test_any_bit_of_a_header_is_checked_when_a_file_is_opened_and_of_its_numbers_at_the_first_call(saved: Path) -> None:
    whole = saved.read_bytes()
    first = 8 + int.from_bytes(whole[:8], "little")
    for place in range(0, len(whole), 5):
        content = bytearray(whole)
        content[place] ^= 1 << place % 8
        saved.write_bytes(content)
        if place < first:
            with raises_saying(rnnc.RnncError, "m.rnnc"):
                rnnc.load(saved)
            continue
        loaded = rnnc.load(saved)
        for refused in (lambda loaded=loaded: loaded(X), lambda loaded=loaded: loaded.ir("rolled")):
            with raises_saying(rnnc.FileError, "m.rnnc", "damaged", "l0", "not those that were written"):
                refused()
        with pytest.raises(rnnc.FileError):
            models.check(saved)
    for size in range(0, len(whole), 11):
        saved.write_bytes(whole[:size])
        with raises_saying(rnnc.FileError, "m.rnnc"):
            models.load_model(saved)
    saved.write_bytes(whole)
    models.check(saved)


def rewritten(path: Path, change: Callable[[dict[str, Any], dict[str, Any]], object]) -> None:
    """The file as another program might have written it, with a right digest."""
    file = NamedFile.of(path)
    found = sealed.Sealed.of(file, file.read())
    arrays, data = {name: stored.array for name, stored in found.stored().items()}, found.data
    change(arrays, data)
    sealed.write(file, arrays, data)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a, d: a.pop("bias_hh_l0"), ["GRU", "it lacks 'bias_hh_l0' (12,)"]),
        (lambda a, d: a.update(more=np.zeros(3)), ["'more' is float64 (3,), expected none"]),
        (
            lambda a, d: d["model"].update(hidden_size=5),
            ["'weight_ih_l0' is float32 (12, 3), expected float32 (15, 3)", "bias_ih_l0"],
        ),
        (lambda a, d: d["model"].update(dtype="float64"), ["is float32 (12, 3), expected float64 (12, 3)"]),
        (lambda a, d: d["model"].update(hidden_size=-1), ["hidden_size", ">= 1"]),
        (lambda a, d: d["model"].update(type="Transformer"), ["type", "Transformer"]),
        (lambda a, d: d.update(model=3), ["data", "3 (int)"]),
        (lambda a, d: d.pop("model"), ["holds no model"]),
    ],
)
def test_a_file_of_another_model_is_refused_with_the_difference(change: Any, words: list[str], saved: Path) -> None:
    rewritten(saved, change)
    with raises_saying(rnnc.RnncError, "m.rnnc", *words):
        models.load_model(saved)


def test_a_file_of_another_version_is_refused_as_that(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealed, "FORMAT", 3)
    rnnc.save(saved, rnnc.GRU(3, 4), rnnc.GRU(3, 4).init())
    monkeypatch.undo()
    with raises_saying(rnnc.FileError, "m.rnnc", "form 3", "reads form 1", "newer rnnc"):
        rnnc.load(saved)
    content = saved.read_bytes()
    first = 8 + int.from_bytes(content[:8], "little")
    saved.write_bytes(content[:first].replace(b'"rnnc":"3 ', b'"rnnc":"') + b"  " + content[first:])
    with raises_saying(rnnc.FileError, "m.rnnc", "older rnnc"):
        rnnc.load(saved)


def test_what_cannot_be_saved_leaves_the_old_file(saved: Path) -> None:
    spec, content = rnnc.GRU(3, 4), saved.read_bytes()
    params = spec.init()

    class Local(rnnc.cells.GRUCell):
        """A cell without a name that others could import."""

    for model, given, error, words in (
        (spec, params | {"bias_ih_l0": np.full(12, np.nan, np.float32)}, rnnc.NonFiniteError, ["'bias_ih_l0'"]),
        (spec, {}, rnnc.ParameterError, ["missing 'weight_ih_l0'"]),
        (rnnc.compile(spec, params), params, rnnc.ArgumentTypeError, ["model", "it has a method save(path)"]),
        (rnnc.Recurrent(Local(), 3, 4), params, rnnc.ArgumentError, ["Local cannot be referred to by name"]),
    ):
        with raises_saying(error, *words):
            rnnc.save(saved, model, given)
    with raises_saying(rnnc.ArgumentTypeError, "path", "3 (int)"):
        rnnc.save(3, spec, params)  # type: ignore[arg-type]
    with raises_saying(rnnc.FileError, "path", "folder"):
        rnnc.save(saved.parent, spec, params)
    assert saved.read_bytes() == content and os.listdir(saved.parent) == ["m.rnnc"]


def test_arguments_of_the_other_kind_of_file_are_refused(saved: Path) -> None:
    with raises_saying(rnnc.ArgumentError, "key, widen", "is a model"):
        rnnc.load(saved, widen=True)
    train.save_parameters(saved, {"a": np.zeros(3)})
    with raises_saying(rnnc.ArgumentError, "backend, threads", "weights without a model", "rnnc.compile("):
        rnnc.load(saved, backend="reference")
    with raises_saying(rnnc.ArgumentError, "key", "use rnnc.take"):
        rnnc.load(saved, key="model")


def test_a_cell_of_others_is_imported_only_if_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "theirs.py").write_text(
        "import pathlib, rnnc; pathlib.Path(__file__).with_suffix('.ran').touch()\n"
        "class Theirs(rnnc.cells.GRUCell): pass\n"
    )
    code = (
        "import rnnc, theirs; spec = rnnc.Recurrent(theirs.Theirs(), 3, 4); rnnc.save('m.rnnc', spec, spec.init()); "
        "import os; os.remove('theirs.ran')"
    )
    path = os.pathsep.join([str(tmp_path), *sys.path])
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, env=os.environ | {"PYTHONPATH": path})
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "theirs", raising=False)
    with raises_saying(rnnc.ArgumentError, "m.rnnc", "'theirs:Theirs'", "trusted=['theirs']"):
        rnnc.load(tmp_path / "m.rnnc")
    assert not (tmp_path / "theirs.ran").exists() and b"import" not in (tmp_path / "m.rnnc").read_bytes()
    assert rnnc.load(tmp_path / "m.rnnc", trusted=["theirs"]).spec.cell.name == "gru"
    assert (tmp_path / "theirs.ran").exists()


# ---- the command line


@pytest.fixture
def folder(saved: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(saved.parent)
    np.save("x.npy", X)
    np.save("lengths.npy", np.array([5, 2]))
    return saved.parent


def test_run_calls_a_model_whole_ragged_and_in_pieces(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = rnnc.load("m.rnnc")
    whole, last = model(X)
    assert main(["run", "m.rnnc", "--input", "x.npy", "--output", "y.npy"]) == 0
    assert capsys.readouterr().out == "y.npy: output float32 (5, 2, 4)\n"
    np.testing.assert_array_equal(np.load("y.npy"), whole)
    assert main(["run", "m.rnnc", "--input", "x=x.npy", "--output", "y.npz", "--lengths", "lengths.npy"]) == 0
    np.testing.assert_array_equal(np.load("y.npz")["output"], model(X, lengths=[5, 2])[0])
    for number, piece in enumerate((X[:2], X[2:])):
        np.save("piece.npy", piece)
        state = ["--state", "state.npz"] if number else []
        given = ["--input", "piece.npy", "--output", "y.npy", "--final-state", "state.npz", *state]
        assert main(["run", "m.rnnc", *given]) == 0
    np.testing.assert_array_equal(np.load("y.npy"), whole[2:])
    np.testing.assert_array_equal(np.load("state.npz")["h_l0"], last[0])


def test_run_names_the_inputs_and_outputs_of_a_network(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rnnc.save("g.rnnc", GRAPH, GRAPH.init())
    np.save("second.npy", X[..., :2])
    np.savez("both.npz", x=X, y=X[..., :2])
    expected = GRAPH.compile(GRAPH.init())({"x": X, "y": X[..., :2].copy()})
    for inputs in (["--input", "x=x.npy", "--input", "y=second.npy"], ["--input", "both.npz"]):
        assert main(["run", "g.rnnc", *inputs, "--output", "out.npz"]) == 0
        found = np.load("out.npz")
        assert_same({name: found[name] for name in found}, expected)
    rnnc.save("d.rnnc", DECODER, DECODER.init())
    assert main(["run", "d.rnnc", "--input", "x.npy", "--output", "d.npz"]) == 0
    np.testing.assert_array_equal(np.load("d.npz")["numbers"], DECODER.compile(DECODER.init())(X).numbers)
    capsys.readouterr()
    assert main(["inspect", "d.rnnc"]) == 0 and main(["explain", "g.rnnc"]) == 0
    assert GRAPH.compile(GRAPH.init()).explain() in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("m.rnnc --input x.npy --output y.txt", "--output: expected a name that ends in .npy or .npz"),
        ("m.rnnc --input x.npy --input x.npy --output y.npy", "'x' is given twice"),
        ("m.rnnc --input lengths.npy --output y.npy", "x: expected float32, got int64"),
        ("m.rnnc --input nothing.npy --output y.npy", "there is no file 'nothing.npy'"),
        ("m.rnnc --input m.rnnc --output y.npy", "is a safetensors file; expected an array of NumPy's"),
        ("x.npy --input x.npy --output y.npy", "is one array of NumPy's"),
        ("objects.npz --input x.npy --output y.npy", "is a file of another kind (npz)"),
        ("m.rnnc --input objects.npz --output y.npy", "holds Python objects"),
        ("m.rnnc --input x.npy --state both.npz --output y.npy", "a dict of 'h_l0'; got a dict of 'x', 'y'"),
    ],
)
def test_run_refuses_in_one_line(
    arguments: str, message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez("objects.npz", x=np.array([{}], dtype=object))
    np.savez("both.npz", x=X, y=X)
    assert main(["run", *arguments.split()]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not Path("y.npy").exists()
