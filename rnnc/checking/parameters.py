"""Checks of parameters: a mapping of names to arrays, compared with a spec."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from rnnc.backends.arrays import NUMPY
from rnnc.backends.fresh import enough_memory
from rnnc.checking import checks
from rnnc.checking.arrays import as_array, attribute, check_dtype, check_shape, reader
from rnnc.checking.renaming import Names, proposed, rename
from rnnc.ir.errors import ArgumentTypeError, ParameterError, ShapeError

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from rnnc.backends.arrays import Array, ArrayLibrary

MAX_LISTED = 8


class Parameterized(Protocol):
    """An object with parameters: a spec or a network."""

    @property
    def dtype(self) -> DTypeLike:
        """The dtype of all parameters."""

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each parameter, by name."""


def bind_parameters(
    spec: Parameterized, params: Mapping[str, Any], arrays: ArrayLibrary = NUMPY, names: Names | None = None
) -> dict[str, Array]:
    """Copies of the arrays of `read_parameters`, which nobody else can write to. names: as of `rnnc.rename`."""
    if names is not None:
        params = rename(spec, params, names)
    with enough_memory("a copy of the parameters"):
        return {name: arrays.keep(array) for name, array in read_parameters(spec, params, arrays).items()}


def read_parameters(
    spec: Parameterized,
    params: object,
    arrays: ArrayLibrary = NUMPY,
    name: str = "params",
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> dict[str, Array]:
    """The arrays of `params`, C-contiguous, in the order of `spec.parameter_shapes()`. They are copied only if needed.

    params: name -> array of exactly the spec's dtype and shape: NumPy arrays, torch tensors (a module's state_dict()),
        or other objects with __array__ or DLPack, on the host or on the device of `arrays`. Arrays on the host are
        copied to the device.
    name: what messages call `params`. shapes: the result of `spec.parameter_shapes()`, if it is already known.
    Raises ParameterError for missing or unknown names, ShapeError, DtypeError or ArgumentTypeError.
    """
    if not isinstance(params, Mapping):
        hint = "; pass module.state_dict()" if hasattr(params, "state_dict") else ""
        raise ArgumentTypeError(f"{name}: expected a mapping of names to arrays, got {type(params).__name__}{hint}")
    shapes = spec.parameter_shapes() if shapes is None else shapes
    _check_names(name, params, shapes, spec)
    dtype = np.dtype(spec.dtype)
    return {key: _read(name, key, params[key], dtype, shape, arrays) for key, shape in shapes.items()}


def _read(
    params: str, key: str, value: object, dtype: np.dtype[Any], shape: tuple[int, ...], arrays: ArrayLibrary
) -> Array:
    if type(value) is np.ndarray and arrays is NUMPY and value.dtype == dtype and value.shape == shape:
        return arrays.compact(key, value)  # the common case, without the checks below
    name = f"{params}[{key!r}]"
    source = reader(value, arrays)
    array = as_array(name, value, source)
    check_dtype(name, array, dtype)
    if array.shape == shape[::-1] and array.shape != shape:
        raise ShapeError(
            f"{name}: expected shape {shape}, got {array.shape}; transpose it: weights are (rows out, columns in)"
        )
    check_shape(name, array, shape)
    return arrays.compact(name, array if source is arrays else arrays.from_host(array))


def _check_names(what: str, params: Mapping[str, Any], expected: Mapping[str, Any], spec: Parameterized) -> None:
    missing = [name for name in expected if name not in params]
    extra = [name for name in params if name not in expected]
    if extra and (tied := getattr(spec, "tied_parameters", None)):
        extra = [name for name in extra if not _is_tied(what, name, params, tied)]
    if not missing and not extra:
        return
    prefix = _prefix(params, expected)
    if prefix:
        raise ParameterError(f"{what}: the names start with {prefix!r}; pass rnnc.take({what}, {prefix!r})")
    parts = []
    if missing:
        parts.append("missing " + _listed(f"{name!r} {expected[name]}" for name in missing))
    if extra:
        parts.append(
            "unknown " + _listed(f"{checks.shown(name)}{_meant(name, params, missing, expected)}" for name in extra)
        )
    if (names := proposed(params, expected)) is not None:
        parts.append(f"if they are the same layers, give names={names} to compile, bind or rnnc.rename")
    raise ParameterError(f"{what}: " + "; ".join(parts))


def _is_tied(what: str, name: str, params: Mapping[str, Any], tied: Mapping[str, str]) -> bool:
    """Whether a name is a layer's own for a parameter of another; a state_dict has both.

    Raises ParameterError if the two differ.
    """
    owner = tied.get(name)
    if owner is None or owner not in params:
        return False
    if not np.array_equal(as_array(f"{what}[{name!r}]", params[name]), as_array(f"{what}[{owner!r}]", params[owner])):
        raise ParameterError(f"{what}: {name!r} and {owner!r} differ, but the network has one parameter for both")
    return True


def _meant(name: object, params: Mapping[str, Any], missing: list[str], expected: Mapping[str, Any]) -> str:
    """A hint at the missing parameter that an unknown name may stand for: a similar name and the same shape."""
    if not isinstance(name, str):
        return ""
    shape = attribute(params[name], "shape")
    fitting = [other for other in missing if not isinstance(shape, tuple) or tuple(shape) == tuple(expected[other])]
    return checks.suggestion(name, fitting)


def _prefix(params: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    """The prefix that all expected names have, such as "lstm." in the state_dict of a larger model; or nothing."""
    first = next(iter(expected))
    for name in params:
        if isinstance(name, str) and name.endswith(first):
            prefix = name.removesuffix(first)
            if prefix and all(prefix + other in params for other in expected):
                return prefix
    return ""


def _listed(items: Iterable[str]) -> str:
    shown = list(items)
    more = f" and {len(shown) - MAX_LISTED} more" if len(shown) > MAX_LISTED else ""
    return ", ".join(shown[:MAX_LISTED]) + more
