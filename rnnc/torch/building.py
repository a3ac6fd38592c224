"""The layers that a module turned out to have, and where its parameters are among those of the network."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rnnc.checking.networks import NUMBERS, Static, width_of
from rnnc.graph import Graph
from rnnc.ir.errors import RnncError, TorchError
from rnnc.ir.names import in_layer
from rnnc.layers import Concat, Layer, recurrent
from rnnc.specs import Spec
from rnnc.torch.traced import TracedTensor, Weight

__all__ = ["NetworkParts", "WidthNeeded", "WidthUnknown", "needed", "own_weights", "unknown_width"]


class WidthNeeded(Exception):
    """A layer says how wide an input is. What was read so far did not know it."""

    def __init__(self, name: str, width: int) -> None:
        super().__init__(name, width)
        self.name, self.width = name, width


@dataclass
class NetworkParts:
    """What `rnnc.Graph` takes, and the parameters.

    inputs: name -> width; 0: integers. entries: as those of `rnnc.Graph`. dtype: of the parameters so far.
    claimed: by the memory of a tensor, the parameter of the network that holds it, and whether it is transposed there.
    weights: parameter of the network -> what it is in the module.
    """

    batch_first: bool
    inputs: dict[str, int] = field(default_factory=dict)
    entries: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    dtype: str = ""
    claimed: dict[Any, tuple[str, bool]] = field(default_factory=dict)
    weights: dict[str, Weight] = field(default_factory=dict)

    def free(self, name: str) -> str:
        """A name for a layer that no other has."""
        parts = ["".join(c if c.isalnum() else "_" for c in part) or "_" for part in name.split(".")]
        found = name = ".".join(part if part.isidentifier() or part.isdecimal() else f"_{part}" for part in parts)
        joint, number = (".call_" if name.rpartition(".")[2].isdecimal() else "_"), 1
        while found in self.inputs or found in self.entries:
            number += 1
            found = f"{name}{joint}{number}"
        return found

    def add(
        self,
        name: str,
        layer: Layer | Spec,
        values: Iterable[TracedTensor],
        weights: Mapping[str, Weight],
        starts: Mapping[str, str],
    ) -> tuple[str, int]:
        """A new layer, and the width of what it gives.

        weights: its parameters. starts: the values that its states start at. Raises WidthNeeded or an RnncError.
        """
        values, name = tuple(values), self.free(name)
        width = _output_width(layer, values)
        owner, tied = self._claim(name, layer, weights)
        ends = dict(starts) | tied
        self.entries[name] = (owner or layer, *(value.source for value in values), *([ends] if ends else []))
        return name, width

    def _claim(self, name: str, layer: Layer | Spec, weights: Mapping[str, Weight]) -> tuple[str, dict[str, str]]:
        """The layer with the same parameters, if there is one; else those that others have already."""
        held = {base: self.claimed.get(memory(weight.tensor)) for base, weight in weights.items()}
        for owner in {known[0].rpartition(".")[0] for known in held.values() if known}:
            same = all(held[base] == (in_layer(owner, base), weights[base].turned) for base in weights)
            if same and self.entries[owner][0] == layer:
                return owner, {}
        tied = {}
        for base, weight in weights.items():
            self.check_dtype(weight)
            known = held[base]
            if known is None:
                own = in_layer(name, base)
                self.claimed[memory(weight.tensor)] = own, weight.turned
                self.weights[own] = weight
            elif known[1] != weight.turned:
                what = "one layer reads it transposed and another does not"
                raise TorchError(f"{weight.name!r} is tied to {self.weights[known[0]].name!r}, but {what}")
            else:
                tied[base] = known[0]
        return "", tied

    def check_dtype(self, weight: Weight) -> str:
        """The dtype of a parameter, which all have. Raises TorchError."""
        dtype, device = str(weight.tensor.dtype).removeprefix("torch."), weight.tensor.device.type
        if device == "meta":
            raise TorchError(f"parameter {weight.name!r} has no numbers yet: it is on the device meta")
        if dtype not in ("float32", "float64"):
            fix = "module.float() gives one that rnnc reads"
            raise TorchError(f"parameter {weight.name!r} is {dtype}; expected float32 or float64: {fix}")
        self.dtype = self.dtype or dtype
        if dtype != self.dtype:
            raise TorchError(f"parameter {weight.name!r} is {dtype}, those before it are {self.dtype}")
        return dtype

    def graph(self, static: Collection[str], outputs: Mapping[str, str]) -> Graph:
        """The network. static: the inputs that are one vector per sequence."""
        inputs: dict[str, int | str | Static] = {name: width or NUMBERS for name, width in self.inputs.items()}
        inputs |= {name: Static(self.inputs[name]) for name in static}
        return Graph(inputs, self.entries, outputs, dtype=self.dtype or None, batch_first=self.batch_first)


def _output_width(layer: Layer | Spec, values: tuple[TracedTensor, ...]) -> int:
    wanted = width_of(layer)
    for value in values:
        if value.width is None and wanted is not None:
            raise needed(value, wanted)
        if wanted is not None and wanted != value.width:
            kind = type(recurrent(layer) or layer).__name__
            raise TorchError(f"{kind} takes vectors of size {wanted}, {value} has size {value.width}")
    if spec := recurrent(layer):
        return spec.output_size
    assert isinstance(layer, Layer)
    widths = [value.width for value in values]
    if None in widths:
        if isinstance(layer, Concat) and widths.count(None) == 1:
            return 0  # that of one input and those that are known
        if len(values) == 1 and not layer.parameter_shapes() and layer.output_width(7) == 7:
            return 0  # it keeps the width, which is not known yet
        raise unknown_width(next(value.of for value in values if value.width is None))
    try:
        return layer.output_width(*(width for width in widths if width is not None))
    except RnncError as error:
        raise TorchError(str(error)) from error


def needed(value: TracedTensor, width: int) -> Exception:
    """What to raise where a value, whose width is not known yet, must have this one."""
    if width <= value.rest:
        return TorchError(f"it reads vectors of size {width}; {value} has more than {value.rest}")
    return WidthNeeded(value.of, width - value.rest)


class WidthUnknown(TorchError):
    """The width of an input matters, and nothing says it."""


def unknown_width(name: str) -> WidthUnknown:
    """What to raise where no layer says how wide an input is."""
    return WidthUnknown(f"no layer says how wide {name!r} is; give widths={{{name!r}: ...}}")


def own_weights(module: Any, path: str, names: Mapping[str, str]) -> dict[str, Weight]:
    """A module's own parameters and buffers. names: parameter of the layer -> attribute of the module.

    Raises TorchError for parameters that the layer does not have, such as those of a parametrization.
    """
    own = {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}
    own = {name: tensor for name, tensor in own.items() if tensor.ndim}
    if other := sorted(set(own) ^ set(names.values())):
        raise TorchError(f"its parameters are not those of its class: {', '.join(other)}")
    prefix = f"{path}." if path else ""
    return {base: Weight(prefix + name, own[name]) for base, name in names.items()}


def memory(tensor: Any) -> Any:
    """What tells tensors that are one from others."""
    pointer = tensor.data_ptr() if tensor.device.type != "meta" else 0
    return (pointer, tuple(tensor.shape), tensor.stride()) if pointer else id(tensor)
