"""Parameters of a network as what a module's load_state_dict takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnc.checking.parameters import read_parameters
from rnnc.ir.errors import BackendUnavailable

if TYPE_CHECKING:
    from rnnc.layered import Layered
    from rnnc.torch.building import NetworkParts

__all__ = ["StateDict", "arrays_of", "plain_state_dict"]


@dataclass(frozen=True)
class StateDict:
    """What is where in a module's state_dict.

    places: name, in the module's order -> (parameter of the network, whether it is transposed there).
    kept: what no layer reads, by name: num_batches_tracked, parameters of modules that forward() does not call.
    """

    names: tuple[str, ...]
    places: Mapping[str, tuple[str, bool]]
    kept: Mapping[str, Any]

    @staticmethod
    def of(module: Any, parts: NetworkParts) -> StateDict:
        """That of a module that was read."""
        from rnnc.torch.building import memory

        places, kept = {}, {}
        found = module.state_dict(keep_vars=True)
        for name, value in found.items():
            place = parts.claimed.get(memory(value)) if hasattr(value, "data_ptr") else None
            if place is not None:
                places[name] = place
            else:
                kept[name] = value.detach().cpu().clone() if hasattr(value, "detach") else value
        return StateDict(tuple(found), places, kept)

    def write(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The state_dict with these parameters of the network; tied entries are one tensor."""
        torch = _torch()
        tensors: dict[tuple[str, bool], Any] = {}
        for place in self.places.values():
            name, turned = place
            array = params[name].T if turned else params[name]
            tensors[place] = torch.from_numpy(np.array(array, order="C"))
        kept = {name: value.clone() if hasattr(value, "clone") else value for name, value in self.kept.items()}
        return {name: tensors[self.places[name]] if name in self.places else kept[name] for name in self.names}


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
