"""`fit`: the training loop, with validation, early stopping and checkpoints."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnc.checking import checks
from rnnc.checking.arguments import explained
from rnnc.ir.errors import ArgumentError, ArgumentTypeError, NonFiniteError, ShapeError
from rnnc.losses import CrossEntropy, Loss, LossLike, check_loss, identity
from rnnc.optimizers import Adam, Optimizer, check_rate
from rnnc.schedules import Constant, Schedule
from rnnc.sequential import Sequential
from rnnc.train import checkpoint as files
from rnnc.train.batch import Batch, inside
from rnnc.train.check import check_model
from rnnc.train.data import Sequences, batches, fitted, in_order
from rnnc.train.evaluation import Evaluation
from rnnc.train.progress import Progress
from rnnc.train.record import Epoch, Place, Record, restored
from rnnc.train.step import TrainingStep

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rnnc.network import Network
    from rnnc.train.data import Rows

    Array = NDArray[Any]
    Path = str | os.PathLike[str]


@dataclass(frozen=True)
class Trained:
    """The result of `fit`.

    model: the network. params: its parameters, name -> array in the network's dtype; with `patience`, those of the
    best epoch. history: one `Epoch` per epoch. updates: the number of updates made. backend: the one it was trained on.
    """

    model: Sequential
    params: dict[str, Array]
    history: tuple[Epoch, ...]
    updates: int
    backend: str = field(repr=False, default="llvm")

    def compile(self, *, backend: str | None = None, threads: int | None = None, matmul: str | None = None) -> Network:
        """The trained network, compiled for inference.

        backend: by default the one of the training. threads, matmul: as in `rnnc.compile`, with its defaults: without
        `matmul`, products are exact to the dtype even if the training's were not.
        Raises what `Sequential.compile` raises.
        """
        backend = self.backend if backend is None else backend
        return self.model.compile(self.params, backend=backend, threads=threads, matmul=matmul)

    def save(self, path: Path) -> None:
        """Writes network and parameters to one file, of which `rnnc.load` makes a `rnnc.Network`.

        It is a safetensors file: `rnnc.train.load_parameters` and other programs read the parameters in it.
        Raises what `rnnc.save` raises. (Parameters of a network with a cell that has no name go to a file by
        `rnnc.train.save_parameters`.)
        """
        from rnnc.files.models import save

        save(path, self.model, self.params)


@explained
def fit(
    model: Sequential,
    data: Sequence[tuple[Array, Array]],
    *,
    params: Mapping[str, Any] | None = None,
    loss: LossLike = "cross_entropy",
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
    on_nonfinite: str = "raise",
    backend: str = "llvm",
    threads: int | None = None,
    matmul: str | None = None,
) -> Trained:
    """Trains a network, and returns it with its parameters and history.

    data: pairs (x, target), one per sequence. x is integers (T,) for an embedding, otherwise vectors (T, I) in the
        network's dtype. target is one number or vector per step, or after a readout one per sequence. All numbers must
        be finite. A batch holds sequences of similar length.
    params: the parameters to start from; default `model.init(seed)`.
    loss: a loss of `rnnc.losses` or its name ("cross_entropy", "mse", "mae", "huber", "quantile", "bce", "ctc"), or a
        function of output and target, written as equations. optimizer: default `rnnc.optimizers.Adam(1e-3)`.
    epochs: passes over the data. batch_size: sequences per batch.
    validation: pairs like data. Their mean loss is computed after each epoch.
    seed: decides initial parameters, the order of batches, dropout and zoneout. The same seed gives the same result.
    schedule: a factor >= 0 of the learning rate over time (`rnnc.schedules`, or a function of epoch and losses).
    clip: the largest norm of all gradients together; larger gradients are scaled down. None = no limit.
    accumulate: batches per update. The update is that of one batch of their joint size.
    patience: stop after so many epochs in a row without a lower validation loss, and return the best epoch's
        parameters. Needs `validation`.
    checkpoint: a file for the state of the training, written after each epoch and after every `checkpoint_every`
        updates. Without `resume`, a file that already exists is an error, because it may be another training's.
    resume: go on from the checkpoint if it exists. The result is bit for bit that of a training without a stop.
    tbptt: steps per piece in truncated backpropagation through time (Williams & Peng 1990). Each piece has its own
        update, and starts from the final states of the piece before it; no gradients flow back to that piece.
    progress: show a bar (tqdm), or one line per epoch if tqdm is not installed.
    on_epoch: called with each `Epoch` of the history.
    on_nonfinite: "raise" an error for an update whose loss or gradients are not finite, or "skip" it (see
        `TrainingStep`). Such an update changes nothing.
    backend, threads, matmul: as in `rnnc.compile`. On a GPU, "bfloat16" and "tf32" are safer than "float16", because
        small gradients underflow in its range.
    Raises ArgumentError and ArgumentTypeError; NonFiniteError if an update's loss or gradients are not finite, or if
        all updates of an epoch were skipped; CheckpointError (an ArgumentError) for a file that cannot be used.
    """
    return _Fit(
        _settings(locals()),
        model=check_model(model),
        loss=check_loss(loss),
        optimizer=Adam() if optimizer is None else optimizer,
        schedule=Constant() if schedule is None else _callable("schedule", schedule),
        data=data,
        validation=validation,
        params=params,
        progress=checks.flag("progress", progress),
        on_epoch=None if on_epoch is None else _callable("on_epoch", on_epoch),
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
    on_nonfinite: str
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
    values["on_nonfinite"] = checks.choice("on_nonfinite", values["on_nonfinite"], ("raise", "skip"))
    if values["checkpoint"] is None and (values["resume"] or values["checkpoint_every"]):
        raise ArgumentError("checkpoint: resume and checkpoint_every need the name of a file")
    if values["checkpoint"] is not None and files.check_path(values["checkpoint"]).exists() and not values["resume"]:
        raise ArgumentError(
            f"checkpoint: {os.fspath(values['checkpoint'])!r} exists already; pass resume=True to continue from it; "
            "to start anew, delete it or give another name"
        )
    return _Settings(**values)


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
        loss = fitted(model, loss, data, validation)
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
            on_nonfinite=settings.on_nonfinite,
            **target,  # type: ignore[arg-type]
        )
        self.evaluation = Evaluation(model, loss, **target) if self.held_out else None  # type: ignore[arg-type]
        self.history: list[Epoch] = []
        self.place = Place()
        self.best: Array | None = None
        self.progress, self.on_epoch = progress, on_epoch

    def run(self) -> Trained:
        settings = self.settings
        if settings.checkpoint is not None:
            self._open(settings.checkpoint)
        while self.place.epoch < settings.epochs and not self._stopped():
            self._epoch()
        flat = self.step.flat if self.best is None else self.best
        params = {name: array.copy() for name, array in self.step.layout.views(flat).items()}
        return Trained(self.model, params, tuple(self.history), self.step.updates, settings.backend)

    def _open(self, path: Path) -> None:
        """Restores an existing checkpoint, and raises an error if no checkpoint can be written."""
        if files.check_path(path).exists():
            self._restore(path)
        self._identity()  # raises now, not after an epoch, for a model that has no form in a file
        files.prepare(path)

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
                bar.advance(place.loss / (place.count or 1.0))
                if settings.checkpoint_every and place.position % settings.checkpoint_every == 0:
                    self._save()
            if place.skipped and not place.count:
                raise NonFiniteError(
                    f"epoch {place.epoch + 1}: all {place.skipped} updates were skipped, as their losses or gradients "
                    "are no finite numbers; try a lower learning rate, or clip="
                )
            line = self._line()
            bar.close_with(line.loss, line.validation_loss, line.accuracy)
        self._finish(line)

    def _rate(self, epoch: float) -> float:
        losses = [line.loss if line.validation_loss is None else line.validation_loss for line in self.history]
        factor = self.schedule(epoch, losses)
        try:
            rate = self.step.optimizer.learning_rate * check_rate("factor", factor, "float64")
            return check_rate("learning_rate", rate, self.model.dtype)
        except (ArgumentError, ArgumentTypeError) as error:
            what = f"schedule: at epoch {epoch:.6g} it gave {checks.came(factor)}, expected a factor >= 0"
            raise type(error)(f"{what}: {error}") from None

    def _train(self, group: Sequence[Rows], rate: float) -> tuple[float, float]:
        """Makes the updates of one group of batches, and returns the summed loss and its number of targets."""
        loss, count = 0.0, 0.0
        state: dict[str, Array] | None = None
        for parts in self._updates(group):
            skipped = self.step.skipped
            try:
                outcome, state = self.step._take(parts, rate, state if self.settings.tbptt else None)
            except NonFiniteError as error:
                where = f"epoch {self.place.epoch + 1}, after {self.step.updates} updates of the training"
                raise NonFiniteError(f"{where}: {error}") from error
            if self.step.skipped > skipped:
                self.place.skipped += 1
                if not all(np.isfinite(array).all() for array in state.values()):
                    break  # the next piece would start from states that are not finite
                continue
            targets = sum(count_of(part) for part in parts)
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
        mean = place.loss / (place.count or 1.0)
        return Epoch(place.epoch + 1, mean, rate, place.seconds, loss, accuracy, place.skipped)

    def _validate(self) -> tuple[float, float | None]:
        """The mean loss, and for cross-entropy the accuracy, on the validation data."""
        assert self.evaluation and self.held_out
        total, count, hits, seen = 0.0, 0.0, 0, 0
        for rows in in_order(self.held_out.lengths, self.settings.batch_size):
            batch = self.held_out.batch(rows)
            loss, output = self.evaluation._of(self.step.params, batch)
            total += loss
            count += count_of(batch)
            if isinstance(self.loss, CrossEntropy):
                hits += right(output, batch)
                seen += int(_counted(batch).sum())
        accuracy = hits / max(seen, 1) if isinstance(self.loss, CrossEntropy) else None
        return total / (count or 1.0), accuracy

    def _finish(self, line: Epoch) -> None:
        self.history.append(line)
        place = self.place
        if self.settings.patience is not None and line.validation_loss is not None:
            if line.validation_loss < place.best:
                place.best, place.bad, self.best = line.validation_loss, 0, self.step.flat.copy()
            else:
                place.bad += 1
        self.place = Place(place.epoch + 1, best=place.best, bad=place.bad)
        if self.settings.checkpoint is not None:
            self._save()
        if self.on_epoch is not None:
            self.on_epoch(line)

    # ---- checkpoints

    def _identity(self) -> dict[str, Any]:
        """The settings, as plain data, that must be unchanged when a training goes on from a checkpoint."""
        settings = self.settings
        return {
            "model": self.model.to_dict(),
            "loss": identity(self.loss, self.model.output_size, self.model.dtype, self.model.timed),
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
            "on_nonfinite": settings.on_nonfinite,
            "matmul": settings.matmul,
        }

    def _save(self) -> None:
        assert self.settings.checkpoint is not None
        record = Record(self.step.flat, self.step.slots, self.best, self.place, self.step.updates, self.history)
        files.write(self.settings.checkpoint, record.arrays(self.step.layout), record.data(self._identity()))

    def _restore(self, path: Path) -> None:
        """Restores the state in a file. Raises CheckpointError if it is damaged or belongs to another training."""
        step, slots = self.step, self.step.optimizer.slots
        updates = -(-len(self.data) // (self.settings.batch_size * self.settings.accumulate))
        record = restored(os.fspath(path), files.read(path), self._identity(), step.layout, slots, updates)
        step.flat[...] = record.params
        for slot, flat in step.slots.items():
            flat[...] = record.slots[slot]
        step.updates = record.updates
        self.best, self.place, self.history = record.best, record.place, record.history


def count_of(batch: Batch) -> float:
    """What the summed loss of the only output is divided by."""
    (terms,) = batch.terms.values()
    return terms


def right(output: Array, batch: Batch) -> int:
    """The number of targets of a batch for which the class with the highest score is right.

    output: scores (T, B, C), or (B, C) after a readout, as `Evaluation` returns them. Targets that are ignored, and
    the padding, are left out. Divided by the number of the others, the result is the accuracy.
    Raises ShapeError or ArgumentTypeError.
    """
    if not isinstance(batch, Batch):
        raise ArgumentTypeError(f"batch: expected a rnnc.train.Batch, got {checks.came(batch)}")
    target = batch.target[..., 0]
    if np.shape(output)[:-1] != target.shape:
        raise ShapeError(f"output: expected shape {(*target.shape, 'classes')}, got {np.shape(output)}")
    return int((output.argmax(-1) == target)[_counted(batch)].sum())


def _counted(batch: Batch) -> Array:
    """The mask of the classes of a batch that are neither ignored nor padding."""
    target = batch.target[..., 0]
    counted: Array = target >= 0
    if target.ndim == 2 and (there := inside(len(target), batch.lengths)) is not None:
        counted &= there
    return counted


def _callable(name: str, value: Any) -> Any:
    if callable(value):
        return value
    raise ArgumentTypeError(f"{name}: expected a function, got {checks.came(value)}")


def _named(schedule: Schedule) -> str:
    """The text that identifies a schedule: its repr, or the name of a function."""
    return str(getattr(schedule, "__qualname__", None) or repr(schedule))
