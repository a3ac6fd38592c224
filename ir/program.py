"""Program: what backends compile. It has statements for all steps at once, and loops over a run-time number of steps.

`Program.text` is its text, which reads like code (`rnnc.ir.program_text`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from rnnc.ir.delay_lines import DelayLine
from rnnc.ir.families import Family
from rnnc.ir.ops import Kind
from rnnc.ir.shape_rules import BATCH


@dataclass(frozen=True)
class Loop:
    """A recurrence. Its body runs once per step, with t rising (direction +1) or falling (direction -1).

    line: what the loop is if it only shifts a value in time, so that a backend may read the value where it is.
    """

    direction: int
    body: tuple[Family, ...]
    line: DelayLine | None = None

    @property
    def carries(self) -> tuple[Family, ...]:
        """The states that the loop carries from step to step."""
        return tuple(f for f in self.body if f.op == "carry")


Statement = Family | Loop


@dataclass(frozen=True)
class Program:
    """The rolled network.

    bind: values that depend on parameters alone, operands first. They are computed once, when parameters are bound.
    statements: in execution order. A Family outside a loop is computed for all steps at once.
    outputs: name -> value. A timed value is an output at every step.
    stored: timed values that are returned, or read outside their own loop. They need a buffer over time.
    """

    dtype: str
    inputs: tuple[Family, ...]
    bind: tuple[Family, ...]
    statements: tuple[Statement, ...]
    outputs: Mapping[str, Family]
    stored: frozenset[Family]

    def loops(self) -> Iterator[Loop]:
        """All loops, in execution order."""
        return (s for s in self.statements if isinstance(s, Loop))

    def text(self) -> str:
        """The whole program as text, of which `rnnc.ir.parse_program` makes an equal one."""
        from rnnc.ir.program_text import print_program

        return print_program(self)


def is_parameter(family: Family) -> bool:
    """True for a time-free input without a batch axis."""
    return family.op == "input" and not family.timed and BATCH not in family.shape


def is_summed(family: Family) -> bool:
    """True for a value of a step without a batch axis. It exists only as a term of a sum over time."""
    return family.timed and family.spec.kind is Kind.OUTER
