"""fit: epochs, validation, early stopping, checkpoints."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnc import checks
from rnnc.ir.errors import ArgumentError, ArgumentTypeError, RnncError
from rnnc.losses import CrossEntropy, Loss, check_loss
from rnnc.optimizers import Adam, Optimizer
from rnnc.schedules import Constant, Schedule
from rnnc.sequential import Sequential
from rnnc.train import checkpoint as files
from rnnc.train.data import Batch, Sequences, batches, in_order
from rnnc.train.progress import Progress
from rnnc.train.step import Evaluation, TrainingStep

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rnnc.network import Network
    from rnnc.train.data import Rows

    Array = NDArray[Any]
    Path = str | os.PathLike[str]


@dataclass(frozen=True)
class Epoch:
    """One line of a training's history. Losses are means over targets.

    accuracy: of the validation data, the share of right classes (cross_entropy only). seconds: of training alone.
    """

    epoch: int
    loss: float
    learning_rate: float
    seconds: float
    validation_loss: float | None = None
    accuracy: float | None = None


@dataclass(frozen=True)
class Trained:
    """What `fit` returns: the network, its parameters (with `patience`, those of the best epoch), what happened."""

    model: Sequential
    params: dict[str, Array]
    history: tuple[Epoch, ...]
    updates: int
    backend: str = field(repr=False, default="llvm")

    def compile(self, *, backend: str | None = None, threads: int | None = None) -> Network:
        """The trained network for inference; default backend: the one it was trained on."""
        return self.model.compile(self.params, backend=backend or self.backend, threads=threads)

    def save(self, path: Path) -> None:
        """Writes the parameters to a safetensors file."""
        files.save_parameters(path, self.params)


def fit(
    model: Sequential,
    data: Sequence[tuple[Array, Array]],
    *,
    params: Mapping[str, Any] | None = None,
    loss: Loss | str = "cross_entropy",
    optimizer: Optimizer | None = None,
    epochs: int = 10,
    batch_size: int = 32,
    validation: Sequence[tuple[Array, Array]] | None = None,
    seed: int = 0,
    schedule: Schedule | None = None,
    clip: float | None = None,
    accumulate: int = 1,
    patience: int | None = None,
    checkpoint: Path | None = None,
    checkpoint_every: int | None = None,
    resume: bool = False,
    tbptt: int | None = None,
    progress: bool = True,
    on_epoch: Callable[[Epoch], object] | None = None,
    backend: str = "llvm",
    threads: int | None = None,
    matmul: str | None = None,
) -> Trained:
    """Trains a network.

    data: pairs (x, target), one a sequence; x is integers (T,) for an embedding, else vectors (T, I); target is one
        number (or vector) a step, or behind a readout a single one. Batches are made of sequences of similar length.
    params: where to start; default `model.init(seed)`.
    loss: "cross_entropy", "mse", or a loss of `rnnc.losses`. optimizer: default `rnnc.optimizers.Adam(1e-3)`.
    epochs, batch_size: how often over the data; sequences in a batch.
    validation: pairs like data, of which the loss is computed after each epoch.
    seed: decides initial parameters, order, dropout and zoneout; the same seed gives the same result.
    schedule: a factor of the learning rate over time (`rnnc.schedules`).
    clip: the largest norm of all gradients together.
    accumulate: so many batches make one update, as one batch of their joint size would.
    patience: stop when the validation loss has not fallen for so many epochs; the result is the best epoch's.
    checkpoint: a file to keep the state of the training in, written after each epoch, and after every
        `checkpoint_every` updates. resume: go on from that file, if it is there; the result is bit for bit that of a
        training that was never stopped.
    tbptt: train in pieces of so many steps, each with an update of its own, that start from the states the piece before
        ended with, but send no gradients back to it (truncated backpropagation through time; Williams & Peng 1990).
    progress: show a bar (tqdm). on_epoch: called with each line of the history.
    backend, threads, matmul: as in `rnnc.compile`; on a GPU "bfloat16" and "tf32" are safer than "float16", in whose
        range small gradients vanish.
    Raises ArgumentError and ArgumentTypeError; RnncError if the loss is no longer a finite number.
    """
    return _Fit(
        _settings(locals()),
        model=_check_model(model),
        loss=check_loss(loss),
        optimizer=Adam() if optimizer is None else optimizer,
        schedule=Constant() if schedule is None else schedule,
        data=data,
        validation=validation,
        params=params,
        progress=checks.flag("progress", progress),
        on_epoch=on_epoch,
    ).run()


@dataclass(frozen=True)
class _Settings:
    epochs: int
    batch_size: int
    seed: int
    clip: float | None
    accumulate: int
    patience: int | None
    checkpoint: Path | None
    checkpoint_every: int | None
    resume: bool
    tbptt: int | None
    backend: str
    threads: int | None
    matmul: str | None


def _settings(given: Mapping[str, Any]) -> _Settings:
    """The plain arguments, checked."""
    values = {name: given[name] for name in _Settings.__dataclass_fields__}
    for name in ("epochs", "batch_size", "accumulate"):
        values[name] = checks.integer(name, values[name], 1)
    for name in ("patience", "checkpoint_every", "tbptt"):
        if values[name] is not None:
            values[name] = checks.integer(name, values[name], 1)
    values["seed"] = checks.integer("seed", values["seed"], 0, 2**64 - 1)
    values["resume"] = checks.flag("resume", values["resume"])
    if values["tbptt"] and values["accumulate"] > 1:
        raise ArgumentError("accumulate: with tbptt each piece is an update of its own; leave one of the two out")
    if values["patience"] and given["validation"] is None:
        raise ArgumentError("patience: it watches the validation loss; give validation=")
    if values["checkpoint"] is None and (values["resume"] or values["checkpoint_every"]):
        raise ArgumentError("checkpoint: resume and checkpoint_every need the name of a file")
    return _Settings(**values)


def _check_model(model: object) -> Sequential:
    if isinstance(model, Sequential):
        return model
    raise ArgumentTypeError(f"model: expected a rnnc.Sequential, got {checks.came(model)}")


@dataclass
class _Place:
    """How far a training has come; all of it is in a checkpoint."""

    epoch: int = 0
    position: int = 0  # updates (with tbptt, batches) done in this epoch
    loss: float = 0.0  # summed over the targets of this epoch
    count: int = 0
    seconds: float = 0.0
    best: float = float("inf")
    bad: int = 0  # epochs since the best


class _Fit:
    """One call of `fit`."""

    def __init__(
        self,
        settings: _Settings,
        *,
        model: Sequential,
        loss: Loss,
        optimizer: Optimizer,
        schedule: Schedule,
        data: object,
        validation: object,
        params: Mapping[str, Any] | None,
        progress: bool,
        on_epoch: Callable[[Epoch], object] | None,
    ) -> None:
        self.settings, self.model, self.loss, self.schedule = settings, model, loss, schedule
        self.data = Sequences(model, loss, data)
        self.held_out = None if validation is None else Sequences(model, loss, validation, "validation")
        target = {"backend": settings.backend, "threads": settings.threads, "matmul": settings.matmul}
        self.step = TrainingStep(
            model,
            loss,
            optimizer,
            params=params,
            seed=settings.seed,
            clip=settings.clip,
            carry=settings.tbptt is not None,
            **target,  # type: ignore[arg-type]
        )
        self.evaluation = Evaluation(model, loss, **target) if self.held_out else None  # type: ignore[arg-type]
        self.history: list[Epoch] = []
        self.place = _Place()
        self.best: Array | None = None
        self.progress, self.on_epoch = progress, on_epoch

    def run(self) -> Trained:
        settings = self.settings
        if settings.resume and settings.checkpoint is not None and os.path.exists(settings.checkpoint):
            self._restore(settings.checkpoint)
        while self.place.epoch < settings.epochs and not self._stopped():
            self._epoch()
        flat = self.step.flat if self.best is None else self.best
        params = {name: array.copy() for name, array in self.step.layout.views(flat).items()}
        return Trained(self.model, params, tuple(self.history), self.step.updates, settings.backend)

    def _stopped(self) -> bool:
        return self.settings.patience is not None and self.place.bad >= self.settings.patience

    # ---- an epoch

    def _epoch(self) -> None:
        place, settings = self.place, self.settings
        parts = batches(self.data.lengths, settings.batch_size, settings.seed, place.epoch)
        groups = [parts[i : i + settings.accumulate] for i in range(0, len(parts), settings.accumulate)]
        with Progress(self.progress, place.epoch, settings.epochs, len(groups), place.position) as bar:
            while place.position < len(groups):
                start = time.perf_counter()
                rate = self._rate(place.epoch + place.position / len(groups))
                loss, count = self._train(groups[place.position], rate)
                place.seconds += time.perf_counter() - start
                place.loss += loss
                place.count += count
                place.position += 1
                bar.advance(place.loss / max(place.count, 1))
                if settings.checkpoint_every and place.position % settings.checkpoint_every == 0:
                    self._save()
            line = self._line()
            bar.close_with(line.loss, line.validation_loss, line.accuracy)
        self._finish(line)

    def _rate(self, epoch: float) -> float:
        losses = [line.loss if line.validation_loss is None else line.validation_loss for line in self.history]
        return self.step.optimizer.learning_rate * self.schedule(epoch, losses)

    def _train(self, group: Sequence[Rows], rate: float) -> tuple[float, int]:
        """The updates of one group of batches: the summed loss, and how many targets it is of."""
        loss, count = 0.0, 0
        state: dict[str, Array] | None = None
        for parts in self._updates(group):
            outcome, state = self.step.step(parts, rate, state if self.settings.tbptt else None)
            if not np.isfinite(outcome.loss):
                raise RnncError(
                    f"the loss became {outcome.loss} in epoch {self.place.epoch + 1}, update {self.step.updates}; "
                    "try a lower learning rate, or clip="
                )
            targets = sum(part.terms for part in parts)
            loss += outcome.loss * targets
            count += targets
        return loss, count

    def _updates(self, group: Sequence[Rows]) -> Iterator[list[Batch]]:
        """The batches of each update."""
        first = np.cumsum([0, *(len(rows) for rows in group)]).tolist()
        whole = [self.data.batch(rows, row) for rows, row in zip(group, first, strict=False)]
        if self.settings.tbptt is None:
            yield whole
        else:
            yield from ([window] for window in self.data.windows(whole[0], self.settings.tbptt))

    def _line(self) -> Epoch:
        place = self.place
        loss, accuracy = self._validate() if self.evaluation and self.held_out else (None, None)
        rate = self._rate(float(place.epoch))
        return Epoch(place.epoch + 1, place.loss / max(place.count, 1), rate, place.seconds, loss, accuracy)

    def _validate(self) -> tuple[float, float | None]:
        """Mean loss, and the share of right classes."""
        assert self.evaluation and self.held_out
        total, count, hits = 0.0, 0, 0
        for rows in in_order(self.held_out.lengths, self.settings.batch_size):
            batch = self.held_out.batch(rows)
            loss, output = self.evaluation(self.step.params, batch)
            total += loss
            count += batch.terms
            if isinstance(self.loss, CrossEntropy):
                hits += right(output, batch)
        accuracy = hits / max(count, 1) if isinstance(self.loss, CrossEntropy) else None
        return total / max(count, 1), accuracy

    def _finish(self, line: Epoch) -> None:
        self.history.append(line)
        place = self.place
        if self.settings.patience is not None and line.validation_loss is not None:
            if line.validation_loss < place.best:
                place.best, place.bad, self.best = line.validation_loss, 0, self.step.flat.copy()
            else:
                place.bad += 1
        self.place = _Place(place.epoch + 1, best=place.best, bad=place.bad)
        if self.settings.checkpoint is not None:
            self._save()
        if self.on_epoch is not None:
            self.on_epoch(line)

    # ---- checkpoints

    def _identity(self) -> dict[str, Any]:
        """What must be the same for a training to go on, in words."""
        settings = self.settings
        return {
            "model": self.model.to_dict(),
            "loss": repr(self.loss),
            "optimizer": repr(self.step.optimizer),
            "schedule": _named(self.schedule),
            "data": self.data.digest,
            "validation": None if self.held_out is None else self.held_out.digest,
            "batch_size": settings.batch_size,
            "seed": settings.seed,
            "clip": settings.clip,
            "accumulate": settings.accumulate,
            "patience": settings.patience,
            "tbptt": settings.tbptt,
            "matmul": settings.matmul,
        }

    def _save(self) -> None:
        assert self.settings.checkpoint is not None
        views = self.step.layout.views
        arrays = views(self.step.flat) | {
            f"optimizer.{slot}.{name}": array
            for slot, flat in self.step.slots.items()
            for name, array in views(flat).items()
        }
        if self.best is not None:
            arrays |= {f"best.{name}": array for name, array in views(self.best).items()}
        data = {
            "identity": self._identity(),
            "place": asdict(self.place),
            "updates": self.step.updates,
            "history": [asdict(line) for line in self.history],
        }
        files.write(self.settings.checkpoint, arrays, data)

    def _restore(self, path: Path) -> None:
        """Goes on where the file was written. ArgumentError if it belongs to another training."""
        saved = files.read(path)
        if "identity" not in saved.data:
            raise ArgumentError(f"checkpoint: {os.fspath(path)!r} holds parameters only, no training to resume")
        for name, value in self._identity().items():
            if saved.data["identity"].get(name) != value:
                was = saved.data["identity"].get(name)
                raise ArgumentError(
                    f"checkpoint: {os.fspath(path)!r} is of a training with {name} = {was}, this one has {value}; "
                    "give another file, or resume=False"
                )
        views = self.step.layout.views
        for name, view in self.step.params.items():
            view[...] = saved.arrays[name]
        for slot, flat in self.step.slots.items():
            for name, view in views(flat).items():
                view[...] = saved.arrays[f"optimizer.{slot}.{name}"]
        if best := saved.part("best."):
            self.best = self.step.layout.zeros()
            for name, view in views(self.best).items():
                view[...] = best[name]
        self.place = _Place(**saved.data["place"])
        self.step.updates = saved.data["updates"]
        self.history = [Epoch(**line) for line in saved.data["history"]]


def right(output: Array, batch: Batch) -> int:
    """How many targets that count are the class with the highest score."""
    target = batch.target[..., 0]
    counted = target >= 0
    if output.ndim == 3 and batch.lengths is not None:
        counted &= np.arange(len(output))[:, None] < batch.lengths[None, :]
    return int((output.argmax(-1) == target)[counted].sum())


def _named(schedule: Schedule) -> str:
    """A schedule in words; a plain function by its name."""
    return str(getattr(schedule, "__qualname__", None) or repr(schedule))
