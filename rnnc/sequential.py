"""Sequential: a whole network, from numbers of words or vectors to scores. A spec like the recurrent ones it holds.

net = rnnc.Sequential(
    rnnc.Embedding(10_000, 128),
    rnnc.LSTM(128, 128, num_layers=2, dropout=0.2, bidirectional=True),
    rnnc.Dropout(0.2),
    rnnc.Linear(256, 17),
)
trained = rnnc.train.fit(net, data, loss="cross_entropy", optimizer=rnnc.optimizers.Adam(1e-3), epochs=10)
scores = trained.compile()(words, lengths=lengths)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

from rnnc.checking import checks
from rnnc.checking.arguments import explained
from rnnc.checking.networks import NUMBERS, width_of
from rnnc.graph import Graph
from rnnc.ir.errors import ArgumentError, ArgumentTypeError
from rnnc.ir.names import OUTPUT, X, in_layer
from rnnc.layered import Layered
from rnnc.layers import Embedding, Last, Layer, Mean, is_layer, layer_from_dict, recurrent
from rnnc.references import check_trusted
from rnnc.specs import Spec

if TYPE_CHECKING:
    from numpy.typing import NDArray


    Array = NDArray[Any]

__all__ = ["Sequential"]

READOUTS = ("every", "last", "mean")
READOUT = "readout"
"""The name of the layer that a `readout` stands for."""


@dataclass(frozen=True, init=False, repr=False)
class Sequential(Layered):
    """Layers one after the other; parameters are named as in the state_dict of a torch.nn.Sequential of them.

    layers: recurrent specs and layers that read one value, each of the width that the one before gives; an
        `rnnc.Embedding` comes first. The specs' `dropout` acts between their layers in training. All specs have one
        dtype and one batch_first: those of the network, whose x and, without a readout, output are (B, T, ...) then.
        States and the batches of `rnnc.train` are the same in both layouts.
    readout: what the layers behind the last recurrent one read: its output at "every" step; its "last" state, of both
        directions side by side, (B, N); or the "mean" of its outputs over each row's steps, (B, N). `rnnc.Last` and
        `rnnc.Mean` among the layers do the same.
    `rnnc.Graph` is for layers that read several values, and for several inputs or outputs.
    Raises ArgumentError, ArgumentTypeError or ShapeError, with the number of the layer.
    """

    layers: tuple[Layer | Spec, ...]
    readout: str

    @explained
    def __init__(self, *layers: Layer | Spec, readout: str = "every") -> None:
        object.__setattr__(self, "layers", layers)
        object.__setattr__(self, "readout", checks.choice("readout", readout, READOUTS))
        _check_kinds(layers)
        _check_sizes(layers)
        _check_agree(layers)
        if readout != "every" and not self.specs:
            raise ArgumentError(f"readout: {readout!r} reads the last recurrent layer, and there is none")
        self.graph()

    def __repr__(self) -> str:
        listed = [repr(layer) for layer in self.layers]
        if self.readout != "every":
            listed.append(f"readout={self.readout!r}")
        return f"Sequential({', '.join(listed)})"

    def graph(self) -> Graph:
        """The same network as a `rnnc.Graph`: layers "0", "1", ..., and "readout"; the input is "x"."""
        return self._graph

    @cached_property
    def _graph(self) -> Graph:
        entries: dict[str, tuple[Layer | Spec, str]] = {}
        source = X
        for number, layer in enumerate(self.layers):
            entries[str(number)] = layer, source
            source = str(number)
            if self.readout != "every" and number == self.last_recurrent:
                entries[READOUT] = (Last() if self.readout == "last" else Mean()), source
                source = READOUT
        width = self.input_size if self.embedding is None else NUMBERS
        return Graph({X: width}, entries, {OUTPUT: source})

    # ---- what the layers say

    @property
    def embedding(self) -> Embedding | None:
        """The first layer, if it is a table."""
        first = self.layers[0]
        return first if isinstance(first, Embedding) else None

    @property
    def table(self) -> str | None:
        """The name of the embedding's parameter."""
        return None if self.embedding is None else in_layer(0, "weight")

    @property
    def last_recurrent(self) -> int:
        """The number of the layer that the readout reads."""
        return max(self.specs)

    @property
    def specs(self) -> dict[int, Spec]:
        """Number -> recurrent spec."""
        return {number: spec for number, layer in enumerate(self.layers) if (spec := recurrent(layer))}

    @property
    def dtype(self) -> str:
        """ "float32" or "float64", of all parameters and all arithmetic."""
        return self._graph.dtype

    @property
    def batch_first(self) -> bool:
        """Whether x and what comes out at every step are (B, T, ...) instead of (T, B, ...)."""
        return self._graph.batch_first

    @property
    def timed(self) -> bool:
        """Whether there is an output per step; False behind a readout, which gives one per sequence."""
        return self._graph.kinds[self._graph.outputs[OUTPUT]].timed

    @property
    def input_size(self) -> int:
        """Width of x at a step; with an embedding, of the rows it gives."""
        return _first_width(self.layers)

    @property
    def output_size(self) -> int:
        """Width of what comes out."""
        return self._graph.kinds[self._graph.outputs[OUTPUT]].width

    @property
    def causal(self) -> bool:
        """Whether there is an output per step that never reads a later one, so that sequences may be cut in pieces."""
        return self.timed and self._graph.causal

    # ---- plain data

    def to_dict(self) -> dict[str, Any]:
        """The layers as plain data."""
        return {
            "type": "Sequential",
            "layers": [layer.to_dict() for layer in self.layers],
            "readout": self.readout,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, trusted: Collection[str] = ()) -> Self:
        """The network of `to_dict`. trusted: see `rnnc.Spec.from_dict`."""
        if not isinstance(data, Mapping) or data.get("type") != "Sequential":
            raise ArgumentTypeError(
                f"data: expected a dict such as Sequential.to_dict() gives, got {checks.came(data)}"
            )
        layers = data.get("layers")
        if not isinstance(layers, (list, tuple)):
            raise ArgumentTypeError(f"layers: expected a list of dicts, got {checks.came(layers)}")
        for name in set(data) - {"type", "layers", "readout"}:
            raise ArgumentError(f"{checks.shown(name)} is not an argument of Sequential")
        trusted = check_trusted(trusted)
        return cls(*(layer_from_dict(layer, trusted) for layer in layers), readout=data.get("readout", "every"))


