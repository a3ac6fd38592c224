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
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from rnnc.backends.fresh import enough_memory
from rnnc.cells import Shape
from rnnc.checking import checks
from rnnc.checking.arguments import explained
from rnnc.ir.errors import ArgumentError, ArgumentTypeError
from rnnc.ir.names import in_layer
from rnnc.layers import LAYERS, Embedding, Layer, Linear, Regularized
from rnnc.plain_data import PlainData
from rnnc.references import check_trusted
from rnnc.specs import SPECS, Spec, check_arguments

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rnnc.network import Network

    Array = NDArray[Any]

__all__ = ["Sequential"]

READOUTS = ("every", "last", "mean")


@dataclass(frozen=True, init=False, repr=False)
class Sequential(PlainData):
    """Layers one after the other; parameters are named as in the state_dict of a torch.nn.Sequential of them.

    layers: `rnnc.Embedding` (only first), `rnnc.Dropout`, `rnnc.Linear`, `rnnc.Regularized`, and recurrent specs, of
        which there is at least one; each takes the width the one before gives. The specs' `dropout` acts between their
        layers in training. All have one dtype and one batch_first: that of the network, whose x and, with readout
        "every", output are (B, T, ...) then. States and the batches of `rnnc.train` are the same in both layouts.
    readout: what the layers behind the last recurrent one read: its output at "every" step; its "last" state, of both
        directions side by side, (B, N); or the "mean" of its outputs over each row's steps, (B, N).
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

    def __repr__(self) -> str:
        listed = [repr(layer) for layer in self.layers]
        if self.readout != "every":
            listed.append(f"readout={self.readout!r}")
        return f"Sequential({', '.join(listed)})"

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
        return max(number for number, layer in enumerate(self.layers) if recurrent(layer))

    @property
    def specs(self) -> dict[int, Spec]:
        """Number -> recurrent spec."""
        return {number: spec for number, layer in enumerate(self.layers) if (spec := recurrent(layer))}

    @property
    def dtype(self) -> str:
        """ "float32" or "float64", of all parameters and all arithmetic."""
        return str(next(iter(self.specs.values())).dtype)

    @property
    def batch_first(self) -> bool:
        """Whether x and what comes out at every step are (B, T, ...) instead of (T, B, ...)."""
        return next(iter(self.specs.values())).batch_first

    @property
    def input_size(self) -> int:
        """Width of x at a step; with an embedding, of the rows it gives."""
        return next(size for layer in self.layers if (size := _input_size(layer)))

    @property
    def output_size(self) -> int:
        """Width of what comes out."""
        return _widths(self.layers)[-1]

    @property
    def causal(self) -> bool:
        """Whether a step never reads a later one, so that a sequence may be cut into pieces."""
        return self.readout == "every" and not any(spec.bidirectional for spec in self.specs.values())

    # ---- parameters

    def parameter_shapes(self) -> dict[str, Shape]:
        """Name -> shape of every parameter: "0.weight", "1.weight_ih_l0", ..."""
        return {
            in_layer(number, name): shape
            for number, layer in enumerate(self.layers)
            for name, shape in layer.parameter_shapes().items()
        }

    def init(self, seed: int | np.random.Generator = 0) -> dict[str, Array]:
        """New parameters, each layer's from its default distribution in PyTorch. The same seed gives the same."""
        rng = seed
        if not isinstance(rng, np.random.Generator):
            rng = np.random.default_rng(checks.integer("seed", rng, 0, 2**128))
        found: dict[str, Array] = {}
        for number, layer in enumerate(self.layers):
            with enough_memory(f"the parameters of layer {number}, {layer!r}"):
                found |= {in_layer(number, name): array.astype(self.dtype) for name, array in layer.init(rng).items()}
        return found

    @explained
    def compile(
        self,
        params: Mapping[str, Any],
        *,
        backend: str = "llvm",
        threads: int | None = None,
        matmul: str | None = None,
    ) -> Network:
        """The network for inference: a function of x and lengths (`rnnc.network.Network`).

        backend, threads, matmul: as in `rnnc.compile`.
        """
        from rnnc.network import Network

        return Network(self, params, backend=backend, threads=threads, matmul=matmul)

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
        return cls(*(_layer_from_dict(layer, trusted) for layer in layers), readout=data.get("readout", "every"))


def recurrent(layer: Layer | Spec) -> Spec | None:
    """The recurrent spec that a layer is, or that it regularises."""
    if isinstance(layer, Regularized):
        return layer.spec
    return layer if isinstance(layer, Spec) else None


def _layer_from_dict(data: object, trusted: Collection[str]) -> Layer | Spec:
    if not isinstance(data, Mapping):
        raise ArgumentTypeError(f"layers: expected a list of dicts, got {checks.came(data)} in it")
    kind = checks.choice("type", data.get("type"), (*LAYERS, *SPECS))
    if kind in SPECS:
        return Spec.from_dict(data, trusted=trusted)
    values = {name: value for name, value in data.items() if name != "type"}
    check_arguments(LAYERS[kind], values)
    if kind == "Regularized":
        values["spec"] = Spec.from_dict(values["spec"], trusted=trusted)
    return LAYERS[kind](**values)


def _input_size(layer: Layer | Spec) -> int | None:
    """The width a layer takes; None for one that takes any. An embedding counts as what it gives."""
    if spec := recurrent(layer):
        return spec.input_size
    if isinstance(layer, Linear):
        return layer.input_size
    return layer.size if isinstance(layer, Embedding) else None


def _output_size(layer: Layer | Spec, width: int) -> int:
    if spec := recurrent(layer):
        return spec.output_size
    return layer.output_size if isinstance(layer, (Linear, Embedding)) else width


def _widths(layers: tuple[Layer | Spec, ...]) -> list[int]:
    """The width behind each layer."""
    width = next(size for layer in layers if (size := _input_size(layer)))
    result = []
    for layer in layers:
        width = _output_size(layer, width)
        result.append(width)
    return result


def _check_kinds(layers: tuple[object, ...]) -> None:
    for number, layer in enumerate(layers):
        if not isinstance(layer, (*LAYERS.values(), *SPECS.values())):
            hint = "; call it to make one" if isinstance(layer, type) else ""
            raise ArgumentTypeError(
                f"layer {number}: expected rnnc.Embedding, Dropout, Linear, Regularized or a recurrent spec, "
                f"got {checks.came(layer)}{hint}"
            )
        if isinstance(layer, Embedding) and number:
            raise ArgumentError(f"layer {number}: an Embedding can only be the first layer")
    if not any(recurrent(layer) for layer in layers):  # type: ignore[arg-type]
        raise ArgumentError("layers: expected at least one recurrent spec, such as rnnc.LSTM(64, 128)")


def _check_sizes(layers: tuple[Layer | Spec, ...]) -> None:
    for number, (before, width, layer) in enumerate(zip(layers, _widths(layers), layers[1:], strict=False), start=1):
        wanted = _input_size(layer)
        if wanted not in (None, width):
            raise ArgumentError(
                f"layer {number}, {_kind(layer)}: it takes vectors of size {wanted}, but layer {number - 1}, "
                f"{_kind(before)}, gives size {width}"
            )


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
