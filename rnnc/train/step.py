"""TrainingStep: loss, gradients, clipping and update of a network, compiled once; Evaluation: the loss alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, NamedTuple, ParamSpec, TypeVar

import numpy as np

from rnnc import backends, checks
from rnnc.backends.locks import new_lock
from rnnc.backends.noise import LOW, Where
from rnnc.backends.trainer import Change, Draw, Memory, Report, Trainer, Work
from rnnc.ir import names
from rnnc.ir.autodiff import vjp
from rnnc.ir.computation import Computation
from rnnc.ir.errors import ArgumentError, ArgumentTypeError, RnncError
from rnnc.losses import Loss, add_loss, check_loss
from rnnc.lowering import Mask, lower_network, masks, state_shapes
from rnnc.network import mean_scale, read_all
from rnnc.optimizers import Optimizer, check_optimizer, update_graph
from rnnc.train.data import Batch
from rnnc.train.flat import Layout

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rnnc.ir.graph import Graph
    from rnnc.sequential import Sequential

    Array = NDArray[Any]
    State = dict[str, Array]

P = ParamSpec("P")
R = TypeVar("R")


class Outcome(NamedTuple):
    """What a step reports. loss: the mean over the batch; norm: of all gradients before clipping."""

    loss: float
    norm: float


class _Compiled:
    """A function of a batch: what training and evaluation have in common."""

    def __init__(
        self, model: Sequential, loss: Loss | str, backend: str, threads: int | None, matmul: str | None
    ) -> None:
        self.model = model
        self.loss = check_loss(loss)
        self.layout = Layout.of(model)
        self._states = state_shapes(model)
        self._zeros = np.zeros(0, self.layout.dtype)
        self._constants = self.loss.constants(model.output_size, model.dtype)
        threads = None if threads is None else checks.integer("threads", threads, 1)
        self._arrays = backends.arrays_of(backend)
        computation = Computation(self._build)
        options = backends.options(backend, matmul)
        self._function = backends.get(backend).compile_function(computation, threads=threads, **options)

    def _build(self, steps: int, lengths: bool) -> Graph:
        raise NotImplementedError

    def explain(self) -> str:
        """Which paths the backend took, and why."""
        return self._function.explain()

    def _inputs(self, batch: Batch, state: State | None) -> dict[str, Array]:
        """What a call reads of its batch, but for rows of an embedding and masks."""
        steps, rows = batch.sizes
        inputs = {names.TARGET: batch.target}
        if self.model.embedding is None:
            inputs[names.X] = batch.x
        for name, (initial, _, width) in self._states.items():
            inputs[initial] = self._zero_states(rows, width) if state is None else state[name]
        if self.model.readout == "mean":
            inputs[names.SCALE] = mean_scale(batch.lengths, steps, rows, self.model.dtype)
        return inputs

    def _zero_states(self, rows: int, width: int) -> Array:
        """(rows, width) zeros, made once; other threads may ask for more or fewer at the same time."""
        zeros = self._zeros
        if zeros.size < rows * width:
            self._zeros = zeros = np.zeros(rows * width, self.layout.dtype)
        return zeros[: rows * width].reshape(rows, width)

    def _sparse(self, name: str) -> bool:
        return name == self.model.table


class Evaluation(_Compiled):
    """The loss of a batch, and the network's output, with parameters that may change between calls."""

    def __init__(
        self,
        model: Sequential,
        loss: Loss | str,
        *,
        backend: str = "llvm",
        threads: int | None = None,
        matmul: str | None = None,
    ) -> None:
        super().__init__(model, loss, backend, threads, matmul)

    def _build(self, steps: int, lengths: bool) -> Graph:
        graph = lower_network(self.model, steps, lengths=lengths)
        output = graph.outputs[names.OUTPUT]
        add_loss(graph, self.loss)
        graph.outputs = {names.OUTPUT: output, names.LOSS: graph.outputs[names.LOSS]}
        return graph

    def __call__(self, params: Mapping[str, Array], batch: Batch) -> tuple[float, Array]:
        """The loss summed over the batch, and the output, time first."""
        steps, rows = batch.sizes
        sizes = (steps, rows) if self.model.readout == "every" else (rows,)
        xp, up, down = self._arrays.xp, self._arrays.from_host, self._arrays.to_host
        output = xp.empty((*sizes, self.model.output_size), self.layout.dtype)
        loss = xp.empty(1, self.layout.dtype)
        inputs = {name: array for name, array in params.items() if not self._sparse(name)}
        inputs |= self._constants | self._inputs(batch, None)
        if self.model.table is not None:
            inputs[names.X] = params[self.model.table][batch.x]
        lengths = None if batch.lengths is None else up(batch.lengths)
        given = {name: up(array) for name, array in inputs.items()}
        self._function.start(given, {names.OUTPUT: output, names.LOSS: loss}, steps, rows, lengths)
        return float(down(loss)[0]), down(output)


