"""The place of a tensor of ONNX in a compiled network: which of its axes is time, which the batch, which are columns.

A network's values are (T, B, N) or (B, N). A tensor of any shape is one of them if at most one of its axes is time and
one the batch; all others, of sizes that are known, lie side by side in the N columns, in an order of their own:

    (B, 2, T, 5)  ->  (T, B, 10), columns of axis 1 outermost

Operators that move axes then only rename them. Numbers are moved where they go in and come out (`into_rows`,
`out_of_rows`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rnnc.onnx.left import Left
from rnnc.onnx.sizes import Dim, Dims, NeedsNumber, Size, static

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

__all__ = ["Axes", "Placed", "Rows", "into_rows", "out_of_rows", "reversed_rows"]

MOST_COLUMNS = 1 << 24
"""The widest value of a network that is compiled: 64 MB per step and row of float32."""

Role = Literal["T", "B", "1", "C"]
"""Time, batch, an axis of size 1, or columns."""


@dataclass(frozen=True)
class Axes:
    """The axes of a tensor. roles: of each axis. sizes: of those of columns, in the order of the tensor's axes."""

    roles: tuple[Role, ...]
    sizes: tuple[int, ...]

    @property
    def columns(self) -> tuple[int, ...]:
        """The axes that are columns."""
        return tuple(axis for axis, role in enumerate(self.roles) if role == "C")

    def size(self, axis: int) -> int:
        """The size of an axis of columns; 1 of one of size 1."""
        return self.sizes[self.columns.index(axis)] if self.roles[axis] == "C" else 1

    def of(self, role: Role) -> int | None:
        """The axis of time, or of the rows."""
        return self.roles.index(role) if role in self.roles else None

    @property
    def width(self) -> int:
        return prod(self.sizes)


@dataclass(frozen=True)
class Rows:
    """What T and B are in a network: sizes of ONNX's axes; None where there is no such axis but one of size 1.

    others: the numbers of steps behind operators that change it.
    """

    time: Dim | None
    batch: Dim | None
    others: tuple[Dim, ...] = ()

    def is_time(self, size: Dim) -> bool:
        """Whether it is the size of an axis of steps."""
        return any(_is(size, time) for time in (self.time, *self.others) if time is not None)

    def is_first(self, size: Dim) -> bool:
        """Whether it is the number of steps that the network reads."""
        return self.time is not None and _is(size, self.time)

    def axes(self, shape: Dims) -> Axes:
        """The axes of a tensor. Raises Left for one that is no value of a network, NeedsNumber for columns without."""
        roles = tuple(self._role(size) for size in shape)
        for role, what in (("T", "time"), ("B", "the batch")):
            if roles.count(role) > 1:
                raise Left(f"a tensor of shape {shape} has {what} twice")
        axes = Axes(roles, tuple(int(size) for size, role in zip(shape, roles, strict=True) if role == "C"))
        if axes.width > MOST_COLUMNS:
            raise Left(f"a tensor of shape {shape} has {axes.width} columns, of which rnnc compiles {MOST_COLUMNS}")
        return axes

    def _role(self, size: Dim) -> Role:
        if static(size) == 1:
            return "1"
        if self.is_time(size):
            return "T"
        if self.batch is not None and _is(size, self.batch):
            return "B"
        if isinstance(size, Size) and not size.known:
            if size.symbol is None:
                raise Left(f"an axis of size {size} is neither time, nor the batch, nor columns")
            raise NeedsNumber(size.symbol)
        return "C"


def _is(size: Dim, other: Dim) -> bool:
    """Whether two sizes are those of one axis. Plain numbers cannot be told apart: equal ones count as one axis."""
    if isinstance(size, Size) and isinstance(other, Size):
        return size.terms == other.terms
    return not isinstance(size, Size) and not isinstance(other, Size) and size == other


@dataclass(frozen=True)
class Placed:
    """A tensor as a value of a network.

    name: of the input or layer. axes: the tensor's. order: its axes of columns, the outermost first.
    timed: whether there is a value per step. flipped: step t of the tensor is step T - 1 - t of the value; in a ragged
        batch L - 1 - t of a row of length L, whose padding stays where it is.
    """

    name: str
    axes: Axes
    order: tuple[int, ...]
    timed: bool
    flipped: bool = False


def into_rows(axes: Axes, order: Sequence[int], lead: Sequence[str]) -> Any:
    """A function: array of the tensor, sizes of `lead` -> array (*lead, N). lead: "TB" or "B".

    An axis of lead that the tensor does not have is repeated.
    """
    firsts = [axes.of(role) for role in lead]  # type: ignore[arg-type]
    kept = [axis for axis in firsts if axis is not None]
    perm = (*kept, *order, *(axis for axis, role in enumerate(axes.roles) if role == "1"))
    perm += tuple(axis for axis, role in enumerate(axes.roles) if role in "TB" and axis not in perm)
    width = axes.width

    def convert(array: Array, sizes: Sequence[int]) -> Array:
        shape = [size if axis is not None else 1 for axis, size in zip(firsts, sizes, strict=True)]
        rows = array.transpose(perm).reshape(*shape, width)
        return rows if shape == [*sizes] else np.broadcast_to(rows, (*sizes, width))

    return convert


def out_of_rows(axes: Axes, order: Sequence[int], lead: Sequence[str]) -> Any:
    """A function: array (*lead, N) of a network -> array of the tensor, of these sizes of T and B."""
    firsts = [axes.of(role) for role in lead]  # type: ignore[arg-type]
    kept = [axis for axis in firsts if axis is not None]
    stored = (*kept, *order)
    perm = tuple(stored.index(axis) for axis in sorted(stored))
    columns = tuple(axes.size(axis) for axis in order)
    index = tuple(slice(None) if axis is not None else 0 for axis in firsts)
    spread = tuple(None if role == "1" else slice(None) for role in axes.roles)
    cuts, moves, adds = 0 in index, list(perm) != sorted(perm), None in spread

    def convert(array: Array) -> Array:  # a step that changes nothing is left out, for it takes longer than a test
        if cuts:
            array = array[index]
        if len(columns) != 1:
            array = array.reshape(array.shape[: len(kept)] + columns)
        if moves:
            array = array.transpose(perm)
        return array[spread] if adds else array

    return convert


def reversed_rows(array: Array, lengths: Array, time: int = 0, batch: int = 1) -> Array:
    """Each row with its first steps in the other order, as many as its length says. Raises ValueError."""
    steps = np.arange(array.shape[time])[:, None]
    ends = np.asarray(lengths).astype(np.int64)
    if ends.size and not (0 <= ends.min() and ends.max() <= len(steps)):
        raise ValueError(f"lengths {ends.tolist()} of sequences of {len(steps)} steps")
    taken = np.where(steps < ends, ends - 1 - steps, steps)
    rows = np.moveaxis(array, (time, batch), (0, 1))
    return np.moveaxis(rows[taken, np.arange(rows.shape[1])], (0, 1), (time, batch))
