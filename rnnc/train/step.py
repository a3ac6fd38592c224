"""TrainingStep: loss, gradients, clipping and update of a network, compiled once; Evaluation: the loss alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rnnc import backends, checks
from rnnc.backends.noise import LOW, Noise, Where
from rnnc.ir.autodiff import vjp
from rnnc.ir.computation import Computation
from rnnc.ir.errors import ArgumentError, ArgumentTypeError
from rnnc.losses import Loss, add_loss, check_loss
from rnnc.lowering import Mask, lower_network, masks, state_shapes
from rnnc.network import mean_scale, read_all
from rnnc.optimizers import Optimizer, check_optimizer, update_graph
from rnnc.train.data import Batch
from rnnc.train.flat import Layout
from rnnc.train.sparse import SparseRows, summed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rnnc.backends.updates import Update
    from rnnc.ir.graph import Graph
    from rnnc.sequential import Sequential

    Array = NDArray[Any]
    State = dict[str, Array]


class Outcome(NamedTuple):
    """What a step reports. loss: the mean over the batch; norm: of all gradients before clipping."""

    loss: float
    norm: float


class _Compiled:
    """A function of a batch: what training and evaluation have in common."""

    def __init__(self, model: Sequential, loss: Loss | str, backend: str, threads: int | None) -> None:
        self.model = model
        self.loss = check_loss(loss)
        self.layout = Layout.of(model)
        self._states = state_shapes(model)
        self._constants = self.loss.constants(model.output_size, model.dtype)
        threads = None if threads is None else checks.integer("threads", threads, 1)
        computation = Computation(self._build)
        self._outputs = set(self._build(1, False).outputs)
        self._function = backends.get(backend).compile_function(computation, threads=threads)

    def _build(self, steps: int, lengths: bool) -> Graph:
        raise NotImplementedError

    def explain(self) -> str:
        """Which paths the backend took, and why."""
        return self._function.explain()

    def _inputs(self, views: Mapping[str, Array], batch: Batch, state: State | None) -> dict[str, Array]:
        """Everything a call reads but the masks and the seed."""
        steps, rows = batch.sizes
        dense = {name: array for name, array in views.items() if not self._sparse(name)}
        x = views["0.weight"][batch.x] if self.model.embedding is not None else batch.x
        inputs = dense | self._constants | {"x": x, "target": batch.target}
        for name, (initial, _, width) in self._states.items():
            inputs[initial] = np.zeros((rows, width), self.layout.dtype) if state is None else state[name]
        if self.model.readout == "mean":
            inputs["scale"] = mean_scale(batch.lengths, steps, rows, self.model.dtype)
        return inputs

    def _sparse(self, name: str) -> bool:
        return self.model.embedding is not None and name == "0.weight"


class Evaluation(_Compiled):
    """The loss of a batch, and the network's output, with parameters that may change between calls."""

    def __init__(
        self, model: Sequential, loss: Loss | str, *, backend: str = "llvm", threads: int | None = None
    ) -> None:
        super().__init__(model, loss, backend, threads)

    def _build(self, steps: int, lengths: bool) -> Graph:
        graph = lower_network(self.model, steps, lengths=lengths)
        output = graph.outputs["output"]
        add_loss(graph, self.loss)
        graph.outputs = {"output": output, "loss": graph.outputs["loss"]}
        return graph

    def __call__(self, params: Mapping[str, Array], batch: Batch) -> tuple[float, Array]:
        """The loss summed over the batch, and the output, time first."""
        steps, rows = batch.sizes
        sizes = (steps, rows) if self.model.readout == "every" else (rows,)
        output = np.empty((*sizes, self.model.output_size), self.layout.dtype)
        loss = np.empty(1, self.layout.dtype)
        inputs = self._inputs(params, batch, None)
        self._function.start(inputs, {"output": output, "loss": loss}, steps, rows, batch.lengths)
        return float(loss[0]), output


