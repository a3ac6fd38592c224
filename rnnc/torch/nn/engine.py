"""The compiled functions of a spec, and the bound model of a module's parameters."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

from numpy.typing import NDArray

from rnnc.checking.arrays import as_array
from rnnc.compile import Program
from rnnc.compile import compile as compile_spec
from rnnc.derivatives import HVP, JVP, VJP, hvp, jvp, vjp
from rnnc.model import Model
from rnnc.specs import Spec

__all__ = ["Engine", "Packed", "array", "dtype_of", "engine"]

Tensors = Sequence[Any]


class Engine:
    """The compiled functions of one spec, each made when it is first needed. All modules of the spec share them."""

    def __init__(self, spec: Spec, threads: int) -> None:
        self.spec = spec
        self.threads = threads
        self.names = tuple(spec.parameter_shapes())

    @cached_property
    def program(self) -> Program:
        """The forward pass, without parameters."""
        made = compile_spec(self.spec, threads=self.threads)
        assert isinstance(made, Program)
        return made

    @cached_property
    def vjp(self) -> VJP:
        """The forward pass with its pullback."""
        return vjp(self.spec, threads=self.threads)

    @cached_property
    def jvp(self) -> JVP:
        """The forward pass with its tangent."""
        return jvp(self.spec, threads=self.threads)

    @cached_property
    def hvp(self) -> HVP:
        """The gradients with their tangent."""
        return hvp(self.spec, threads=self.threads)

    def params(self, tensors: Tensors) -> dict[str, NDArray[Any]]:
        """Views of the parameters, by name."""
        return {name: array(name, tensor) for name, tensor in zip(self.names, tensors, strict=True)}


@lru_cache(maxsize=512)
def engine(spec: Spec, threads: int) -> Engine:
    """The engine of a spec. threads: the most threads of a call, torch.get_num_threads()."""
    return Engine(spec, threads)


def array(name: str, tensor: Any) -> NDArray[Any]:
    """A view of a tensor's memory. name: for messages.

    Raises ArgumentTypeError for what has no memory on this machine's CPU that NumPy can read.
    """
    try:
        found: NDArray[Any] = tensor.detach().numpy() if tensor.requires_grad else tensor.numpy()
        return found
    except (AttributeError, RuntimeError, TypeError):  # another device, bfloat16, a sparse tensor, no tensor at all
        return as_array(name, tensor.detach() if hasattr(tensor, "detach") else tensor)


class _Held(NamedTuple):
    """A bound model. versions, places: of the tensors that it was packed from, their counters and addresses."""

    engine: Engine
    weights: Tensors
    versions: list[int]
    places: list[int]
    model: Model


class Packed:
    """A module's bound model. It is bound again when a parameter is another tensor, lies elsewhere or was written to.

    PyTorch counts what is written to a tensor (`Tensor._version`), but not what is written through `.data` or through
    a view that NumPy has. `forget` is for these.
    """

    def __init__(self) -> None:
        self._held: _Held | None = None

    def forget(self) -> None:
        """The next call binds the parameters again."""
        self._held = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Packed, ()  # a copy or a pickle of a module starts without one

    def model(self, made: Engine, weights: Tensors) -> Model:
        """The model of these parameters. Threads may call it at the same time."""
        try:
            versions = [weight._version for weight in weights]
        except RuntimeError:  # made in torch.inference_mode(): PyTorch does not count what is written to it
            return self._bound(made, weights)
        places = [weight.data_ptr() for weight in weights]
        held = self._held
        if (
            held is not None
            and held.engine is made
            and held.versions == versions
            and held.places == places
            and all(map(operator.is_, held.weights, weights))
        ):
            return held.model
        model = self._bound(made, weights)
        # Other processes write to shared memory without this process's counters.
        shared = any(weight.is_shared() for weight in weights)
        self._held = None if shared else _Held(made, weights, versions, places, model)
        return model

    @staticmethod
    def _bound(made: Engine, weights: Tensors) -> Model:
        return made.program.bind(made.params(weights))


def dtype_of(tensor: Any) -> str:
    """The name of a tensor's dtype, as a spec has it."""
    return str(tensor.dtype).removeprefix("torch.")
