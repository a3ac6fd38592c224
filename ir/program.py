"""Program: what backends compile. It has statements for all steps at once, and loops over a run-time number of steps.

Its text reads like code. A name with [t] is a value at every step, kept in a buffer over time. Inside a loop, a name
without it is local to the step:

    bind:                                           once, when parameters are bound
      %9   = add(bias_ih_l0, bias_hh_l0)                      [4]
    run:
      gemm   %12[t] = x[t] @ weight_ih_l0'                    [T, B, 4]
      map    %13[t] = add(%12[t], %9)                         [T, B, 4]
      loop t = 0 .. T-1                             carries %15
        carry  %15    = %18[t-1] | h.0_l0                     [B, 4]
        gemm   %16    = %15 @ weight_hh_l0'                   [B, 4]
        ...
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
        """The whole program as text."""
        return "\n".join(_lines(self)) + "\n"


def is_parameter(family: Family) -> bool:
    """True for a time-free input without a batch axis."""
    return family.op == "input" and not family.timed and BATCH not in family.shape


_KEYWORD = {
    Kind.MATMUL: "gemm",
    Kind.ELEMENTWISE: "map",
    Kind.VIEW: "view",
    Kind.REDUCE: "reduce",
    Kind.CARRY: "carry",
    Kind.OUTER: "gemm",
    Kind.TIME_SUM: "sum",
}


def is_summed(family: Family) -> bool:
    """True for a value of a step without a batch axis. It exists only as a term of a sum over time."""
    return family.timed and family.spec.kind is Kind.OUTER


def _lines(program: Program) -> Iterator[str]:
    yield f"program {program.dtype}"
    if program.bind:
        yield "bind:"
        for family in program.bind:
            yield _line(program, family, "  ", None)
    yield "run:"
    for statement in program.statements:
        if isinstance(statement, Loop):
            span = "0 .. T-1" if statement.direction > 0 else "T-1 .. 0"
            carries = ", ".join(c.name for c in statement.carries)
            note = f": a delay line of {statement.line.source.name}" if statement.line is not None else ""
            yield f"  loop t = {span}  carries {carries}{note}"
            for family in statement.body:
                yield _line(program, family, "    ", statement)
        elif not is_summed(statement):
            yield _line(program, statement, "  ", None)
    returned = ", ".join(f"{k}={f.name}{'[:]' if f.timed else ''}" for k, f in program.outputs.items())
    yield f"return {returned}"


def _line(program: Program, family: Family, indent: str, loop: Loop | None) -> str:
    keyword = "final" if family.op == "exit" else _KEYWORD[family.spec.kind]
    if family.op == "tsum" and any(i.op == "outer" for i in family.inputs):
        keyword = "gemm"
    kept = family.timed and (loop is None or family in program.stored)
    target = family.name + ("[t]" if kept else "")
    sizes = ([] if not family.timed or loop is not None else ["T"]) + [str(d) for d in family.shape]
    left = f"{indent}{keyword:<6} {target:<8} = {_right(family, loop)}"
    return f"{left:<72} [{', '.join(sizes)}]"


def _right(family: Family, loop: Loop | None) -> str:
    operands = [_operand(i, loop) for i in family.inputs]
    match family.op:
        case "carry":
            assert family.source is not None and family.initial is not None
            return f"{family.source.name}[t{-family.attr('delta'):+d}] | {family.initial.name}"
        case "exit":
            return f"last {operands[0]}"
        case "tsum":
            return "sum over t of " + " + ".join(_term(i) for i in family.inputs)
        case "outer" | "reduce_rows":
            return _term(family)
        case "matmul":
            return f"{operands[0]} @ {operands[1]}{chr(39) if family.attr('transpose_b') else ''}"
        case "slice":
            axis = "" if family.attr("axis") == -1 else ", axis 0"
            return f"{operands[0]}{{{family.attr('start')}:{family.attr('stop')}{axis}}}"
    return f"{family.op}({', '.join(operands)})"


def _term(family: Family) -> str:
    """A term of a sum over time."""
    operands = [_operand(i, None) for i in family.inputs]
    match family.op:
        case "outer":
            return f"{operands[0]}' @ {operands[1]}"
        case "reduce_rows":
            return f"rows of {operands[0]}"
    return _operand(family, None)


def _operand(family: Family, loop: Loop | None) -> str:
    inside = loop is not None and family in loop.body
    return family.name + ("[t]" if family.timed and not inside else "")
