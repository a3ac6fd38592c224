"""Subject: cells of random equations; results and all derivatives against the oracle.

Beyond `tests.random_cells`: products that read a value and parts of it, more computed weights, and parts of weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import rnnc
from rnnc.ir.equations import Value, concat, exp, linear, sigmoid, tanh, total
from rnnc.ir.graph import Graph
from rnnc.ir.shape_rules import BATCH
from tests.fuzz.agreement import MODES, Data, check_agreement, draw_data, draw_modes
from tests.fuzz.faults import Tally, acceptance
from tests.fuzz.source import Source
from tests.random_cells import BINARY, SPECIAL, UNARY, Parameter, RandomCell, Recipe

__all__ = ["Case", "Data", "RecipeCell"]

PRODUCTS = ("overlap", "overlap_sum", "beside", "scaled_weight", "column_weight", "squashed_weight", "weight_product",
            "weight_part", "softmax")  # fmt: skip


class _Mixed(RandomCell):
    """A random cell with more kinds of products."""

    def _cook(self, number: int, what: str, a: Value, b: Value, size: int, kind: int, p: Parameter) -> Value:
        if what not in PRODUCTS:
            return super()._cook(number, what, a, b, size, kind, p)
        width = int(a.shape[-1])
        parts = next(n for n in (2, 3, 5, 1) if width % n == 0)
        match what:
            case "overlap" | "overlap_sum":
                whole = linear(a, p(f"whole{number}", (size, width)))
                part = linear(a.split(parts)[size % parts], p(f"part{number}", (size, width // parts)))
                return tanh(whole) * tanh(part) if what == "overlap" else whole + part
            case "beside":
                both = concat(a, b)
                return linear(both, p(f"beside{number}", (size, int(both.shape[-1]))))
            case "scaled_weight":
                return linear(a, p(f"weight{number}", (size, width)) * p(f"scale{number}", (1,)))
            case "column_weight":
                return linear(a, p(f"weight{number}", (size, width)) * p(f"columns{number}", (width,)))
            case "squashed_weight":
                return linear(a, tanh(p(f"weight{number}", (size, width))))
            case "weight_product":
                return linear(a, p(f"weight{number}", (size, width)) * sigmoid(p(f"gate{number}", (size, width))))
            case "weight_part":
                return linear(a, p(f"tall{number}", (2 * size, width)).split(2)[size % 2])
        powers = exp(tanh(a))  # of "softmax"
        return powers / total(powers)


@dataclass(frozen=True)
class RecipeCell(rnnc.Cell):
    """A cell of recipes (see `RandomCell`). widths: of the states; outputs: of the output."""

    name: ClassVar[str] = "recipes"

    recipes: tuple[Recipe, ...]
    widths: tuple[tuple[str, int], ...]
    outputs: int
    picks: tuple[int, ...]

    @property
    def _cell(self) -> RandomCell:
        return _Mixed(self.recipes, dict(self.widths), self.outputs, self.picks)

    def states(self, hidden_size: int) -> dict[str, int]:
        return dict(self.widths)

    def output_size(self, hidden_size: int) -> int:
        return self.outputs

    def parameters(self, input_size: int, hidden_size: int, bias: bool) -> dict[str, tuple[int, ...]]:
        """Those the equations ask for."""
        shapes: dict[str, tuple[int, ...]] = {}
        graph = Graph("float64", 1)

        def declare(name: str, shape: tuple[int, ...]) -> Value:
            shapes[name] = shape
            return Value(graph, graph.input(name, shape))

        sizes = {"x": input_size, **dict(self.widths)}
        dry = {name: Value(graph, graph.input(name, (BATCH, size), 0)) for name, size in sizes.items()}
        self._cell.equations(dry.pop("x"), SimpleNamespace(**dry), declare)
        return shapes

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> tuple[Value, dict[str, Value]]:
        return self._cell(x, state, p)


@dataclass(frozen=True)
class Case:
    """A cell, the arguments of its spec, and calls."""

    cell: RecipeCell
    input_size: int
    options: Mapping[str, Any]
    calls: tuple[Data, ...]
    modes: tuple[str, ...] = MODES


WIDTHS = (1, 2, 3, 4, 5, 6, 8, 9, 12, 16, 17, 33)


def draw(source: Source) -> Case:
    names = ("h", "c", "s")[: source.pick((1, 1, 1, 2, 2, 3))]
    widths = tuple((name, source.pick(WIDTHS)) for name in names)
    kinds = (*UNARY, *BINARY, *SPECIAL, *PRODUCTS, *PRODUCTS, "linear", "linear_bias")
    recipes = source.many(
        lambda: (source.pick(kinds), source.below(100), source.below(100), source.pick(WIDTHS[:8])), 1, 7, more=85
    )
    picks = tuple(source.below(100) for _ in range(len(widths) + 1))
    cell = RecipeCell(tuple(recipes), widths, source.pick(WIDTHS[:8]), picks)
    options = {
        "num_layers": 2 if source.chance(15) else 1,
        "bidirectional": source.chance(12),
        "batch_first": source.chance(15),
        "dtype": "float32" if source.chance(30) else "float64",
    }
    calls = source.many(lambda: draw_data(source), 1, 3, more=50)
    return Case(cell, source.pick(WIDTHS[:9]), options, tuple(calls), draw_modes(source))


def check(case: Case, tally: Tally) -> None:
    with acceptance("spec", tally):
        spec = rnnc.Recurrent(case.cell, case.input_size, 4, **case.options)
    check_agreement(spec, case.calls, tally, case.modes)
