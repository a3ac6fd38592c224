"""Losses, as equations over a network's output at one step, or over its one output after a readout.

A loss is one number per row. Training sums it over rows and steps, and divides the sum by the number of targets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnc.checking import checks
from rnnc.checking.arguments import explained_class
from rnnc.checking.arrays import as_array
from rnnc.ir.equations import Value, exp, greater, log, select, stop_gradient, total
from rnnc.ir.errors import ArgumentError, ArgumentTypeError
from rnnc.ir.graph import Graph, Node
from rnnc.ir.locating import located
from rnnc.ir.names import LOSS, OUTPUT, TARGET, VALID
from rnnc.ir.shape_rules import BATCH

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

__all__ = ["CrossEntropy", "Loss", "MeanSquaredError", "cross_entropy", "mse"]


class Loss:
    """The base of losses. A subclass is a frozen dataclass that defines the methods below.

    name: what messages call it.
    """

    name: str

    def row(self, output: Value, target: Value) -> Value:
        """The equations: the loss of each row, (B, 1).

        output: (B, N). target: (B, target_width), as `encode` gives it. The values are symbolic.
        """
        raise NotImplementedError

    def target_width(self, size: int) -> int:
        """The number of columns of an encoded target, for an output of this size."""
        raise NotImplementedError

    def constants(self, size: int, dtype: str) -> dict[str, Array]:
        """Further inputs of the equations that are the same in every call: name -> array in the dtype."""
        return {}

    def encode(self, targets: Array, size: int, dtype: str) -> tuple[Array, Array]:
        """Targets as the equations read them, (..., target_width) in the dtype, and their `counted`.

        targets: as users give them. size: the width of the output. Raises ArgumentError or ArgumentTypeError.
        """
        raise NotImplementedError

    def counted(self, encoded: Array) -> Array:
        """The number of terms of the mean that each encoded target is: (..., target_width) -> integers (...)."""
        raise NotImplementedError

    def check(self, name: str, encoded: Array, size: int) -> None:
        """Raises ArgumentError, which calls them `name`, unless encoded targets are such as `encode` returns."""


@explained_class
@dataclass(frozen=True)
class CrossEntropy(Loss):
    """Minus the log of the softmax probability of the right class, as torch.nn.functional.cross_entropy.

    Targets are integers: classes 0..C-1, or ignore_index for a target that does not count in the mean. The loss is
    computed as log(sum(exp(z - max z))) + max z - z[target], which does not overflow.
    """

    ignore_index: int = -100
    name = "cross_entropy"

    def __post_init__(self) -> None:
        lowest = -(2**31)
        object.__setattr__(self, "ignore_index", checks.integer("ignore_index", self.ignore_index, lowest))

    def row(self, output: Value, target: Value) -> Value:
        """target: (B, 1), the number of the class. Negative numbers are ignored."""
        graph = output.graph
        classes = Value(graph, graph.input("classes", (int(output.shape[-1]),)))
        largest = stop_gradient(Value(graph, graph.add("reduce_max", (output.node,))))
        normalizer = log(total(exp(output - largest))) + largest
        hit = select(greater(target, classes - 0.5), select(greater(classes + 0.5, target), output, 0.0), 0.0)
        return select(greater(target, -0.5), normalizer - total(hit), 0.0)

    def target_width(self, size: int) -> int:
        return 1

    def constants(self, size: int, dtype: str) -> dict[str, Array]:
        return {"classes": np.arange(size, dtype=dtype)}

    def encode(self, targets: Array, size: int, dtype: str) -> tuple[Array, Array]:
        targets = as_array("targets", targets)
        if targets.dtype.kind not in "iu":
            raise ArgumentTypeError(f"targets: cross_entropy takes integers, got {targets.dtype}")
        counted = targets != self.ignore_index
        bad = targets[counted & ((targets < 0) | (targets >= size))]
        if bad.size:
            raise ArgumentError(
                f"targets: expected classes 0..{size - 1} or ignore_index = {self.ignore_index}, got {bad.flat[0]}"
            )
        encoded = np.where(counted, targets, -1).astype(dtype)[..., None]
        return encoded, self.counted(encoded)

    def counted(self, encoded: Array) -> Array:
        return (encoded[..., 0] >= 0).astype(np.int64)

    def check(self, name: str, encoded: Array, size: int) -> None:
        good = (encoded < size) & (encoded == np.floor(encoded))  # False for NaN
        if not good.all():
            raise ArgumentError(
                f"{name}: expected whole numbers, classes 0..{size - 1} or negative ones that are ignored, "
                f"got {encoded[~good][0]}"
            )


@explained_class
@dataclass(frozen=True)
class MeanSquaredError(Loss):
    """The mean of (output - target)^2 over all elements, as torch.nn.functional.mse_loss.

    Targets are floating-point vectors (..., N), like the output.
    """

    name = "mse"

    def row(self, output: Value, target: Value) -> Value:
        difference = output - target
        return total(difference * difference)

    def target_width(self, size: int) -> int:
        return size

    def encode(self, targets: Array, size: int, dtype: str) -> tuple[Array, Array]:
        targets = as_array("targets", targets)
        if targets.dtype.kind != "f":
            raise ArgumentTypeError(f"targets: mse takes floating-point numbers, got {targets.dtype}")
        if targets.shape[-1:] != (size,):
            raise ArgumentError(f"targets: expected vectors of size {size}, got shape {targets.shape}")
        encoded = targets.astype(dtype)
        return encoded, self.counted(encoded)

    def counted(self, encoded: Array) -> Array:
        return np.full(encoded.shape[:-1], encoded.shape[-1])


def cross_entropy(ignore_index: int = -100) -> CrossEntropy:
    """The loss `CrossEntropy`, for targets that are classes. ignore_index: the target that does not count."""
    return CrossEntropy(ignore_index)


def mse() -> MeanSquaredError:
    """The loss `MeanSquaredError`, for targets that are vectors of numbers."""
    return MeanSquaredError()


LOSSES: dict[str, type[Loss]] = {"cross_entropy": CrossEntropy, "mse": MeanSquaredError}


def check_loss(value: object) -> Loss:
    """The loss. value: a loss, or the name of one. Raises ArgumentError or ArgumentTypeError."""
    if isinstance(value, Loss):
        return value
    if isinstance(value, str):
        return LOSSES[checks.choice("loss", value, tuple(LOSSES))]()
    raise ArgumentTypeError(f"loss: expected 'cross_entropy', 'mse' or a rnnc.losses.Loss, got {checks.came(value)}")


def add_loss(graph: Graph, loss: Loss) -> None:
    """Adds the output "loss" (1,) to a lowered network: the sum over rows and steps, without padding.

    It is computed from the output "output", which stays, and from the inputs "target" and the loss's constants.
    """
    output = graph.outputs[OUTPUT]
    _check_constants(graph, loss, output if isinstance(output, Node) else output[0])
    if isinstance(output, Node):
        graph.outputs[LOSS] = _rows(graph, loss, output)
    else:
        graph.outputs[LOSS] = graph.tsum([_rows(graph, loss, node) for node in output])


def _check_constants(graph: Graph, loss: Loss, output: Node) -> None:
    """Raises ArgumentError if a constant has the name of an input of the network, or of the target."""
    taken = {TARGET, VALID} | {n.attr("name") for n in graph.nodes if n.op == "input"}
    for name in loss.constants(int(output.shape[-1]), graph.dtype):
        if not isinstance(name, str) or not name.isidentifier() or name in taken:
            raise ArgumentError(
                f"loss {type(loss).__name__}: the constant {name!r} needs a name that is an identifier and none of "
                f"the network's inputs {', '.join(sorted(n for n in taken if n.isidentifier()))}"
            )


def _rows(graph: Graph, loss: Loss, output: Node) -> Node:
    """The node of the sum over rows of the loss at one step."""
    size = int(output.shape[-1])
    target = graph.input(TARGET, (BATCH, loss.target_width(size)), output.step)
    with located(loss.row):
        row = _checked(loss, loss.row(Value(graph, output), Value(graph, target)))
    valid = [n for n in graph.nodes if n.op == "input" and n.attr("name") == VALID and n.step == output.step]
    if valid and output.step is not None:
        row = graph.add("select", (valid[0], row, graph.const(0.0)))
    return graph.add("reduce_rows", (row,), keep=False)


def _checked(loss: Loss, row: object) -> Node:
    """The node that the equations of a loss returned. Raises an error unless it is one number per row."""
    who = f"loss {type(loss).__name__}: row"
    if not isinstance(row, Value):
        raise ArgumentTypeError(f"{who} must return a symbolic value of shape (B, 1), it returned {row!r}")
    if row.node.shape != (BATCH, 1):
        raise ArgumentError(f"{who} must return one number per row, shape (B, 1), it returned {row.shape}; use total()")
    return row.as_numbers().node
