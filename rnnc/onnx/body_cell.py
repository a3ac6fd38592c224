"""A cell whose equations are a graph of layers: the body of a Scan, which holds for one step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

from rnnc.cells import Cell, Shape
from rnnc.ir.equations import Value, concat
from rnnc.layers import Layer

__all__ = ["BodyCell"]


@dataclass(frozen=True)
class BodyCell(Cell):
    """Layers without states of their own, each of which reads inputs, states and layers before it.

    xs: names and widths of what x holds side by side. own_states: name, width, and the value that it becomes.
    layers: name, layer, and what it reads. gives: the values that the output holds side by side.
    Parameters are p0, p1, ... in the order of the layers and of their own.
    """

    xs: tuple[tuple[str, int], ...]
    own_states: tuple[tuple[str, int, str], ...]
    layers: tuple[tuple[str, Layer, tuple[str, ...]], ...]
    gives: tuple[str, ...]
    width: int
    name: ClassVar[str] = "body"

    def states(self, hidden_size: int) -> dict[str, int | Shape]:
        return {name: width for name, width, _ in self.own_states}

    def output_size(self, hidden_size: int) -> int:
        return self.width

    def parameters(self, input_size: int, hidden_size: int, bias: bool) -> dict[str, Shape]:
        return {name: layer.parameter_shapes()[base] for name, _, layer, base in self.named()}

    def named(self) -> Iterator[tuple[str, str, Layer, str]]:
        """(name in the cell, name of the layer, the layer, name in the layer) of each parameter."""
        every = ((name, layer, base) for name, layer, _ in self.layers for base in layer.parameter_shapes())
        for number, (name, layer, base) in enumerate(every):
            yield f"p{number}", name, layer, base

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> tuple[Value, dict[str, Value]]:
        values: dict[str, Value] = {name: getattr(state, name) for name, _, _ in self.own_states}
        at = 0
        for name, width in self.xs:
            values[name] = x[:, at : at + width]
            at += width
        names = {(layer, base): name for name, layer, _, base in self.named()}
        for name, layer, sources in self.layers:
            own = SimpleNamespace(**{base: getattr(p, names[name, base]) for base in layer.parameter_shapes()})
            read: Any = tuple(values[source] for source in sources)
            made = layer.step(read[0] if layer.inputs == 1 else read, SimpleNamespace(), own)
            assert isinstance(made, Value)
            values[name] = made
        return concat([values[name] for name in self.gives]), {s: values[new] for s, _, new in self.own_states}
