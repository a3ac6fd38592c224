"""Checkpoints that are not as they were written, or do not fit, are refused before anything is taken of them."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rnnc import train
from rnnc.ir.errors import ArgumentError, ArgumentTypeError, CheckpointError, DtypeError, NonFiniteError
from rnnc.optimizers import Adam
from rnnc.train import checkpoint, record
from tests.refusals import raises_saying
from tests.training_data import tagged, tagger

Change = Callable[[dict[str, Any], dict[str, Any]], object]


def resumed(path: Any, **changes: Any) -> train.Trained:
    options: dict[str, Any] = {"epochs": 2, "batch_size": 2, "optimizer": Adam(0.02), "validation": tagged(7)}
    options |= {"patience": 5, "progress": False, "backend": "reference", "resume": True}
    return train.fit(tagger(), tagged(), checkpoint=path, **(options | changes))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoints") / "run.safetensors"
    resumed(path)
    return path


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "weights.safetensors"
    train.save_parameters(path, {"a": np.arange(60, dtype=np.float32).reshape(6, 10), "b": np.zeros(3)})
    return path


def test_a_file_with_any_bit_changed_is_refused(small: Path) -> None:
    """In numbers, names, shapes, spaces, the record, the digest."""
    whole = small.read_bytes()
    assert set(train.load_parameters(small)) == {"a", "b"}
    for place in range(len(whole)):
        content = bytearray(whole)
        content[place] ^= 1 << place % 8
        small.write_bytes(content)
        with pytest.raises(CheckpointError):
            train.load_parameters(small)


def test_a_file_cut_short_or_longer_or_with_a_hole_is_refused(small: Path) -> None:
    whole = small.read_bytes()
    cut = [whole[:size] for size in range(0, len(whole), 3)]
    holes = [whole[:place] + bytes(8) + whole[place + 8 :] for place in range(0, len(whole) - 8, 8)]
    for content in (*cut, *(hole for hole in holes if hole != whole), whole + b"\0", whole + whole, b"x" * 9):
        small.write_bytes(content)
        with raises_saying(CheckpointError, "checkpoint", "weights.safetensors"):
            train.load_parameters(small)


@pytest.mark.sampled(4)
def test_a_damaged_checkpoint_stops_the_resumption_and_is_left_as_it_is(written: Path, tmp_path: Path) -> None:
    path, whole = tmp_path / "run", written.read_bytes()
    for place in np.linspace(0, len(whole) - 1, 7).astype(int):
        content = bytearray(whole)
        content[place] ^= 4
        path.write_bytes(content)
        with raises_saying(CheckpointError, "checkpoint", "run"):
            resumed(path)
        assert path.read_bytes() == content and os.listdir(tmp_path) == ["run"]


def _replace(name: str, array: Any) -> Change:
    return lambda arrays, data: arrays.__setitem__(name, array)


def _set(*keys: Any) -> Change:
    """The last of keys is the value."""

    def change(arrays: dict[str, Any], data: dict[str, Any]) -> None:
        *outer, last, value = keys
        found: Any = data
        for key in outer:
            found = found[key]
        found[last] = value

    return change


CHANGES: dict[str, tuple[Change, str]] = {
    "a missing array": (lambda arrays, data: arrays.pop("2.bias"), "lacks '2.bias'"),
    "a missing slot": (lambda arrays, data: arrays.pop("optimizer.v.2.bias"), "lacks 'optimizer.v.2.bias'"),
    "a missing best": (lambda arrays, data: arrays.pop("best.2.bias"), "lacks 'best.2.bias'"),
    "no best": (lambda arrays, data: [arrays.pop(k) for k in list(arrays) if k.startswith("best.")], "best epoch"),
    "one more array": (_replace("more", np.zeros(3)), "'more'"),
    "another shape": (_replace("2.bias", np.zeros(4)), "'2.bias' has the shape (4,), expected (3,)"),
    "integers": (_replace("2.bias", np.zeros(3, np.int32)), "'2.bias' is int32, expected float64"),
    "float32": (_replace("optimizer.m.2.bias", np.zeros(3, np.float32)), "is float32"),
    "a place beyond the data": (_set("place", "position", 4), "4 of 3 updates"),
    "a negative place": (_set("place", "position", -1), "position in its place is -1"),
    "a place of another form": (_set("place", [1, 2]), "its place is [1, 2]"),
    "a place without a field": (lambda arrays, data: data["place"].pop("bad"), "its place lacks 'bad'"),
    "a field that is text": (_set("place", "count", "3"), "count in its place is '3'"),
    "no number": (_set("place", "loss", float("nan")), "loss in its place is nan"),
    "another epoch": (_set("place", "epoch", 7), "its history is not that of its place"),
    "a history of another form": (_set("history", {}), "its history is no list"),
    "a line of another form": (_set("history", 0, 5), "line 0 of its history is 5"),
    "a line without a field": (
        lambda arrays, data: data["history"][1].pop("loss"),
        "line 1 of its history lacks 'loss'",
    ),
    "updates": (_set("updates", 1.5), "updates is 1.5"),
    "many updates": (_set("updates", 2**64), "updates is"),
    "no updates": (lambda arrays, data: data.pop("updates"), "lacks 'updates'"),
    "an identity of another form": (_set("identity", 3), "its identity"),
}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", CHANGES)
def test_a_checkpoint_that_does_not_fit_is_refused(name: str, written: Path, tmp_path: Path) -> None:
    """Its digest is right: it was written by another program, or another version."""
    arrays, data = checkpoint.parsed(written, checkpoint.content(written))
    data = copy.deepcopy(data)
    change, word = CHANGES[name]
    change(arrays, data)
    path = tmp_path / "changed"
    checkpoint.write(path, arrays, data)
    content = path.read_bytes()
    with raises_saying(CheckpointError, "checkpoint", "changed", word):
        resumed(path)
    assert path.read_bytes() == content


def test_a_file_that_is_there_is_not_overwritten_without_resume(written: Path) -> None:
    content = written.read_bytes()
    with raises_saying(ArgumentError, "checkpoint", "run.safetensors", "resume=True", "another name"):
        resumed(written, resume=False)
    assert written.read_bytes() == content


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_paths_that_are_no_files_are_refused_before_the_training(tmp_path: Path, small: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    wrong = (tmp_path, tmp_path / ("x" * 300), small / "inside", tmp_path / "pipe", "", "a\0b", "\ud800")
    called: list[object] = []
    for path in wrong:
        for call in (
            lambda path=path: resumed(path, on_epoch=called.append),
            lambda path=path: train.save_parameters(path, {"a": np.zeros(3)}),
            lambda path=path: train.load_parameters(path),
        ):
            with pytest.raises(CheckpointError):
                call()
    for path in (3, b"x", ["x"]):
        with pytest.raises(ArgumentTypeError):
            resumed(path)
    assert not called


def test_what_is_not_finite_is_not_written(written: Path, small: Path) -> None:
    """The old file stays."""
    content = small.read_bytes()
    for value in (np.nan, np.inf):
        with raises_saying(NonFiniteError, "'b'", "weights.safetensors", "was not written"):
            train.save_parameters(small, {"a": np.zeros(3), "b": np.array([1.0, value])})
    for params, error in (({"a": np.zeros(3, int)}, DtypeError), ({1: np.zeros(3)}, ArgumentError), ([], TypeError)):
        with pytest.raises(error):
            train.save_parameters(small, params)  # type: ignore[arg-type]
    assert small.read_bytes() == content and os.listdir(small.parent) == [small.name]


def test_arrays_of_any_layout_come_back(tmp_path: Path) -> None:
    array = np.random.default_rng(0).standard_normal((6, 4))
    given = {"t": array.T, "every other": array[::2], "swapped": array.astype(">f8"), "empty": array[:0]}
    train.save_parameters(tmp_path / "layouts", given)
    found = train.load_parameters(tmp_path / "layouts")
    for name, expected in given.items():
        np.testing.assert_array_equal(found[name], expected)
        found[name][...] = 0  # may be written to


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder" / "file")
    train.save_parameters(tmp_path / "link", {"a": np.zeros(3)})
    assert (tmp_path / "link").is_symlink() and (tmp_path / "folder" / "file").is_file()


def test_another_training_is_told_by_its_first_difference(written: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    for changes, words in (
        ({"batch_size": 3}, ("batch_size = 2", "this one has 3")),
        ({"optimizer": Adam(0.03)}, ("Adam(", "0.02", "0.03")),
    ):
        path.write_bytes(written.read_bytes())
        with raises_saying(CheckpointError, "it is of a training with", *words):
            resumed(path, **changes)
    one = {"layers": [{"type": "GRU", "size": 4}, {"type": "Linear"}]}
    other = {"layers": [{"type": "GRU", "size": 5}, {"type": "Linear"}]}
    assert record._first_difference("model", one, other) == ("model.layers[0].size", 4, 5)
    assert record._first_difference("model", one, {}) == ("model", one, {})
