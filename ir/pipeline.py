"""From a stack of layers to a Program: lower, optimise, roll."""

from __future__ import annotations

from rnnc.ir.graph import Graph
from rnnc.ir.lower import Stack, lower
from rnnc.ir.passes import Record, optimize
from rnnc.ir.program import Program
from rnnc.ir.roll import roll

TEMPLATE_STEPS = 3
"""Steps unrolled for code generation: the fewest with one that is neither first nor last, so that rolling proves
the steps alike instead of assuming it. Compile time does not depend on the length of a sequence."""


def optimized_graph(stack: Stack, steps: int, *, lengths: bool = False) -> tuple[Graph, list[Record]]:
    """The unrolled graph after all passes, and what each pass did."""
    return optimize(lower(stack, steps, lengths=lengths))


def rolled_program(stack: Stack, *, lengths: bool = False) -> Program:
    """The loops that stand for any number of steps.

    lengths: rows end at their own length; the program reads the mask "valid" (T, B, 1).
    """
    return roll(optimized_graph(stack, TEMPLATE_STEPS, lengths=lengths)[0])
