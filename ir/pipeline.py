"""From a stack of layers to a Program: lower, optimise, roll."""

from __future__ import annotations

from rnnc.ir.computation import TEMPLATE_STEPS, Computation
from rnnc.ir.graph import Graph
from rnnc.ir.lower import Stack, lower
from rnnc.ir.passes import Record
from rnnc.ir.program import Program

__all__ = ["TEMPLATE_STEPS", "computation", "optimized_graph", "rolled_program"]


def computation(stack: Stack) -> Computation:
    """The stack as it is called: x, parameters and initial states -> output and final states."""
    return Computation(lambda steps, lengths: lower(stack, steps, lengths=lengths))


def optimized_graph(stack: Stack, steps: int, *, lengths: bool = False) -> tuple[Graph, list[Record]]:
    """The unrolled graph after all passes, and what each pass did."""
    return computation(stack).optimized(steps, lengths=lengths)


def rolled_program(stack: Stack, *, lengths: bool = False) -> Program:
    """The loops that stand for any number of steps.

    lengths: rows end at their own length; the program reads the mask "valid" (T, B, 1).
    """
    return computation(stack).program(lengths=lengths)
