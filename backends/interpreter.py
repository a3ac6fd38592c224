"""The meaning of a Graph and of a Program, in NumPy: the op table applied node by node.

Slow on purpose and simple on purpose: this is what the other backends are held against.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from rnnc.ir.errors import IRError
from rnnc.ir.families import Family
from rnnc.ir.graph import Graph, Node
from rnnc.ir.ops import Array
from rnnc.ir.program import Loop, Program, is_parameter

Feeds = Mapping[str, Array]
"""Input name -> array; inputs of a step have a leading time axis."""


def run_graph(graph: Graph, feeds: Feeds) -> dict[str, Array]:
    """Evaluates an unrolled graph; an output a step comes back with a leading time axis."""
    values: dict[Node, Array] = {}
    live = graph.live()
    for node in graph.nodes:
        if node in live:
            values[node] = _leaf(node, graph.dtype, feeds) if not node.inputs else _apply(node, values)
    return {
        name: np.stack([values[n] for n in output]) if isinstance(output, tuple) else values[output]
        for name, output in graph.outputs.items()
    }


def _leaf(node: Node, dtype: str, feeds: Feeds) -> Array:
    if node.op == "const":
        return np.asarray(node.attr("value"), dtype)
    fed = feeds[node.attr("name")]
    return fed if node.step is None else fed[node.step]


def _apply(node: Node, values: Mapping[Node, Array]) -> Array:
    return _meaning(node, [values[i] for i in node.inputs])


def _meaning(node: Node | Family, operands: Sequence[Array]) -> Array:
    meaning = node.spec.meaning
    if meaning is None:
        raise IRError(f"{node!r} has no meaning of its own")
    with np.errstate(all="ignore"):
        return np.asarray(meaning(*operands, **({} if node.op == "carry" else dict(node.attrs))))


def evaluate_bind(program: Program, parameters: Feeds) -> dict[Family, Array]:
    """Parameters, numbers, and all that is made of them alone."""
    values: dict[Family, Array] = {f: parameters[f.name] for f in program.inputs if is_parameter(f)}
    for family in program.bind:
        values[family] = _meaning(family, [_value(i, values, program.dtype) for i in family.inputs])
    return values


def run_program(program: Program, bound: Mapping[Family, Array], feeds: Feeds, steps: int) -> dict[str, Array]:
    """Runs the statements over `steps` time steps; timed values have a leading time axis."""
    return _Run(program, bound, feeds, steps).run()


def _value(family: Family, values: Mapping[Family, Array], dtype: str) -> Array:
    return np.asarray(family.attr("value"), dtype) if family.op == "const" else values[family]


class _Run:
    """One execution: the values known so far."""

    def __init__(self, program: Program, bound: Mapping[Family, Array], feeds: Feeds, steps: int) -> None:
        self.program = program
        self.steps = steps
        self.values: dict[Family, Array] = dict(bound)
        for family in program.inputs:
            if not is_parameter(family):
                self.values[family] = feeds[family.name]

    def run(self) -> dict[str, Array]:
        for statement in self.program.statements:
            if isinstance(statement, Loop):
                self._loop(statement)
            elif statement.timed:
                self._all_steps(statement)
            else:
                self.values[statement] = self._once(statement)
        return {name: self.values[family] for name, family in self.program.outputs.items()}

    def _once(self, family: Family) -> Array:
        """A time-free value; the last value of a state for `exit`."""
        if family.op == "exit":
            last = self.values[family.inputs[0]]
            return np.asarray(last[-1 if family.attr("delta") > 0 else 0])
        return _meaning(family, [_value(i, self.values, self.program.dtype) for i in family.inputs])

    def _all_steps(self, family: Family) -> None:
        rows = [self._at(family, t, {}) for t in range(self.steps)]
        self.values[family] = np.stack(rows)

    def _at(self, family: Family, t: int, local: Mapping[Family, Array]) -> Array:
        """One value of one step; `local` holds the step's values computed so far."""

        def read(operand: Family) -> Array:
            if operand in local:
                return local[operand]
            value = _value(operand, self.values, self.program.dtype)
            return np.asarray(value[t]) if operand.timed else value

        if family.op != "carry":
            return _meaning(family, [read(i) for i in family.inputs])
        previous = t - family.attr("delta")
        assert family.initial is not None and family.source is not None
        inside = 0 <= previous < self.steps
        return np.asarray(self.values[family.source][previous]) if inside else self.values[family.initial]

    def _loop(self, loop: Loop) -> None:
        made: dict[Family, list[Array | None]] = {f: [None] * self.steps for f in loop.body}
        self.values.update(made)  # type: ignore[arg-type]  # carries read what earlier steps have filled in
        for t in range(self.steps)[:: loop.direction]:
            local: dict[Family, Array] = {}
            for family in loop.body:
                local[family] = made[family][t] = self._at(family, t, local)
        for family in loop.body:
            self.values[family] = np.stack([v for v in made[family] if v is not None])
