"""What all modules share: a spec's parameters as parameters of PyTorch, their start, copies and pickles."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from operator import itemgetter
from typing import Any, NamedTuple

import torch
from torch import nn

from rnnc.specs import Spec
from rnnc.torch.nn.engine import Packed

__all__ = ["Module", "spec_dtype"]


class Module(nn.Module):  # type: ignore[misc]
    """The base of the modules. It has a spec's parameters, under the names that `name_of` gives them.

    spec: the spec that it was made with. Its dtype is that of the parameters then.
    """

    def __init__(self, spec: Spec, device: Any) -> None:
        super().__init__()
        self.spec = spec
        self._packed = Packed(replace(spec, dropout=0.0))  # type: ignore[type-var]
        self._names = tuple(self.name_of(name) for name in spec.parameter_shapes())
        self._read = itemgetter(*self._names) if len(self._names) > 1 else _Single(*self._names)
        for field in fields(spec):  # type: ignore[arg-type]
            if field.name not in ("dtype", "spec"):
                setattr(self, field.name, getattr(spec, field.name))
        dtype = getattr(torch, str(spec.dtype))
        for name, shape in zip(self._names, spec.parameter_shapes().values(), strict=True):
            self.register_parameter(name, nn.Parameter(torch.empty(shape, device=device, dtype=dtype)))
        self.reset_parameters()

    @staticmethod
    def name_of(name: str) -> str:
        """The module's name of a spec's parameter."""
        return name

    def reset_parameters(self) -> None:
        """New parameters, each as its cell declares them, by PyTorch's generator."""
        weights = self.weights()
        if any(weight.device.type == "meta" for weight in weights):
            return
        seed = int(torch.randint(2**62, ()))
        with torch.no_grad():
            for weight, start in zip(weights, self.spec.init(seed).values(), strict=True):
                weight.copy_(torch.from_numpy(start))

    def weights(self) -> tuple[Any, ...]:
        """The parameters in the order of the spec: what the module's names are now, parametrized or not."""
        if torch.compiler.is_compiling():
            return tuple(getattr(self, name) for name in self._names)
        try:
            found: tuple[Any, ...] = self._read(self._parameters)
            return found
        except KeyError:  # a parametrization, weight_norm or a replica has put an attribute in a parameter's place
            return tuple(getattr(self, name) for name in self._names)

    def flatten_parameters(self) -> None:
        """Packs the parameters again in the next call.

        It is only needed after writing through `parameter.data` or through NumPy, which PyTorch does not count.
        """
        self._forget()

    def train(self, mode: bool = True) -> Any:
        """As of `torch.nn.Module`."""
        self._forget()
        return super().train(mode)

    def _load_from_state_dict(self, *arguments: Any) -> None:
        self._forget()  # where the parameters are sharded, PyTorch does not count the writes to them
        super()._load_from_state_dict(*arguments)

    def extra_repr(self) -> str:
        """The arguments that differ from their defaults."""
        return ", ".join(self._shown())

    def _shown(self) -> Iterator[str]:
        for field in fields(self.spec):  # type: ignore[arg-type]
            value = getattr(self, field.name, None)
            if field.name in ("cell", "input_size", "hidden_size"):
                yield repr(value)
            elif field.name != "dtype" and value != field.default:
                yield f"{field.name}={value!r}"

    def _forget(self) -> None:
        self._packed.forget()


class _Single(NamedTuple):
    """`operator.itemgetter` of one name, which returns a tuple all the same."""

    name: str

    def __call__(self, values: Mapping[str, Any]) -> tuple[Any, ...]:
        return (values[self.name],)


def spec_dtype(dtype: Any) -> str:
    """The dtype of a spec, from PyTorch's; None is PyTorch's default."""
    return str(torch.get_default_dtype() if dtype is None else dtype).removeprefix("torch.")


def reset_uniformly(module: Module) -> None:
    """New parameters, each uniform in [-1/sqrt(H), 1/sqrt(H)], with H = hidden_size: the numbers of torch.nn's module.

    After the same torch.manual_seed they are the same.
    """
    bound = 1 / math.sqrt(module.spec.hidden_size)
    for weight in module.parameters():
        nn.init.uniform_(weight, -bound, bound)