def _first_width(layers: tuple[Layer | Spec, ...]) -> int:
    """The width of x, from the first layer that says what it reads or, of an embedding, gives."""
    for layer in layers:
        width = layer.size if isinstance(layer, Embedding) else width_of(layer)
        if width is not None:
            return width
    raise ArgumentError("layers: none of them says how wide x is; rnnc.Graph takes the widths of its inputs")


def _check_kinds(layers: tuple[object, ...]) -> None:
    if not layers:
        raise ArgumentError("layers: expected at least one, such as rnnc.LSTM(64, 128)")
    for number, layer in enumerate(layers):
        if not is_layer(layer):
            hint = "; call it to make one" if isinstance(layer, type) else ""
            expected = "expected rnnc.Linear, another layer or a recurrent spec"
            raise ArgumentTypeError(f"layer {number}: {expected}, got {checks.came(layer)}{hint}")
        if isinstance(layer, Embedding) and number:
            raise ArgumentError(f"layer {number}: an Embedding can only be the first layer")


def _check_sizes(layers: tuple[Layer | Spec, ...]) -> None:
    """Each layer takes what the one before gives; a `rnnc.Graph` would say so of names that the user did not give."""
    width, before = _first_width(layers), "x"
    for number, layer in enumerate(layers):
        wanted = None if isinstance(layer, Embedding) else width_of(layer)
        if wanted not in (None, width):
            raise ArgumentError(
                f"layer {number}, {_kind(layer)}: it takes vectors of size {wanted}, but {before} gives size {width}"
            )
        spec = recurrent(layer)
        width = spec.output_size if spec else layer.output_width(width)  # type: ignore[union-attr]
        before = f"layer {number}, {_kind(layer)},"


def _check_agree(layers: tuple[Layer | Spec, ...]) -> None:
    """All recurrent layers have one dtype, one layout."""
    first: tuple[int, Spec] | None = None
    for number, spec in ((n, spec) for n, layer in enumerate(layers) if (spec := recurrent(layer))):
        first = first or (number, spec)
        for name in ("dtype", "batch_first"):
            if getattr(spec, name) != getattr(first[1], name):
                raise ArgumentError(
                    f"layer {number}, {_kind(layers[number])}: {name} is {getattr(spec, name)!r}, that of layer "
                    f"{first[0]} is {getattr(first[1], name)!r}; they must be the same"
                )


def _kind(layer: Layer | Spec) -> str:
    return type(recurrent(layer) or layer).__name__
