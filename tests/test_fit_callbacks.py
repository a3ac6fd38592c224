"""Callbacks of `fit`: what they see, how they stop it; a training that is interrupted; histories in files."""

from __future__ import annotations

import csv
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rnnc import train
from rnnc.ir.errors import ArgumentError, ArgumentTypeError
from rnnc.optimizers import Adam
from tests.interrupted import _Profile
from tests.refusals import raises_saying
from tests.training_data import tagged, tagger

MODEL = tagger(num_layers=1, bidirectional=False)


def fit(**changes: Any) -> train.Trained:
    options: dict[str, Any] = {"epochs": 3, "batch_size": 2, "optimizer": Adam(0.02), "progress": False}
    return train.fit(MODEL, tagged(), **(options | {"backend": "reference"} | changes))


class Watch(train.Callback):
    """Keeps what it sees, and stops after some updates."""

    def __init__(self, stop: int | None = None) -> None:
        self.params: dict[int, Any] = {}
        self.moments: list[str] = []
        self.stop = stop

    def on_start(self, training: train.Training) -> None:
        self.moments.append("start")
        self.on_update(training)

    def on_update(self, training: train.Training) -> None:
        self.params[training.updates] = {name: array.copy() for name, array in training.params.items()}
        if training.updates == self.stop:
            training.stop()

    def on_epoch(self, training: train.Training) -> None:
        self.moments.append(f"epoch {training.epoch}, {len(training.history)} lines")
        assert training.loss == training.history[-1].loss

    def on_end(self, training: train.Training) -> None:
        self.moments.append("end")


def test_a_callback_sees_parameters_and_history_and_stops() -> None:
    whole = Watch()
    trained = fit(callbacks=[whole])
    assert whole.moments == ["start", *(f"epoch {n}, {n} lines" for n in (1, 2, 3)), "end"]
    assert list(whole.params) == list(range(10)) and trained.ended == "epochs"
    stopped = fit(callbacks=[Watch(stop=4)])
    assert (stopped.updates, len(stopped.history), stopped.ended) == (4, 1, "stopped")
    for name, array in stopped.params.items():
        np.testing.assert_array_equal(array, whole.params[4][name])
        assert not np.array_equal(array, whole.params[5][name])


def test_a_function_or_any_object_is_a_callback() -> None:
    """Called after each epoch, after `on_epoch`; what it writes to a parameter counts from the next update on."""
    lines: list[Any] = []

    def clear(training: train.Training) -> None:
        assert training.history[-1] is lines[-1]
        training.params["2.bias"] = np.full(3, 7.0)
        if training.history[-1].epoch == 2:
            training.stop()

    other = SimpleNamespace(on_update=lambda training: lines.append(training.updates))
    trained = fit(on_epoch=lines.append, callbacks=[clear, other])
    assert trained.ended == "stopped" and len(trained.history) == 2 and lines.count(4) == 1
    np.testing.assert_array_equal(trained.params["2.bias"], np.full(3, 7.0))
    for wrong, error in (([3], ArgumentTypeError), ([Watch], ArgumentTypeError), ("ab", ArgumentTypeError)):
        with raises_saying(error, "callbacks"):
            fit(callbacks=wrong)


# -- Ctrl-C ---------------------------------------------------------------------------------------------


@contextmanager
def keyboard() -> Iterator[None]:
    """SIGUSR1 raises KeyboardInterrupt, as SIGINT does."""
    before = signal.signal(signal.SIGUSR1, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a finalizer was interrupted
def test_an_interrupted_training_returns_what_was_trained_so_far() -> None:
    """Whenever the signal comes: the parameters are those after some whole number of updates."""
    whole = Watch()

    def trained(profile: _Profile) -> train.Trained:
        def profiled(training: train.Training) -> None:
            if training.updates < 5:
                sys.setprofile(profile if training.updates else None)

        try:
            return fit(epochs=2, validation=tagged(1), callbacks=[whole, SimpleNamespace(on_update=profiled)])
        finally:
            sys.setprofile(None)

    counting = _Profile(-1, "/rnnc/train/")
    assert trained(counting).ended == "epochs"
    params = dict(whole.params)
    with keyboard():
        ends = [
            trained(_Profile(moment, "/rnnc/train/")) for moment in range(0, counting.count - 99, counting.count // 6)
        ]
    assert sum(end.interrupted for end in ends) >= 4 and len({end.updates for end in ends}) > 2
    for end in ends:
        for name, array in end.params.items():
            np.testing.assert_array_equal(array, params[end.updates][name])


def test_an_interrupted_training_is_resumed_from_its_checkpoint(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")

    def interrupt(training: train.Training) -> None:
        if training.updates == 5:
            raise KeyboardInterrupt

    options = {"checkpoint": tmp_path / "run", "checkpoint_every": 1}
    ended = Watch()
    trained = fit(callbacks=[SimpleNamespace(on_update=interrupt), ended], **options)
    assert trained.interrupted and trained.updates == 5 and ended.moments[-1] == "end"
    found, expected = fit(**options, resume=True), fit()
    for name, array in expected.params.items():
        np.testing.assert_array_equal(found.params[name], array)


# -- histories in files ---------------------------------------------------------------------------------


def test_the_history_goes_to_a_file_of_commas(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "history.csv"
    trained = fit(validation=tagged(1), metrics={"own": lambda y, t: y[:, 0]}, callbacks=[train.CSV(path)])
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3]
    for row, line in zip(rows, trained.history, strict=True):
        numbers = (line.loss, line.validation_loss, line.accuracy, line.metrics["own"])
        assert tuple(float(row[name]) for name in ("loss", "validation_loss", "accuracy", "own")) == numbers
    assert [entry.name for entry in path.parent.iterdir()] == ["history.csv"]
    fit(callbacks=[train.CSV(path)])
    assert "own" not in path.read_text() and len(path.read_text().splitlines()) == 4
    with raises_saying(ArgumentError, "path", "cannot be written"):
        fit(callbacks=[train.CSV(path / "inside")])
    with pytest.raises(ArgumentTypeError):
        train.CSV(3)  # type: ignore[arg-type]


def test_tensorboard_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with raises_saying(train.MissingExtra, "tensorboard", "pip install tensorboard"):
        fit(callbacks=[train.TensorBoard(tmp_path)])


def test_tensorboard_reads_the_history(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    trained = fit(validation=tagged(1), callbacks=[train.TensorBoard(tmp_path)])
    events = accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    for name in ("loss", "validation_loss", "accuracy"):
        found = [(event.step, event.value) for event in events.Scalars(name)]
        want = [(line.epoch, np.float32(getattr(line, name))) for line in trained.history]
        assert found == want
