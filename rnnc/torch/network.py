"""`from_torch`: a PyTorch module as a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from rnnc.checking import checks
from rnnc.checking.arguments import explained
from rnnc.compiled import CompileOptions
from rnnc.copies import on_host
from rnnc.ir.errors import ArgumentError, ArgumentTypeError
from rnnc.network import Network
from rnnc.networks.statistics import statistics
from rnnc.torch.borders import Border
from rnnc.torch.origin import Origin, TorchGraph
from rnnc.torch.state_dict import StateDict, arrays_of, checked

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from rnnc.network import Arrays, State
    from rnnc.streams import PieceArrays

__all__ = ["ArrangedNetwork", "TorchNetwork", "from_torch"]


@explained
def from_torch(
    module: Any,
    *,
    batch_first: bool | None = None,
    widths: Mapping[str, int] | None = None,
    arguments: Mapping[str, Any] | None = None,
    backend: str = "llvm",
    threads: int | None = None,
    matmul: str | None = None,
    weights: str | None = None,
    activations: str | None = None,
) -> TorchNetwork:
    """The network that a module's forward() computes in eval mode, with a copy of its parameters (docs/from-torch.md).

    module: a torch.nn.Module of layers that rnnc knows. Its forward() is traced by torch.fx; it is not changed.
    batch_first: whether inputs have the batch before time, where no layer says so; default: as the layers say.
    widths: argument of forward() -> the size of a step of it, where no layer says so.
    arguments: values of forward()'s arguments that are no tensors. Those with a default otherwise get it.
    backend, threads, matmul, weights, activations: as in `rnnc.compile`.
    Dropout becomes `rnnc.Dropout`, which acts in training alone. An argument of forward() that is only the first state
    of a recurrent layer is no input: `advance` takes states. One that is the lengths of pack_padded_sequence is
    `lengths` of the call.
    Raises TorchError, with the layer or the line of forward(), for what cannot be read; nothing is left out in silence.
    """
    if not _is_module(module):
        hint = "; call the class to make one" if isinstance(module, type) else ""
        hint = "; a state_dict goes to rnnc.compile or a network's compile" if isinstance(module, Mapping) else hint
        raise ArgumentTypeError(f"module: expected a torch.nn.Module, got {checks.came(module)}{hint}")
    if hasattr(module, "_orig_mod"):
        raise ArgumentTypeError("module: got the result of torch.compile; pass the module that it was made of")
    for name, width in (widths or {}).items():
        checks.integer(f"widths[{name!r}]", width, 1)
    first = None if batch_first is None else checks.flag("batch_first", batch_first)

    from rnnc.torch.guesses import read
    from rnnc.torch.tracing import trace

    reader = read(module, trace(module, arguments or {}), widths or {}, first)
    if unknown := set(widths or {}) - set(reader.inputs):
        raise ArgumentError(f"widths: {checks.shown(min(unknown))} is no input; they are {', '.join(reader.inputs)}")
    graph = reader.graph
    inputs = {name: Border.of(value, graph.batch_first) for name, value in reader.inputs.items() if value.width}
    outputs = {name: Border.of(value, graph.batch_first) for name, value in reader.outputs.items()}
    origin = Origin(StateDict.of(module, reader.parts, statistics(graph)), inputs, outputs)
    model = TorchGraph(graph, origin)
    options = CompileOptions.of(backend, threads, matmul, weights, activations).arguments
    return model.network_class()(model, arrays_of(reader.parts), **options)


def _is_module(value: object) -> bool:
    return any(f"{base.__module__}.{base.__name__}" == "torch.nn.modules.module.Module" for base in type(value).__mro__)


class TorchNetwork(Network):
    """What `rnnc.from_torch` returns: a `rnnc.Network` that knows the names of the module's state_dict."""

    @property
    def _origin(self) -> Origin:
        model = self.model
        assert isinstance(model, TorchGraph)
        return model.origin

    @property
    def frozen(self) -> tuple[str, ...]:
        """The parameters that training in PyTorch does not change: those that require no gradient, and buffers that are
        no statistics.
        """
        return self._origin.state_dict.frozen

    def __reduce__(self) -> tuple[Any, ...]:
        params = on_host(self._params, self._arrays)
        return partial(type(self), **self._options.arguments), (self.model, params)

    @explained
    def to_torch_state_dict(self, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """What the module's load_state_dict takes: names, shapes, dtypes, tied entries, and buffers as they were.

        params: the network's parameters, by its names, such as a trainer returns; default: its own.
        Returns new CPU tensors; entries that are tied in the module share one. Raises as `rnnc.Program.bind`.
        """
        given = on_host(self._params, self._arrays) if params is None else params
        return self._origin.state_dict.write(checked(self.model, given))

    def explain(self) -> str:
        """As `rnnc.Network.explain`, and what of the module no layer reads."""
        kept = ", ".join(self._origin.state_dict.kept)
        return super().explain() + (f"kept for the state_dict, read by no layer: {kept}\n" if kept else "")


class ArrangedNetwork(TorchNetwork):
    """A network whose module has other axes than (T, B, N) or (B, T, N), such as (B, N, T), or (L, B, N) of states.

    Its calls take and give arrays with the module's axes, which are views.
    """

    def __call__(self, x: Arrays, *, lengths: ArrayLike | None = None) -> Arrays:
        """As of `rnnc.Network`, with the module's axes."""
        output: Arrays = self._outward(super().__call__(self._inward(x), lengths=lengths))
        return output

    def advance(
        self, x: Arrays, state: State | None = None, *, lengths: ArrayLike | None = None
    ) -> tuple[Arrays, dict[str, Any]]:
        """As of `rnnc.Network`, with the module's axes."""
        output, state = super().advance(self._inward(x), state, lengths=lengths)
        return self._outward(output), state

    def finish(self, state: State) -> Arrays:
        """As of `rnnc.Network`, with the module's axes."""
        output: Arrays = self._outward(super().finish(state))
        return output

    def pieces(self) -> PieceArrays:
        """As of `rnnc.Network`. A step without T cannot be told from a piece."""
        return replace(super().pieces(), own_axes=True)

    def _inward(self, x: Any) -> Any:
        if isinstance(x, Mapping):
            borders = self._origin.inputs
            return {name: borders[name].inward(array) if name in borders else array for name, array in x.items()}
        return next(iter(self._origin.inputs.values())).inward(x) if len(self._origin.inputs) == 1 else x

    def _outward(self, output: Any) -> Any:
        borders = self._origin.outputs
        if isinstance(output, Mapping):
            return {name: borders[name].outward(array) for name, array in output.items()}
        return next(iter(borders.values())).outward(output)
