"""The text of a Program: `print_program`. `rnnc.ir.parse_program` is its inverse.

It reads like code. A name with [t] is a value at every step, kept in a buffer over time. Inside a loop, a name without
it is local to the step:

    program float32
    inputs:
      input  x[t]                                   [T, B, 3]
      input  bias_ih_l0                             [4]               @ l0.fwd
    bind:                                           once, when parameters are bound
      map    %9     = add(bias_ih_l0, bias_hh_l0)   [4]               @ l0.fwd
    run:
      gemm   %12[t] = x[t] @ weight_ih_l0'          [T, B, 4]         @ l0.fwd
      map    %13[t] = add(%12[t], %9)               [T, B, 4]         @ l0.fwd
      loop t = 0 .. T-1                             carries %15
        carry  %15    = %18[t-1] | h.0_l0 {state="h_l0"}   [B, 4]     @ l0.fwd
        gemm   %16    = %15 @ weight_hh_l0'         [B, 4]            @ l0.fwd
        ...
    return output=%18[:]

`a @ b'` is a matrix product with b transposed, `a' @ b` a sum over rows of outer products, `a{0:4}` the columns 0 to 3
of a, `%18[t-1] | h` the value of the step before, or h at the first step. A term of a sum over t has no line of its
own: its name is in front of it, `sum over t of %20: a[t]' @ b[t]`. After the `@` comes where in the network a value was
written. A name that is not made of letters, digits, "_", "." and ":" is a JSON string.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from rnnc.ir.families import Family
from rnnc.ir.ops import Kind
from rnnc.ir.parsing import print_literal
from rnnc.ir.program import Loop, Program, Statement, is_summed

KEYWORDS = {
    Kind.LEAF: "input",
    Kind.MATMUL: "gemm",
    Kind.ELEMENTWISE: "map",
    Kind.VIEW: "view",
    Kind.REDUCE: "reduce",
    Kind.CARRY: "carry",
    Kind.OUTER: "gemm",
    Kind.TIME_SUM: "sum",
}
FINAL = "final"
"""The keyword of a state's last value."""
RESERVED = frozenset(("last", "rows", "sum", "zeros", "inf", "nan", "infinity"))
"""Words with a meaning of their own. An input of such a name is printed as a string."""
PLAIN_NAME = re.compile(r"(?=[\w.:]*[A-Za-z_])[A-Za-z_0-9][\w.:]*", re.ASCII)
SPELT = {"matmul": ("transpose_b",), "slice": ("axis", "start", "stop"), "carry": ("delta",), "exit": ("delta",)}
"""Op -> the attributes that its syntax shows. Others stand in braces."""


def print_program(program: Program) -> str:
    """The text of a program."""
    return "\n".join(_lines(program)) + "\n"


def _lines(program: Program) -> Iterator[str]:
    yield f"program {program.dtype}"
    if program.inputs:
        yield "inputs:"
        for family in program.inputs:
            yield _line(program, family, "  ", None)
    if program.bind:
        yield "bind:"
        for family in program.bind:
            yield _line(program, family, "  ", None)
    yield "run:"
    for statement in program.statements:
        yield from _statement(program, statement)
    returned = ", ".join(f"{print_name(k)}={_name(f)}{'[:]' if f.timed else ''}" for k, f in program.outputs.items())
    yield f"return {returned}"


def _statement(program: Program, statement: Statement) -> Iterator[str]:
    if isinstance(statement, Loop):
        span = "0 .. T-1" if statement.direction > 0 else "T-1 .. 0"
        carries = ", ".join(c.name for c in statement.carries)
        note = f": a delay line of {_name(statement.line.source)}" if statement.line is not None else ""
        yield f"  loop t = {span}  carries {carries}{note}"
        for family in statement.body:
            yield _line(program, family, "    ", statement)
    elif not is_summed(statement):
        yield _line(program, statement, "  ", None)


def _line(program: Program, family: Family, indent: str, loop: Loop | None) -> str:
    keyword = FINAL if family.op == "exit" else KEYWORDS[family.spec.kind]
    if family.op == "tsum" and any(i.op == "outer" for i in family.inputs):
        keyword = "gemm"
    kept = family.timed and (loop is None or family in program.stored)
    target = _name(family) + ("[t]" if kept else "")
    sizes = ([] if not family.timed or loop is not None else ["T"]) + [str(d) for d in family.shape]
    left = f"{indent}{keyword:<6} {target:<8}"
    if family.op != "input":
        left += f" = {_right(family, loop)}"
    kind = f"{'' if family.dtype == program.dtype else family.dtype}[{', '.join(sizes)}]"
    return f"{left:<72} {kind:<14}  @ {family.site}" if family.site else f"{left:<72} {kind}"


def _right(family: Family, loop: Loop | None) -> str:
    shown = _expression(family, loop)
    rest = [(name, value) for name, value in family.attrs if name not in SPELT.get(family.op, ())]
    return f"{shown} {{{', '.join(f'{name}={print_literal(value)}' for name, value in rest)}}}" if rest else shown


def _expression(family: Family, loop: Loop | None) -> str:
    operands = [_operand(i, loop) for i in family.inputs]
    match family.op:
        case "carry":
            assert family.source is not None and family.initial is not None
            return f"{_name(family.source)}[t{-family.attr('delta'):+d}] | {_name(family.initial)}"
        case "exit":
            return f"last {operands[0]}"
        case "tsum":
            return "sum over t of " + " + ".join(_term(i) for i in family.inputs)
        case "outer":
            return f"{operands[0]}' @ {operands[1]}"
        case "reduce_rows":
            return f"rows of {operands[0]}"
        case "matmul":
            return f"{operands[0]} @ {operands[1]}{chr(39) if family.attr('transpose_b') else ''}"
        case "slice":
            axis = "" if family.attr("axis") == -1 else ", axis 0"
            return f"{operands[0]}{{{family.attr('start')}:{family.attr('stop')}{axis}}}"
    return f"{family.op}({', '.join(operands)})"


def _term(family: Family) -> str:
    """A term of a sum over time."""
    return f"{family.name}: {_right(family, None)}" if is_summed(family) else _operand(family, None)


def _operand(family: Family, loop: Loop | None) -> str:
    inside = loop is not None and family in loop.body
    return _name(family) + ("[t]" if family.timed and not inside else "")


def _name(family: Family) -> str:
    match family.op:
        case "input":
            return print_name(family.name)
        case "zeros":
            return f"zeros({', '.join(map(str, family.shape))})"
    return family.name


def print_name(name: str) -> str:
    """A name of an input or output, in quotes if it could be read as anything else."""
    plain = PLAIN_NAME.fullmatch(name) and name.lower() not in RESERVED and not _is_number(name)
    return name if plain else json.dumps(name)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
