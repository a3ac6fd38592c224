"""`TrainingStep`: losses, gradients, clipping and update of a network, compiled once."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, NamedTuple, ParamSpec, TypeVar

import numpy as np

from rnnc import backends
from rnnc.backends.locks import new_lock
from rnnc.backends.training.noise import LOW, Where
from rnnc.backends.training.protocol import Change, Draw, Gradients, Memory, Report, Trainer, Work
from rnnc.backends.training.sparse import SparseRows
from rnnc.checking import checks
from rnnc.compiled import CompileOptions
from rnnc.copies import refusal
from rnnc.ir import names
from rnnc.ir.autodiff import vjp
from rnnc.ir.errors import ArgumentError, ArgumentTypeError, NonFiniteError, RnncError
from rnnc.network import read_all
from rnnc.networks.noise import Mask, masks
from rnnc.networks.statistics import statistics
from rnnc.optimizers import Optimizer, check_optimizer, check_rate, largest, update_graph
from rnnc.train.batch import Batch
from rnnc.train.check import check_carries, check_model, check_untied
from rnnc.train.evaluation import OfBatches
from rnnc.train.flat import FlatLayout, Views
from rnnc.train.groups import group_of
from rnnc.train.ranks import Ranks
from rnnc.train.trained import frozen_of, kept_apart, look_ups_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rnnc.ir.graph import Graph
    from rnnc.layered import Layered
    from rnnc.train.objective import Given

    Array = NDArray[Any]
    State = dict[str, Array]

P = ParamSpec("P")
R = TypeVar("R")


class _Numbers(NamedTuple):
    loss: float
    norm: float


class Outcome(_Numbers):
    """The report of a step, (loss, norm).

    loss: the sum over outputs of factor * mean loss over the targets of the batch. norm: of all gradients, before
    clipping. losses: the mean losses by output.
    The numbers may be infinite or NaN for a step that was skipped (`on_nonfinite="skip"`).
    """

    losses: dict[str, float]

    def __new__(cls, loss: float, norm: float, losses: Mapping[str, float] | None = None) -> Outcome:
        made = super().__new__(cls, loss, norm)
        made.losses = dict(losses or {})
        return made


def _one_at_a_time(method: Callable[Concatenate[TrainingStep, P], R]) -> Callable[Concatenate[TrainingStep, P], R]:
    """Wraps a method that uses the memory of a step: threads take turns.

    The method raises RnncError if a signal handler calls it while the same thread is inside one.
    """

    @wraps(method)
    def call(self: TrainingStep, /, *arguments: P.args, **named: P.kwargs) -> R:
        with self._lock:
            if self._running:
                raise RnncError(
                    f"{method.__name__}: called within a step of the same TrainingStep, by a signal handler"
                )
            self._running = True
            try:
                return method(self, *arguments, **named)
            finally:
                self._running = False

    return call


class TrainingStep(OfBatches):
    """A network with its parameters and optimiser, compiled into one training step. For training loops of your own.

    A step is made completely or not at all. If a signal handler raises within one (Ctrl-C), `updates` shows whether the
    parameters have changed. Threads that share one TrainingStep take turns.

    updates: the number of updates made. skipped: the number of updates not made because of `on_nonfinite`.
    """

    def __init__(
        self,
        model: Layered,
        loss: Given,
        optimizer: Optimizer,
        *,
        params: Mapping[str, Any] | None = None,
        seed: int = 0,
        clip: float | None = None,
        carry: bool = False,
        on_nonfinite: str = "raise",
        weighted: bool = False,
        frozen: Collection[str] = (),
        distributed: Any = False,
        backend: str = "llvm",
        threads: int | None = None,
        matmul: str | None = None,
    ) -> None:
        """
        model: the network. optimizer: one of `rnnc.optimizers`.
        loss: a loss of `rnnc.losses`, its name, or a function of output and target; for a network of several outputs a
            dict of them by output. A pair (loss, factor) multiplies the mean loss of its output in the sum of all. An
            output without a loss is not trained.
        params: the parameters to start from; default `model.init(seed)`. They are copied, and no two may share memory.
        seed: decides the default parameters, dropout and zoneout. 0 <= seed < 2**64.
        clip: the largest norm of all gradients together (Pascanu et al. 2013, "On the difficulty of training recurrent
            neural networks"), as in torch.nn.utils.clip_grad_norm_. None = no limit.
        carry: True if `step` is to return the final states of its batch, for sequences trained piece by piece.
        on_nonfinite: what to do if the loss or the norm of a step is not finite, or if the clipped norm exceeds the
            square root of the dtype's largest number (1.8e19 for float32; less at rates above 1). Such a step changes
            nothing. "raise" raises NonFiniteError, which says whether the data, the parameters or an overflow is the
            cause. "skip" counts the step in `skipped`.
        weighted: whether batches may have weights.
        frozen: names of parameters, or patterns of names such as "encoder.*" (`fnmatch`), that do not change. Their
            gradients are not computed.
        distributed: True if the processes that this one was started with train together (`rnnc.train.Group`). Each
            calls `step` as often, with its own rows of a batch, which may be none; `Batch.row` is the number of the
            first one in the batch of all. Losses, norm and update are those of all rows.
        backend, threads, matmul: as in `rnnc.compile`. `matmul` rounds adjoints too. "bfloat16" and "tf32" are safer
            than "float16", because they have the range of float32.
        Raises ArgumentError, ArgumentTypeError, ParameterError, ShapeError or DtypeError.
        """
        if checks.flag("carry", carry):
            check_carries(check_model(model))
        self._optimizer = check_optimizer(optimizer, check_model(model).dtype)
        self._seed = checks.integer("seed", seed, 0, 2**64 - 1)
        self.clip = clip
        self._skips = checks.choice("on_nonfinite", on_nonfinite, ("raise", "skip")) == "skip"
        self._carry = carry
        self._lock, self._running = new_lock(), False
        self._updates = np.zeros(1, np.int64)
        self._ranks = distributed if isinstance(distributed, Ranks) else Ranks(group_of(distributed))
        self.frozen = frozen_of(check_model(model), frozen)
        self._renewed = statistics(model, self.frozen)
        if self._renewed and self._ranks.several:
            raise ArgumentError(
                "distributed: the statistics of a batch would differ from process to process; freeze them, with "
                f"frozen={sorted(self._renewed)}"
            )
        self._fixed = self.frozen | statistics(model)
        super().__init__(model, loss, checks.flag("weighted", weighted), CompileOptions.of(backend, threads, matmul))
        self._masks = masks(model)
        self.skipped = 0
        outputs = self._build(1, False).outputs
        self._gradients = frozenset(name for name in self._inputs_to_train if names.gradient(name) in outputs)
        self.layout = FlatLayout.of(model, self._sparse, self._fixed)
        self._flat = self.layout.zeros()
        self._slots = {name: self.layout.zeros() for name in self.optimizer.slots}
        self._trainer = self._compile_trainer(backends.get(backend))
        given = model.init(seed) if params is None else params
        views = self.layout.views(self._flat)
        for name, array in read_all(model, given).items():
            views[name][...] = array
        check_untied({name: array for name, array in given.items() if name in views})

    @property
    def optimizer(self) -> Optimizer:
        """The optimiser that the step was compiled with."""
        return self._optimizer

    @property
    def seed(self) -> int:
        """The integer that decides the default parameters, dropout and zoneout."""
        return self._seed

    @property
    def clip(self) -> float | None:
        """The largest norm of all gradients together, or None. It may be set between steps."""
        return self._clip

    @clip.setter
    def clip(self, value: float | None) -> None:
        self._clip = _positive("clip", value)

    @property
    def updates(self) -> int:
        """The number of updates made. It changes at the same moment as the parameters.

        Random masks and the optimiser depend on it. Set it to go on with a training from parameters and slots.
        """
        return int(self._updates[0])

    @updates.setter
    def updates(self, value: int) -> None:
        self._updates[0] = checks.integer("updates", value, 0, 2**63 - 1)

    # A backend may keep parameters on a device: `fetch` copies them to the host. The arrays returned are views, so that
    # a caller who changes the shape of one changes nothing here.

    @property
    def params(self) -> Views:
        """The parameters, name -> array: views of `flat`. The next step uses what is written to them."""
        self._trainer.fetch()
        return Views(self.layout, self._flat)

    @property
    def flat(self) -> Array:
        """All parameters in one array of one axis, laid out by `layout` (`rnnc.train.flat`)."""
        self._trainer.fetch()
        return self._flat.view()

    @property
    def slots(self) -> dict[str, Array]:
        """The vectors that the optimiser keeps between updates, name -> array, laid out like `flat`."""
        self._trainer.fetch()
        return {name: array.view() for name, array in self._slots.items()}

    @property
    def _inputs_to_train(self) -> list[str]:
        """The inputs of the graph whose gradients a step needs: parameters, and rows of tables."""
        graph = self._graph
        found = [n for n in graph.parameter_shapes() if n in graph.read_whole and n not in self._fixed]
        return found + [rows for name, (_, rows) in graph.tables.items() if graph.table_of(name) not in self.frozen]

    @property
    def _sparse(self) -> tuple[str, ...]:
        """The tables of which an update changes only the rows that were looked up."""
        tables = dict.fromkeys(self._graph.table_of(name) for name in self._graph.tables)
        return tuple(name for name in tables if name not in self.frozen and name not in self._gradients)

    def _build(self, steps: int, lengths: bool) -> Graph:
        graph = self._lowered(steps, lengths, training=True)
        wrt = self._inputs_to_train
        graph = vjp(graph, wrt, {place: names.gradient(place) for place in self.objective.places})
        last = {final for _, final, _ in self._states.values()} if self._carry else set()
        wanted = {*self.objective.places, *map(names.gradient, wrt), *last, *map(names.renewed, self._renewed)}
        graph.outputs = {name: output for name, output in graph.outputs.items() if name in wanted}
        return graph

    def _compile_trainer(self, backend: Any) -> Trainer:
        model, layout = self.model, self.layout
        memory = Memory(
            {names.UPDATED: self._flat, **self._slots},
            layout.dense,
            layout.places,
            self.objective.places,
            look_ups_of(self._graph),
            frozenset(layout.places) - self._graph.read_whole,
            self._sparse,
            self._gradients,
            constants=self._constants,
            renewed=tuple(sorted(self._renewed)),
            updates=self._updates,
        )
        update, noise = (
            backend.compile_update(update_graph(self.optimizer, model.dtype)),
            backend.compile_noise(model.dtype),
        )
        trainer: Trainer = update.trainer(self._code, noise, memory)
        return trainer

    def __reduce__(self) -> tuple[Any, ...]:
        instead = "it changes, and machine code works on its memory; make a new one from its `params`"
        instead += ", or let `fit` keep a checkpoint, which holds the whole of a training"
        raise refusal(self, "can be neither copied nor pickled", instead)

    def explain(self) -> str:
        """A text that says how the backend computes the gradients and the update, and why."""
        return super().explain() + self._trainer.explain() + kept_apart(self._graph, self._gradients, self.frozen)

    @_one_at_a_time
    def step(
        self, batch: Batch | Sequence[Batch], learning_rate: float | None = None, state: State | None = None
    ) -> tuple[Outcome, State]:
        """Makes one update from the mean loss of a batch, and returns the report and the final states.

        batch: one batch, or several that count as one. If no target of them counts, the loss is 0 and the parameters
            do not change.
        learning_rate: >= 0; default the optimiser's.
        state: the states to start from, name -> (B, H): with `carry`, those that the step before returned. Default
            zeros. Without `carry` the states returned are empty.
        Raises ShapeError, DtypeError, LengthError, ArgumentError or ArgumentTypeError for arguments that do not fit,
        and NonFiniteError (see `on_nonfinite`). Nothing has changed then.
        """
        parts = self._rules.batches(batch)
        rate = self.optimizer.learning_rate
        if learning_rate is not None:
            rate = check_rate("learning_rate", learning_rate, self.model.dtype)
        states = [self._rules.state(state, part.sizes[1]) for part in parts]
        own = [sum(part.terms[output] for part in parts) for output in self.objective.parts]
        terms = dict(zip(self.objective.parts, self._ranks.sum(own), strict=True))
        return self._take(parts, rate, states[0], terms)

    def _take(
        self, parts: Sequence[Batch], rate: float, state: State | None, terms: Mapping[str, float]
    ) -> tuple[Outcome, State]:
        """`step` with checked arguments. terms: by output, those of all parts, on all ranks."""
        if not any(terms.values()):
            return Outcome(0.0, 0.0, terms), self._passed(parts, state)
        parts = [part for part in parts if part.sizes[1]]
        scalars = self.optimizer.scalars(self.updates + 1, rate)
        change = Change(scalars, self.clip, largest(self.model.dtype, rate))
        if self._ranks.several:
            report, last = self._all(parts, state, terms, None)
            gradients = self._summed(report.losses, bool(parts))
            report = self._trainer.update(gradients, change)
        else:
            report, last = self._all(parts, state, terms, change)
        means = self.objective.means(report.losses, terms)
        outcome = Outcome(self.objective.total(means), report.norm, means)
        if not report.changed:
            self._refuse(outcome, parts, state)
        return outcome, last

    def _all(
        self, parts: Sequence[Batch], state: State | None, terms: Mapping[str, float], change: Change | None
    ) -> tuple[Report, State]:
        """The gradients of all parts, and the change, if any. The losses reported are those of all parts."""
        report, last = Report((0.0,) * len(terms), 0.0, False), state or {}
        seeds = self.objective.seeds(terms)
        for number, part in enumerate(parts):
            sums, end = report.losses, number == len(parts) - 1 and all(map(math.isfinite, report.losses))
            report, last = self._run(part, seeds, state, first=number == 0, change=change if end else None)
            report = report._replace(losses=tuple(map(sum, zip(sums, report.losses, strict=True))))
        return report, last

    def _summed(self, losses: Sequence[float], computed: bool) -> Gradients:
        """Losses and gradients summed over all ranks. computed: this rank has rows, and has computed theirs."""
        if computed:
            rows = {table: self._trainer.rows(table) for table in self._sparse}
            return self._ranks.summed(losses, self._trainer.gradient, rows)
        shapes, dtype = self.model.parameter_shapes(), self.layout.dtype
        empty = {t: SparseRows(np.zeros(0, np.int64), np.zeros((0, shapes[t][1]), dtype)) for t in self._sparse}
        return self._ranks.summed(losses, np.zeros(self.layout.dense, dtype), empty)

    def _passed(self, parts: Sequence[Batch], state: State | None) -> State:
        """The final states of batches without a target that counts."""
        if not self._carry or not parts[-1].sizes[1]:
            return state or {}
        return self._run(parts[-1], [1.0] * len(self.objective.parts), state, first=True, change=None)[1]

    def _refuse(self, outcome: Outcome, parts: Sequence[Batch], state: State | None) -> None:
        """Raises NonFiniteError for a step that was not made, or counts it as skipped."""
        kind, why = self._rules.reason(parts, state, self.params)
        if self._skips and not self._ranks.any(kind == "parameters"):
            self.skipped += 1
            return
        numbers = f"the loss is {outcome.loss:.6g}, the norm of the gradients {outcome.norm:.6g}"
        raise NonFiniteError(f"{numbers}, and the step was not made: {why}")

    @_one_at_a_time
    def gradients(self, batch: Batch, state: State | None = None) -> tuple[float, dict[str, Array]]:
        """The mean loss of a batch, and its gradients: name -> array in the shape of the parameter. For inspection.

        The gradient of an embedding is a whole table. If no target counts, the loss and all gradients are 0. Nothing is
        updated, and gradients are not clipped. Raises what `step` raises for arguments that do not fit.
        """
        batch = self._rules.batch("batch", batch)
        state = self._rules.state(state, batch.sizes[1])
        shapes = self.layout.places.items()
        if not any(batch.terms.values()):
            return 0.0, {name: np.zeros(shape, self.layout.dtype) for name, (_, shape) in shapes}
        report, _ = self._run(batch, self.objective.seeds(batch.terms), state, first=True, change=None)
        result = {name: np.zeros(shape, self.layout.dtype) for name, (_, shape) in shapes}
        for name, array in self.layout.views(self._trainer.gradient).items():
            result[name][...] = array
        for table in self._sparse:
            rows, values = self._trainer.rows(table)
            result[table][rows] = values
        return self.objective.total(self.objective.means(report.losses, batch.terms)), result

    # ---- parts of a step

    def _run(
        self, batch: Batch, seeds: Sequence[float], state: State | None, *, first: bool, change: Change | None
    ) -> tuple[Report, State]:
        """Adds the gradients of the sum of seed * loss to those of earlier batches, and then makes the change, if any.

        first: the gradients replace those of earlier batches.
        """
        framed = self._framing(batch, state)
        last: State = self._framing.signature.new_state(framed.times.batch) if self._carry else {}
        work = Work(
            framed.times.frames,
            framed.times.batch,
            framed.lengths,
            framed.inputs,
            seeds,
            masks={mask.name: self._draw(mask, batch, framed.times.frames) for mask in self._masks},
            outputs={self._states[name][1]: array for name, array in last.items()},
            numbers=framed.numbers,
        )
        return self._trainer.run(work, first=first, change=change), last

    def _draw(self, mask: Mask, batch: Batch, frames: int) -> Draw:
        """The random numbers of one mask. They depend on seed, update, mask, row, step and unit alone."""
        fixed = mask.fixed or not mask.timed
        start = LOW if fixed else batch.start // self._graph.timing(False).frame
        where = Where(self.seed, self.updates, mask.number, batch.row, start)
        low, high = (0.0, 1 / (1 - mask.p)) if mask.keep else (1.0, 0.0)
        shape = (1 if fixed else frames, batch.sizes[1], mask.width * mask.positions)
        return Draw(shape, where, mask.p, low, high, fixed, mask.timed)


def _positive(name: str, value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ArgumentTypeError(f"{name}: expected a number > 0 or None, got {checks.came(value)}")
    if not value > 0:
        raise ArgumentError(f"{name}: expected a number > 0 or None, got {value}")
    return float(value)
