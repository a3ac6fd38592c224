"""Axes of arrays in another order, where the calls of a network enter and leave it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rnnc.ir.errors import ArgumentError
from rnnc.torch.traced import BATCH, ONE, STEPS, WIDTH, TracedTensor

if TYPE_CHECKING:
    from rnnc.backends.arrays import Array

__all__ = ["Border", "own_axes"]


@dataclass(frozen=True)
class Border:
    """An input or output of a module: the labels of its axes, beside those of the network.

    places: of the last values of a state, the numbers of those that it holds, by the axes S0, S1, ...; else None.
    """

    axes: tuple[str, ...]
    own: tuple[str, ...]
    places: tuple[int, ...] | None = None
    sizes: tuple[int, ...] = ()
    slabs: int = 1

    @staticmethod
    def of(value: TracedTensor, batch_first: bool) -> Border:
        """That of a value of the network."""
        own = own_axes(value.timed, batch_first)
        if value.places is None:
            return Border(value.axes, own)
        places = tuple(map(int, value.places.ravel()))
        return Border(value.axes, own, places, value.places.shape, value.slabs)

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        lists = {"axes": list(self.axes), "own": list(self.own), "sizes": list(self.sizes)}
        return lists | {"places": None if self.places is None else list(self.places), "slabs": self.slabs}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Border:
        """Of `to_dict`, not checked."""
        places = None if data["places"] is None else tuple(data["places"])
        return Border(tuple(data["axes"]), tuple(data["own"]), places, tuple(data["sizes"]), data["slabs"])

    def check(self, what: str, *, timed: bool, batch_first: bool, width: int) -> None:
        """Raises ArgumentError unless it is one of a value of a network. width: of an output; 0 of an input."""
        numbers = [self.slabs, *self.sizes, *(self.places or ())]
        fits = all(type(number) is int and number >= 0 for number in numbers) and self.slabs > 0
        fits = fits and self.own == own_axes(timed, batch_first) and all(isinstance(label, str) for label in self.axes)
        inner = [label for axis in self.axes for label in axis.split("*")] if fits else []
        own = list(self.own)
        if fits and self.places is not None:
            fits = width % self.slabs == 0 and math.prod(self.sizes) == len(self.places) and not timed
            fits = fits and max(self.places, default=0) < self.slabs
            own += [f"S{number}" for number in range(len(self.sizes))]
        if not fits or sorted({WIDTH, *inner} - {ONE}) != sorted(own) or sum(map(inner.count, own)) > len(own):
            raise ArgumentError(f"origin: {what} has the axes {self.axes}, which do not fit the network's")

    @property
    def plain(self) -> bool:
        """Whether the module's array is the network's."""
        return self.axes == self.own and self.places is None

    def inward(self, array: Array) -> Array:
        """The network's input, a view of the module's."""
        if len(array.shape) != len(self.axes):
            return array  # the network says what it expects
        axes = self.axes
        if WIDTH not in axes:
            array, axes = array[..., None], (*axes, WIDTH)
        return array.transpose([axes.index(label) for label in self.own])

    def outward(self, array: Array) -> Array:
        """The module's output, a view of the network's."""
        own = self.own
        if self.places is not None:
            array = array.reshape(array.shape[0], self.slabs, -1)[:, list(self.places)]
            array = array.reshape(array.shape[0], *self.sizes, array.shape[-1])
            own = (BATCH, *(f"S{number}" for number in range(len(self.sizes))), WIDTH)
        if WIDTH not in self.axes:
            array, own = array[..., 0], own[:-1]
        axes = [label for axis in self.axes for label in axis.split("*")]
        found = array.transpose([own.index(label) for label in axes if label != ONE])
        for at, label in enumerate(axes):
            if label == ONE:
                found = found[(slice(None),) * at + (None,)]
        if len(axes) > len(self.axes):  # a copy, where rows and steps are one axis
            sizes = iter(found.shape)
            shape = [math.prod(next(sizes) for _ in axis.split("*")) for axis in self.axes]
            found = found.reshape(shape)
        return found


def own_axes(timed: bool, batch_first: bool) -> tuple[str, ...]:
    """The axes of a value of a network."""
    if not timed:
        return BATCH, WIDTH
    return (BATCH, STEPS, WIDTH) if batch_first else (STEPS, BATCH, WIDTH)
