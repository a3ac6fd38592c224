"""The values of a graph as they are known before any call: constants, and tensors that a call brings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from rnnc.onnx.file import Node
from rnnc.onnx.sizes import Dims, Size

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

__all__ = ["Filled", "Known", "Scanned", "Step", "Tensor", "Value", "integers", "is_ready", "is_sizes"]


@dataclass(frozen=True, eq=False)
class Known:
    """A constant. Its array holds Python objects where sizes stand in it whose numbers are not known (`Size`)."""

    array: Array

    @property
    def shape(self) -> Dims:
        return self.array.shape

    @property
    def dtype(self) -> str:
        return "int64" if is_sizes(self.array) else self.array.dtype.name


@dataclass(frozen=True, eq=False)
class Filled:
    """One number, in a shape whose sizes are not all known."""

    number: Array
    shape: Dims

    @property
    def dtype(self) -> str:
        return self.number.dtype.name


@dataclass(frozen=True, eq=False)
class Tensor:
    """A value that a call brings. name: the file's name of it, unique among those of all branches taken.

    shape: None if not even the number of axes is known.
    """

    name: str
    dtype: str
    dims: Dims | None

    @property
    def shape(self) -> Dims:
        """The sizes, of a tensor whose sizes are known."""
        assert self.dims is not None
        return self.dims


Value = Known | Filled | Tensor


@dataclass(frozen=True, eq=False)
class Scanned:
    """What a Scan does at each step, and how it cuts what it reads and joins what it gives.

    states, xs: what the body reads. nexts, outputs: the states that it gives, and its further results. read: the
    tensors that are scanned, along these axes. out_axes: of the results. backward: whether the last step comes first.
    turned: for each result, whether its steps lie in the other order than those of what is scanned. starts: the number
    of the node's input that is the first initial state.
    """

    steps: tuple[Step, ...]
    states: tuple[Tensor, ...]
    xs: tuple[Tensor, ...]
    nexts: tuple[Value, ...]
    outputs: tuple[Value, ...]
    read: tuple[Tensor, ...]
    axes: tuple[int, ...]
    out_axes: tuple[int, ...]
    backward: bool
    turned: tuple[bool, ...]
    opset: int
    starts: int = 0


@dataclass(frozen=True, eq=False)
class Step:
    """A node that is left to do in a call: it reads at least one tensor. None: an input or output left out.

    captured: tensors that its branches read. why: for a node that rnnc cannot compile, the reason. scanned: of a Scan.
    """

    node: Node
    inputs: tuple[Value | None, ...]
    outputs: tuple[Tensor | None, ...]
    captured: tuple[Tensor, ...] = ()
    why: str = ""
    scanned: Scanned | None = None

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What it reads of a call."""
        return (*(value for value in self.inputs if isinstance(value, Tensor)), *self.captured)

    @property
    def made(self) -> tuple[Tensor, ...]:
        """What it gives."""
        return tuple(output for output in self.outputs if output is not None)


def is_ready(value: Value | None) -> TypeGuard[Known | None]:
    """Whether a value is the same in every call."""
    return value is None or (isinstance(value, Known) and not is_sizes(value.array))


def is_sizes(array: Array) -> bool:
    """Whether an array of integers holds sizes that are not known."""
    return array.dtype == np.object_


def integers(array: Array) -> Array:
    """An array of objects as int64, if no unknown size is left in it."""
    if is_sizes(array) and not any(isinstance(item, Size) for item in array.ravel()):
        return array.astype(np.int64)
    return array
