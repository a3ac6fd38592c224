"""States that lie in arrays of a file one after the other: which slab, of (B, H) numbers, is where.

A streamed model often takes all its states as one array, and gives them as one:

    state (2, B, H) --Gather 0, Unsqueeze--> initial_h         Y_h, Y_c --Concat--> state_n (2, B, H)
                    --Gather 1, Unsqueeze--> initial_c

Steps that only move whole slabs need not be done: machine code reads and writes the slabs in place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnc.onnx.ops.cutting import slice_ranges
from rnnc.onnx.ops.movement import squeezed, unsqueezed
from rnnc.onnx.ops.table import MISFITS, Given, axis_in
from rnnc.onnx.parts import op_of
from rnnc.onnx.sizes import static
from rnnc.onnx.values import Step, Tensor, is_ready

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Slabs = NDArray[np.object_]
    """What a tensor (..., B, H) is made of: for each place of its leading axes, which slab is there; (..., 1, 1)."""

__all__ = ["as_slabs", "followed", "slabs_of"]


def slabs_of(tensor: Tensor) -> Slabs | None:
    """The slabs that an input (B, H) or (n, B, H) is made of, each as (name, number); None for any other."""
    if len(tensor.shape) not in (2, 3) or static(tensor.shape[-1]) is None:
        return None
    lead = [static(size) for size in tensor.shape[:-2]]
    if None in lead:
        return None
    return as_slabs([(tensor.name, number) for number in range(prod(int(size or 0) for size in lead))], len(lead))


def as_slabs(names: Iterable[object], axes: int = 1) -> Slabs:
    """Slabs one after the other. names: what each is. axes: of the leading axes, 1, or 0 for a single slab."""
    listed = list(names)
    slabs = np.empty(len(listed), object)
    slabs[:] = listed
    return slabs.reshape(*(slabs.shape if axes else ()), 1, 1)


def followed(steps: Iterable[Step], known: Mapping[str, Slabs], opset: int) -> dict[str, Slabs] | None:
    """The slabs that steps make of others, by the names of tensors. None if a step does anything else."""
    found = dict(known)
    for step in steps:
        made = _moved(step, found, opset)
        if made is None:
            return None
        found |= {t.name: slabs for t, slabs in zip(step.outputs, made, strict=False) if t is not None}
    return found


def _moved(step: Step, found: Mapping[str, Slabs], opset: int) -> tuple[Slabs, ...] | None:
    """What a step makes of slabs: its meaning in NumPy, of the slabs as arrays. None if it changes slabs."""
    given = Given(step.node, step.inputs, opset, lambda tensor: None)
    meaning = op_of(step).meaning
    arrays: list[Any] = []
    for value in step.inputs:
        if isinstance(value, Tensor):
            arrays.append(found.get(value.name))
        elif is_ready(value):
            arrays.append(None if value is None else value.array)
        else:
            return None
    try:
        axes = _axes(given)
        if meaning is None or axes is None or any(axis >= rank - 2 for axis, rank in axes):
            return None
        if any(array is None for array, value in zip(arrays, step.inputs, strict=True) if value is not None):
            return None
        made = meaning(given)(*arrays)
    except MISFITS:  # what is wrong with it, the step itself will say
        return None
    return made if isinstance(made, tuple) else (made,)


def _axes(given: Given) -> list[tuple[int, int]] | None:
    """The axes that a node cuts, joins, adds or drops, each with the number of axes. None for any other node."""
    op, rank = given.node.op, len(given.value(0).shape)
    if op == "Identity":
        return []
    if op in ("Gather", "Concat", "Split"):
        return [(axis_in(given, given.attributes.integer("axis", 0), rank), rank)]
    if op == "Slice":
        return [(axis, rank) for axis in slice_ranges(given)]
    if op == "Squeeze":
        return [(axis, rank) for axis in squeezed(given)]
    if op == "Unsqueeze":
        rank, new = unsqueezed(given)
        return [(axis, rank) for axis in new]
    return None
