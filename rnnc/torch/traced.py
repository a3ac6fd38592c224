"""What is known of a tensor of a traced forward(): which value of the network it is, and what its axes are."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnc.ir.errors import TorchError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "BATCH",
    "ONE",
    "STEPS",
    "WIDTH",
    "Argument",
    "Dim",
    "Opaque",
    "Pair",
    "Result",
    "TracedTensor",
    "Weight",
    "ZeroTensor",
]

BATCH, STEPS, WIDTH, ONE = "B", "T", "N", "1"
"""Labels of axes: rows, time steps, the numbers of a step, and an axis of size 1.

"S0", "S1", ...: see `TracedTensor`. "B*T": two axes as one."""


@dataclass(frozen=True, eq=False)
class TracedTensor:
    """A tensor that is a value of the network.

    source: the name of an input, of a layer, or "layer.state".
    axes: the label of each axis.
    width: the size of the axis N, or that which a missing N would have; None: not known yet.
    timed: whether the network has a value per step.
    of: the input whose width it has, and `rest` more, as long as that is not known.
    places: of the last values of a state, which lie side by side, the number of each that the axes S0, S1, ... reach;
        None of other values. slabs: how many there are.
    packed: whether it is a PackedSequence.
    weights: whether it is the softmax over the steps of what `source` holds, which only a weighted sum can read.
    scores: of a product with such weights, what they are the softmax of.
    pads: steps of zeros before and after its own, which the convolution that reads it has as its padding.
    """

    source: str
    axes: tuple[str, ...]
    width: int | None
    timed: bool
    of: str = ""
    rest: int = 0
    places: NDArray[np.int64] | None = None
    slabs: int = 1
    packed: bool = False
    pads: tuple[int, int] = (0, 0)
    weights: bool = False
    scores: TracedTensor | None = None

    def axis(self, dim: object) -> int:
        """An axis counted from the front, from a torch argument `dim`."""
        if not isinstance(dim, int) or isinstance(dim, bool) or not -len(self.axes) <= dim < len(self.axes):
            raise TorchError(f"dim={dim!r} is no axis of {self}")
        return dim % len(self.axes)

    def label(self, dim: object) -> str:
        """The label of an axis."""
        return self.axes[self.axis(dim)]

    def __str__(self) -> str:
        return f"{self.source} ({', '.join(self.axes)})"

    # ---- the same numbers with other axes

    def permuted(self, order: tuple[int, ...]) -> TracedTensor:
        """With the axes in another order."""
        if sorted(order) != list(range(len(self.axes))):
            raise TorchError(f"{order} is no order of the axes of {self}")
        return replace(self, axes=tuple(self.axes[number] for number in order))

    def swapped(self, first: object, second: object) -> TracedTensor:
        """With two axes exchanged."""
        a, b = self.axis(first), self.axis(second)
        order = list(range(len(self.axes)))
        order[a], order[b] = b, a
        return self.permuted(tuple(order))

    def size(self, dim: object) -> int | Dim:
        """The size of an axis, or what it is the size of."""
        label = self.label(dim)
        if label == ONE:
            return 1
        if label == WIDTH and self.width is not None:
            return self.width
        if label.startswith("S") and self.places is not None:
            return int(self.places.shape[int(label[1:])])
        return Dim(label, self)

    def squeezed(self, dim: object) -> TracedTensor:
        """Without an axis of size 1; with it, if its size is another."""
        size = self.size(dim)
        if isinstance(size, Dim):
            raise TorchError(f"whether squeeze({dim}) of {self} drops the axis depends on the call; index it instead")
        if size != 1:
            return self
        return self.taken(dim, 0) if self.label(dim).startswith("S") else self.without(dim)

    def without(self, dim: object) -> TracedTensor:
        """Without the label of an axis."""
        at = self.axis(dim)
        return replace(self, axes=(*self.axes[:at], *self.axes[at + 1 :]))

    def unsqueezed(self, dim: object) -> TracedTensor:
        """With one more axis of size 1: the N of a value that has lost its own, which was of size 1."""
        if not isinstance(dim, int) or not -len(self.axes) - 1 <= dim <= len(self.axes):
            raise TorchError(f"unsqueeze({dim!r}) of {self}")
        at = dim % (len(self.axes) + 1)
        label = ONE if WIDTH in self.axes else WIDTH
        return replace(self, axes=(*self.axes[:at], label, *self.axes[at:]))

    def taken(self, dim: object, number: int | slice) -> TracedTensor:
        """One of the last values of a state along an axis S0, S1, ..., or some of them."""
        at = self.axis(dim)
        axis = int(self.axes[at][1:])
        assert self.places is not None
        if isinstance(number, slice):
            return replace(self, places=self.places[(slice(None),) * axis + (number,)])
        if not -self.places.shape[axis] <= number < self.places.shape[axis]:
            raise TorchError(f"index {number} of {self}, of which there are {self.places.shape[axis]}")
        places = self.places.take(number, axis)
        axes = [f"S{int(a[1:]) - 1}" if a.startswith("S") and int(a[1:]) > axis else a for a in self.axes]
        return replace(self, axes=(*axes[:at], *axes[at + 1 :]), places=np.asarray(places))

    def split_slabs(self, sizes: tuple[int, ...]) -> TracedTensor:
        """(S0, ...) with the first axis as several, such as layers and directions."""
        assert self.places is not None
        new = tuple(f"S{number}" for number in range(len(sizes)))
        return replace(self, axes=(*new, *self.axes[1:]), places=self.places.reshape(sizes))


@dataclass(frozen=True)
class Dim:
    """A size that each call has anew: of the axis with this label. of: the tensor that was asked for it."""

    label: str
    of: TracedTensor | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        return f"size of {self.label}"


@dataclass(frozen=True)
class Argument:
    """An argument of forward(), before a call says what it is: vectors, numbers, lengths or a state."""

    name: str


@dataclass(frozen=True)
class Weight:
    """A parameter or buffer that forward() reads itself. turned: whether it is read transposed."""

    name: str
    tensor: Any
    turned: bool = False


class ZeroTensor:
    """A tensor of zeros, such as an initial state."""


@dataclass(frozen=True)
class Opaque:
    """Something that no layer reads: a device, a dtype, lengths.

    what: for messages. last: the last value of a state, which may be returned.
    """

    what: str
    last: TracedTensor | None = None


class Result(tuple[Any, ...]):
    """What a recurrent module returns, (output, state)."""


class Pair(tuple[Any, ...]):
    """What max(dim) returns, (values, indices)."""
