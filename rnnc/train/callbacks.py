"""Callbacks of `fit`: what they are given, and two that write the history to files."""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rnnc.checking import checks
from rnnc.extras import load
from rnnc.ir.errors import ArgumentError, ArgumentTypeError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from rnnc.train.ranks import Ranks
    from rnnc.train.record import Epoch
    from rnnc.train.step import TrainingStep

    Array = NDArray[Any]

__all__ = ["CSV", "Callback", "TensorBoard", "Training"]


class Training:
    """A training that is going on, as callbacks see it.

    model: the network. params: its parameters, name -> view of the array that is trained: what is written to it
    counts from the next update on. history: one `Epoch` per epoch that is over. epoch: the number of those. updates:
    the number of updates made. loss: the mean loss of the epoch so far; NaN before its first update. rank, ranks: the
    number of this process, and how many train together (`distributed=`); 0 and 1 for one alone.
    """

    def __init__(self, step: TrainingStep, history: list[Epoch], ranks: Ranks) -> None:
        self.model = step.model
        self.rank, self.ranks = ranks.rank, ranks.size
        self.loss = float("nan")
        self._step, self._history = step, history
        self._stopped = False

    @property
    def params(self) -> Mapping[str, Array]:
        """The parameters, name -> view."""
        return self._step.params

    @property
    def updates(self) -> int:
        """The number of updates made."""
        return self._step.updates

    @property
    def history(self) -> tuple[Epoch, ...]:
        """The epochs that are over."""
        return tuple(self._history)

    @property
    def epoch(self) -> int:
        """The number of epochs that are over."""
        return len(self._history)

    @property
    def stopped(self) -> bool:
        """Whether a callback has called `stop`."""
        return self._stopped

    def stop(self) -> None:
        """Ends the training once all callbacks have been called. `fit` then returns what was trained so far."""
        self._stopped = True


class Callback:
    """Base of callbacks. Each method is called with the `Training`, and does nothing unless it is overridden.

    A class need not derive from this one; it may define any of the methods. A function in place of a callback is called
    after each epoch.
    """

    def on_start(self, training: Training) -> None:
        """Called before the first update, after a checkpoint has been read."""

    def on_update(self, training: Training) -> None:
        """Called after each update (with `tbptt`, after the last piece of each batch)."""

    def on_epoch(self, training: Training) -> None:
        """Called after each epoch and its validation. The last of `training.history` is its line."""

    def on_end(self, training: Training) -> None:
        """Called at the end of a training, also of one that was interrupted, but not if it raised an error."""


MOMENTS = ("on_start", "on_update", "on_epoch", "on_end")


class Callbacks:
    """All callbacks of a training, each called at the moments that it defines."""

    def __init__(self, given: object, on_epoch: Callable[[Epoch], object] | None = None) -> None:
        """given: callbacks. on_epoch: a function of the line of an epoch, called before them."""
        if on_epoch is not None and not callable(on_epoch):
            raise ArgumentTypeError(f"on_epoch: expected a function, got {checks.came(on_epoch)}")
        if not isinstance(given, Iterable) or isinstance(given, (str, bytes)):
            raise ArgumentTypeError(f"callbacks: expected a list of callbacks, got {checks.came(given)}")
        self._calls: dict[str, list[Callable[[Training], object]]] = {moment: [] for moment in MOMENTS}
        if on_epoch is not None:
            self._calls["on_epoch"].append(lambda training: on_epoch(training.history[-1]))
        for number, callback in enumerate(given):
            for moment, call in _methods(f"callbacks[{number}]", callback).items():
                self._calls[moment].append(call)

    def has(self, moment: str) -> bool:
        """Whether there is a callback for a moment."""
        return bool(self._calls[moment])

    def __call__(self, moment: str, training: Training) -> None:
        for call in self._calls[moment]:
            call(training)


