"""A model file as plain data: nodes, constants, and the values that go in and come out. Nothing in it is executed.

The names are those of the ONNX standard (https://onnx.ai/onnx/repo-docs/IR.html), the arrays NumPy's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Union

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

__all__ = ["Attribute", "Body", "File", "Node", "ValueType"]

Attribute = Union[int, float, str, tuple[int, ...], tuple[float, ...], tuple[str, ...], "Array", "Body"]


@dataclass(frozen=True)
class ValueType:
    """What the file says of a value. dtype: NumPy's name, "" if it is not said.

    shape: a size, the name of one, or "" for one without a name; None if not even the number of axes is said.
    """

    dtype: str = ""
    shape: tuple[int | str, ...] | None = None


@dataclass(frozen=True, eq=False)
class Node:
    """An operation.

    name: its name in the file, or a made-up one; `label` is what messages and explain() show.
    inputs, outputs: names of values; "" for an optional one that is left out.
    """

    name: str
    op: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Attribute] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The node in a message."""
        op = f"{self.domain}.{self.op}" if self.domain else self.op
        return f"node {self.name!r} ({op})"

    def read(self, number: int) -> str:
        """The name of its input of this number; "" if it is left out."""
        return self.inputs[number] if number < len(self.inputs) else ""

    @property
    def bodies(self) -> Iterator[Body]:
        """The graphs among its attributes: branches of an If, the body of a Loop."""
        return (value for value in self.attributes.values() if isinstance(value, Body))


@dataclass(frozen=True, eq=False)
class Body:
    """A graph: that of the file, or a branch of an If. nodes: each behind those whose values it reads."""

    inputs: Mapping[str, ValueType]
    outputs: Mapping[str, ValueType]
    constants: Mapping[str, Array]
    nodes: tuple[Node, ...]


@dataclass(frozen=True, eq=False)
class File:
    """A model. source: what messages call it. opset: the version of ONNX's own operators.

    data: its bytes. shapes: gives what onnx.shape_inference finds out about values of nodes, by name.
    """

    source: str
    opset: int
    body: Body
    data: bytes
    shapes: Callable[[], Mapping[str, ValueType]]
