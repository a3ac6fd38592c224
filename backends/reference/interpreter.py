"""The meaning of a Graph and of a Program, in NumPy: the op table applied node by node.

It is simple rather than fast, because the other backends are compared with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import numpy as np

from rnnc.backends.products import PLAIN, ProductFormat, Rounded, product, rounded
from rnnc.backends.reference.evaluation import evaluate, meaning, number
from rnnc.ir.families import Family
from rnnc.ir.graph import Graph, Node
from rnnc.ir.ops import Array, Kind
from rnnc.ir.program import Loop, Program, Statement, is_parameter, is_summed
from rnnc.ir.shape_rules import BATCH, Shape

Feeds = Mapping[str, Array]
"""Name of an input -> array. Timed inputs have a leading time axis."""


class Multiplied(NamedTuple):
    """A product of some rows with weights: the bound value, and the result."""

    weights: Family
    result: Array


_SEEN: ContextVar[list[Multiplied] | None] = ContextVar("products seen", default=None)


@contextmanager
def seen_products() -> Iterator[list[Multiplied]]:
    """A context in which executions add to a list each product with a bound value, in the order of computation."""
    found: list[Multiplied] = []
    token = _SEEN.set(found)
    try:
        yield found
    finally:
        _SEEN.reset(token)


def run_graph(graph: Graph, feeds: Feeds) -> dict[str, Array]:
    """The outputs of an unrolled graph, by name. An output with one value per step has a leading time axis."""
    values: dict[Node, Array] = {}
    live = graph.live()
    batch = batch_size(((n.attr("name"), n.shape) for n in graph.nodes if n.op == "input"), feeds)
    for node in graph.nodes:
        if node in live:
            values[node] = _leaf(node, graph.dtype, feeds, batch) if not node.inputs else _apply(node, values)
    return {
        name: np.stack([values[n] for n in output]) if isinstance(output, tuple) else values[output]
        for name, output in graph.outputs.items()
    }


def batch_size(shapes: Iterable[tuple[str, Shape]], feeds: Feeds) -> int:
    """The size of the batch axis of the first array that has one; 1 if there is none."""
    for name, shape in shapes:
        if BATCH in shape and name in feeds:
            return int(feeds[name].shape[shape.index(BATCH) - len(shape)])
    return 1


def _leaf(node: Node, dtype: str, feeds: Feeds, batch: int) -> Array:
    if node.op == "input":
        fed = feeds[node.attr("name")]
        return fed if node.step is None else fed[node.step]
    return number(node, dtype, batch)


def _apply(node: Node, values: Mapping[Node, Array]) -> Array:
    return meaning(node, [values[i] for i in node.inputs])


def evaluate_bind(program: Program, parameters: Feeds) -> dict[Family, Array]:
    """The values of parameters, and of what is computed at bind time from parameters and numbers alone."""
    values: dict[Family, Array] = {
        f: parameters[f.name] for f in program.inputs if is_parameter(f) and f.name in parameters
    }
    evaluate(program.bind, values, program.dtype)
    return values


def run_program(program: Program, bound: Mapping[Family, Array], feeds: Feeds, steps: int) -> dict[str, Array]:
    """The outputs of a program over `steps` time steps, by name. Timed values have a leading time axis."""
    execution = Execution(program, bound, steps)
    execution.feed(feeds)
    execution.run(program.statements)
    return {name: execution.output(name) for name in program.outputs}


class Execution:
    """One run of a program: the values computed so far."""

    def __init__(
        self, program: Program, bound: Mapping[Family, Array], steps: int, product: ProductFormat = PLAIN
    ) -> None:
        """product: the format of all products with bound values."""
        self.program = program
        self.steps = steps
        self.product = product
        self._bound = bound
        self._rounded: dict[tuple[Family, bool], Rounded] = {}
        self.batch = 0
        self.values: dict[Family, Array] = dict(bound)

    def run(self, statements: Iterable[Statement]) -> None:
        """Runs some of the program's statements."""
        for statement in statements:
            if isinstance(statement, Loop):
                self._loop(statement)
            elif is_summed(statement):
                pass  # its reader, a sum over time, evaluates it step by step
            elif statement.timed:
                self._all_steps(statement)
            else:
                self.values[statement] = self._once(statement)

    def copy(self) -> Execution:
        """An independent execution with the same values."""
        other = Execution(self.program, self._bound, self.steps, self.product)
        other.values = dict(self.values)
        other.batch = self.batch
        return other

    def feed(self, feeds: Feeds) -> None:
        """Adds the given inputs that are not yet known."""
        self.batch = self.batch or batch_size(((f.name, f.shape) for f in self.program.inputs), feeds)
        for family in self.program.inputs:
            if family.name in feeds and family not in self.values:
                self.values[family] = feeds[family.name]

    def output(self, name: str) -> Array:
        """An output that has been computed. A timed output has a leading time axis."""
        family = self.program.outputs[name]
        value = self._value(family)
        return np.stack([value] * self.steps) if family.timed and family not in self.values else value

    def _value(self, family: Family) -> Array:
        return self.values[family] if family in self.values else number(family, self.program.dtype, self.batch)

    def _once(self, family: Family) -> Array:
        """A time-free value. For `exit`, it is the last value of a state."""
        if family.op == "exit":
            return self._at(family.inputs[0], self.steps - 1 if family.attr("delta") > 0 else 0, {})
        if family.op == "tsum":
            return self._sum_over_time(family)
        return self._result(family, [self._value(i) for i in family.inputs])

    def _result(self, family: Family, operands: Sequence[Array]) -> Array:
        """The meaning of an op, with products in their format."""
        if family.op != "matmul" or family.inputs[1] not in self._bound:
            return meaning(family, operands)
        made = self._product(family, operands) if self.product.weights else meaning(family, operands)
        if (seen := _SEEN.get()) is not None:
            seen.append(Multiplied(family.inputs[1], made))
        return made

    def _product(self, family: Family, operands: Sequence[Array]) -> Array:
        left, right = operands
        key = family.inputs[1], bool(family.attr("transpose_b"))
        if key not in self._rounded:
            self._rounded[key] = rounded(right.T if key[1] else right, self.product)
        return product(left, self._rounded[key], self.product)

    def _sum_over_time(self, family: Family) -> Array:
        terms = [self._at(i, t, {}) for i in family.inputs for t in range(self.steps)]
        total = terms[0].copy()
        with np.errstate(all="ignore"):
            for term in terms[1:]:
                total += term
        return total

    def _all_steps(self, family: Family) -> None:
        rows = [self._at(family, t, {}) for t in range(self.steps)]
        self.values[family] = np.stack(rows)

    def _at(self, family: Family, t: int, local: Mapping[Family, Array]) -> Array:
        """The value of a family at step t. local: the values of that step computed so far."""

        def read(operand: Family) -> Array:
            if operand in local:
                return local[operand]
            value = self._value(operand)
            return np.asarray(value[t]) if operand.timed and operand in self.values else value

        if family in self.values and family.timed:
            return np.asarray(self.values[family][t])
        if family.spec.kind is Kind.LEAF:
            return self._value(family)
        if family.op != "carry":
            return self._result(family, [read(i) for i in family.inputs])
        previous = t - family.attr("delta")
        assert family.initial is not None and family.source is not None
        inside = 0 <= previous < self.steps
        return self._at(family.source, previous, {}) if inside else self._value(family.initial)

    def _loop(self, loop: Loop) -> None:
        made: dict[Family, list[Array | None]] = {f: [None] * self.steps for f in loop.body}
        for t in range(self.steps)[:: loop.direction]:
            local: dict[Family, Array] = {}
            for family in loop.body:
                local[family] = made[family][t] = self._in_loop(family, t, local, made)
        for family in loop.body:
            self.values[family] = np.stack([v for v in made[family] if v is not None])

    def _in_loop(
        self, family: Family, t: int, local: Mapping[Family, Array], made: Mapping[Family, list[Array | None]]
    ) -> Array:
        """The value of a family at step t of a loop. A carry reads the value that an earlier step made."""
        if family.op == "carry" and family.source is not None and family.source in made:
            before = t - family.attr("delta")
            previous = made[family.source][before] if 0 <= before < self.steps else None
            assert family.initial is not None
            return self._value(family.initial) if previous is None else previous
        return self._at(family, t, local)
