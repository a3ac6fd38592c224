"""`fit`: the training loop, with validation, early stopping and checkpoints."""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnc.checking import checks
from rnnc.checking.arguments import explained
from rnnc.ir.errors import ArgumentError, ArgumentTypeError, NonFiniteError
from rnnc.losses import identity
from rnnc.optimizers import Adam, Optimizer, check_rate
from rnnc.schedules import Constant, Schedule
from rnnc.train import checkpoint as files
from rnnc.train.callbacks import Callbacks, Training
from rnnc.train.check import check_model
from rnnc.train.evaluation import Evaluation
from rnnc.train.groups import group_of
from rnnc.train.objective import objective_of
from rnnc.train.progress import Progress
from rnnc.train.ranks import Ranks
from rnnc.train.record import Epoch, Place, Record, restored
from rnnc.train.result import Trained
from rnnc.train.settings import Settings, function, read_settings
from rnnc.train.sources import prepare, source
from rnnc.train.step import TrainingStep
from rnnc.train.validation import Validated, Validation
from rnnc.train.windows import windows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rnnc.layered import Layered
    from rnnc.train.batch import Batch
    from rnnc.train.objective import Given

    Array = NDArray[Any]
    Terms = Mapping[str, float]
    Path = str | os.PathLike[str]


@explained
def fit(
    model: Layered,
    data: Any,
    *,
    params: Mapping[str, Any] | None = None,
    loss: Given = "cross_entropy",
    optimizer: Optimizer | None = None,
    epochs: int = 10,
    batch_size: int = 32,
    validation: Any = None,
    metrics: Any = None,
    seed: int = 0,
    schedule: Schedule | None = None,
    clip: float | None = None,
    accumulate: int = 1,
    patience: int | None = None,
    checkpoint: Path | None = None,
    checkpoint_every: int | None = None,
    resume: bool = False,
    tbptt: int | None = None,
    frozen: Collection[str] = (),
    steps_per_epoch: int | None = None,
    shuffle_buffer: int = 0,
    progress: bool = True,
    on_epoch: Callable[[Epoch], object] | None = None,
    callbacks: Iterable[Any] = (),
    on_nonfinite: str = "raise",
    distributed: Any = False,
    backend: str = "llvm",
    threads: int | None = None,
    matmul: str | None = None,
) -> Trained:
    """Trains a network, and returns it with its parameters and history.

    data: items (x, target) or (x, target, weight), one per sequence. x is integers (T,) for an embedding, otherwise
        vectors (T, I) in the network's dtype. target is one number or vector per step, or after a readout one per
        sequence. weight multiplies the loss: one number, or one per step. For a network of several inputs or outputs
        each is a dict by name. A list, a tuple of arrays (X, Y) with one sequence per row, an object with __len__ and
        __getitem__, a generator function, or an iterable such as a torch DataLoader (docs/training.md). Of a list, a
        batch holds sequences of similar length, in random order. Memory-mapped arrays are read batch by batch.
    params: the parameters to start from; default `model.init(seed)`.
    loss: a loss of `rnnc.losses` or its name ("cross_entropy", "mse", "mae", "huber", "quantile", "bce", "ctc"), or a
        function of output and target, written as equations. For several outputs: output -> loss, or (loss, factor).
    optimizer: default `rnnc.optimizers.Adam(1e-3)`.
    epochs: passes over the data. batch_size: sequences per batch.
    validation: data of any of these kinds. Its mean loss is computed after each epoch.
    metrics: what else is computed of it: names ("accuracy", "mae", "mse", "rmse"), or name -> function of outputs
        (N, width) and targets (N, target width) of N steps, or `rnnc.train.Metric`. By output, if there are several.
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
    frozen: names of parameters that do not change, or patterns of names such as "0.*".
    steps_per_epoch: updates per epoch of streamed data, which goes on in the next epoch; default: one pass over it.
    shuffle_buffer: the number of items of streamed data that are kept, and from which batches are made in random order
        of sequences of similar length. Default 0: a stream keeps its order.
    progress: show a bar (tqdm), or one line per epoch if tqdm is not installed.
    on_epoch: called with each `Epoch` of the history.
    callbacks: objects with some of the methods of `rnnc.train.Callback`, or functions, which are called after each
        epoch. They see a `rnnc.train.Training`: its parameters, its history, and how to stop it.
    on_nonfinite: "raise" an error for an update whose loss or gradients are not finite, or "skip" it (see
        `TrainingStep`). Such an update changes nothing.
    distributed: True if the processes that this one was started with (torchrun, mpirun) train together, or a
        `rnnc.train.Group` of them. Each computes its rows of every batch; the result is that of one process, up to the
        order of sums. All are given the same arguments and data (docs/training.md).
    backend, threads, matmul: as in `rnnc.compile`. On a GPU, "bfloat16" and "tf32" are safer than "float16", because
        small gradients underflow in its range.
    A KeyboardInterrupt (Ctrl-C) within the training ends it; what was trained so far is returned.
    Raises ArgumentError and ArgumentTypeError; NonFiniteError if an update's loss or gradients are not finite, or if
        all updates of an epoch were skipped; CheckpointError (an ArgumentError) for a file that cannot be used;
        RankError if another process has raised an error or has ended.
    """
    given, ranks = dict(locals()), Ranks(group_of(distributed))

    def prepared() -> tuple[_Fit, list[float]]:
        made = _Fit(
            read_settings(given, ranks),
            ranks=ranks,
            model=check_model(model),
            loss=loss,
            optimizer=Adam() if optimizer is None else optimizer,
            schedule=Constant() if schedule is None else function("schedule", schedule),
            data=data,
            validation=validation,
            metrics=metrics,
            params=params,
            progress=checks.flag("progress", progress),
            callbacks=Callbacks(callbacks, on_epoch),
        )
        return made, []

    return ranks.together(prepared)[0].run()


