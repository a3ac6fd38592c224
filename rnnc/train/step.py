"""`TrainingStep`: loss, gradients, clipping and update of a network, compiled once. `Evaluation`: the loss alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, Concatenate, NamedTuple, ParamSpec, TypeVar

import numpy as np

from rnnc import backends
from rnnc.backends import fresh
from rnnc.backends.locks import new_lock
from rnnc.backends.training.noise import LOW, Where
from rnnc.backends.training.protocol import Change, Draw, Memory, Report, Trainer, Work
from rnnc.checking import checks
from rnnc.compiled import Compiled, CompileOptions
from rnnc.copies import Unchanging, refusal
from rnnc.ir import names
from rnnc.ir.autodiff import vjp
from rnnc.ir.computation import Computation
from rnnc.ir.errors import ArgumentError, ArgumentTypeError, NonFiniteError, RnncError
from rnnc.losses import LossLike, add_loss, check_loss
from rnnc.network import read_all
from rnnc.networks.lowering import Mask, lower_network, masks, state_shapes
from rnnc.optimizers import Optimizer, check_optimizer, check_rate, largest, update_graph
from rnnc.references import reference
from rnnc.train.batch import Batch
from rnnc.train.check import Rules, check_model, check_untied, reason
from rnnc.train.flat import FlatLayout, Views

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rnnc.ir.graph import Graph
    from rnnc.sequential import Sequential

    Array = NDArray[Any]
    State = dict[str, Array]

P = ParamSpec("P")
R = TypeVar("R")


class Outcome(NamedTuple):
    """The report of a step. loss: the mean over the targets of the batch. norm: of all gradients, before clipping.

    Both may be infinite or NaN for a step that was skipped (`on_nonfinite="skip"`).
    """

    loss: float
    norm: float


class _OfBatches(Compiled):
    """A compiled function of a batch: the common base of training and evaluation."""

    def __init__(self, model: Sequential, loss: LossLike, options: CompileOptions) -> None:
        self.model = check_model(model)
        self.loss = check_loss(loss)
        (self._input,), (self._output,) = self.model.graph().inputs, self.model.graph().outputs
        self._rules = Rules(model, {self._output: self.loss})
        self.layout = FlatLayout.of(model)
        self._states = state_shapes(model)
        self._zeros = np.zeros(0, self.layout.dtype)
        self._constants = self.loss.constants(model.output_size, model.dtype)
        super().__init__(Computation(self._build), options)

    def _build(self, steps: int, lengths: bool) -> Graph:
        raise NotImplementedError

    def _inputs(self, batch: Batch, state: State | None) -> dict[str, Array]:
        """The inputs of a call that its batch and state give, without rows of an embedding and masks."""
        steps, rows = batch.sizes
        inputs = {names.TARGET: batch.target}
        if self.model.embedding is None:
            inputs[names.X] = batch.x
        for name, (initial, _, width) in self._states.items():
            inputs[initial] = self._zero_states(rows, width) if state is None else state[name]
        return inputs

    def _zero_states(self, rows: int, width: int) -> Array:
        """Zeros (rows, width), a view of an array that is kept and grows."""
        zeros = self._zeros  # read once: another thread may replace the array
        if zeros.size < rows * width:
            self._zeros = zeros = np.zeros(rows * width, self.layout.dtype)
        return zeros[: rows * width].reshape(rows, width)

    def _sparse(self, name: str) -> bool:
        return name == self.model.table


class Evaluation(_OfBatches, Unchanging):
    """The loss and the output of a network for a batch. The parameters are arguments, and may change between calls.

    backend, threads, matmul: as in `rnnc.compile`. A pickle holds the model, the loss and the options; it is compiled
    again when it is loaded.
    """

    def __init__(
        self,
        model: Sequential,
        loss: LossLike,
        *,
        backend: str = "llvm",
        threads: int | None = None,
        matmul: str | None = None,
    ) -> None:
        super().__init__(model, loss, CompileOptions.of(backend, threads, matmul))
        self._bound = self._code.bind({})

    def __reduce__(self) -> tuple[Any, ...]:
        reference(type(self.loss))  # raises if it has no name to import
        return partial(Evaluation, **self._options.arguments), (self.model, self.loss)

    def _build(self, steps: int, lengths: bool) -> Graph:
        graph = lower_network(self.model, steps, lengths=lengths)
        output = graph.outputs[names.OUTPUT]
        add_loss(graph, self.loss)
        graph.outputs = {names.OUTPUT: output, names.LOSS: graph.outputs[names.LOSS]}
        return graph

    def __call__(self, params: Mapping[str, Array], batch: Batch) -> tuple[float, Array]:
        """The loss summed over the batch, and the output: (T, B, N), or (B, N) after a readout.

        params: name -> array, as `model.parameter_shapes()` lists them, in the network's dtype.
        Raises ParameterError, ShapeError, DtypeError, LengthError, ArgumentError or ArgumentTypeError.
        """
        return self._of(read_all(self.model, params), self._rules.batch("batch", batch))

    def _of(self, params: Mapping[str, Array], batch: Batch) -> tuple[float, Array]:
        """`__call__` with checked arguments."""
        steps, rows = batch.sizes
        sizes = (steps, rows) if self.model.timed else (rows,)
        xp, up, down = self._arrays.xp, self._arrays.from_host, self._arrays.to_host
        output = fresh.empty((*sizes, self.model.output_size), self.layout.dtype, xp)
        if not rows:
            return 0.0, down(output)
        loss = fresh.empty(1, self.layout.dtype, xp)
        inputs = {name: array for name, array in params.items() if not self._sparse(name)}
        inputs |= self._constants | self._inputs(batch, None)
        if self.model.table is not None:
            inputs[names.X] = params[self.model.table][batch.x]
        lengths = None if batch.lengths is None else up(batch.lengths)
        given = {name: up(array) for name, array in inputs.items()}
        self._bound.start(given, {names.OUTPUT: output, names.LOSS: loss}, steps, rows, lengths)
        return float(down(loss)[0]), down(output)


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


class TrainingStep(_OfBatches):
    """A network with its parameters and optimiser, compiled into one training step. For training loops of your own.

    A step is made completely or not at all. If a signal handler raises within one (Ctrl-C), `updates` shows whether the
    parameters have changed. Threads that share one TrainingStep take turns.

    updates: the number of updates made. skipped: the number of updates not made because of `on_nonfinite`.
    """

    def __init__(
        self,
        model: Sequential,
        loss: LossLike,
        optimizer: Optimizer,
        *,
        params: Mapping[str, Any] | None = None,
        seed: int = 0,
        clip: float | None = None,
        carry: bool = False,
        on_nonfinite: str = "raise",
        backend: str = "llvm",
        threads: int | None = None,
        matmul: str | None = None,
    ) -> None:
        """
        model: the network. loss: a loss of `rnnc.losses`, its name, or a function of output and target.
        optimizer: one of `rnnc.optimizers`.
        params: the parameters to start from; default `model.init(seed)`. They are copied, and no two may share memory.
        seed: decides the default parameters, dropout and zoneout. 0 <= seed < 2**64.
        clip: the largest norm of all gradients together (Pascanu et al. 2013, "On the difficulty of training recurrent
            neural networks"), as in torch.nn.utils.clip_grad_norm_. None = no limit.
        carry: True if `step` is to return the final states of its batch, for sequences trained piece by piece.
        on_nonfinite: what to do if the loss or the norm of a step is not finite, or if the clipped norm exceeds the
            square root of the dtype's largest number (1.8e19 for float32; less at rates above 1). Such a step changes
            nothing. "raise" raises NonFiniteError, which says whether the data, the parameters or an overflow is the
            cause. "skip" counts the step in `skipped`.
        backend, threads, matmul: as in `rnnc.compile`. `matmul` rounds adjoints too. "bfloat16" and "tf32" are safer
            than "float16", because they have the range of float32.
        Raises ArgumentError, ArgumentTypeError, ParameterError, ShapeError or DtypeError.
        """
        if checks.flag("carry", carry) and not check_model(model).causal:
            raise ArgumentError("carry: only a network of one direction without a readout goes on from a state")
        self._optimizer = check_optimizer(optimizer, check_model(model).dtype)
        self._seed = checks.integer("seed", seed, 0, 2**64 - 1)
        self.clip = clip
        self._skips = checks.choice("on_nonfinite", on_nonfinite, ("raise", "skip")) == "skip"
        self._carry = carry
        self._lock, self._running = new_lock(), False
        self._updates = np.zeros(1, np.int64)
        super().__init__(model, loss, CompileOptions.of(backend, threads, matmul))
        self._masks = masks(model)
        self.skipped = 0
        self._flat = self.layout.zeros()
        self._slots = {name: self.layout.zeros() for name in self.optimizer.slots}
        self._trainer = self._compile_trainer(backends.get(backend))
        given = model.init(seed) if params is None else params
        views = self.layout.views(self._flat)
        for name, array in read_all(model, given).items():
            views[name][...] = array
        check_untied(given)

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

    def _input_of(self, parameter: str) -> str:
        """The input through which the graph reads a parameter: x for an embedding, of which it reads rows."""
        return names.X if self._sparse(parameter) else parameter

    def _compile_trainer(self, backend: Any) -> Trainer:
        model, layout = self.model, self.layout
        gradients = self._build(1, False).outputs
        memory = Memory(
            {names.UPDATED: self._flat, **self._slots},
            layout.dense,
            layout.places,
            table=model.table,
            trained=frozenset(name for name in layout.places if names.gradient(self._input_of(name)) in gradients),
            padding=None if model.embedding is None else model.embedding.padding_index,
            constants=self._constants,
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
        return super().explain() + self._trainer.explain()

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
        return self._take(parts, rate, states[0])

    def _take(self, parts: Sequence[Batch], rate: float, state: State | None) -> tuple[Outcome, State]:
        """`step` with checked arguments."""
        count = sum(part.terms[self._output] for part in parts)
        if not count:
            return Outcome(0.0, 0.0), self._passed(parts, state)
        parts = [part for part in parts if part.sizes[1]]
        scalars = self.optimizer.scalars(self.updates + 1, rate)
        change = Change(scalars, self.clip, largest(self.model.dtype, rate))
        loss, changed, last = 0.0, False, state or {}
        for number, part in enumerate(parts):
            end = number == len(parts) - 1 and math.isfinite(loss)
            report, last = self._run(part, count, state, first=number == 0, change=change if end else None)
            loss, norm, changed = loss + report.loss, report.norm, report.changed
        outcome = Outcome(loss / count, norm)
        if not changed:
            self._refuse(outcome, parts, state)
        return outcome, last

    def _passed(self, parts: Sequence[Batch], state: State | None) -> State:
        """The final states of batches without a target that counts."""
        if not self._carry or not parts[-1].sizes[1]:
            return state or {}
        return self._run(parts[-1], 1, state, first=True, change=None)[1]

    def _refuse(self, outcome: Outcome, parts: Sequence[Batch], state: State | None) -> None:
        """Raises NonFiniteError for a step that was not made, or counts it as skipped."""
        kind, why = reason(parts, state, self.params)
        if self._skips and kind != "parameters":
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
        count = batch.terms[self._output]
        if not count:
            return 0.0, {name: np.zeros(shape, self.layout.dtype) for name, (_, shape) in shapes}
        report, _ = self._run(batch, count, state, first=True, change=None)
        result = {name: array.copy() for name, array in self.layout.views(self._trainer.gradient).items()}
        if (table := self.model.table) is not None:
            rows, values = self._trainer.rows()
            result[table] = np.zeros(self.layout.places[table][1], self.layout.dtype)
            result[table][rows] = values
        return report.loss / count, result

    # ---- parts of a step

    def _run(
        self, batch: Batch, count: float, state: State | None, *, first: bool, change: Change | None
    ) -> tuple[Report, State]:
        """Adds the gradients of the summed loss / count to those of earlier batches, and then makes the change, if any.

        first: the gradients replace those of earlier batches.
        """
        steps, rows = batch.sizes
        last: State = {}
        if self._carry:
            last = {name: fresh.empty((rows, width), self.layout.dtype) for name, (_, _, width) in self._states.items()}
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
        """The random numbers of one mask. They depend on seed, update, mask, row, step and unit alone."""
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
