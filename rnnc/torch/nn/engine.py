"""The compiled functions of a spec, and the bound model of a module's parameters."""

from __future__ import annotations

import itertools
import operator
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

from rnnc.derivatives import HVP, JVP, VJP, hvp, jvp, vjp
from rnnc.ir.errors import DtypeError, RnncError
from rnnc.model import Model
from rnnc.programs import Program
from rnnc.programs import compile as compile_spec
from rnnc.specs import Spec
from rnnc.torch.nn.places import TensorPlace, place_of

__all__ = ["OWNERS", "Engine", "Packed", "dtype_of", "engine", "spec_of"]

Tensors = Sequence[Any]


class Engine:
    """The compiled functions of one spec, each made when it is first needed. All modules of the spec share them.

    place: where their arrays are.
    """

    def __init__(self, spec: Spec, place: TensorPlace, threads: int) -> None:
        self.spec = spec
        self.place = place
        self._options: dict[str, Any] = {"backend": place.backend, "threads": threads}
        self.names = tuple(spec.parameter_shapes())
        self._vjps: dict[tuple[str, ...], VJP] = {}

    @cached_property
    def program(self) -> Program:
        """The forward pass, without parameters."""
        made = compile_spec(self.spec, **self._options)
        assert isinstance(made, Program)
        return made

    def vjp(self, wrt: tuple[str, ...]) -> VJP:
        """The forward pass with its pullback to some arguments."""
        found = self._vjps.get(wrt)
        if found is None:
            found = self._vjps[wrt] = vjp(self.spec, wrt=wrt, **self._options)
        return found

    @cached_property
    def jvp(self) -> JVP:
        """The forward pass with its tangent."""
        return jvp(self.spec, **self._options)

    @cached_property
    def hvp(self) -> HVP:
        """The gradients with their tangent."""
        return hvp(self.spec, **self._options)

    def params(self, tensors: Tensors) -> dict[str, Any]:
        """Views of the parameters, by name."""
        view = self.place.parameter
        return {name: view(name, tensor) for name, tensor in zip(self.names, tensors, strict=True)}


@lru_cache(maxsize=512)
def engine(spec: Spec, dtype: Any, place: TensorPlace, threads: int) -> Engine:
    """The engine of a spec in a dtype of PyTorch. threads: the most threads of a call, torch.get_num_threads().

    Raises DtypeError for a dtype that rnnc does not have.
    """
    name = str(dtype).removeprefix("torch.")
    if name not in ("float32", "float64"):
        raise DtypeError(f"weights: expected float32 or float64, got {name}; use module.float()")
    return Engine(replace(spec, dtype=name), place, threads)  # type: ignore[type-var]


_SPECS: dict[str, Spec] = {}


@lru_cache(maxsize=512)
def key_of(spec: Spec) -> str:
    """The text that stands for a spec in PyTorch's graphs: its JSON, unless its cell has none."""
    with warnings.catch_warnings(action="ignore"):  # of cells in a script: the spec itself is remembered here
        try:
            key = spec.to_json()
        except RnncError:
            key = f"{type(spec).__name__} {len(_SPECS)}"
    _SPECS[key] = spec
    return key


def spec_of(key: str) -> Spec:
    """The spec that a text stands for. Raises ArgumentError or ArgumentTypeError as `rnnc.Spec.from_json`."""
    return _SPECS[key] if key in _SPECS else Spec.from_json(key)


class _Held(NamedTuple):
    """A bound model. sources, versions, places: the tensors it was packed from, their counters and addresses then."""

    model: Model
    threads: int
    sources: Tensors
    versions: list[int]
    places: list[int]


class Packed:
    """A spec and its bound model, which belong to one module.

    It is bound again when a parameter is another tensor, lies elsewhere or was written to.
    PyTorch counts what is written to a tensor (`Tensor._version`), but not what is written through `.data` or through
    a view that NumPy has. `forget` is for these.
    """

    def __init__(self, spec: Spec) -> None:
        """spec: in any dtype; that of the parameters decides."""
        self.spec = spec
        self.key = key_of(spec)
        self.owner = str(next(_NUMBERS))
        OWNERS[self.owner] = self
        self.states = tuple(spec.states)
        self._held: _Held | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Packed, (self.spec,)  # a copy or a pickle of a module starts without one

    def forget(self) -> None:
        """The next call binds the parameters again."""
        self._held = None

    def model(self, weights: Tensors, threads: int) -> Model:
        """The model of these parameters. Threads may call it at the same time."""
        held = self._held
        if held is None or held.threads != threads:
            return self._bound(weights, threads)
        same = (
            [weight._version for weight in weights] == held.versions
            and [weight.data_ptr() for weight in weights] == held.places
            and all(map(operator.is_, weights, held.sources))
        )
        return held.model if same else self._bound(weights, threads)

    def _bound(self, weights: Tensors, threads: int) -> Model:
        made = engine(self.spec, weights[0].dtype, place_of(weights[0]), threads)
        # PyTorch does not count what is written to tensors made in torch.inference_mode(), nor other processes' writes.
        # Tensors on a GPU all say that they are shared.
        counted = not any(weight.is_inference() or (weight.is_cpu and weight.is_shared()) for weight in weights)
        versions = [weight._version for weight in weights] if counted else []
        places = [weight.data_ptr() for weight in weights]
        model = made.program.bind(made.params(weights))
        self._held = _Held(model, threads, weights, versions, places) if counted else None
        return model


_NUMBERS = itertools.count()
OWNERS: WeakValueDictionary[str, Packed] = WeakValueDictionary()
"""All of this process by their `owner`, for graphs, which do not hold objects."""


def dtype_of(tensor: Any) -> str:
    """The name of a tensor's dtype, as a spec has it."""
    return str(tensor.dtype).removeprefix("torch.")
