"""Calls by XLA: a custom call for each half of a vjp, without Python when it runs.

    first:  params, x, state -> output, state, kept         kept: packed weights, and what the second half needs
    second: kept, d_output, d_state -> gradients, kept      in place, where XLA needs the old one no more
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnnc.backends.call_forms import BATCH, STEPS, CallArray, CallGroup, PlainCall
from rnnc.checking import checks
from rnnc.ir.errors import ArgumentError, ArgumentTypeError, DtypeError, ShapeError

if TYPE_CHECKING:
    from rnnc.backends.base import XlaHalves, XlaSite

PROCESS = np.int64(int.from_bytes(os.urandom(7), "little"))
"""An attribute of every call: JAX's cache on the disk then gives no program to a process with other addresses."""


class Sizes(NamedTuple):
    """The numbers of steps and rows of a call."""

    steps: int
    batch: int


class Residual:
    """What the first half leaves for the second: a buffer, and the sizes, which JAX does not trace."""

    def __init__(self, buffer: Any, sizes: Sizes) -> None:
        self.buffer, self.sizes = buffer, sizes


jax.tree_util.register_pytree_node(
    Residual, lambda kept: ((kept.buffer,), kept.sizes), lambda sizes, children: Residual(children[0], sizes)
)


@cache
def _target(handler: int) -> str:
    """The name by which XLA knows a handler."""
    name = f"rnnc_{handler:x}"
    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    jax.ffi.register_ffi_target(name, new(handler, b"xla._CUSTOM_CALL_TARGET", None), platform="cpu")
    return name


class Native:
    """A function (params, x, state) -> (output, state) whose calls and gradients are custom calls."""

    def __init__(self, first: PlainCall, second: PlainCall, halves: XlaHalves, dtype: str) -> None:
        self._first, self._second, self._halves = first, second, halves
        self._dtype = jnp.dtype(dtype)
        self._target = _target(halves.handler)
        self._sites: dict[tuple[bool, Sizes], XlaSite] = {}
        self._call = jax.custom_vjp(lambda *leaves: self._forward(*leaves)[0])
        self._call.defvjp(self._forward, self._backward)

    def __call__(self, params: Any, x: Any, state: Any) -> tuple[Any, Any]:
        """Checks the arguments, of which the state may be None, and makes the call."""
        given = (params, x, state)
        groups = self._first.arguments
        named = zip(("params", "x", "state"), groups, given, strict=True)
        leaves = [leaf for label, group, value in named if value is not None for leaf in _leaves(label, group, value)]
        arrays = _arrays(groups if state is not None else groups[:2])
        sizes = _sizes([(array, leaf) for array, (_, leaf) in zip(arrays, leaves, strict=True)])
        checked = [
            self._checked(label, leaf, _shape(array, sizes))
            for array, (label, leaf) in zip(arrays, leaves, strict=True)
        ]
        if state is None:
            checked += [jnp.zeros(_shape(array, sizes), self._dtype) for array in groups[2].arrays]
        results = iter(self._call(*checked))
        output, last = (_container(group, results) for group in self._first.results)
        return output, last

    def _checked(self, label: str, leaf: Any, shape: tuple[int, ...]) -> Any:
        dtype = getattr(leaf, "dtype", None)
        if dtype != self._dtype:
            raise DtypeError(f"{label}: expected {self._dtype}, got {dtype or checks.came(leaf)}")
        if tuple(leaf.shape) != shape:
            raise ShapeError(f"{label}: expected shape {shape}, got {tuple(leaf.shape)}")
        return jnp.asarray(leaf)

    # ---- the two halves

    def _forward(self, *leaves: Any) -> tuple[tuple[Any, ...], Residual]:
        sizes = _sizes(list(zip(_arrays(self._first.arguments), leaves, strict=True)))
        results = [self._like(array, sizes) for array in _arrays(self._first.results)]
        site = self._site(True, sizes)
        *made, kept = self._custom_call(site, [*results, jax.ShapeDtypeStruct((site.kept_bytes,), np.uint8)], leaves)
        return tuple(made), Residual(kept, sizes)

    def _backward(self, kept: Residual, seeds: Sequence[Any]) -> tuple[Any, ...]:
        gradients = _arrays(self._second.results)
        owners = [self._halves.owner(array.names[0]) for array in gradients]
        own = [array for array, owner in zip(gradients, owners, strict=True) if array.names[0] == owner]
        results = [self._like(array, kept.sizes) for array in own]
        results.append(jax.ShapeDtypeStruct(kept.buffer.shape, np.uint8))
        made = self._custom_call(
            self._site(False, kept.sizes), results, (kept.buffer, *seeds), input_output_aliases={0: len(own)}
        )
        found = {array.names[0]: gradient for array, gradient in zip(own, made, strict=False)}
        return tuple(found[owner] for owner in owners)

    def _custom_call(self, site: XlaSite, results: list[Any], operands: Sequence[Any], **options: Any) -> Any:
        call = jax.ffi.ffi_call(self._target, results, vmap_method="sequential", **options)
        return call(*operands, process=PROCESS, site=np.int64(site.address))

    def _site(self, first: bool, sizes: Sizes) -> XlaSite:
        """The site of a half. It is kept until the process ends, as JAX keeps compiled programs."""
        key = first, sizes
        if key not in self._sites:
            self._sites[key] = (self._halves.first if first else self._halves.second)(*sizes)
            _SITES.append(self._sites[key])
        return self._sites[key]

    def _like(self, array: CallArray, sizes: Sizes) -> Any:
        return jax.ShapeDtypeStruct(_shape(array, sizes), self._dtype)


