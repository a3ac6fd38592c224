"""Parameters of a network as what a module's load_state_dict takes."""

from __future__ import annotations

import math
from base64 import b64decode, b64encode
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rnnc.checking.parameters import read_parameters
from rnnc.ir.errors import ArgumentError, BackendUnavailable, TorchError

if TYPE_CHECKING:
    from rnnc.layered import Layered
    from rnnc.torch.building import NetworkParts

__all__ = ["StateDict", "arrays_of", "plain_state_dict"]


class Kept(NamedTuple):
    """A tensor that no layer reads. data: its bytes."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes

    @staticmethod
    def of(name: str, tensor: Any) -> Kept:
        """Raises TorchError for what a module may have in its state_dict besides tensors."""
        if not hasattr(tensor, "data_ptr"):
            raise TorchError(f"module: {name!r} in its state_dict is a {type(tensor).__name__}; expected a tensor")
        plain = tensor.detach().cpu().contiguous().reshape(-1)
        data = plain.view(_torch().uint8).numpy().tobytes() if plain.numel() else b""
        return Kept(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), data)

    def tensor(self) -> Any:
        """A new tensor."""
        torch = _torch()
        dtype = getattr(torch, self.dtype)
        made = torch.frombuffer(bytearray(self.data), dtype=dtype) if self.data else torch.empty(0, dtype=dtype)
        return made.reshape(self.shape)


@dataclass(frozen=True)
class StateDict:
    """What is where in a module's state_dict.

    names: all, in the module's order. places: name -> (parameter of the network, whether it is transposed there).
    kept: what no layer reads, by name: num_batches_tracked, parameters of modules that forward() does not call.
    frozen: parameters of the network that training in PyTorch does not change: buffers that are no statistics, and what
    requires no gradient.
    """

    names: tuple[str, ...] = ()
    places: Mapping[str, tuple[str, bool]] = field(default_factory=dict)
    kept: Mapping[str, Kept] = field(default_factory=dict)
    frozen: tuple[str, ...] = ()

    @staticmethod
    def of(module: Any, parts: NetworkParts, statistics: Collection[str]) -> StateDict:
        """That of a module that was read. statistics: the parameters of the network that each batch changes."""
        from rnnc.torch.building import memory

        places, kept = {}, {}
        found = module.state_dict(keep_vars=True)
        for name, value in found.items():
            place = parts.claimed.get(memory(value)) if hasattr(value, "data_ptr") else None
            if place is not None:
                places[name] = place
            else:
                kept[name] = Kept.of(name, value)
        fixed = {name: weight for name, weight in parts.weights.items() if name not in statistics}
        frozen = tuple(name for name, weight in fixed.items() if not weight.tensor.requires_grad)
        return StateDict(tuple(found), places, kept, frozen)

    def write(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The state_dict with these parameters of the network; tied entries are one tensor."""
        torch = _torch()
        tensors: dict[tuple[str, bool], Any] = {}
        for place in self.places.values():
            name, turned = place
            array = params[name].T if turned else params[name]
            tensors[place] = torch.from_numpy(np.array(array, order="C"))
        return {
            name: tensors[self.places[name]] if name in self.places else self.kept[name].tensor() for name in self.names
        }

    def to_dict(self) -> dict[str, Any]:
        """As plain data: what is kept as base64."""
        kept = {
            name: {"dtype": one.dtype, "shape": list(one.shape), "data": b64encode(one.data).decode()}
            for name, one in self.kept.items()
        }
        places = {name: list(place) for name, place in self.places.items()}
        return {"names": list(self.names), "places": places, "kept": kept, "frozen": list(self.frozen)}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> StateDict:
        """Of `to_dict`. Raises ArgumentError, KeyError, TypeError or ValueError for other data."""
        names, places = tuple(data["names"]), {name: (str(p), bool(t)) for name, (p, t) in data["places"].items()}
        kept = {}
        for name, one in data["kept"].items():
            raw, shape = b64decode(one["data"], validate=True), tuple(map(int, one["shape"]))
            size = WIDTHS[one["dtype"]]
            if len(raw) != size * math.prod(shape) or min(shape, default=0) < 0:
                raise ArgumentError(f"origin: {name!r} has {len(raw)} bytes, expected {shape} of {size}")
            kept[name] = Kept(one["dtype"], shape, raw)
        if sorted(names) != sorted([*places, *kept]):
            raise ArgumentError("origin: the names of the state_dict are not those of its entries")
        frozen = tuple(map(str, data["frozen"]))
        if set(frozen) - {name for name, _ in places.values()}:
            raise ArgumentError(f"origin: {frozen} are not parameters of the network")
        return StateDict(names, places, kept, frozen)


WIDTHS = {
    **{"bool": 1, "uint8": 1, "int8": 1, "int16": 2, "int32": 4, "int64": 8},
    **{"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8, "complex64": 8, "complex128": 16},
}
"""Dtype of a tensor that may be kept -> bytes per number."""


def arrays_of(parts: NetworkParts) -> dict[str, Any]:
    """The parameters of the network, views of the module's where their order allows."""
    found = {}
    for name, weight in parts.weights.items():
        array = weight.tensor.detach().cpu().numpy()
        found[name] = np.ascontiguousarray(array.T if weight.turned else array)
    return found


def plain_state_dict(model: Layered, params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters by their own names, which are those of a module whose attributes are called as the layers."""
    torch = _torch()
    return {name: torch.from_numpy(array.copy()) for name, array in checked(model, params).items()}


def checked(model: Layered, params: Mapping[str, Any]) -> dict[str, Any]:
    """NumPy arrays of exactly the network's names, shapes and dtype."""
    return read_parameters(model, params)


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise BackendUnavailable("it needs the package torch, which is not installed: pip install torch") from error
    return torch
