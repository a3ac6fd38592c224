"""Random cells for hypothesis: a few random equations over every op, as a stack of one or two layers.

Values stay moderate (the argument of exp is bounded, log, sqrt and divisors are kept away from 0), so that two correct
evaluations in another order agree to nearly all digits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace

from hypothesis import strategies as st

from rnnc.ir.equations import (
    Value,
    absolute,
    concat,
    cos,
    exp,
    expm1,
    greater,
    largest,
    linear,
    log,
    log1p,
    maximum,
    mean,
    minimum,
    relu,
    rsqrt,
    select,
    sigmoid,
    sin,
    softmax,
    sqrt,
    tanh,
    total,
    where,
)
from rnnc.ir.graph import Graph
from rnnc.ir.shape_rules import BATCH
from rnnc.ir.stacks import Direction, Stack
from tests.random_grids import GRIDS, flat, grouped

UNARY: Mapping[str, Callable[[Value], Value]] = {
    "neg": lambda a: -a,
    "abs": absolute,
    "exp": lambda a: exp(tanh(a)),
    "log": lambda a: log(absolute(a) + 1),
    "sqrt": lambda a: sqrt(absolute(a) + 0.5),
    "rsqrt": lambda a: rsqrt(a * a + 0.5),
    "sigmoid": sigmoid,
    "tanh": tanh,
    "relu": relu,
    "one_minus": lambda a: 1 - a,
    "same": lambda a: a * 1 + 0,
    "scaled": lambda a: 0.5 * a,
    "sin": sin,
    "cos": lambda a: cos(3 * a),
    "log1p": lambda a: log1p(absolute(a)),
    "expm1": lambda a: expm1(tanh(a)),
    "square": lambda a: tanh(a) ** 2,
    "softmax": softmax,
    "largest": largest,
    "total": total,
    "mean": mean,
    "normed": lambda a: (a - mean(a)) * rsqrt(mean(a * a) + 0.1),
}
BINARY: Mapping[str, Callable[[Value, Value], Value]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * tanh(b),
    "div": lambda a, b: a / (absolute(b) + 0.5),
    "maximum": maximum,
    "minimum": minimum,
    "larger": lambda a, b: select(greater(a, b), a, b),
    "at_least": lambda a, b: where(a >= b, a, b),
    "power": lambda a, b: (absolute(a) + 0.5) ** tanh(b),
    "gated": lambda a, b: sigmoid(a) * b + (1 - sigmoid(a)) * a,
    "concat": concat,
}
SPECIAL = (
    "linear",
    "linear_bias",
    "add_vector",
    "mul_vector",
    "half",
    "first",
    "computed",
    "computed_vector",
    "grid_vector",
    *GRIDS,
)

Parameter = Callable[[str, tuple[int, ...]], Value]

MADE: Sequence[Callable[[Parameter, str, int, int], Value]] = (
    lambda p, name, n, k: p(name, (n, k)) * p(name + "_scale", (1,)),
    lambda p, name, n, k: p(name, (n, k)) * p(name + "_columns", (k,)),
    lambda p, name, n, k: p(name, (n, k)) * p(name + "_rows", (n, 1)),
    lambda p, name, n, k: p(name + "_rows", (n, 1)) * p(name + "_columns", (1, k)),
    lambda p, name, n, k: linear(p(name, (n, 2)), p(name + "_right", (k, 2))),
    lambda p, name, n, k: linear(p(name, (n, k)), p(name + "_right", (k, k))) - p(name, (n, k)),
    lambda p, name, n, k: softmax(p(name, (n, k))),
    lambda p, name, n, k: p(name, (n, k)) * rsqrt(total(p(name, (n, k)) * p(name, (n, k))) + 0.1),
    lambda p, name, n, k: concat(p(name + "_first", (n, 1)), p(name, (2 * n, k)).split(2)[1]),
    lambda p, name, n, k: select(greater(p(name, (n, k)), p(name + "_limit", (k,))), p(name, (n, k)), 0.5),
)
"""Weights (n, k) that are computed from parameters; one has a column more."""


def softmax(a: Value) -> Value:
    return exp(tanh(a)) / total(exp(tanh(a)))


Recipe = tuple[str, int, int, int]
"""What to make, from which two values so far, and a size."""
Cook = Callable[[int, str, Value, Value, int, int, Parameter], Value]
"""The number and kind of a recipe, its two values, its size, a number to choose by -> what it makes."""


def recipes_of(*names: str) -> st.SearchStrategy[Recipe]:
    """Recipes of these kinds."""
    return st.tuples(st.sampled_from(names), st.integers(0, 99), st.integers(0, 99), st.integers(1, 5))


RECIPES = recipes_of(*UNARY, *BINARY, *SPECIAL)
GRID_RECIPES = recipes_of(*GRIDS, "grid_vector", "linear", "mul")


@dataclass(frozen=True)
class RandomCell:
    """Equations from recipes. States and the output are picked among the values, and projected if they do not fit.

    A parameter is asked for by name and shape; the name says which recipe it belongs to.
    """

    recipes: Sequence[Recipe]
    widths: Mapping[str, int]
    output_size: int
    picks: Sequence[int]

    def __call__(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> tuple[Value, dict[str, Value]]:
        """One step, as a `Layer` wants it."""
        *states, output = self.equations(x, state, lambda name, _: getattr(p, name))
        return output, dict(zip(self.widths, states, strict=True))

    def equations(self, x: Value, state: SimpleNamespace, p: Parameter) -> Sequence[Value]:
        """The new states, then the output."""
        pool = cooked(self.recipes, [x, *(getattr(state, name) for name in self.widths)], p, self._cook)
        wanted = [*self.widths.values(), self.output_size]
        return [
            self._fit(f"fit{n}", pool[-1 - pick % len(pool)], width, pick % 2 == 0, p)
            for n, (pick, width) in enumerate(zip(self.picks, wanted, strict=True))
        ]

    def _cook(self, number: int, what: str, a: Value, b: Value, size: int, kind: int, p: Parameter) -> Value:
        """What a recipe makes; `tests.fuzz.cells` knows more recipes."""
        return cook(number, what, a, b, size, kind, p)

    def _fit(self, name: str, value: Value, width: int, bounded: bool, p: Parameter) -> Value:
        if value.shape[-1] != width:
            value = linear(value, p(name, (width, int(value.shape[-1]))))
        return tanh(value) if bounded else value


def cooked(recipes: Sequence[Recipe], given: Sequence[Value], p: Parameter, cook: Cook) -> list[Value]:
    """The values given, and what the recipes make of them."""
    pool = list(given)
    for number, (what, i, j, size) in enumerate(recipes):
        a, b = pool[-1 - i % len(pool)], pool[-1 - j % len(pool)]
        pool.append(cook(number, what, a, b, size, i + 3 * j, p))
    return pool


def cook(number: int, what: str, a: Value, b: Value, size: int, kind: int, p: Parameter) -> Value:
    """The value of a recipe, the `number`th of a cell."""
    width, other = int(a.shape[-1]), int(b.shape[-1])
    if what in UNARY:
        return UNARY[what](a)
    if what == "concat" or what in BINARY and (width == other or 1 in (width, other)):
        return BINARY[what](a, b)
    if what in GRIDS:
        return GRIDS[what](a, b, size)
    match what:
        case "grid_vector":  # a vector for each of some groups, and one of all units seen as a grid
            groups = grouped(a, size)
            whole = p(f"whole{number}", tuple(map(int, groups.shape[1:])))
            return flat(groups * p(f"vector{number}", (int(groups.shape[-1]),)) + tanh(groups * whole))
        case "linear":
            return linear(a, p(f"weight{number}", (size, width)))
        case "linear_bias":
            return linear(a, p(f"weight{number}", (size, width)), p(f"bias{number}", (size,)))
        case "computed":
            return linear(a, _made(number, kind, size, width, p))
        case "computed_vector":
            vector = p(f"vector{number}", (width,))
            return select(greater(vector, mean(vector)), a, a * softmax(vector) + total(vector))
        case "add_vector":
            return a + p(f"vector{number}", (width,))
        case "half" if width % 2 == 0:
            return a.split(2)[size % 2]
        case "first":
            return a.split(width)[size % width]
    return a * p(f"vector{number}", (width,))


def _made(number: int, kind: int, rows: int, columns: int, p: Parameter) -> Value:
    """A weight that is computed from parameters: one of `MADE`, and some arithmetic after it."""
    made = MADE[kind % len(MADE)](p, f"weight{number}", rows, columns)
    if made.shape[-1] != columns:  # one more in front
        made = linear(made, p(f"cut{number}", (columns, columns + 1)))
    after = (kind // len(MADE)) % 5
    return (made, tanh(made), made * tanh(made), absolute(made) - made / 2, maximum(made, -made * 2))[after]


@st.composite
def stacks(draw: st.DrawFn, dtype: str = "float64", recipe: st.SearchStrategy[Recipe] = RECIPES) -> Stack:
    """One or two layers in one or two directions, each of its own random cell with the same states."""
    widths = dict(zip("hcs", draw(st.lists(st.integers(1, 6), min_size=1, max_size=3)), strict=False))
    directions = draw(st.integers(1, 2))
    input_size = width = draw(st.integers(1, 4))
    layers = []
    for k in range(draw(st.integers(1, 2))):
        recipes = draw(st.lists(recipe, max_size=7))
        picks = draw(st.lists(st.integers(0, 99), min_size=len(widths) + 1, max_size=len(widths) + 1))
        cell = RandomCell(recipes, widths, draw(st.integers(1, 5)), picks)
        layers.append(tuple(layer_of(cell, width, f"_l{k}{suffix}") for suffix in ("", "_reverse")[:directions]))
        width = cell.output_size * directions
    return Stack(input_size, dtype, tuple(layers))


def layer_of(cell: RandomCell, width: int, suffix: str) -> Direction:
    """A layer of a random cell that reads `width` columns."""
    shapes: dict[str, tuple[int, ...]] = {}
    graph = Graph("float64", 1)

    def declare(name: str, shape: tuple[int, ...]) -> Value:
        shapes[name] = shape
        return Value(graph, graph.input(name, shape))

    values = {"x": width, **cell.widths}
    dry = {name: Value(graph, graph.input(name, (BATCH, size), 0)) for name, size in values.items()}
    cell.equations(dry.pop("x"), SimpleNamespace(**dry), declare)
    return Direction(suffix, shapes, cell.widths, cell.output_size, suffix.endswith("_reverse"), cell)
