"""Where a network came from: the axes of a module's inputs and outputs, and what is where in its state_dict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Self

from rnnc.checking import checks
from rnnc.graph import Graph
from rnnc.ir.errors import ArgumentError, ArgumentTypeError, RnncError
from rnnc.torch.borders import Border
from rnnc.torch.state_dict import StateDict

if TYPE_CHECKING:
    from collections.abc import Collection

    from rnnc.torch.network import TorchNetwork

__all__ = ["Origin", "TorchGraph"]


@dataclass(frozen=True)
class Origin:
    """state_dict: what is where in the module's. inputs, outputs: those of vectors, by name -> their axes."""

    state_dict: StateDict = field(default_factory=StateDict)
    inputs: Mapping[str, Border] = field(default_factory=dict)
    outputs: Mapping[str, Border] = field(default_factory=dict)

    @property
    def plain(self) -> bool:
        """Whether the module's arrays are the network's."""
        return all(border.plain for border in (*self.inputs.values(), *self.outputs.values()))

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        inputs, outputs = (
            {name: border.to_dict() for name, border in borders.items()} for borders in (self.inputs, self.outputs)
        )
        return {"state_dict": self.state_dict.to_dict(), "inputs": inputs, "outputs": outputs}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], graph: Graph) -> Self:
        """Of `to_dict`. Raises ArgumentError unless it fits the graph."""
        try:
            inputs, outputs = (
                {str(name): Border.from_dict(border) for name, border in data[key].items()}
                for key in ("inputs", "outputs")
            )
            made = cls(StateDict.from_dict(data["state_dict"]), inputs, outputs)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, RnncError):
                raise
            what = "expected a dict such as TorchGraph.to_dict() gives"
            raise ArgumentError(f"origin: {what}; {type(error).__name__}: {error}") from error
        made._check(graph)
        return made

    def _check(self, graph: Graph) -> None:
        vectors = {name for name, width in graph.inputs.items() if width}
        for what, came, wanted in (
            ("inputs", set(self.inputs), vectors),
            ("outputs", set(self.outputs), set(graph.outputs)),
            ("parameters", {name for name, _ in self.state_dict.places.values()}, set(graph.parameter_shapes())),
        ):
            if came != wanted:
                raise ArgumentError(f"origin: its {what} are not those of the graph: {sorted(came ^ wanted)}")
        for name, border in self.inputs.items():
            timed = name not in graph.static
            border.check(f"input {name!r}", timed=timed, batch_first=graph.batch_first, width=0)
        for name, border in self.outputs.items():
            kind = graph.kinds[graph.outputs[name]]
            border.check(f"output {name!r}", timed=kind.timed, batch_first=graph.batch_first, width=kind.width)


class TorchGraph(Graph):
    """The `rnnc.Graph` of a module, which knows where it came from: so do files and trained networks of it.

    Its own arrays are (T, B, N) or (B, T, N), in training and for `rnnc.vjp`, too; those of `compile`'s result are the
    module's.
    """

    origin: Origin

    def __init__(self, graph: Graph, origin: Origin) -> None:
        for part in fields(graph):
            self._set(part.name, getattr(graph, part.name))
        self._set("origin", origin)

    def __eq__(self, other: object) -> bool:
        same = super().__eq__(other)
        return same if not isinstance(other, TorchGraph) else same is True and self.origin == other.origin

    def __hash__(self) -> int:
        return super().__hash__()

    def network_class(self) -> type[TorchNetwork]:
        """That of networks which take and give the module's arrays, and write its state_dict."""
        from rnnc.torch.network import ArrangedNetwork, TorchNetwork

        return TorchNetwork if self.origin.plain else ArrangedNetwork

    def to_dict(self) -> dict[str, Any]:
        """The network as plain data."""
        return {"type": "TorchGraph", "graph": super().to_dict(), "origin": self.origin.to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, trusted: Collection[str] = ()) -> Self:
        """The network of `to_dict`. trusted: see `rnnc.Spec.from_dict`."""
        if (
            not isinstance(data, Mapping)
            or data.get("type") != "TorchGraph"
            or set(data) != {"type", "graph", "origin"}
        ):
            what = "expected a dict such as TorchGraph.to_dict() gives"
            raise ArgumentTypeError(f"data: {what}, got {checks.came(data)}")
        graph = Graph.from_dict(data["graph"], trusted=trusted)
        return cls(graph, Origin.from_dict(data["origin"], graph))
