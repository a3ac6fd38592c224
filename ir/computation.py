"""Computation: what a backend compiles, a graph that can be built for any number of steps.

A computation may have two parts, such as a forward pass and its pullback: the inputs in `late` are given to the second
part only, and every value that depends on them is computed there. What the second part reads of the first is kept on
a tape.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rnnc.ir.families import Family
from rnnc.ir.graph import Graph
from rnnc.ir.passes import Record, optimize
from rnnc.ir.program import Loop, Program, Statement
from rnnc.ir.roll import roll

TEMPLATE_STEPS = 3
"""Steps unrolled for code generation: the fewest with one that is neither first nor last, so that rolling proves
the steps alike instead of assuming it. Compile time does not depend on the length of a sequence."""


@dataclass(frozen=True)
class Computation:
    """A graph with named inputs and outputs.

    build: (steps, lengths) -> the graph as written; with lengths it reads the mask "valid" (B, 1) of each step.
    late: names of the inputs of the second part; empty if there is but one part.
    """

    build: Callable[[int, bool], Graph]
    late: frozenset[str] = frozenset()

    def optimized(self, steps: int, *, lengths: bool = False) -> tuple[Graph, list[Record]]:
        """The unrolled graph after all passes, and what each pass did."""
        return optimize(self.build(steps, lengths))

    def program(self, *, lengths: bool = False) -> Program:
        """The loops that stand for any number of steps."""
        return roll(self.optimized(TEMPLATE_STEPS, lengths=lengths)[0])


def split(program: Program, late: frozenset[str]) -> tuple[list[Statement], list[Statement]]:
    """The statements of the first and of the second part, each in execution order."""
    depends: set[Family] = {f for f in program.inputs if f.attr("name") in late}
    first: list[Statement] = []
    second: list[Statement] = []
    for statement in program.statements:
        made = members(statement)
        if any(read in depends for value in made for read in value.reads()):
            depends.update(made)
            second.append(statement)
        else:
            first.append(statement)
    return first, second


def outputs_of(program: Program, late: frozenset[str]) -> tuple[list[str], list[str]]:
    """The names of the outputs of the first and of the second part."""
    made = {f for s in split(program, late)[1] for f in members(s)}
    made |= {f for f in program.inputs if f.attr("name") in late}
    names: tuple[list[str], list[str]] = ([], [])
    for name, family in program.outputs.items():
        names[family in made].append(name)
    return names


def members(statement: Statement) -> Sequence[Family]:
    """The values a statement computes."""
    return statement.body if isinstance(statement, Loop) else (statement,)
