"""A part of a file on its way to being a `rnnc.Graph`: its layers, its parameters, and where each tensor lies in it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnc.layers import First, Layer, Readout, Select
from rnnc.onnx.left import Left
from rnnc.onnx.places import Axes, Placed, Rows
from rnnc.onnx.values import Filled, Known, Tensor, Value
from rnnc.specs import Spec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rnnc.onnx.frames import Frames

    Array = NDArray[Any]

__all__ = ["Building", "StateFeed", "check_places", "zeros"]


MOST_PLACES = 256
"""The most places for which an operator is written out, because compile time grows with their number."""


MOST_RUNS = 1024
"""The most runs of columns that are moved one by one, for the same reason."""


def check_places(count: int, most: int = MOST_PLACES) -> None:
    """Raises Left if an operator would be written out too often."""
    if count > most:
        raise Left(f"it works at {count} places one by one, of which rnnc compiles at most {most}")


@dataclass(frozen=True)
class StateFeed:
    """An initial state from outside. value: (D, B, H) as a node's initial_h. keys: the network's, per direction.

    way: of a value of any other shape, the way to (B, N) of its only direction.
    """

    value: Value
    keys: tuple[str, ...]
    batch_axis: int
    way: Any = None


@dataclass
class Building:
    """rows: what T and B are. inputs, entries, params: of the graph. lengths: the number of steps of each row.

    parts: layer -> the value of which it holds some columns, and which.
    frames: where positions are steps; framed: input -> tensor, width, the way in of what is cut into frames.
    """

    rows: Rows
    dtype: str
    inputs: dict[str, tuple[Tensor, Placed]] = field(default_factory=dict)
    entries: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    params: dict[str, Array] = field(default_factory=dict)
    placed: dict[str, Placed] = field(default_factory=dict)
    feeds: list[StateFeed] = field(default_factory=list)
    lengths: Tensor | None = None
    zeroed: set[str] = field(default_factory=set)
    made: set[str] = field(default_factory=set)
    parts: dict[str, tuple[Placed, tuple[int, ...]]] = field(default_factory=dict)
    frames: Frames | None = None
    framed: dict[str, tuple[Tensor, int, Any]] = field(default_factory=dict)

    def axes(self, tensor: Tensor) -> Axes:
        """The axes of a tensor."""
        axes = self.rows.axes(tensor.shape)
        if self.frames is None or tensor.name not in self.frames.every or axes.roles[2] == "1":
            return axes
        return Axes((*axes.roles[:2], "T"), axes.sizes[:-1])

    # ---- reading

    def place(self, tensor: Tensor) -> Placed:
        """The place of a tensor: of one that a node of this part gives, or of an input of the graph."""
        if tensor.name not in self.placed:
            self.placed[tensor.name] = self._input(tensor, self.axes(tensor).columns)
        return self.placed[tensor.name]

    def _input(self, tensor: Tensor, order: Sequence[int]) -> Placed:
        """An input of the graph: its columns come in the order in which they are read first."""
        if tensor.dtype != self.dtype:
            raise Left(f"it reads {tensor.dtype}, where the network computes in {self.dtype}")
        axes = self.axes(tensor)
        if self.frames is None and (time := axes.of("T")) is not None and not self.rows.is_first(tensor.shape[time]):
            raise Left("it reads steps of another number than the network does", later=True)
        placed = Placed(self.name_of(tensor.name), axes, tuple(order), timed=True)
        self.inputs[placed.name] = tensor, placed
        if self.rows.time is not None and axes.of("T") is None:
            first = self.layer(f"{placed.name}_once", First(), placed.name)
            placed = Placed(first, axes, tuple(order), timed=False)
        return placed

    def columns(self, tensor: Tensor, order: Sequence[int]) -> str:
        """The name of a value that holds the tensor's columns in this order of its axes."""
        if tensor.name not in self.placed:
            self.placed[tensor.name] = self._input(tensor, order)
        return self.reordered(self.placed[tensor.name], order)

    def reordered(self, placed: Placed, order: Sequence[int]) -> str:
        """The name of a value whose columns have another order of axes."""
        if tuple(order) == placed.order:
            return placed.name
        numbers = np.arange(placed.axes.width).reshape([placed.axes.size(axis) for axis in placed.order])
        moved = numbers.transpose([placed.order.index(axis) for axis in order]).ravel()
        return self.selected(placed, moved)

    def selected(self, placed: Placed, columns: Array) -> str:
        """The name of a value that holds some columns of another. Raises Left if they lie too far scattered."""
        check_places(1 + int(np.count_nonzero(np.diff(columns) != 1)), MOST_RUNS)
        taken = tuple(int(column) for column in columns)
        name = self.layer(f"{placed.name}_columns", Select(taken), placed.name)
        self.parts[name] = placed, taken
        return name

    def columns_of(self, name: str, first: int, width: int) -> str:
        """The name of a value that holds `width` columns of a layer, from the first one on."""
        return self.layer(f"{name}_columns", Select(tuple(range(first, first + width))), name)

    def whole(self, names: Sequence[str]) -> str | None:
        """The value that these parts of it, side by side, are again."""
        sources = {self.parts[name][0].name for name in names if name in self.parts}
        if len(sources) != 1 or not all(name in self.parts for name in names):
            return None
        columns = [column for name in names for column in self.parts[name][1]]
        source = self.parts[names[0]][0]
        return source.name if columns == list(range(source.axes.width)) else None

    # ---- writing

    def over_time(self, text: str, readout: Readout, source: str) -> str:
        """Adds a readout; returns its name. Raises Left for ragged batches, whose padding ONNX counts."""
        if self.lengths is not None:
            raise Left("it reads all steps of a ragged batch, padding included", later=True)
        return self.layer(text, readout, source)

    def name_of(self, text: str) -> str:
        """A name for a layer or input, like the file's: an identifier, not yet taken."""
        plain = re.sub(r"\W+", "_", text).strip("_") or "value"
        plain = plain if plain.isidentifier() else f"v{plain}"
        name, number = plain, 1
        while name in self.entries or name in self.inputs or name in self.framed:
            number += 1
            name = f"{plain}_{number}"
        return name

    def layer(
        self,
        text: str,
        layer: Layer | Spec,
        *sources: str,
        params: Mapping[str, Array] | None = None,
        states: Mapping[str, str] | None = None,
    ) -> str:
        """Adds a layer; returns its name. text: what to call it. params: its own, by their names in the layer."""
        name = self.name_of(text)
        self.entries[name] = (layer, *sources, *([dict(states)] if states else []))
        for base, array in (params or {}).items():
            self.params[f"{name}.{base}"] = np.ascontiguousarray(array, self.dtype)
        return name

    def put(
        self, tensor: Tensor, name: str, order: Sequence[int], *, timed: bool = True, flipped: bool = False
    ) -> None:
        """Says that a tensor is the value of this name. Raises Left if its axes are none of a value."""
        self.placed[tensor.name] = Placed(name, self.axes(tensor), tuple(order), timed, flipped)
        self.made.add(tensor.name)


def zeros(value: Value | None) -> bool:
    """Whether a value is left out or known to be 0 throughout."""
    if value is None:
        return True
    if isinstance(value, Known):
        return not value.array.any()
    return isinstance(value, Filled) and not value.number.any()