class TrainingStep(_Compiled):
    """A network, its parameters, and what it takes to make them better.

    params: name -> array, views of one flat array, changed in place by every step.
    updates: how many updates there have been.
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
    ) -> None:
        """
        params: where to start; default `model.init(seed)`. They are copied.
        seed: of the parameters and of dropout and zoneout.
        clip: the largest norm of all gradients together (Pascanu et al. 2013, "On the difficulty of training recurrent
            neural networks"), as torch.nn.utils.clip_grad_norm_; None = any.
        carry: whether `step` returns the states its batch ends with, for sequences trained piece by piece.
        """
        if carry and not model.causal:
            raise ArgumentError("carry: only a network of one direction with readout 'every' goes on from a state")
        self.optimizer = check_optimizer(optimizer)
        self.seed = checks.integer("seed", seed, 0, 2**64 - 1)
        self.clip = _positive("clip", clip)
        self._carry = carry
        super().__init__(model, loss, backend, threads)
        self._masks = masks(model)
        self._update, self._source = _compile_parts(backend, update_graph(self.optimizer, model.dtype))
        self.updates = 0
        self.flat = self.layout.zeros()
        self.params = self.layout.views(self.flat)
        self.slots = {name: self.layout.zeros() for name in self.optimizer.slots}
        named = ("p", self.flat), *self.slots.items()
        tables = ((name, self.layout.views(flat)) for name, flat in named)
        self._tables = {name: views["0.weight"] for name, views in tables if self._sparse("0.weight")}
        self._gradient = self.layout.zeros(dense=True)
        self._part = self.layout.zeros(dense=True)
        self._named = [self._gradients_by_name(flat) for flat in (self._gradient, self._part)]
        for name, array in read_all(model, model.init(seed) if params is None else params).items():
            self.params[name][...] = array

    def _build(self, steps: int, lengths: bool) -> Graph:
        model = self.model
        graph = lower_network(model, steps, lengths=lengths, training=True)
        add_loss(graph, self.loss)
        wrt = [name for name in model.parameter_shapes() if not self._sparse(name)]
        wrt += ["x"] if model.embedding is not None else []
        graph = vjp(graph, wrt, {"loss": "d_loss"})
        last = {names[1] for names in self._states.values()} if self._carry else set()
        wanted = {"loss", *("d_" + name for name in wrt), *last}
        graph.outputs = {name: output for name, output in graph.outputs.items() if name in wanted}
        return graph

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
        total, rows, last = 0.0, [], state or {}
        for number, part in enumerate(parts):
            loss, sparse, last = self._gradients(part, count, state, first=number == 0)
            total += loss
            rows += [sparse] if sparse else []
        sparse = summed(rows) if rows else None
        norm = self._norm(sparse)
        scale = 1.0 if self.clip is None else min(1.0, self.clip / (norm + 1e-6))
        self._apply(sparse, scale, self.optimizer.learning_rate if learning_rate is None else learning_rate)
        return Outcome(total / count, norm), last

    def gradients(self, batch: Batch, state: State | None = None) -> tuple[float, dict[str, Array]]:
        """The mean loss and its gradients, by name, the embedding's as a whole table: to look at, or to test."""
        loss, sparse, _ = self._gradients(batch, batch.terms, state, first=True)
        result = {name: array.copy() for name, array in self.layout.views(self._gradient).items()}
        if sparse is not None:
            result["0.weight"] = np.zeros_like(self.params["0.weight"])
            result["0.weight"][sparse.rows] = sparse.values
        return loss / batch.terms, result

    # ---- parts of a step

    def _gradients(
        self, batch: Batch, count: int, state: State | None, *, first: bool
    ) -> tuple[float, SparseRows | None, State]:
        """The summed loss; gradients of the loss divided by count, added to the flat ones unless it is the first."""
        steps, rows = batch.sizes
        inputs = self._inputs(self.params, batch, state) | self._noise(batch)
        inputs["d_loss"] = np.full(1, 1 / count, self.layout.dtype)
        loss, d_x = np.empty(1, self.layout.dtype), np.empty(0)
        outputs = {"loss": loss} | self._named[not first]
        if self.model.embedding is not None:
            d_x = outputs["d_x"] = np.empty((steps, rows, self.model.input_size), self.layout.dtype)
        last: State = {}
        if self._carry:
            last = {name: np.empty((rows, width), self.layout.dtype) for name, (_, _, width) in self._states.items()}
            outputs |= {self._states[name][1]: array for name, array in last.items()}
        self._function.start(inputs, outputs, steps, rows, batch.lengths)
        if not first:
            self._gradient += self._part
        embedding = self.model.embedding
        sparse = None if embedding is None else SparseRows.of(batch.x, d_x, batch.lengths, embedding.padding_index)
        return float(loss[0]), sparse, last

    def _gradients_by_name(self, flat: Array) -> dict[str, Array]:
        views = {"d_" + name: array for name, array in self.layout.views(flat).items()}
        return {name: array for name, array in views.items() if name in self._outputs}

    def _noise(self, batch: Batch) -> dict[str, Array]:
        return {mask.name: self._mask(mask, batch) for mask in self._masks}

    def _mask(self, mask: Mask, batch: Batch) -> Array:
        """Numbers of one mask: a function of seed, update, mask, row, step and unit alone."""
        steps, rows = batch.sizes
        fixed = mask.fixed or not mask.timed
        where = Where(self.seed, self.updates, mask.number, batch.row, LOW if fixed else batch.start)
        values = np.empty((1 if fixed else steps, rows, mask.width), self.layout.dtype)
        low, high = (0.0, 1 / (1 - mask.p)) if mask.keep else (1.0, 0.0)
        self._source.fill(values, where, mask.p, low, high)
        if not mask.timed:
            return np.asarray(values[0])
        return np.broadcast_to(values, (steps, rows, mask.width)) if mask.fixed else values

    def _norm(self, sparse: SparseRows | None) -> float:
        parts = [self._gradient] if sparse is None else [self._gradient, sparse.values.reshape(-1)]
        with np.errstate(over="ignore", invalid="ignore"):  # infinity, or NaN, is the answer then
            return math.sqrt(sum(float(np.dot(part, part)) for part in parts))

    def _apply(self, sparse: SparseRows | None, scale: float, learning_rate: float) -> None:
        self.updates += 1
        scalars = {"scale": scale} | self.optimizer.scalars(self.updates, learning_rate)
        dense = self.layout.dense
        slots = {name: array[:dense] for name, array in self.slots.items()}
        self._update.run({"p": self.flat[:dense], "g": self._gradient} | slots, scalars)
        if sparse is None or not len(sparse.rows):
            return
        taken = {name: table[sparse.rows] for name, table in self._tables.items()}
        vectors = {name: array.reshape(-1) for name, array in taken.items()}
        self._update.run(vectors | {"g": sparse.values.reshape(-1)}, scalars)
        for name, table in self._tables.items():
            table[sparse.rows] = taken[name]


def _compile_parts(backend: str, update: Graph) -> tuple[Update, Noise]:
    """The update, and the source of masks."""
    module = backends.get(backend)
    return module.compile_update(update), module.compile_noise(update.dtype)


def _positive(name: str, value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ArgumentTypeError(f"{name}: expected a number > 0 or None, got {checks.came(value)}")
    if not value > 0:
        raise ArgumentError(f"{name}: expected a number > 0 or None, got {value}")
    return float(value)
