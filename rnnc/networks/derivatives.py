"""Derivatives of a network (`rnnc.Graph`, `rnnc.Sequential`): those of a spec, with a network's arrays.

    f = rnnc.vjp(network)
    (output, state), pullback = f(params, x, state, lengths=None)
    d_params, d_x, d_state = pullback(d_output, d_state)

x, output and their adjoints are arrays, or dicts where the network has several inputs or outputs; a state is a dict, as
`rnnc.Network.advance` takes and returns it. Integers have no gradient: in d_x they are None. The gradient of a table of
an `Embedding` is dense.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from rnnc.checking.network_calls import NetworkSignature, Times
from rnnc.checking.parameters import read_parameters
from rnnc.derivatives import HVP, JVP, VJP, Derivative, parts
from rnnc.ir.errors import ArgumentTypeError
from rnnc.plain_calls import plain_network_vjp

if TYPE_CHECKING:
    from rnnc.backends.arrays import Array
    from rnnc.backends.call_forms import PlainCall
    from rnnc.compiled import CompileOptions
    from rnnc.layered import Layered

Named = dict[str, "Array"]


class NetworkCall(NamedTuple):
    """One call, checked: arrays by their names in the lowered graph, in frames; `result` is what the user gets.

    x: any one of the inputs, which tells the number of frames, and of rows. numbers: integers, by the name of the rows
    that they look up. lengths: frames of each row.
    """

    x: Array
    inputs: Named
    numbers: Named
    lengths: Array | None
    times: Times
    outputs: Named
    result: tuple[Any, Named]


class _OfNetwork(Derivative):
    """The arrays of a network in the place of a spec's."""

    def __init__(self, model: Layered, options: CompileOptions, **others: Any) -> None:
        graph = model.graph()
        self._tables = {rows: graph.table_of(name) for name, (_, rows) in graph.tables.items()}
        self._read_whole = graph.read_whole
        super().__init__(model, options, **others)
        self._of = NetworkSignature(model, self._arrays, spanned=True)

    # ---- arguments

    def _call(self, params: object, x: object, state: object, lengths: object) -> Any:
        if isinstance(x, Mapping) and not isinstance(params, Mapping):
            raise ArgumentTypeError("params, x: they are in each other's place; parameters come first, then x")
        given = self._of.inputs(x, lengths)
        start = self._of.state("state", state, given.times.batch) or {}
        inputs = given.vectors | {self._of.states[name][0]: array for name, array in start.items()}
        outputs, result = self._new_results(given.times)
        timed = [array for array in given.vectors.values() if array.ndim == 3]
        first = [*timed, *given.numbers.values()][0]
        return NetworkCall(first, inputs, given.numbers, given.counts, given.times, outputs, result)

    def _primal(self, params: object, call: Any) -> Named:
        given = read_parameters(self.spec, params, self._arrays, shapes=self._shapes)
        return self._looked_up(given, call) | dict(call.inputs)

    def _looked_up(self, given: Named, call: Any, prefix: str = "") -> Named:
        """Parameters, or tangents of them: of a table, the rows that a call looks up."""
        named = {prefix + name: array for name, array in given.items() if name in self._read_whole}
        looked_up = ((rows, self._of.rows(given[self._tables[rows]], n)) for rows, n in call.numbers.items())
        return named | {prefix + rows: array for rows, array in looked_up}

    # ---- results

    def _new_results(self, times: Times, prefix: str = "") -> tuple[Named, tuple[Any, Named]]:
        """Arrays for outputs and last states, by name, and as the user gets them."""
        outputs, shown = self._of.new_outputs(times)
        last = self._of.new_state(times.batch)
        named = {prefix + name: array for name, array in outputs.items()}
        return named | {prefix + self._of.states[name][1]: array for name, array in last.items()}, (shown, last)

    def _results(self, call: Any, prefix: str = "") -> Any:
        return self._new_results(call.times, prefix)

    def _primal_results(self, call: Any) -> Named:
        return dict(call.outputs)

    def _gradients(self, call: Any, prefix: str) -> Any:
        params = {
            name: self._of.empty(shape) if name in self._read_whole else self._arrays.xp.zeros(shape, self.spec.dtype)
            for name, shape in self._shapes.items()
        }
        xs, d_x = self._of.new_inputs(call.times)
        state = self._of.new_state(call.times.batch)
        found = {name: array for name, array in params.items() if name in self._read_whole} | xs
        for rows, numbers in call.numbers.items():
            frames, batch, positions = numbers.shape
            found[rows] = self._of.empty((frames, batch, positions * self._shapes[self._tables[rows]][1]))
        found |= {self._of.states[name][0]: array for name, array in state.items()}
        return {prefix + name: array for name, array in found.items()}, (params, d_x, state)

    def _gather(self, call: Any, outputs: Named, gradients: Any, prefix: str) -> None:
        """The gradients of tables: the sums of those of the rows that were looked up, besides those as a matrix."""
        for rows, numbers in call.numbers.items():
            each = outputs[prefix + rows].reshape(*numbers.shape, gradients[0][self._tables[rows]].shape[1])
            self._arrays.xp.add.at(gradients[0][self._tables[rows]], numbers, each)

    # ---- adjoints and directions

    def _seeds(self, what: str, d_output: object, d_state: object, call: Any, prefix: str) -> Named:
        labels = (f"{what}[0]", f"{what}[1]") if what else ("d_output", "d_state")
        found = self._of.outputs_like(labels[0], d_output, call.times)
        found |= self._state_like(labels[1], d_state, call.times.batch, 1)
        return {prefix + name: array for name, array in found.items()}

    def _tangents(self, tangents: object, call: Any, prefix: str) -> Named:
        t_params, t_x, t_state = parts("tangents", tangents, ("params", "x", "state"))
        if t_params is None:
            given = {name: self._arrays.xp.zeros(shape, self.spec.dtype) for name, shape in self._shapes.items()}
        else:
            given = read_parameters(self.spec, t_params, self._arrays, "tangents[0]", self._shapes)
        found = self._of.inputs_like("tangents[1]", t_x, call.times)
        found |= self._state_like("tangents[2]", t_state, call.times.batch, 0)
        return self._looked_up(given, call, prefix) | {prefix + name: array for name, array in found.items()}

    def _state_like(self, label: str, state: object, batch: int, moment: int) -> Named:
        """Arrays shaped as a state; None is zeros. moment: 0 for the names of its first values, 1 of its last."""
        given = self._of.state(label, state, batch)
        if given is None:
            zeros = self._arrays.xp.zeros
            given = {name: zeros((batch, width), self.spec.dtype) for name, (_, _, width) in self._of.states.items()}
        return {str(self._of.states[name][moment]): array for name, array in given.items()}


class NetworkVJP(_OfNetwork, VJP):
    """What `rnnc.vjp` returns for a network."""

    def _plain_calls(self) -> tuple[PlainCall, PlainCall] | None:
        if not self.spec.graph().even:
            return None
        return plain_network_vjp(self.spec.graph(), self._of.states, self._shapes, self.wrt)


class NetworkJVP(_OfNetwork, JVP):
    """What `rnnc.jvp` returns for a network."""


class NetworkHVP(_OfNetwork, HVP):
    """What `rnnc.hvp` returns for a network."""
