"""`Evaluation`: the losses and outputs of a network for a batch. Its base is also that of `TrainingStep`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from rnnc.backends import fresh
from rnnc.checking.network_calls import single
from rnnc.compiled import Compiled, CompileOptions
from rnnc.copies import Unchanging
from rnnc.ir.computation import Computation
from rnnc.network import read_all
from rnnc.networks.lowering import lower_network
from rnnc.networks.timing import Form
from rnnc.references import reference
from rnnc.train.check import Rules, check_model
from rnnc.train.frames import Framing
from rnnc.train.objective import objective_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rnnc.ir.graph import Graph
    from rnnc.layered import Layered
    from rnnc.train.batch import Batch
    from rnnc.train.frames import Framed
    from rnnc.train.objective import Given

    Array = NDArray[Any]


class OfBatches(Compiled):
    """A compiled function of a batch: the common base of training and evaluation."""

    _renewed: frozenset[str] = frozenset()
    """The statistics that a call renews."""

    def __init__(self, model: Layered, loss: Given, weighted: bool, options: CompileOptions) -> None:
        self.model = check_model(model)
        self.weighted = weighted
        self.objective = objective_of(model, loss, weighted)
        self._graph = model.graph()
        self._rules = Rules(model, self.objective.losses, weighted)
        self._framing = Framing(model, self.objective)
        self._states = self._framing.signature.states
        self._constants = self.objective.constants(model.dtype)
        super().__init__(Computation(self._build, in_parts=bool(self._renewed)), options)

    @property
    def loss(self) -> Any:
        """The loss of the only output; of several, output -> (loss, factor)."""
        parts = self.objective.parts
        if len(self._graph.outputs) == 1:
            return next(iter(parts.values())).loss
        return {output: (part.loss, part.factor) for output, part in parts.items()}

    def _build(self, steps: int, lengths: bool) -> Graph:
        raise NotImplementedError

    def _lowered(self, frames: int, lengths: bool, *, training: bool) -> Graph:
        """The network with its losses."""
        graph = lower_network(
            self.model,
            frames,
            lengths=lengths,
            training=training,
            form=Form(spanned=True),
            renewed=self._renewed,
        )
        self.objective.attach(graph)
        return graph


class Evaluation(OfBatches, Unchanging):
    """The losses and the outputs of a network for a batch. The parameters are arguments, and may change between calls.

    weighted: whether batches may have weights. loss: see `TrainingStep`. backend, threads, matmul: as in
    `rnnc.compile`. A pickle holds the model, the loss and the options; it is compiled again when it is loaded.
    """

    def __init__(
        self,
        model: Layered,
        loss: Given,
        *,
        weighted: bool = False,
        backend: str = "llvm",
        threads: int | None = None,
        matmul: str | None = None,
    ) -> None:
        super().__init__(model, loss, weighted, CompileOptions.of(backend, threads, matmul))
        self._bound = self._code.bind({})

    def __reduce__(self) -> tuple[Any, ...]:
        for loss in self.objective.losses.values():
            reference(type(loss))  # raises if it has no name to import
        options = self._options.arguments | {"weighted": self.weighted}
        return partial(Evaluation, **options), (self.model, self.loss)

    def _build(self, steps: int, lengths: bool) -> Graph:
        graph = self._lowered(steps, lengths, training=False)
        wanted = {*self._graph.output_names.values(), *self.objective.places}
        graph.outputs = {name: output for name, output in graph.outputs.items() if name in wanted}
        return graph

    def __call__(self, params: Mapping[str, Array], batch: Batch) -> tuple[Any, Any]:
        """The loss summed over the batch, and the output: (T', B, N), or (B, N) for one per sequence.

        For a network of several outputs, both are dicts by output. A weight multiplies the losses that it belongs to.
        params: name -> array, as `model.parameter_shapes()` lists them, in the network's dtype.
        Raises ParameterError, ShapeError, DtypeError, LengthError, ArgumentError or ArgumentTypeError.
        """
        return self._of(read_all(self.model, params), self._rules.batch("batch", batch))

    def _of(self, params: Mapping[str, Array], batch: Batch) -> tuple[Any, Any]:
        """`__call__` with checked arguments."""
        xp, up, down = self._arrays.xp, self._arrays.from_host, self._arrays.to_host
        signature, framed = self._framing.signature, self._framing(batch, None)
        outputs, shown = signature.new_outputs(framed.times)
        losses = {place: fresh.empty(1, self.model.dtype, xp) for place in self.objective.places}
        if batch.sizes[1]:
            given = {name: up(array) for name, array in self._inputs(params, framed).items()}
            on_host = self._arrays.on_host
            placed = outputs if on_host else {n: fresh.empty(a.shape, a.dtype, xp) for n, a in outputs.items()}
            lengths = None if framed.lengths is None else up(framed.lengths)
            self._bound.start(given, placed | losses, framed.times.frames, framed.times.batch, lengths)
            if not on_host:
                for name, array in outputs.items():
                    array[...] = down(placed[name])
        sums = [float(down(array)[0]) if batch.sizes[1] else 0.0 for array in losses.values()]
        return single_of(self._graph, dict(zip(self.objective.parts, sums, strict=True))), shown

    def _inputs(self, params: Mapping[str, Array], framed: Framed) -> dict[str, Array]:
        signature, graph = self._framing.signature, self._graph
        rows = {
            looked_up: signature.rows(params[graph.table_of(name)], framed.numbers[looked_up].numbers)
            for name, (_, looked_up) in graph.tables.items()
        }
        matrices = {name: array for name, array in params.items() if name in graph.read_whole}
        return matrices | self._constants | framed.inputs | rows


def single_of(graph: Any, found: dict[str, Any]) -> Any:
    """What belongs to the only output, or a dict by output."""
    return single(found) if len(graph.outputs) == 1 else found
