"""Computation: what a backend compiles. It is a graph that can be built for any number of steps.

A computation may have two halves, such as a forward pass and its pullback. The inputs in `late` are given to the second
half only, and the outputs in `late` are computed there. A tape keeps the values of the first half that the second half
reads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from rnnc.ir.errors import IRError

if TYPE_CHECKING:
    from rnnc.ir.families import Family
    from rnnc.ir.graph import Graph
    from rnnc.ir.pipeline import Optimized
    from rnnc.ir.program import Program, Statement
    from rnnc.ir.stacks import Stack


class Start(NamedTuple):
    """The artefact of a stage of the pipeline, such as the graph after a pass. steps: of a graph; None of loops."""

    stage: str
    artefact: Any
    steps: int | None


class Computation(NamedTuple):
    """A graph with named inputs and outputs.

    build: (steps, lengths) -> the graph as written. With lengths, the graph reads the mask "valid" (B, 1) of each step.
    late: names of the inputs and outputs of the second half; empty if there is no second half.
    identity: a text that determines the graph, for any number of steps. It is known where no code of a user has a part
        in building the graph, and is empty otherwise.
    in_parts: rows read sums over all rows, so that it runs in parts (`rnnc.ir.parts`). It then has one half.
    start: the artefact of a stage from which it is compiled, in the place of a graph that is built (`rnnc.ir.edited`).
    """

    build: Callable[[int, bool], Graph]
    late: frozenset[str] = frozenset()
    identity: str = ""
    in_parts: bool = False
    start: Start | None = None

    @staticmethod
    def of_stack(stack: Stack) -> Computation:
        """The computation of a stack of layers: x, parameters and initial states -> output and final states."""
        from rnnc.ir.lower import lower

        return Computation(lambda steps, lengths: lower(stack, steps, lengths=lengths))

    def optimized(self, steps: int, *, lengths: bool = False) -> Optimized:
        """The unrolled graph after all passes, and what each pass did."""
        from rnnc.ir.pipeline import PIPELINE, Artefacts

        made: Optimized = Artefacts(PIPELINE, self, steps=steps, lengths=lengths)["optimized"]
        return made

    def program(self, *, lengths: bool = False) -> Program:
        """The rolled program, whose loops run for any number of steps."""
        from rnnc.ir.pipeline import PIPELINE, Artefacts

        made: Program = Artefacts(PIPELINE, self, lengths=lengths)["rolled"]
        return made


def split(program: Program, late: frozenset[str]) -> tuple[list[Statement], list[Statement]]:
    """The statements of the first and of the second half, each in execution order.

    The first half computes only what its outputs need. The second half computes the rest.
    Raises IRError if an output of the first half depends on an input of the second half.
    """
    if not late:
        return list(program.statements), []
    needed = {f for name, f in program.outputs.items() if name not in late}
    carries = {c.attr("state"): c for loop in program.loops() for c in loop.carries}
    first: list[Statement] = []
    second: list[Statement] = []
    for statement in reversed(program.statements):
        made = members(statement)
        if any(value in needed for value in made):
            needed.update(read for value in made for read in value.reads())
            needed.update(carries[e.attr("state")] for e in made if e.op == "exit" and e.attr("state") in carries)
            first.insert(0, statement)
        else:
            second.insert(0, statement)
    if wrong := [f for f in program.inputs if f in needed and f.attr("name") in late]:
        raise IRError(f"{wrong[0]!r} is an input of the second half, and an output of the first depends on it")
    return first, second


def members(statement: Statement) -> Sequence[Family]:
    """The values that a statement computes."""
    from rnnc.ir.program import Loop

    return statement.body if isinstance(statement, Loop) else (statement,)