_SITES: list[XlaSite] = []


# ---- containers


def _arrays(groups: Sequence[CallGroup]) -> list[CallArray]:
    return [array for group in groups for array in group.arrays]


def _shape(array: CallArray, sizes: Sizes) -> tuple[int, ...]:
    named = {STEPS: sizes.steps, BATCH: sizes.batch}
    return tuple(size if isinstance(size, int) else named[size] for size in array.shape)


def _sizes(given: Sequence[tuple[CallArray, Any]]) -> Sizes:
    """The sizes that the first array with steps has. Raises ShapeError or ArgumentError."""
    array, x = next((array, leaf) for array, leaf in given if STEPS in array.shape)
    shape = tuple(np.shape(x))
    if len(shape) != len(array.shape):
        raise ShapeError(f"x: expected {len(array.shape)} axes, got shape {shape}")
    found = Sizes(shape[array.shape.index(STEPS)], shape[array.shape.index(BATCH)])
    if not all(found):
        raise ArgumentError(f"x: expected at least one step and one row, got shape {shape}")
    return found


def _leaves(label: str, group: CallGroup, value: Any) -> Iterator[tuple[str, Any]]:
    """The arrays of an argument, each with what messages call it."""
    if group.container == "bare":
        yield label, value
    elif group.container == "tuple":
        if not isinstance(value, (tuple, list)) or len(value) != len(group.arrays):
            expected = f"expected a tuple of {len(group.arrays)} arrays"
            raise ArgumentTypeError(f"{label}: {expected}, got {checks.came(value)}")
        yield from ((f"{label}[{number}]", leaf) for number, leaf in enumerate(value))
    else:
        keys = [array.key for array in group.arrays]
        if not isinstance(value, dict) or set(value) != set(keys):
            came = ", ".join(map(repr, value)) if isinstance(value, dict) else checks.came(value)
            raise ArgumentError(f"{label}: expected a dict of {', '.join(map(repr, keys)) or 'nothing'}, got {came}")
        yield from ((f"{label}[{key!r}]", value[key]) for key in keys)


def _container(group: CallGroup, leaves: Iterator[Any]) -> Any:
    """A result as the user gets it, from the next of some arrays."""
    made = [next(leaves) for _ in group.arrays]
    if group.container == "dict":
        return {array.key: leaf for array, leaf in zip(group.arrays, made, strict=True)}
    return made[0] if group.container == "bare" else tuple(made)