def _one_at_a_time(method: Callable[Concatenate[TrainingStep, P], R]) -> Callable[Concatenate[TrainingStep, P], R]:
    """A method that works in the memory of a step: threads take turns. RnncError if a signal handler cuts in."""

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


class TrainingStep(_Compiled):
    """A network, its parameters, and what it takes to make them better.

    A step is taken whole or not at all: if a signal handler raises within one (Ctrl-C), `updates` says whether the
    parameters have changed. Threads that step one TrainingStep take turns.
    """

    def __init__(
        self,
        model: Sequential,
        loss: Loss | str,
        optimizer: Optimizer,
        *,
        params: Mapping[str, Any] | None = None,
        seed: int = 0,
        clip: float | None = None,
        carry: bool = False,
        backend: str = "llvm",
        threads: int | None = None,
        matmul: str | None = None,
    ) -> None:
        """
        params: where to start; default `model.init(seed)`. They are copied.
        seed: of the parameters and of dropout and zoneout.
        clip: the largest norm of all gradients together (Pascanu et al. 2013, "On the difficulty of training recurrent
            neural networks"), as torch.nn.utils.clip_grad_norm_; None = any.
        carry: whether `step` returns the states its batch ends with, for sequences trained piece by piece.
        matmul: as in `rnnc.compile`; adjoints are rounded, too, so that "bfloat16" and "tf32", whose range is
            float32's, are the safer ones.
        """
        if carry and not model.causal:
            raise ArgumentError("carry: only a network of one direction with readout 'every' goes on from a state")
        self.optimizer = check_optimizer(optimizer)
        self.seed = checks.integer("seed", seed, 0, 2**64 - 1)
        self.clip = _positive("clip", clip)
        self._carry = carry
        self._lock, self._running = new_lock(), False
        self._updates = np.zeros(1, np.int64)
        super().__init__(model, loss, backend, threads, matmul)
        self._masks = masks(model)
        self._flat = self.layout.zeros()
        self._params = self.layout.views(self._flat)
        self._slots = {name: self.layout.zeros() for name in self.optimizer.slots}
        self._trainer = self._compile_trainer(backends.get(backend))
        for name, array in read_all(model, model.init(seed) if params is None else params).items():
            self._params[name][...] = array

    # Where a backend keeps parameters elsewhere, they come to the host when they are asked for.

    @property
    def updates(self) -> int:
        """The number of updates so far. It changes together with the parameters."""
        return int(self._updates[0])

    @updates.setter
    def updates(self, count: int) -> None:
        self._updates[0] = count

    @property
    def params(self) -> dict[str, Array]:
        """Name -> array: views of `flat`. What is written to them counts for the next step."""
        self._trainer.fetch()
        return self._params

    @property
    def flat(self) -> Array:
        """All parameters in one array (`rnnc.train.flat`)."""
        self._trainer.fetch()
        return self._flat

    @property
    def slots(self) -> dict[str, Array]:
        """Name -> what the optimiser keeps, laid out like `flat`."""
        self._trainer.fetch()
        return self._slots

    def _build(self, steps: int, lengths: bool) -> Graph:
        model = self.model
        graph = lower_network(model, steps, lengths=lengths, training=True)
        add_loss(graph, self.loss)
        wrt = [name for name in model.parameter_shapes() if not self._sparse(name)]
        wrt += [names.X] if model.embedding is not None else []
        graph = vjp(graph, wrt, {names.LOSS: names.gradient(names.LOSS)})
        last = {final for _, final, _ in self._states.values()} if self._carry else set()
        wanted = {names.LOSS, *map(names.gradient, wrt), *last}
        graph.outputs = {name: output for name, output in graph.outputs.items() if name in wanted}
        return graph

    def _compile_trainer(self, backend: Any) -> Trainer:
        model, layout = self.model, self.layout
        gradients = self._build(1, False).outputs
        memory = Memory(
            {"p": self._flat, **self._slots},
            layout.dense,
            layout.places,
            table=model.table,
            trained=frozenset(name for name in layout.places if names.gradient(name) in gradients),
            padding=None if model.embedding is None else model.embedding.padding_index,
            constants=self._constants,
            updates=self._updates,
        )
        update, noise = (
            backend.compile_update(update_graph(self.optimizer, model.dtype)),
            backend.compile_noise(model.dtype),
        )
        trainer: Trainer = update.trainer(self._function, noise, memory)
        return trainer

    def explain(self) -> str:
        """Which paths the backend took, and why."""
        return self._function.explain() + self._trainer.explain()

    @_one_at_a_time
    def step(
        self, batch: Batch | Sequence[Batch], learning_rate: float | None = None, state: State | None = None
    ) -> tuple[Outcome, State]:
        """One update from the mean loss of a batch, or of several that count as one.

        learning_rate: default, the optimiser's. state: with `carry`, what the step before returned.
        A batch without a target that counts changes nothing, and has loss 0.
        """
        parts = [batch] if isinstance(batch, Batch) else list(batch)
        count = sum(part.terms for part in parts)
        if not count:
            return Outcome(0.0, 0.0), state or {}
        rate = self.optimizer.learning_rate if learning_rate is None else learning_rate
        change = Change(self.optimizer.scalars(self.updates + 1, rate), self.clip)
        loss, norm, last = 0.0, 0.0, state or {}
        for number, part in enumerate(parts):
            end = number == len(parts) - 1
            report, last = self._run(part, count, state, first=number == 0, change=change if end else None)
            loss, norm = loss + report.loss, report.norm
        return Outcome(loss / count, norm), last

    @_one_at_a_time
    def gradients(self, batch: Batch, state: State | None = None) -> tuple[float, dict[str, Array]]:
        """The mean loss and its gradients, by name, the embedding's as a whole table: to look at, or to test."""
        report, _ = self._run(batch, batch.terms, state, first=True, change=None)
        result = {name: array.copy() for name, array in self.layout.views(self._trainer.gradient).items()}
        if (table := self.model.table) is not None:
            rows, values = self._trainer.rows()
            result[table] = np.zeros_like(self._params[table])
            result[table][rows] = values
        return report.loss / batch.terms, result

    # ---- parts of a step

    def _run(
        self, batch: Batch, count: int, state: State | None, *, first: bool, change: Change | None
    ) -> tuple[Report, State]:
        """Gradients of the summed loss divided by count, and the update if it is time for it."""
        steps, rows = batch.sizes
        last: State = {}
        if self._carry:
            last = {name: np.empty((rows, width), self.layout.dtype) for name, (_, _, width) in self._states.items()}
        work = Work(
            steps,
            rows,
            batch.lengths,
            self._inputs(batch, state),
            1 / count,
            masks={mask.name: self._draw(mask, batch) for mask in self._masks},
            outputs={self._states[name][1]: array for name, array in last.items()},
            numbers=None if self.model.embedding is None else batch.x,
        )
        return self._trainer.run(work, first=first, change=change), last

    def _draw(self, mask: Mask, batch: Batch) -> Draw:
        """Numbers of one mask: a function of seed, update, mask, row, step and unit alone."""
        steps, rows = batch.sizes
        fixed = mask.fixed or not mask.timed
        where = Where(self.seed, self.updates, mask.number, batch.row, LOW if fixed else batch.start)
        low, high = (0.0, 1 / (1 - mask.p)) if mask.keep else (1.0, 0.0)
        return Draw((1 if fixed else steps, rows, mask.width), where, mask.p, low, high, fixed, mask.timed)


def _positive(name: str, value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ArgumentTypeError(f"{name}: expected a number > 0 or None, got {checks.came(value)}")
    if not value > 0:
        raise ArgumentError(f"{name}: expected a number > 0 or None, got {value}")
    return float(value)
