"""What rnnc knows of an operator: its meaning in NumPy, its results' shapes, and how it becomes layers.

An `Op` has up to three parts. `meaning` folds a node whose inputs are all constants, and runs one that stays outside
the compiled part. `infer` gives dtype and shape of what only a call brings. `lower` adds its layers to a graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnc.ir.errors import OnnxError
from rnnc.onnx.attributes import Attributes
from rnnc.onnx.file import Node
from rnnc.onnx.left import Left
from rnnc.onnx.sizes import Dim, Dims
from rnnc.onnx.values import Filled, Known, Tensor, Value, integers

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rnnc.onnx.building import Building
    from rnnc.onnx.values import Step

    Array = NDArray[Any]

__all__ = ["MISFITS", "Given", "Left", "Op", "Result", "axis_in", "check_bytes", "one_dtype"]


MISFITS = (ValueError, TypeError, LookupError, ArithmeticError)
"""What NumPy and Python raise of shapes and numbers that do not fit."""


@dataclass(frozen=True, eq=False)
class Given:
    """A node with what is known of its inputs. need: raises what says that the numbers of a tensor are needed."""

    node: Node
    inputs: Sequence[Value | None]
    opset: int
    need: Callable[[Tensor], None]

    @property
    def attributes(self) -> Attributes:
        return Attributes(self.node)

    @property
    def label(self) -> str:
        return self.node.label

    def value(self, number: int) -> Value:
        """An input that must be there. Raises OnnxError."""
        found = self.inputs[number] if number < len(self.inputs) else None
        if found is None:
            raise OnnxError(f"{self.label}: expected an input {number}, found none")
        return found

    def optional(self, number: int) -> Value | None:
        """An input that may be left out."""
        return self.inputs[number] if number < len(self.inputs) else None

    def array(self, number: int) -> Array | None:
        """The numbers of an input; None if it is left out."""
        value = self.optional(number)
        if value is None or isinstance(value, Known):
            return None if value is None else value.array
        if isinstance(value, Filled):
            return np.full([int(size) for size in value.shape], value.number)
        self.need(value)
        raise Left(f"{self.node.inputs[number]!r} is computed in the call, where a constant is needed")

    def dims(self, number: int) -> tuple[Dim, ...]:
        """The numbers of an input of integers, sizes that are not known among them."""
        self.value(number)
        array = self.array(number)
        assert array is not None
        return tuple(item if array.dtype == np.object_ else int(item) for item in array.ravel())

    def integers(self, name: str, number: int) -> tuple[int, ...] | None:
        """Integers that are an attribute in older versions of an operator and an input in newer ones."""
        if name in self.attributes:
            return self.attributes.integers(name)
        array = self.array(number)
        return None if array is None else tuple(int(item) for item in array.ravel())


Result = tuple[str, Dims]
"""dtype and shape."""

Meaning = Callable[[Given], Callable[..., Any]]
"""The node -> a function of its inputs' arrays, None for those left out, that gives an array or a tuple of them."""


@dataclass(frozen=True)
class Op:
    """An operator. moves: it only moves numbers, it computes none."""

    meaning: Meaning | None = None
    infer: Callable[[Given], Sequence[Result]] | None = None
    lower: Callable[[Building, Step, Given], None] | None = None
    moves: bool = False


MOST_BYTES = 1 << 28
"""The most bytes of constants that nodes make of others while a file is read, beyond a multiple of its own."""


def check_bytes(size: int, more: int = 0) -> None:
    """Raises Left if constants of this size are over the limit. more: by how much it is higher."""
    if size > MOST_BYTES + more:
        raise Left(f"with it the constants that nodes make of others take {size} bytes, over {MOST_BYTES + more}")


def constant(value: Value | None, what: str) -> Array | None:
    """A constant operand, None if it is left out. Raises Left if it comes with the call."""
    if isinstance(value, Tensor):
        raise Left(f"{what} {value.name!r} is no constant")
    if isinstance(value, Filled):
        raise Left(f"{what} has sizes that are not known")
    return None if value is None else value.array


def axis_in(given: Given, axis: int, rank: int) -> int:
    """An axis counted from the front."""
    if not -rank <= axis < rank:
        raise OnnxError(f"{given.label}: axis {axis} of a tensor with {rank} axes")
    return axis % rank


def one_dtype(given: Given, numbers: Sequence[int]) -> str:
    """The dtype that these inputs share. Raises OnnxError."""
    values = [value for number in numbers if (value := given.optional(number)) is not None]
    found = {value.dtype for value in values}
    if len(found) > 1:
        raise OnnxError(f"{given.label}: its inputs have different dtypes: {', '.join(sorted(found))}")
    return found.pop()


def folded(function: Callable[..., Any], arrays: Sequence[Array | None]) -> tuple[Array, ...]:
    """A node's function on constants."""
    made = function(*arrays)
    return tuple(integers(np.asarray(array)) for array in (made if isinstance(made, tuple) else (made,)))