class _Fit:
    """One call of `fit`."""

    def __init__(
        self,
        settings: Settings,
        *,
        ranks: Ranks,
        model: Layered,
        loss: Given,
        optimizer: Optimizer,
        schedule: Schedule,
        data: object,
        validation: object,
        metrics: object,
        params: Mapping[str, Any] | None,
        progress: bool,
        callbacks: Callbacks,
    ) -> None:
        self.settings, self.ranks, self.model, self.schedule = settings, ranks, model, schedule
        objective = objective_of(model, loss)
        losses = objective.losses
        self.data = source(model, losses, data, settings.plan)
        self.held_out = None
        if validation is not None:
            self.held_out = source(model, losses, validation, settings.plan_of_validation, "validation")
        for given in (self.data, self.held_out):
            if given is not None:
                given.check(settings.epochs)
        self.losses = prepare(model, losses, [self.data, *([self.held_out] if self.held_out else [])])
        loss = {output: (self.losses[output], part.factor) for output, part in objective.parts.items()}
        self.step = TrainingStep(
            model,
            loss,
            optimizer,
            params=params,
            seed=settings.seed,
            clip=settings.clip,
            carry=settings.tbptt is not None,
            on_nonfinite=settings.on_nonfinite,
            weighted=self.data.weighted,
            frozen=settings.frozen,
            distributed=ranks,
            **settings.target,
        )
        self.validate: Validation | None = None
        if self.held_out is not None:
            evaluation = Evaluation(model, loss, weighted=self.held_out.weighted, **settings.target)
            self.validate = Validation(model, self.losses, self.held_out, evaluation, metrics, ranks)
        self.history: list[Epoch] = []
        self.place = Place()
        self.best: Array | None = None
        self.progress, self.callbacks = progress and ranks.rank == 0, callbacks
        self.training = Training(self.step, self.history, ranks)

    def run(self) -> Trained:
        settings = self.settings
        self.ranks.alike("settings, data or parameters", self._given())
        if settings.checkpoint is not None:
            self._open(settings.checkpoint)
        try:
            self._call("on_start")
            ended = self._epochs()
        except KeyboardInterrupt:
            if self.ranks.several:
                raise  # the other ranks have not come to the same place
            ended = "interrupted"
        self._call("on_end")
        flat = self.step.flat if self.best is None else self.best
        params = {name: array.copy() for name, array in self.step.layout.views(flat).items()}
        return Trained(self.model, params, tuple(self.history), self.step.updates, settings.backend, ended)

    def _given(self) -> str:
        """What must be the same on all ranks, as far as it has a text."""
        sources = [None if source is None else source.identity for source in (self.data, self.held_out)]
        settings = [getattr(self.settings, name) for name in ("epochs", *UNCHANGED)]
        return repr((settings, self.step.optimizer, sources, zlib.crc32(self.step.flat.tobytes())))

    def _call(self, moment: str) -> None:
        """Calls the callbacks of a moment. If one stops the training on any rank, it ends on all."""
        if not self.callbacks.has(moment):
            return

        def called() -> tuple[None, list[float]]:
            self.callbacks(moment, self.training)
            return None, [float(self.training.stopped)]

        if self.ranks.together(called, 1)[1][0]:
            self.training.stop()

    def _open(self, path: Path) -> None:
        """Restores an existing checkpoint, and raises an error if no checkpoint can be written. Rank 0 reads it."""

        def read() -> tuple[bytes, list[float]]:
            self._identity()  # raises now, not after an epoch, for a model that has no form in a file
            if self.ranks.rank:
                return b"", []
            found = files.content(path) if files.check_path(path).exists() else b""
            files.prepare(path)
            return found, []

        if content := self.ranks.first(self.ranks.together(read)[0]):
            self._restore(path, files.parsed(path, content))

    def _epochs(self) -> str:
        """Trains until the end, and returns why it came."""
        patience = self.settings.patience
        while self.place.epoch < self.settings.epochs:
            if patience is not None and self.place.bad >= patience:
                return "patience"
            if not self._epoch():
                return "stopped" if self.training.stopped else "data"
            if self.training.stopped:
                return "stopped"
        return "epochs"

    # ---- an epoch

    def _epoch(self) -> bool:
        """Makes the updates of an epoch. Returns False if a callback stopped it, or if the data had ended before it."""
        place, settings = self.place, self.settings
        with Progress(self.progress, place.epoch, settings.epochs, self.data.updates, place.position) as bar:
            for group, terms in self._groups():
                start = time.perf_counter()
                self._train(group, terms, self._rate(place.epoch + self._share()))
                place.seconds += time.perf_counter() - start
                place.position += 1
                self.training.loss = place.mean
                bar.advance(place.mean)
                self._call("on_update")
                every = settings.checkpoint_every
                if self.training.stopped or (every and place.position % every == 0):
                    self._save()
                if self.training.stopped:
                    return False
            if not place.position:
                return False
            if place.skipped and not place.count:
                raise NonFiniteError(
                    f"epoch {place.epoch + 1}: all {place.skipped} updates were skipped, as their losses or gradients "
                    "are no finite numbers; try a lower learning rate, or clip="
                )
            line = self._line()
            bar.close_with(line.loss, line.validation_loss, line.accuracy, line.metrics)
        self._finish(line)
        return True

    def _groups(self) -> Iterator[tuple[list[Batch], Terms]]:
        """The batches of each update of the epoch that are not done, and their terms on all ranks.

        The time that they take is noted.
        """
        place = self.place
        groups = self.ranks.groups(self.data.epoch(place.epoch, place.position), tuple(self.losses))
        while True:
            start = time.perf_counter()
            group = next(groups, None)
            seconds = time.perf_counter() - start
            place.seconds += seconds
            place.data_seconds += seconds
            if group is None:
                return
            yield group

    def _share(self) -> float:
        """The part of the epoch that is done; 0 in the first one over a stream of unknown length."""
        updates = self.data.updates or self.place.updates
        return min(self.place.position / updates, 1.0) if updates else 0.0

    def _rate(self, epoch: float) -> float:
        losses = [line.loss if line.validation_loss is None else line.validation_loss for line in self.history]
        factor = self.schedule(epoch, losses)
        try:
            rate = self.step.optimizer.learning_rate * check_rate("factor", factor, "float64")
            return check_rate("learning_rate", rate, self.model.dtype)
        except (ArgumentError, ArgumentTypeError) as error:
            what = f"schedule: at epoch {epoch:.6g} it gave {checks.came(factor)}, expected a factor >= 0"
            raise type(error)(f"{what}: {error}") from None

    def _train(self, group: list[Batch], terms: Terms, rate: float) -> None:
        """Makes the updates of one group of batches, and notes their losses."""
        state: dict[str, Array] | None = None
        for parts, own in self._updates(group, terms):
            skipped = self.step.skipped
            try:
                outcome, state = self.step._take(parts, rate, state if self.settings.tbptt else None, own)
            except NonFiniteError as error:
                where = f"epoch {self.place.epoch + 1}, after {self.step.updates} updates of the training"
                raise NonFiniteError(f"{where}: {error}") from error
            if self.step.skipped > skipped:
                self.place.skipped += 1
                if not all(np.isfinite(array).all() for array in state.values()):
                    break  # the next piece would start from states that are not finite
                continue
            self.place.add(outcome.loss, outcome.losses, own)

    def _updates(self, group: list[Batch], terms: Terms) -> Iterator[tuple[list[Batch], Terms]]:
        """The batches of each update, and their terms."""
        if self.settings.tbptt is None:
            yield group, terms
        else:
            pieces = windows(group[0], self.settings.tbptt, self.model, self.losses)
            yield from (([window], window.terms) for window in pieces)

    def _line(self) -> Epoch:
        place = self.place
        found = Validated() if self.validate is None else self.validate(self.step.params)
        return Epoch(
            place.epoch + 1,
            place.mean,
            self._rate(float(place.epoch)),
            place.seconds,
            found.loss,
            found.accuracy,
            place.skipped,
            place.data_seconds,
            dict(found.metrics),
            place.means,
            dict(found.losses),
        )

    def _finish(self, line: Epoch) -> None:
        self.history.append(line)
        place = self.place
        if self.settings.patience is not None and line.validation_loss is not None:
            if line.validation_loss < place.best:
                place.best, place.bad, self.best = line.validation_loss, 0, self.step.flat.copy()
            else:
                place.bad += 1
        self.place = Place(place.epoch + 1, best=place.best, bad=place.bad, updates=place.position)
        self._save()
        self._call("on_epoch")

    # ---- checkpoints

    def _identity(self) -> dict[str, Any]:
        """The settings, as plain data, that must be unchanged when a training goes on from a checkpoint."""
        settings, graph = self.settings, self.model.graph()
        kinds = {output: graph.kinds[graph.outputs[output]] for output in self.losses}
        losses = {
            output: identity(loss, kinds[output].width, graph.dtype, kinds[output].timed)
            for output, loss in self.losses.items()
        }
        return {
            "model": self.model.to_dict(),
            "loss": losses if len(losses) > 1 else next(iter(losses.values())),
            "optimizer": repr(self.step.optimizer),
            "schedule": _named(self.schedule),
            "data": self.data.identity,
            "validation": None if self.held_out is None else self.held_out.identity,
            "frozen": sorted(self.step.frozen),
            **{name: getattr(settings, name) for name in UNCHANGED},
        }

    def _save(self) -> None:
        """Writes the checkpoint, if one is kept. It is the same on all ranks, and rank 0 writes it."""
        if self.settings.checkpoint is None or self.ranks.rank:
            return
        record = Record(self.step.flat, self.step.slots, self.best, self.place, self.step.updates, self.history)
        files.write(self.settings.checkpoint, record.arrays(self.step.layout), record.data(self._identity()))

    def _restore(self, path: Path, saved: files.Checkpoint) -> None:
        """Restores the state in a file. Raises CheckpointError if it belongs to another training."""
        step, slots = self.step, self.step.optimizer.slots
        updates = self.data.updates
        record = restored(os.fspath(path), saved, self._identity(), step.layout, slots, updates)
        step.flat[...] = record.params
        for slot, flat in step.slots.items():
            flat[...] = record.slots[slot]
        step.updates = record.updates
        self.best, self.place = record.best, record.place
        self.history[:] = record.history


UNCHANGED = (
    *("batch_size", "seed", "clip", "accumulate", "patience", "tbptt", "steps_per_epoch", "shuffle_buffer"),
    *("on_nonfinite", "matmul"),
)
"""The settings that must be the same when a training goes on."""


def _named(schedule: Schedule) -> str:
    """The text that identifies a schedule: its repr, or the name of a function."""
    return str(getattr(schedule, "__qualname__", None) or repr(schedule))