def _methods(label: str, callback: object) -> dict[str, Callable[[Training], object]]:
    """Moment -> what is called then."""
    found = {}
    for moment in MOMENTS:
        method = getattr(callback, moment, None)
        if callable(method) and getattr(type(callback), moment, None) is not getattr(Callback, moment):
            found[moment] = method
    if isinstance(callback, type):
        raise ArgumentTypeError(f"{label}: expected a callback, got the class {callback.__name__}; call it to make one")
    if not found and callable(callback):
        return {"on_epoch": callback}
    if not found and not isinstance(callback, Callback):
        raise ArgumentTypeError(
            f"{label}: expected a function, or an object with {' or '.join(MOMENTS)}, got {checks.came(callback)}"
        )
    return found


class CSV(Callback):
    """Writes the history to a file of comma-separated values, a line per epoch, with a header. Rank 0 writes it.

    path: the file. It is written anew after each epoch, complete, so that a training that is resumed has all epochs in
        it. A value that was not computed is empty. The columns are the fields of `Epoch`; metrics and losses by output
        have columns of their own names.
    Raises ArgumentTypeError or ArgumentError, if the file cannot be written before the training begins.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(_path(path))

    def on_start(self, training: Training) -> None:
        if training.rank:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._write(training.history)
        except OSError as error:
            raise ArgumentError(f"path: {str(self._path)!r} cannot be written: {error.strerror or error}") from error

    def on_epoch(self, training: Training) -> None:
        if not training.rank:
            self._write(training.history)

    def _write(self, history: Sequence[Epoch]) -> None:
        lines = [columns(line) for line in history]
        names = list(dict.fromkeys(name for line in lines for name in line))
        draft = self._path.with_name(f".{self._path.name}.{os.getpid()}.tmp")
        try:
            with open(draft, "w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, names)
                writer.writeheader()
                writer.writerows(lines)
            os.replace(draft, self._path)
        finally:
            draft.unlink(missing_ok=True)


class TensorBoard(Callback):
    """Writes the history as scalars that TensorBoard shows, one step per epoch. Rank 0 writes them.

    folder: TensorBoard's --logdir, or a folder in it. Each call of `fit` adds one file, with the epochs of that call.
    Raises ArgumentTypeError, and MissingExtra when the training begins if the package tensorboard is not installed.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = _path(folder)
        self._writer: Any = None

    def on_start(self, training: Training) -> None:
        if training.rank:
            return
        files = load("tensorboard.summary.writer.event_file_writer", "event files", "tensorboard")
        self._writer = files.EventFileWriter(self._folder)

    def on_epoch(self, training: Training) -> None:
        if self._writer is not None:
            self._add(training.history[-1])
            self._writer.flush()

    def on_end(self, training: Training) -> None:
        if self._writer is not None:
            self._writer.close()

    def _add(self, line: Epoch) -> None:
        events = load("tensorboard.compat.proto.event_pb2", "event files", "tensorboard")
        summaries = load("tensorboard.compat.proto.summary_pb2", "event files", "tensorboard")
        numbers = {name: value for name, value in columns(line).items() if value is not None and name != "epoch"}
        values = [summaries.Summary.Value(tag=name, simple_value=value) for name, value in numbers.items()]
        summary = summaries.Summary(value=values)
        self._writer.add_event(events.Event(step=line.epoch, wall_time=time.time(), summary=summary))


def columns(line: Epoch) -> dict[str, Any]:
    """The numbers of an epoch by name; metrics and losses by output under their own names."""
    found: dict[str, Any] = {}
    for name, value in asdict(line).items():
        if isinstance(value, dict):
            prefix = "" if name == "metrics" else f"{name}."
            found |= {prefix + key: number for key, number in value.items()}
        else:
            found[name] = value
    return found


def _path(path: object) -> str:
    if isinstance(path, (str, os.PathLike)) and os.fspath(path):
        return str(os.fspath(path))
    raise ArgumentTypeError(f"path: expected a str or a pathlib.Path, got {checks.came(path)}")
